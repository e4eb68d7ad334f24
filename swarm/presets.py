"""Presets of how a run averages, and the check that refuses combinations that are known to fail.

Averaging every step of all peers exactly and at once needs a fast network. A run may relax that in five ways:

    how often       seconds of local training between two averages
    how much        the whole model, or one of its ``fragments`` in turn
    with whom       groups of at most ``group_size``; parts to their owners, or each update to all members
    how exactly     the codec, and how much of what it loses is carried over (error feedback)
    when            at once, or a fraction of a round late while training goes on (``overlap``)

Bagua (Gan et al. 2021, arXiv:2107.01499) calls these system relaxations and finds that no choice is best on
every network. So there are presets for common networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from .errors import ConfigError
from .manifest import Codec, Exchange, OuterSpec, RoundSpec

SPARSE_GROUPS: Mapping[Codec, int] = MappingProxyType(
    {Codec.SPARSE64: 36, Codec.SPARSE128: 18, Codec.SPARSE256: 9, Codec.SPARSE512: 4}
)
"""Per sparse codec, the largest group in which gather costs about as many bytes as int4 with butterfly.
With gather a member sends (members - 1) updates; with int4 and butterfly about one byte per number."""

FRAGMENT_TURNS = 10
"""How often each fragment must be averaged in a run, at least."""

SPARSE_MOMENTUM = 0.6
"""From this outer momentum on, momentum and the error feedback of a sparse codec apply old updates twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Values for the fields of the manifest's `RoundSpec` that have the same names."""

    codec: Codec = Codec.INT4
    exchange: Exchange = Exchange.BUTTERFLY
    feedback: float = 1.0
    seconds: float = 30.0
    group_size: int = 64
    overlap: float = 0.0
    fragments: int = 1

    @classmethod
    def of(cls, spec: RoundSpec) -> Preset:
        """The values that ``spec`` has."""
        return cls(**{name: getattr(spec, name) for name in cls.__dataclass_fields__})


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "lan": Preset(codec=Codec.FP16, seconds=10.0),
        "safe": Preset(),
        "ahead": Preset(overlap=0.1),
        "wan": Preset(
            codec=Codec.SPARSE256, exchange=Exchange.GATHER, feedback=0.95, seconds=60.0, group_size=9
        ),
        "thin": Preset(
            codec=Codec.SPARSE64, exchange=Exchange.GATHER, feedback=0.95, seconds=60.0, group_size=36
        ),
    }
)
"""The presets by name.

- lan: computers in one house.
- safe: the default, for when little is known about the network.
- ahead: like safe, for models whose averaging takes a good part of a round.
- wan: homes with uplinks of about 20 Mbit/s.
- thin: long runs over still slower uplinks.
"""


def preset_name(spec: RoundSpec) -> str:
    """The name of the preset that ``spec`` follows, or "own" where it follows none.

    A spec with longer rounds than the preset still follows it: the rounds of large models are longer.
    """
    chosen = Preset.of(spec)
    for name, preset in PRESETS.items():
        if replace(preset, seconds=max(preset.seconds, chosen.seconds)) == chosen:
            return name
    return "own"


def describe(spec: RoundSpec) -> str:
    """The preset and its values for people, such as "wan: sparse256, gather, every 60 s, feedback 0.95"."""
    facts = [spec.codec.name.lower(), spec.exchange.name.lower(), f"every {spec.seconds:g} s"]
    if spec.feedback != 1:
        facts.append(f"feedback {spec.feedback:g}")
    if spec.overlap:
        facts.append(f"overlap {spec.overlap:g}")
    if spec.fragments > 1:
        facts.append(f"{spec.fragments} fragments")
    return f"{preset_name(spec)}: {', '.join(facts)}"


def check(spec: RoundSpec, outer: OuterSpec, rounds: int) -> None:
    """Raise `ConfigError` for choices that are known to fail in a run of ``rounds`` (0: without a limit)."""
    _check_sparse(spec, outer)
    least_rounds = FRAGMENT_TURNS * spec.fragments
    if spec.fragments > 1 and 0 < rounds < least_rounds:
        raise ConfigError(
            f"in {rounds} rounds each of {spec.fragments} fragments is averaged a few times only, "
            "and the peers drift apart",
            f"choose fewer fragments, or at least {least_rounds} rounds",
        )
    largest = SPARSE_GROUPS.get(spec.codec, spec.group_size)
    if spec.exchange is Exchange.GATHER and spec.group_size > largest:
        raise ConfigError(
            f"in groups of {spec.group_size}, sending each {_codec_name(spec)} update to everybody "
            "costs more than int4 in parts",
            f"choose groups of at most {largest}, a sparser codec, or the butterfly exchange",
        )


def _check_sparse(spec: RoundSpec, outer: OuterSpec) -> None:
    if spec.codec not in SPARSE_GROUPS:
        return
    name = _codec_name(spec)
    if spec.feedback == 0:
        raise ConfigError(
            f"{name} without error feedback loses nearly all of every update: "
            "the swarm learns no more than a peer alone",
            "set the feedback to 0.95",
        )
    if outer.momentum >= SPARSE_MOMENTUM:
        raise ConfigError(
            f"an outer momentum of {outer.momentum:g} with {name} applies old updates twice: "
            "error feedback brings them late, too",
            f"choose a momentum below {SPARSE_MOMENTUM:g}, plain averaging, "
            "or a codec that sends every number (int4)",
        )


def _codec_name(spec: RoundSpec) -> str:
    return spec.codec.name.lower()
