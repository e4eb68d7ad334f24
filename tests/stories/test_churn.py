"""Peers crash, freeze, lose each other and come late; the others go on with one model and hardly wait.

All seconds here are virtual.
"""

from __future__ import annotations

from functools import cache

import pytest

from peer.config.run import RunSettings
from peer.simulation.peers import RehearsalResult
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from swarm.simulation.faults import Faults
from swarm.simulation.network import Link
from tests.stories.agreement import assert_agreement

MIDDLE_OF_A_ROUND = 4.4
MIDDLE_OF_THE_NEXT = 6.2
"""Seconds, in a rehearsal of four peers without faults."""
SLOW_STEP_SECONDS = 0.6
"""Seconds per step of the fastest peer. A round takes five seconds, a fault several rounds."""
AVERAGE_SECONDS = 20.0


@cache
def without_faults(peers: int = 4, rounds: int = 3, seed: int = 1) -> RehearsalResult:
    return rehearse(Scenario(peers=peers, rounds=rounds, seed=seed))


def moments(count: int) -> list[float]:
    """So many moments, evenly spread, from the middle of one round to the middle of the next."""
    length = MIDDLE_OF_THE_NEXT - MIDDLE_OF_A_ROUND
    return [MIDDLE_OF_A_ROUND + length * number / count for number in range(count)]


@pytest.mark.parametrize("victim", ["p0", "p1", "p2", "p3"])
def test_a_crash_at_any_moment_of_a_round_costs_one_member_and_little_time(victim: str) -> None:
    """Longest takes a crash while a result is sent: one member has it, and the spare that is to have a copy
    lacks the receipt to check it by. Then the spare waits as long as the schedule says."""
    offset = int(victim[1]) * 0.045  # each victim crashes at moments of its own
    for moment in moments(10):
        at = moment + offset
        result = rehearse(Scenario(peers=4, rounds=3, seed=1, faults=Faults().crash(victim, at=at)))
        assert_agreement(result, 2, gone=[victim])
        others = [notebook for name, notebook in result.notebooks.items() if name != victim]
        assert all(notebook.missed == set() for notebook in others), f"at {at}"
        longest = without_faults().virtual_seconds + 0.75 * AVERAGE_SECONDS
        assert result.virtual_seconds < longest, f"at {at}"


@pytest.mark.parametrize("apart", [0.0, 0.15, 0.4])
def test_two_of_seven_crash_in_one_round(apart: float) -> None:
    for at in (4.5, 5.2, 5.6, 5.9):
        faults = Faults().crash("p2", at=at).crash("p5", at=at + apart)
        result = rehearse(Scenario(peers=7, rounds=4, seed=3, faults=faults))
        assert_agreement(result, 3, gone=["p2", "p5"])
        assert result.virtual_seconds < without_faults(7, 4).virtual_seconds + AVERAGE_SECONDS


def test_when_all_others_crash_the_last_peer_goes_on_alone() -> None:
    names = ["p0", "p1", "p2", "p3"]
    faults = sum(
        (Faults().crash(name, at=4.3 + 0.31 * number) for number, name in enumerate(names)), Faults()
    )
    assert_agreement(rehearse(Scenario(peers=5, rounds=5, seed=1, faults=faults)), 4, gone=names)


@pytest.mark.parametrize("frozen", ["p0", "p2"])
def test_a_peer_that_freezes_for_half_a_minute_is_left_behind_and_catches_up(frozen: str) -> None:
    faults = Faults().freeze(frozen, between=(8.6, 38.6))
    result = rehearse(Scenario(peers=4, rounds=12, seed=1, step_seconds=SLOW_STEP_SECONDS, faults=faults))
    assert_agreement(result, 11)
    others = [notebook for name, notebook in result.notebooks.items() if name != frozen]
    assert all(len(notebook.missed) <= 1 for notebook in others), "the others lose a round at most"
    notebook = result.notebooks[frozen]
    assert notebook.missed
    assert any(name == "synced" and fields["round"] > 1 for name, fields in notebook.events)
    assert notebook.rounds[-1].members == 4


def test_two_peers_that_cannot_reach_each_other_cost_nobody_a_result() -> None:
    faults = Faults().cut("p1", "p2", between=(3.5, 30.0))
    assert_agreement(rehearse(Scenario(peers=4, rounds=6, seed=1, faults=faults)), 5)


def test_a_partition_ends_when_the_network_heals() -> None:
    here = ["p0", "p1", "p2", "p3", "p4"]
    there = ["p5", "p6", "p7"]
    faults = Faults().split(here, there, between=(8.0, 28.0))
    result = rehearse(Scenario(peers=8, rounds=12, seed=1, step_seconds=SLOW_STEP_SECONDS, faults=faults))
    assert_agreement(result, 11, partitioned=range(8))
    assert all(notebook.rounds[-1].members == 8 for notebook in result.notebooks.values())
    for name in here:
        assert len(result.notebooks[name].missed) <= 1, "the larger side loses a round at most"


def test_a_late_peer_downloads_the_state_and_is_in_the_next_round() -> None:
    scenario = Scenario(peers=5, rounds=6, seed=1, step_seconds=SLOW_STEP_SECONDS, arrivals={"p4": (15.0,)})
    result = rehearse(scenario)
    assert_agreement(result, 5)
    (came,) = [fields["round"] for name, fields in result.notebooks["p4"].events if name == "synced"]
    members = [report.members for report in result.notebooks["p0"].rounds]
    assert members[:came] == [4] * came
    assert members[came + 1 :] == [5] * (5 - came)
    assert came > 0


@pytest.mark.parametrize(
    "seed", [1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 7))]
)
def test_rounds_that_are_shorter_than_a_download_of_the_state_wait_for_a_newcomer(seed: int) -> None:
    """Without that, a peer that first downloads the state would be too late for every round."""
    settings = RunSettings(model="tiny", max_steps=2, round_seconds=0.3, average_seconds=AVERAGE_SECONDS)
    scenario = Scenario(
        peers=5,
        rounds=30,
        seed=seed,
        settings=settings,
        link=Link(latency=0.02, jitter=0.02, bandwidth=2.5e6),
        step_seconds=0.1,
        arrivals={"p4": (12.0,)},
    )
    result = rehearse(scenario)
    assert_agreement(result, 29)
    came = next(fields["round"] for name, fields in result.notebooks["p4"].events if name == "synced")
    members = [report.members for report in result.notebooks["p0"].rounds]
    assert members[came + 2 :] == [5] * (28 - came)


def test_the_founder_crashes_and_a_newcomer_joins_through_another_peer() -> None:
    scenario = Scenario(
        peers=5,
        rounds=8,
        seed=1,
        step_seconds=SLOW_STEP_SECONDS,
        arrivals={"p4": (25.0,)},
        entries=("p0", "p1"),
        faults=Faults().crash("p0", at=12.0),
    )
    result = rehearse(scenario)
    assert_agreement(result, 7, gone=["p0"])
    assert result.notebooks["p1"].rounds[-1].members == 4


def test_a_peer_that_crashed_and_lost_everything_may_come_back() -> None:
    scenario = Scenario(
        peers=4,
        rounds=8,
        seed=1,
        step_seconds=SLOW_STEP_SECONDS,
        arrivals={"p3": (1.0, 25.0)},
        faults=Faults().crash("p3", at=12.0),
    )
    result = rehearse(scenario)
    assert_agreement(result, 7)
    assert result.notebooks["p0"].rounds[-1].members == 4
