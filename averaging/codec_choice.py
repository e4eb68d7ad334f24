"""Which codec a member may use for its update: the run's, or a smaller one of the same family.

In one round, a peer with a slow uplink may send a sparser or coarser update than a fast one; what its codec
leaves out stays in its residual. Codecs of different families are not mixed: a sparse codec, for example,
needs error feedback and an outer momentum below 0.6, which a run of int4 need not have.
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
"""In each family the codec with most bytes comes first."""


def allowed(codec: Codec) -> tuple[Codec, ...]:
    """Return the codecs that updates may have in a run of ``codec``: first itself, then smaller ones."""
    smaller = (other for family in FAMILIES if codec in family for other in family[family.index(codec) :])
    return tuple(dict.fromkeys((codec, *smaller)))


def copies(exchange: Exchange, members: int) -> float:
    """Return how many copies of its own update a peer sends in a group of ``members``.

    In a gather exchange it sends one to every other member; in a butterfly each part goes to its owner only.
    """
    return float(members - 1) if exchange is Exchange.GATHER else (members - 1) / max(1, members)


def fitting(codec: Codec, numbers: float, bytes_per_second: float, seconds: float) -> Codec:
    """Return the first `allowed` codec that gets ``numbers`` numbers across a link within ``seconds``.

    That is the smallest if none is small enough, and ``codec`` if the rate is unknown (0 bytes per second).
    """
    codecs = allowed(codec)
    if bytes_per_second <= 0:
        return codec
    in_time = (each for each in codecs if numbers * bytes_per_parameter(each) <= seconds * bytes_per_second)
    return next(in_time, codecs[-1])
