"""What to rehearse, as a value: how many peers, on what links, with what faults."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from swarm.errors import ConfigError
from swarm.manifest import ModelSpec
from swarm.seeds import shuffled
from swarm.simulation.faults import Faults
from swarm.simulation.network import Link

from ..config.run import RunSettings

STEP_SECONDS = 0.05
"""Virtual seconds per local step of the fastest peer."""
MANY_PEERS = 64
"""With more peers than this, a rehearsed round has one local step instead of four, and at most four owners
instead of sixteen."""
SMALLEST_MODEL = ModelSpec(width=16, layers=1, heads=1, context=16)
"""The model of a rehearsal of many peers, a few thousand numbers: such a rehearsal is about the protocol, not
about learning."""
SHARDS = 2
"""Processes for a rehearsal of many peers; the same on every computer, so that a seed gives the same
rehearsal everywhere."""
PATIENCE_WITH_LIARS = 300.0
"""Virtual seconds after which a rehearsal with liars is given up: honest peers must come to their end ..."""
PATIENCE_PER_ROUND = 60.0
"""... and so many more for each of its rounds."""
ENTRIES_WITH_CHURN = 8
"""Peers that the ticket of a rehearsal with churn names: any of them may be away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsedTraining:
    """What is trained, by how many peers.

    ``seed`` determines everything that is random: keys, speeds, arrival times, delays.
    """

    peers: int
    rounds: int = 5
    seed: int = 0
    settings: RunSettings = field(
        default_factory=lambda: RunSettings(
            model="tiny", max_steps=4, round_seconds=5.0, average_seconds=20.0
        )
    )
    model: ModelSpec | None = None
    """A model to use instead of the one that ``settings`` names."""
    text_bytes: int = 400_000
    """Bytes from the start of the embedded text. With more, held-out scores become comparable with those of
    real runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsedComputers(RehearsedTraining):
    """How fast the peers' computers are, when their peers arrive, and what they do besides training."""

    step_seconds: float = STEP_SECONDS
    """Virtual seconds per local step of the fastest peer; the slowest takes three times as long."""
    slower: Mapping[str, float] = field(default_factory=dict)
    """Factors on the seconds per step that were drawn, by peer name, for slow computers."""
    arrivals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Virtual seconds at which a peer arrives, by peer name: the first time, then after each crash. Other
    peers' arrival times are drawn. The first round does not wait for the peers named here."""
    entries: Sequence[str] = ("p0",)
    """Names of the peers in the ticket; the first is the founder."""
    owners: int = 16
    """At most this many members own a part in each round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario(RehearsedComputers):
    """Everything that defines a rehearsal: the training, the computers, the network and what goes wrong."""

    link: Link = field(default_factory=lambda: Link(latency=0.04, jitter=0.02, bandwidth=2.5e6))
    faults: Faults = field(default_factory=Faults)
    churn: float = 0.0
    """Chance that a peer crashes in a round, at any moment of it. It comes back after a while and has kept
    nothing."""
    shards: int = 1
    """Processes. Each number of processes gives another rehearsal for the same seed. More than one allows no
    ``faults``."""
    patience: float = math.inf
    """Virtual seconds after which the rehearsal ends with `TimeoutError`, because some peer hangs."""
    liars: Mapping[str, str] = field(default_factory=dict)
    """Strategies (`peer.simulation.strategies`) by the names of the peers that lie; empty: drawn from
    ``seed``. The founder never lies."""


def scenario_of(
    peers: int, rounds: int, seed: int, *, churn: float = 0.0, loss: float = 0.0, jitter: float = 0.02
) -> Scenario:
    """Return the scenario of `swarm rehearse`.

    Many peers train less each, so that the rehearsal takes minutes.

    Raises `ConfigError` where ``churn`` or ``loss`` is no chance, or ``jitter`` is no time.
    """
    if not (0 <= churn < 1 and 0 <= loss < 1 and 0 <= jitter < math.inf):
        raise ConfigError(
            "churn and loss are chances from 0 to below 1, jitter is seconds",
            "swarm rehearse 64 --churn 0.02 --loss 0.01",
        )
    is_large = peers > MANY_PEERS
    return Scenario(
        peers=peers,
        rounds=rounds,
        seed=seed,
        settings=RunSettings(
            model="tiny", max_steps=1 if is_large else 4, round_seconds=5.0, average_seconds=20.0
        ),
        model=SMALLEST_MODEL if is_large else None,
        link=Link(latency=0.04, jitter=jitter, bandwidth=2.5e6, loss=loss),
        churn=churn,
        entries=[f"p{number}" for number in range(min(peers, ENTRIES_WITH_CHURN if churn else 1))],
        owners=4 if is_large else 16,
        shards=SHARDS if is_large else 1,
    )


def with_liars(scenario: Scenario, liars: int) -> Scenario:
    """``scenario``, but so many of its peers lie; which ones, its seed decides. Each draws its own strategy.

    Peers beside liars train the smallest model: many seeds are rehearsed, and they are about the protocol.

    Raises `ConfigError` where a third of the peers or more would lie.
    """
    if not liars:
        return scenario
    if 3 * liars >= scenario.peers:
        raise ConfigError(
            f"{liars} liars among {scenario.peers} peers: two thirds decide, so fewer than a third may lie",
            f"swarm rehearse {3 * liars + 1} --liars {liars}",
        )
    candidates = [f"p{number}" for number in range(1, scenario.peers)]
    drawn = shuffled(b"rehearsed liars", candidates, scenario.seed)[:liars]
    return replace(
        scenario,
        model=SMALLEST_MODEL,
        patience=PATIENCE_WITH_LIARS + PATIENCE_PER_ROUND * scenario.rounds,
        liars=dict.fromkeys(sorted(drawn), ""),
    )
