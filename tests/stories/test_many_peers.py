"""Many peers come and go on bad links: the run goes on, ends with one model, and can be repeated exactly."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import pytest

from peer.simulation.peers import RehearsalResult
from peer.simulation.run import rehearse
from peer.simulation.scenario import scenario_of
from swarm.simulation.faults import Faults


def on_bad_links(peers: int, rounds: int, seed: int, churn: float) -> RehearsalResult:
    return rehearse(scenario_of(peers, rounds, seed, churn=churn, loss=0.01, jitter=0.1))


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_peers_agree_though_others_crash_and_come_back_all_the_time(seed: int) -> None:
    result = on_bad_links(20, 8, seed, churn=0.05)
    assert result.leftovers == ()
    assert result.crashes > 0
    assert len(result.roots(7)) == 1
    assert result.state_roots_equal


def test_a_rehearsal_with_churn_is_the_same_every_time() -> None:
    one = on_bad_links(10, 4, 5, churn=0.1)
    again = on_bad_links(10, 4, 5, churn=0.1)
    other = on_bad_links(10, 4, 6, churn=0.1)
    assert one.transcript == again.transcript
    assert one.transcript != other.transcript
    assert one.crashes == again.crashes


@pytest.mark.slow
def test_newcomers_never_form_a_group_of_their_own() -> None:
    assert on_bad_links(32, 8, 1, churn=0.05).state_roots_equal


def test_a_rehearsal_in_two_processes_is_one_and_the_same_every_time() -> None:
    scenario = replace(scenario_of(8, 3, 7, churn=0.1, loss=0.01, jitter=0.1), shards=2)
    one = rehearse(scenario)
    again = rehearse(scenario)
    other = rehearse(replace(scenario, seed=6))
    assert one.transcript == again.transcript
    assert one.transcript != other.transcript
    assert one.state_roots_equal
    assert one.leftovers == ()
    names = [f"p{number}" for number in range(8)]
    assert sorted(one.notebooks) == sorted(one.sent) == sorted(one.looked) == names
    assert len(one.roots(2)) == 1
    assert multiprocessing.active_children() == []


def test_a_rehearsal_in_two_processes_that_takes_too_long_ends_both() -> None:
    with pytest.raises(TimeoutError):
        rehearse(replace(scenario_of(4, 50, 0), shards=2, patience=20.0))
    assert multiprocessing.active_children() == []


def test_planned_faults_need_a_rehearsal_in_one_process() -> None:
    with pytest.raises(ValueError, match="one process"):
        rehearse(replace(scenario_of(4, 1, 0), shards=2, faults=Faults().crash("p1", at=5)))


@pytest.mark.slow
def test_a_population_of_several_groups_has_one_model() -> None:
    assert rehearse(scenario_of(96, 2, 0)).state_roots_equal
