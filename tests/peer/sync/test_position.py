"""A peer's position in the run: what each verb makes of it, and what the subscribers are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from averaging.hierarchy import Hierarchy
from peer.sync.head import ChosenHead, Head
from peer.sync.position import REMEMBERED_ROOTS, Position, PositionTracker, Step
from peer.training.state import SharedState, state_root
from swarm.wire import NO_GROUP
from tests.peer.company import MANIFEST, RUN, decided_by, key

STATES = [SharedState(number, torch.full((4,), float(number))) for number in range(12)]
ROOTS = [state_root(state) for state in STATES]
ME = key(1).peer_id
FRIEND = key(2).peer_id


def chosen(number: int, *, tokens: int = 0, population: int = 1) -> ChosenHead:
    """The head at which fork choice has found the state of that number."""
    return ChosenHead(number, ROOTS[number], tokens, 0.0, (FRIEND,), population)


ORIGIN = decided_by((1, 2), 0).origin


def step(tokens: int, population: int, *, is_participant: bool) -> Step:
    """What a round's average adds."""
    return Step(tokens=tokens, population=population, origin=ORIGIN, is_participant=is_participant)


def at(number: int) -> PositionTracker:
    """A peer that has downloaded the state of that number."""
    position = PositionTracker(MANIFEST)
    position.adopt(STATES[number], chosen(number))
    return position


def test_before_it_has_a_state_a_peer_has_no_head_to_tell() -> None:
    position = PositionTracker(MANIFEST)
    assert position.now == Position()
    assert not position.has_state
    assert position.head(1.0) is None


def test_the_head_says_where_the_peer_is() -> None:
    position = PositionTracker(MANIFEST)
    position.adopt(STATES[3], chosen(3, tokens=70, population=9))
    assert position.has_state
    assert position.head(1.5) == Head(ROOTS[3], 70, 1.5, population=9)
    position.step(STATES[4], step(30, 8, is_participant=True))
    assert position.head(0.0) == Head(ROOTS[4], 100, 0.0, population=8, parent=ORIGIN.group_id)


def test_a_peer_is_a_participant_in_the_states_to_which_its_averages_have_led() -> None:
    position = at(0)
    assert not position.now.is_participant, "it was given the state with which the founder began"
    position.step(STATES[1], step(0, 2, is_participant=True))
    assert (position.now.is_participant, position.now.population) == (True, 2)
    position.step(STATES[2], step(0, 7, is_participant=False))
    assert (position.now.is_participant, position.now.population) == (False, 7), "it has only followed"
    position.adopt(STATES[9], chosen(9))
    assert not position.now.is_participant, "a downloaded state is the work of others"


def test_a_void_round_makes_no_participant_and_unmakes_none() -> None:
    for is_participant in (True, False):
        position = at(2)
        position.step(STATES[3], step(50, 7, is_participant=is_participant))
        position.skip(STATES[4])
        assert position.now == Position(
            round=4,
            state_root=ROOTS[4],
            tokens=50,
            population=7,
            is_participant=is_participant,
            origin=ORIGIN,
        )


def test_a_peer_that_comes_back_with_a_checkpoint_stands_where_it_stood() -> None:
    before = Position(tokens=40, population=2, is_participant=True, origin=ORIGIN)
    resumed = PositionTracker(MANIFEST)
    resumed.take_own(STATES[5], before)
    assert resumed.now == replace(before, round=5, state_root=ROOTS[5])
    assert resumed.participants == ORIGIN.members


def test_a_founder_without_a_checkpoint_has_its_part_in_the_fresh_model_and_a_newcomer_has_not() -> None:
    founder = PositionTracker(MANIFEST)
    founder.take_own(STATES[0])
    assert founder.now.is_participant
    assert not at(0).now.is_participant
    assert founder.participants == (MANIFEST.organiser_id,), "before the first average it decides"
    assert founder.now.parent == NO_GROUP


def test_with_a_downloaded_state_come_its_tokens_and_who_has_led_to_it() -> None:
    position = PositionTracker(MANIFEST)
    position.adopt(STATES[1], replace(chosen(1, tokens=60), origin=ORIGIN))
    assert (position.now.tokens, position.now.origin) == (60, ORIGIN)
    assert position.participants == ORIGIN.members
    assert position.now.parent == ORIGIN.group_id


def test_only_a_step_by_an_average_leaves_a_state_behind() -> None:
    position = at(0)
    position.step(STATES[1], step(0, 2, is_participant=True))
    assert list(position.passed_roots) == [ROOTS[0]]
    position.skip(STATES[2])
    position.adopt(STATES[7], chosen(7))
    assert list(position.passed_roots) == [ROOTS[0]], "others may still be at the state of a void round"


def test_only_so_many_states_are_remembered() -> None:
    position = at(0)
    for number in range(REMEMBERED_ROOTS + 5):
        position.step(SharedState(number, torch.ones(1)), step(0, 1, is_participant=True))
    assert len(position.passed_roots) == REMEMBERED_ROOTS


@pytest.mark.parametrize(
    "move",
    [
        pytest.param(lambda position: position.take_own(STATES[4]), id="take_own"),
        pytest.param(lambda position: position.step(STATES[4], step(0, 1, is_participant=True)), id="step"),
        pytest.param(lambda position: position.skip(STATES[4]), id="skip"),
    ],
)
def test_peers_with_the_same_head_are_forgotten_with_every_new_state(
    move: Callable[[PositionTracker], None],
) -> None:
    position = at(3)
    assert position.same_head == (FRIEND,)
    move(position)
    assert position.same_head == ()


def test_agreeing_with_the_others_changes_what_all_count_and_not_the_state() -> None:
    position = PositionTracker(MANIFEST)
    position.take_own(STATES[3])
    told: list[Position] = []
    position.subscribe(lambda now, state: told.append(now))
    position.agree(chosen(3, tokens=500, population=9))
    assert position.now == Position(
        round=3, state_root=ROOTS[3], tokens=500, population=9, is_participant=True
    )
    assert position.same_head == (FRIEND,)
    assert told == []


def test_all_subscribers_are_told_every_new_position_and_its_state() -> None:
    told: list[tuple[str, Position, SharedState]] = []
    position = PositionTracker(MANIFEST)
    for name in ("one", "other"):
        position.subscribe(lambda now, state, name=name: told.append((name, now, state)))
    position.take_own(STATES[0])
    taken = position.now
    position.step(STATES[1], step(10, 1, is_participant=True))
    stepped = position.now
    position.skip(STATES[2])
    skipped = position.now
    position.adopt(STATES[7], chosen(7))
    positions = [taken, stepped, skipped, position.now]
    assert [now.round for now in positions] == [0, 1, 2, 7]
    assert told == [(name, now, STATES[now.round]) for now in positions for name in ("one", "other")]


def test_the_groups_of_the_round_follow_from_the_population() -> None:
    position = at(3)
    assert position.hierarchy.count == 1
    position.step(STATES[4], step(0, 80, is_participant=True))
    assert position.hierarchy == Hierarchy.of(RUN, 4, 80, MANIFEST.round.group_size)
    assert position.hierarchy.count > 1


def test_the_run_is_finished_after_its_last_round() -> None:
    last = MANIFEST.rounds
    position = PositionTracker(MANIFEST)
    position.take_own(SharedState(last - 1, torch.ones(1)))
    assert not position.is_finished
    assert position.would_finish(last)
    position.step(SharedState(last, torch.ones(1)), step(0, 1, is_participant=True))
    assert position.is_finished
