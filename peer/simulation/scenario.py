"""What to rehearse, as a value: how many peers, on what lines, with what accidents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from swarm.errors import ConfigError
from swarm.manifest import ModelSpec
from swarm.simulation.faults import Faults
from swarm.simulation.network import Link

from ..config.run import RunSettings

STEP_SECONDS = 0.05
MANY_PEERS = 64
"""From more peers on, a rehearsed round has one local step instead of four, and at most four owners instead of sixteen."""
SMALLEST = ModelSpec(width=16, layers=1, heads=1, context=16)
"""The model of a population, a few thousand numbers: what a thousand peers say is to be seen, and not what they learn."""
SHARDS = 2
"""Processes that rehearse a population, on every computer, so that a seed makes the same rehearsal everywhere."""
ENTRIES = 8
"""Peers that the ticket of a rehearsal with churn names: any of them may be away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What to rehearse. ``seed`` draws everything: keys, lines, speeds, arrival times."""

    peers: int
    rounds: int = 5
    seed: int = 0
    settings: RunSettings = field(
        default_factory=lambda: RunSettings(
            model="tiny", max_steps=4, round_seconds=5.0, average_seconds=20.0
        )
    )
    model: ModelSpec | None = None
    """Another one than the recipe names."""
    text_bytes: int = 400_000
    """Of the embedded text, from its start; more makes held-out figures comparable with those of real runs."""
    faults: Faults = field(default_factory=Faults)
    link: Link = field(default_factory=lambda: Link(latency=0.04, jitter=0.02, bandwidth=2.5e6))
    step_seconds: float = STEP_SECONDS
    """Virtual seconds per local step of the fastest peer; the slowest takes three times as long."""
    slower: Mapping[str, float] = field(default_factory=dict)
    """So many times the seconds per step that were drawn, for those who have slow computers."""
    arrivals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """When those come whose coming is not drawn: once, or again after each crash. The first round does not wait for them."""
    entries: Sequence[str] = ("p0",)
    """Whom the ticket names; the first is the founder."""
    owners: int = 16
    """At most this many members own a part in each round."""
    churn: float = 0.0
    """The chance that a peer crashes in a round, at any moment of it. It comes back after a while and has kept nothing."""
    shards: int = 1
    """Processes; the seed makes another rehearsal of each number. For more than one no ``faults`` but ``churn``."""
    patience: float = math.inf
    """Virtual seconds after which the rehearsal is given up with `TimeoutError`: whoever should have ended by then hangs."""


def scenario_of(
    peers: int, rounds: int, seed: int, *, churn: float = 0.0, loss: float = 0.0, jitter: float = 0.02
) -> Scenario:
    """What `swarm rehearse` rehearses. A population trains less, so that it fits into minutes: what is rehearsed is how it gets on.

    Raises `ConfigError` for chances that are none.
    """
    if not (0 <= churn < 1 and 0 <= loss < 1 and 0 <= jitter < math.inf):
        raise ConfigError(
            "churn and loss are chances from 0 to below 1, jitter is seconds",
            "swarm rehearse 64 --churn 0.02 --loss 0.01",
        )
    steps, owners, shards = (4, 16, 1) if peers <= MANY_PEERS else (1, 4, SHARDS)
    settings = RunSettings(model="tiny", max_steps=steps, round_seconds=5.0, average_seconds=20.0)
    model = None if peers <= MANY_PEERS else SMALLEST
    entries = [f"p{number}" for number in range(min(peers, ENTRIES if churn else 1))]
    link = Link(latency=0.04, jitter=jitter, bandwidth=2.5e6, loss=loss)
    return Scenario(
        peers=peers,
        rounds=rounds,
        seed=seed,
        settings=settings,
        model=model,
        link=link,
        churn=churn,
        entries=entries,
        owners=owners,
        shards=shards,
    )
