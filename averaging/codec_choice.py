"""How strongly a member may compress its update: as the run's codec says, or more so.

A slow uplink may send a sparser or coarser update than a fast one in the same round: what it leaves out stays in its residual. Only
codecs of one family go together, because the others are made for other updates (a mask without the others' mask adds nothing).
"""

from __future__ import annotations

from swarm.manifest import Codec, Exchange

from .codecs import bytes_per_parameter

FAMILIES = (
    (Codec.FP32, Codec.FP16),
    (Codec.FP32, Codec.BF16),
    (Codec.INT8, Codec.INT4),
    (Codec.SPARSE512, Codec.SPARSE256, Codec.SPARSE128, Codec.SPARSE64),
)
"""Most bytes first."""


def allowed(codec: Codec) -> tuple[Codec, ...]:
    """The codecs that an update may have in a run of ``codec``: that one first, then smaller ones of its family."""
    smaller = (other for family in FAMILIES if codec in family for other in family[family.index(codec) :])
    return tuple(dict.fromkeys((codec, *smaller)))


def copies(exchange: Exchange, members: int) -> float:
    """How many times a peer sends its own update in a group of so many ``members``: to all, or each part to its owner."""
    return float(members - 1) if exchange is Exchange.GATHER else (members - 1) / max(1, members)


def fitting(codec: Codec, numbers: float, bytes_per_second: float, seconds: float) -> Codec:
    """The first of what is `allowed` in which ``numbers`` numbers cross a line within ``seconds``; where none does, the smallest.

    ``codec`` itself where nobody knows how fast the line is (0 bytes per second).
    """
    codecs = allowed(codec)
    if bytes_per_second <= 0:
        return codec
    in_time = (each for each in codecs if numbers * bytes_per_parameter(each) <= seconds * bytes_per_second)
    return next(in_time, codecs[-1])
