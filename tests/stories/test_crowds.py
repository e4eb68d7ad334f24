"""Many peers come and go, on bad lines: the run goes on, whoever ends ends with one model, and it can all be had again."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import pytest

from peer.simulation.peers import RehearsalResult
from peer.simulation.run import rehearse
from peer.simulation.scenario import scenario_of
from swarm.simulation.faults import Faults


def population(peers: int, rounds: int, seed: int, churn: float) -> RehearsalResult:
    return rehearse(scenario_of(peers, rounds, seed, churn=churn, loss=0.01, jitter=0.1))


def ends(story: RehearsalResult, rounds: int) -> set[str]:
    """The models of all who had an average in the last round."""
    return story.roots(rounds - 1)


@pytest.mark.parametrize("seed", [0, 2])
def test_those_who_are_there_agree_though_others_crash_and_come_back_all_the_time(seed: int) -> None:
    story = population(20, 8, seed, churn=0.05)
    assert story.leftovers == ()
    assert story.crashes > 0
    assert len(ends(story, 8)) == 1
    assert story.state_roots_equal


def test_a_story_with_churn_is_the_same_every_time() -> None:
    one, same, other = (population(10, 4, seed, churn=0.1) for seed in (5, 5, 6))
    assert one.transcript == same.transcript != other.transcript
    assert one.crashes == same.crashes


def test_newcomers_never_form_a_group_beside_the_others() -> None:
    assert population(32, 8, 1, churn=0.05).state_roots_equal


def test_a_story_in_two_processes_is_one_story_and_the_same_every_time() -> None:
    scenario = replace(scenario_of(10, 4, 5, churn=0.1, loss=0.01, jitter=0.1), shards=2)
    one, same, other = rehearse(scenario), rehearse(scenario), rehearse(replace(scenario, seed=6))
    assert one.transcript == same.transcript != other.transcript
    assert one.state_roots_equal
    assert one.leftovers == ()
    assert (
        sorted(one.notebooks)
        == sorted(one.sent)
        == sorted(one.looked)
        == sorted(f"p{number}" for number in range(10))
    )
    assert len(ends(one, 4)) == 1
    assert multiprocessing.active_children() == []


def test_a_story_in_two_processes_that_takes_too_long_ends_both() -> None:
    with pytest.raises(TimeoutError):
        rehearse(replace(scenario_of(8, 50, 0), shards=2, patience=20.0))
    assert multiprocessing.active_children() == []


def test_accidents_that_are_planned_are_for_one_process() -> None:
    with pytest.raises(ValueError, match="one process"):
        rehearse(replace(scenario_of(4, 1, 0), shards=2, faults=Faults().crash("p1", at=5)))


def test_more_peers_than_seats_still_have_one_model() -> None:
    assert rehearse(scenario_of(96, 2, 0)).state_roots_equal
