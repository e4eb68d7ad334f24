"""In every phase of a round and in every role, a peer that dies or stops costs the others a round at most.

The moment of the fault comes from the same rehearsal without it: with one seed both are equal until then.
All seconds here are virtual.
"""

from __future__ import annotations

import math
from functools import cache

import pytest

from peer.config.run import RunSettings
from peer.simulation.peers import RehearsalResult
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from swarm.simulation.faults import Faults
from tests.stories.agreement import assert_agreement

PEERS = 6
OWNERS = 2
"""Fewer than peers, so that some peers only send."""
ROUND = 1
"""The round in which the fault happens."""
SETTINGS = RunSettings(model="tiny", max_steps=2, round_seconds=5.0, average_seconds=20.0)
STOPPED_SECONDS = 30.0
MANY_ROUNDS = 18
"""Enough for a peer that was stopped to come back into the group."""
PATIENCE_SECONDS = 300.0
"""Every rehearsal here ends before."""
LAST_MESSAGE = {
    "assembly": ("ready", 1),
    "commit": ("commit", 2),
    "exchange": ("part", 1),
    "results": ("receipt", 2),
    "decide": ("holdings", 2),
    "apply": ("ballot", PEERS - 1),
}
"""By phase: the kind of message that the victim sends last, and how many peers receive it."""


@cache
def without_fault(rounds: int, step_seconds: float) -> RehearsalResult:
    return rehearse(scenario(rounds, step_seconds), listen=True)


def scenario(rounds: int, step_seconds: float, faults: Faults | None = None) -> Scenario:
    return Scenario(
        peers=PEERS,
        rounds=rounds,
        seed=5,
        settings=SETTINGS,
        owners=OWNERS,
        step_seconds=step_seconds,
        faults=faults or Faults(),
        patience=PATIENCE_SECONDS,
    )


def round_began(result: RehearsalResult) -> float:
    """When all peers had ended the round before."""
    return max(notebook.told_at[ROUND - 1] for notebook in result.notebooks.values())


def round_ended(result: RehearsalResult) -> float:
    """When the first peer had ended the round."""
    return min(notebook.told_at[ROUND] for notebook in result.notebooks.values())


def victim_of(result: RehearsalResult, role: str) -> str:
    """The peer that has ``role`` in the round of the fault."""
    began = round_began(result)
    ended = round_ended(result)
    leader = next(
        message.sender for message in result.heard if message.time > began and message.what == "proposal"
    )
    owners = {
        message.sender
        for message in result.heard
        if began < message.time <= ended and message.what == "receipt"
    }
    senders = sorted(result.notebooks.keys() - owners - {leader})
    return {"leader": leader, "owner": min(owners - {leader}), "sender": senders[0]}[role]


def moment_of_fault(result: RehearsalResult, role: str, phase: str) -> tuple[str, float]:
    """(victim, time): right after so many peers have received its last message."""
    victim = victim_of(result, role)
    kind, count = LAST_MESSAGE[phase]
    if (role, phase) == ("leader", "assembly"):
        kind = "proposal"
        count = 2
    messages = [message for message in result.heard if message.time > round_began(result)]
    times = [message.time for message in messages if message.sender == victim and message.what == kind]
    if kind == "receipt" and (not times or times[0] > round_ended(result)):
        # The victim owns no part and sends no receipt: take the moment at which it receives the first result.
        times = [
            message.time for message in messages if message.receiver == victim and message.what == "result"
        ]
        count = 1
    return victim, math.nextafter(times[count - 1], math.inf)


@pytest.mark.parametrize("role", ["sender", "owner", "leader"])
@pytest.mark.parametrize("phase", LAST_MESSAGE)
def test_a_peer_that_dies_costs_the_others_one_round_at_most(phase: str, role: str) -> None:
    before = without_fault(4, 0.05)
    victim, at = moment_of_fault(before, role, phase)
    result = rehearse(scenario(4, 0.05, Faults().crash(victim, at=at)))
    assert_agreement(result, 3, gone=[victim])
    survivors = [notebook for name, notebook in result.notebooks.items() if name != victim]
    assert all(notebook.missed <= {ROUND} for notebook in survivors)
    assert all(notebook.rounds[-1].members == PEERS - 1 for notebook in survivors)
    assert result.virtual_seconds < before.virtual_seconds + SETTINGS.average_seconds


@pytest.mark.parametrize("role", ["sender", "owner", "leader"])
@pytest.mark.parametrize("phase", LAST_MESSAGE)
def test_a_peer_that_stops_for_a_while_is_left_behind_and_catches_up(phase: str, role: str) -> None:
    victim, at = moment_of_fault(without_fault(3, 0.6), role, phase)
    result = rehearse(scenario(MANY_ROUNDS, 0.6, Faults().stop(victim, between=(at, at + STOPPED_SECONDS))))
    assert_agreement(result, MANY_ROUNDS - 1)
    others = [notebook for name, notebook in result.notebooks.items() if name != victim]
    assert all(len(notebook.missed) <= 1 for notebook in others), "the others lose a round at most"
    assert all(notebook.rounds[-1].members == PEERS for notebook in result.notebooks.values())
