"""How far a run moves away from averaging every step of everybody, exactly and at once: the choices that go together.

    how often       seconds of local training between two averages
    how much        the whole model, or one of its ``fragments`` in turn
    with whom       everybody up to ``group_size``, reduced in parts by their owners, or every update to everybody
    how exactly     the codec, and how much of what it loses comes back (error feedback)
    when            at once, or a fraction of a round late, while training goes on (``overlap``)

After the system relaxations of Bagua (Gan et al. 2021, arXiv:2107.01499), whose lesson is that no choice is best on every network:
so there are a few with names, for networks that people know, and combinations that are known to fail are refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from .errors import ConfigError
from .manifest import Codec, Exchange, OuterSpec, RoundSpec

SPARSE_GROUPS: Mapping[Codec, int] = MappingProxyType(
    {Codec.SPARSE64: 36, Codec.SPARSE128: 18, Codec.SPARSE256: 9, Codec.SPARSE512: 4, Codec.MASKED: 36}
)
"""The largest group in which sending every sparse update to everybody costs about as much as int4 in parts: there a peer sends
(members − 1) updates, here always about two vectors of half a byte per number."""
MASK_ROUNDS = 100
"""Rounds below which a mask, which shows each number only now and then, does not come round often enough."""
FRAGMENT_TURNS = 10
"""How often each fragment is averaged in a run, at least."""
SPARSE_MOMENTUM = 0.6
"""From here on momentum adds up what error feedback brings late: both keep old updates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """One line of the table: resolved fields, as they go into the manifest's `RoundSpec`."""

    codec: Codec = Codec.INT4
    exchange: Exchange = Exchange.BUTTERFLY
    feedback: float = 1.0
    seconds: float = 30.0
    group_size: int = 64
    overlap: float = 0.0
    fragments: int = 1

    @classmethod
    def of(cls, spec: RoundSpec) -> Relaxation:
        """The line that a manifest's rounds follow."""
        return cls(**{name: getattr(spec, name) for name in cls.__dataclass_fields__})


PRESETS: Mapping[str, Relaxation] = MappingProxyType(
    {
        "lan": Relaxation(codec=Codec.FP16, seconds=10.0),
        "safe": Relaxation(),
        "ahead": Relaxation(overlap=0.1),
        "wan": Relaxation(
            codec=Codec.SPARSE256, exchange=Exchange.GATHER, feedback=0.95, seconds=60.0, group_size=9
        ),
        "thin": Relaxation(
            codec=Codec.SPARSE64, exchange=Exchange.GATHER, feedback=0.95, seconds=60.0, group_size=36
        ),
    }
)
"""lan: computers in one house. safe: the default, and right where little is known. ahead: as safe, for models whose averaging takes
a good part of a round. wan: homes with uplinks of some 20 Mbit/s. thin: long runs over lines that are slower still."""


def name_of(spec: RoundSpec) -> str:
    """The preset that a manifest's rounds follow, or "own" where somebody has chosen for themselves. Rounds of large models are
    longer."""
    mine = Relaxation.of(spec)
    alike = (
        name
        for name, preset in PRESETS.items()
        if replace(preset, seconds=max(preset.seconds, mine.seconds)) == mine
    )
    return next(alike, "own")


def words_of(spec: RoundSpec) -> str:
    """The same for people: "wan: sparse256, gather, every 60 s, feedback 0.95"."""
    facts = [spec.codec.name.lower(), spec.exchange.name.lower(), f"every {spec.seconds:g} s"]
    facts += [f"feedback {spec.feedback:g}"] if spec.feedback != 1 else []
    facts += [f"overlap {spec.overlap:g}"] if spec.overlap else []
    facts += [f"{spec.fragments} fragments"] if spec.fragments > 1 else []
    return f"{name_of(spec)}: {', '.join(facts)}"


def check(spec: RoundSpec, outer: OuterSpec, rounds: int) -> None:
    """Raise `ConfigError` for what is known to fail, in a run of ``rounds`` (0: without a limit)."""
    name = spec.codec.name.lower()
    is_sparse = spec.codec in SPARSE_GROUPS
    if spec.codec is Codec.MASKED and 0 < rounds < MASK_ROUNDS:
        raise ConfigError(
            f"in {rounds} rounds the mask of {name} shows each number only a few times, and the model does not learn",
            f"choose another codec (sparse256 is as small), or at least {MASK_ROUNDS} rounds",
        )
    if is_sparse and spec.feedback == 0:
        raise ConfigError(
            f"{name} without error feedback loses nearly all of every update: the swarm learns no more than a peer alone",
            "set the feedback to 0.95",
        )
    if is_sparse and outer.momentum >= SPARSE_MOMENTUM:
        raise ConfigError(
            f"an outer momentum of {outer.momentum:g} with {name} applies old updates twice: error feedback brings them late, too",
            f"choose a momentum below {SPARSE_MOMENTUM:g}, plain averaging, or a codec that sends every number (int4)",
        )
    if spec.fragments > 1 and 0 < rounds < FRAGMENT_TURNS * spec.fragments:
        raise ConfigError(
            f"in {rounds} rounds each of {spec.fragments} fragments is averaged a few times only, and the peers drift apart",
            f"choose fewer fragments, or at least {FRAGMENT_TURNS * spec.fragments} rounds",
        )
    most = SPARSE_GROUPS.get(spec.codec, spec.group_size)
    if spec.exchange is Exchange.GATHER and spec.group_size > most:
        raise ConfigError(
            f"in groups of {spec.group_size}, sending each {name} update to everybody costs more than int4 in parts",
            f"choose groups of at most {most}, a sparser codec, or the butterfly exchange",
        )
