"""Peers vanish, freeze, lose sight of each other and come late; the others go on, with one model, and nobody waits for long."""

from __future__ import annotations

from functools import cache

import pytest

from peer.config.run import RunSettings
from peer.simulation.peers import RehearsalResult
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from swarm.simulation.faults import Faults
from swarm.simulation.network import Link
from tests.stories.promises import check

ROUND = (4.4, 6.2)
"""Virtual seconds from the middle of one round to the middle of the next, in the calm story of four."""
SLOW = 0.6
"""Seconds per step of the fastest: rounds of five seconds, so that what takes half a minute takes several of them."""
AVERAGE_SECONDS = 20.0


@cache
def calm(peers: int = 4, rounds: int = 3) -> RehearsalResult:
    return rehearse(Scenario(peers=peers, rounds=rounds, seed=1))


def moments(count: int) -> list[float]:
    begin, end = ROUND
    return [begin + (end - begin) * number / count for number in range(count)]


@pytest.mark.parametrize("victim", ["p0", "p1", "p2", "p3"])
def test_a_crash_at_any_moment_of_a_round_costs_one_member_and_little_time(victim: str) -> None:
    for at in moments(10):
        at += int(victim[1]) * 0.045  # the victims crash between each other's moments
        story = rehearse(Scenario(peers=4, rounds=3, seed=1, faults=Faults().crash(victim, at=at)))
        check(story, 2, gone=[victim])
        assert all(book.missed == set() for name, book in story.notebooks.items() if name != victim), (
            f"at {at}"
        )
        assert story.virtual_seconds < 1.5 * calm().virtual_seconds + AVERAGE_SECONDS / 2, f"at {at}"


@pytest.mark.parametrize("apart", [0.0, 0.15, 0.4])
def test_two_of_seven_vanish_in_one_round(apart: float) -> None:
    for at in (4.5, 5.2, 5.6, 5.9):
        faults = Faults().crash("p2", at=at).crash("p5", at=at + apart)
        story = rehearse(Scenario(peers=7, rounds=4, seed=3, faults=faults))
        check(story, 3, gone=["p2", "p5"])
        assert story.virtual_seconds < calm(7, 4).virtual_seconds + AVERAGE_SECONDS


def test_when_all_others_vanish_the_last_one_goes_on_alone() -> None:
    names = ["p0", "p1", "p2", "p3"]
    faults = sum((Faults().crash(name, at=4.3 + 0.31 * seat) for seat, name in enumerate(names)), Faults())
    check(rehearse(Scenario(peers=5, rounds=5, seed=1, faults=faults)), 4, gone=names)


@pytest.mark.parametrize("who", ["p0", "p2"])
def test_a_peer_that_freezes_for_half_a_minute_is_left_behind_and_catches_up(who: str) -> None:
    faults = Faults().freeze(who, between=(8.6, 38.6))
    story = rehearse(Scenario(peers=4, rounds=12, seed=1, step_seconds=SLOW, faults=faults))
    others = [book for name, book in story.notebooks.items() if name != who]
    check(story, 11)
    assert all(len(book.missed) <= 1 for book in others), "the others lose a round at most"
    assert story.notebooks[who].missed
    assert any(name == "synced" and fields["round"] > 1 for name, fields in story.notebooks[who].events)
    assert story.notebooks[who].rounds[-1].members == 4


def test_two_peers_that_do_not_see_each_other_cost_nobody_a_result() -> None:
    story = rehearse(
        Scenario(peers=4, rounds=6, seed=1, faults=Faults().cut("p1", "p2", between=(3.5, 30.0)))
    )
    check(story, 5)


def test_a_network_that_falls_in_two_is_one_again_when_it_heals() -> None:
    here, there = ["p0", "p1", "p2", "p3", "p4"], ["p5", "p6", "p7"]
    faults = Faults().split(here, there, between=(8.0, 28.0))
    story = rehearse(Scenario(peers=8, rounds=12, seed=1, step_seconds=SLOW, faults=faults))
    check(story, 11, parted=range(8))
    assert all(book.rounds[-1].members == 8 for book in story.notebooks.values())
    for name in here:
        assert len(story.notebooks[name].missed) <= 1, "the larger side loses a round at most"


def test_who_comes_late_takes_the_others_model_and_is_in_the_next_round() -> None:
    story = rehearse(Scenario(peers=5, rounds=6, seed=1, step_seconds=SLOW, arrivals={"p4": (15.0,)}))
    check(story, 5)
    (came,) = [fields["round"] for name, fields in story.notebooks["p4"].events if name == "synced"]
    members = [report.members for report in story.notebooks["p0"].rounds]
    assert members[:came] == [4] * came
    assert members[came + 1 :] == [5] * (5 - came)
    assert came > 0


@pytest.mark.parametrize("seed", range(1, 7))
def test_who_comes_into_rounds_that_are_as_short_as_the_way_to_their_state_is_waited_for(seed: int) -> None:
    """Whoever must first have a state and then come is late for every such round."""
    hasty = RunSettings(model="tiny", max_steps=2, round_seconds=0.3, average_seconds=AVERAGE_SECONDS)
    link = Link(latency=0.02, jitter=0.02, bandwidth=2.5e6)
    story = rehearse(
        Scenario(
            peers=5,
            rounds=30,
            seed=seed,
            settings=hasty,
            link=link,
            step_seconds=0.1,
            arrivals={"p4": (12.0,)},
        )
    )
    check(story, 29)
    came = next(fields["round"] for name, fields in story.notebooks["p4"].events if name == "synced")
    members = [report.members for report in story.notebooks["p0"].rounds]
    assert members[came + 2 :] == [5] * (28 - came)


def test_the_founder_vanishes_and_a_newcomer_joins_through_another() -> None:
    faults = Faults().crash("p0", at=12.0)
    story = rehearse(
        Scenario(
            peers=5,
            rounds=8,
            seed=1,
            step_seconds=SLOW,
            arrivals={"p4": (25.0,)},
            entries=("p0", "p1"),
            faults=faults,
        )
    )
    check(story, 7, gone=["p0"])
    assert story.notebooks["p1"].rounds[-1].members == 4


def test_who_vanished_and_lost_everything_may_come_back() -> None:
    faults = Faults().crash("p3", at=12.0)
    story = rehearse(
        Scenario(peers=4, rounds=8, seed=1, step_seconds=SLOW, arrivals={"p3": (1.0, 25.0)}, faults=faults)
    )
    check(story, 7)
    assert story.notebooks["p0"].rounds[-1].members == 4
