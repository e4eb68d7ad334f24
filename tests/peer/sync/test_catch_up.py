"""How a peer joins, and what it waits for after a missed round. The test plays the other peers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch

from peer.sync.activity import Activity
from peer.sync.catch_up import JOIN_PATIENCE, LONGEST_PAUSE, Announce, CatchUp, Found, Waiting
from peer.sync.head import ChosenHead
from peer.sync.position import PositionTracker
from peer.sync.state_sync import POLL_SECONDS
from peer.training.state import SharedState, state_root
from swarm.errors import NobodyThere
from swarm.membership.progress import Phase
from swarm.simulation.clock import simulate
from tests.peer.company import MANIFEST, key, soon

SPEC = MANIFEST.round
STATES = [SharedState(number, torch.full((4,), float(number))) for number in range(12)]
ELSEWHERE = SharedState(3, torch.full((4,), -3.0))
DONOR = key(2).peer_id
SLOW = SPEC.assemble_seconds
"""Seconds of a download after which the others must not wait for us."""


def head_at(state: SharedState, *, seconds_left: float = 0.0, population: int = 4) -> ChosenHead:
    """The head of the run, if that is ``state``."""
    return ChosenHead(state.round, state_root(state), 90, seconds_left, (DONOR,), population)


@dataclass(eq=False)
class Around:
    """All that a `CatchUp` works with: the others' answers, sources of states, the learner, the events."""

    head: ChosenHead | None = None
    other_head: ChosenHead | None = None
    """What is chosen without that."""
    answers: int = 0
    can_replay: bool = False
    can_download: bool = True
    download_seconds: float = 0.0
    is_news_now: bool = True
    states: dict[bytes, SharedState] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    """Of every state that was asked for, in order."""
    questions: list[float] = field(default_factory=list)
    """When the head was asked for."""
    said: list[str] = field(default_factory=list)
    announced: list[float] = field(default_factory=list)
    numbers: int = 4
    state: SharedState = STATES[0]

    def __post_init__(self) -> None:
        self.position = PositionTracker(MANIFEST)
        clock = asyncio.get_running_loop().time
        self.activity = Activity(SPEC, clock, lambda phase, ends_at: None)
        everything: Any = self
        sources: Any = (_Source(self, "round log"), _Source(self, "state sync"))
        self.catch_up = CatchUp(everything, self.position, self.activity, everything, sources, everything)

    def run_is_at(self, state: SharedState, **more: Any) -> None:
        """From now on another peer answers that the run is at ``state``."""
        self.head = head_at(state, **more)
        self.answers = 1
        self.states[state_root(state)] = state

    def run_moves_on(self, seconds: float, state: SharedState, **more: Any) -> None:
        """In so many seconds the run is at ``state``."""
        asyncio.get_running_loop().call_at(soon(seconds), lambda: self.run_is_at(state, **more))

    def announce(self) -> None:
        """Note that the leaders of the next round are told."""
        self.announced.append(soon(0))

    async def wait_for_result(self, seconds: float, announce: Announce = Announce.NEVER) -> Found:
        """What is found after a missed round."""
        return await self.catch_up.wait_for_result(Waiting(seconds, announce), self.announce)

    # --- the other peers ------------------------------------------------------------------------------------

    async def choose(self, deadline: float, without: Collection[bytes] = ()) -> tuple[ChosenHead | None, int]:
        """The head of the run; another one if that is among those ``without``."""
        self.questions.append(soon(0))
        if self.head and self.head.state_root in without:
            return self.other_head, self.answers
        return self.head, self.answers

    async def is_news(self, deadline: float) -> bool:
        """Whether it is worth asking for the head."""
        return self.is_news_now

    # --- the learner and the events -------------------------------------------------------------------------

    def adopt(self, state: SharedState) -> None:
        """The learner goes on from ``state``."""
        self.state = state

    def say(self, event: str, /, **fields: object) -> None:
        """Note an event."""
        self.said.append(event)


class _Source:
    """Where states come from: the round log, or a download."""

    def __init__(self, around: Around, name: str) -> None:
        self._around = around
        self._name = name

    async def state(self, head: ChosenHead, *arguments: float) -> SharedState | None:
        """The state of ``head``, if it can be had."""
        around = self._around
        around.sources.append(self._name)
        is_download = self._name == "state sync"
        if is_download:
            assert arguments[0] == around.numbers
            await asyncio.sleep(around.download_seconds)
        is_there = around.can_download if is_download else around.can_replay
        return around.states.get(head.state_root) if is_there else None


def with_others(story: Callable[[Around], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that is a coroutine in virtual time."""

    def test() -> None:
        async def main() -> None:
            await story(Around())

        simulate(main())

    test.__name__ = story.__name__
    return test


# --- joining ------------------------------------------------------------------------------------------------


@with_others
async def test_a_founder_that_finds_nobody_begins_with_its_own_model(around: Around) -> None:
    await around.catch_up.join(alone_is_fine=True)
    assert around.position.now.state_root == state_root(STATES[0])
    assert around.position.now.is_participant
    assert len(around.questions) == 1


@with_others
async def test_a_checkpoint_is_kept_if_nobody_answers(around: Around) -> None:
    around.position.take_own(STATES[3])
    await around.catch_up.join(alone_is_fine=True)
    assert around.position.now.round == 3
    assert around.sources == []


@with_others
async def test_a_peer_that_comes_back_to_the_state_of_the_run_downloads_nothing(around: Around) -> None:
    around.position.take_own(STATES[3])
    around.run_is_at(STATES[3], population=9)
    await around.catch_up.join(alone_is_fine=True)
    assert (around.position.now.population, around.position.same_head) == (9, (DONOR,))
    assert around.sources == []


@with_others
async def test_a_newcomer_takes_the_state_of_the_run(around: Around) -> None:
    around.download_seconds = 2.0
    around.run_is_at(STATES[5], seconds_left=6.0, population=9)
    await around.catch_up.join(alone_is_fine=False)
    assert around.state is STATES[5]
    position = around.position.now
    assert (position.round, position.tokens, position.population) == (5, 90, 9)
    assert not position.is_participant
    assert around.activity.phase is Phase.SYNCING
    assert around.activity.seconds_left == pytest.approx(4.0), "the download has taken some of the round"
    assert around.sources == ["state sync"], "there is nothing from which records could lead on"
    assert around.said == ["synced"]


@with_others
async def test_a_peer_with_a_state_replays_the_missed_rounds_if_it_can(around: Around) -> None:
    around.position.take_own(STATES[3])
    around.can_replay = True
    around.run_is_at(STATES[5])
    await around.catch_up.join(alone_is_fine=False)
    assert around.sources == ["round log"]
    around.can_replay = False
    around.run_is_at(STATES[7])
    await around.catch_up.join(alone_is_fine=False)
    assert around.sources == ["round log", "round log", "state sync"]
    assert around.position.now.round == 7


@with_others
async def test_a_newcomer_asks_again_until_it_gets_a_state(around: Around) -> None:
    around.can_download = False
    around.run_is_at(STATES[5])
    asyncio.get_running_loop().call_at(3.0, lambda: setattr(around, "can_download", True))
    await around.catch_up.join(alone_is_fine=True)
    assert around.position.now.round == 5
    assert soon(0) == pytest.approx(3.0, abs=POLL_SECONDS)


@pytest.mark.parametrize("answers", [0, 1])
def test_a_newcomer_that_gets_no_state_gives_up_with_advice(answers: int) -> None:
    async def main() -> None:
        around = Around(answers=answers)
        with pytest.raises(NobodyThere, match="no peer of the run gave us its model") as refused:
            await around.catch_up.join(alone_is_fine=False)
        assert refused.value.advice
        assert JOIN_PATIENCE <= soon(0) <= JOIN_PATIENCE + 1

    simulate(main())


# --- after a missed round -----------------------------------------------------------------------------------


@with_others
async def test_if_nobody_answers_there_is_nothing_to_wait_for(around: Around) -> None:
    around.position.take_own(STATES[3])
    assert await around.wait_for_result(30.0) is Found.NOBODY
    assert soon(0) == 0
    assert around.activity.phase is Phase.SYNCING


@with_others
async def test_a_head_that_is_ahead_is_taken_at_once(around: Around) -> None:
    around.position.take_own(STATES[3])
    around.run_is_at(STATES[3])
    around.run_moves_on(5.0, STATES[4])
    assert await around.wait_for_result(30.0) is Found.OTHERS
    assert soon(0) == pytest.approx(5.0, abs=LONGEST_PAUSE)
    assert around.position.now.round == 4


@with_others
async def test_if_the_others_have_the_same_head_the_wait_ends_with_it(
    around: Around,
) -> None:
    around.position.take_own(STATES[3])
    around.run_is_at(STATES[3], population=9)
    assert await around.wait_for_result(30.0) is Found.SAME
    assert 30.0 - LONGEST_PAUSE <= soon(0) <= 30.0
    assert around.position.same_head == (DONOR,)
    assert around.position.now.population == 1, "that changes with a new state only"


@with_others
async def test_a_head_that_is_not_ahead_is_taken_at_the_end_of_the_wait(around: Around) -> None:
    around.position.take_own(STATES[3])
    around.run_is_at(ELSEWHERE)
    assert await around.wait_for_result(10.0) is Found.OTHERS
    assert soon(0) >= 10.0 - LONGEST_PAUSE
    assert around.sources == ["round log", "state sync"]


@with_others
async def test_without_patience_the_first_answer_decides(around: Around) -> None:
    around.position.take_own(STATES[3])
    around.run_is_at(ELSEWHERE)
    assert await around.wait_for_result(0.0) is Found.OTHERS
    assert len(around.questions) == 1


@pytest.mark.parametrize("is_there", [True, False])
def test_a_head_without_its_state_or_no_head_at_all_is_nobody(is_there: bool) -> None:
    async def main() -> None:
        around = Around(can_download=False)
        around.position.take_own(STATES[3])
        around.run_is_at(STATES[4])
        around.head = around.head if is_there else None
        assert await around.wait_for_result(5.0) is Found.NOBODY
        assert soon(0) >= 5.0 - LONGEST_PAUSE

    simulate(main())


@with_others
async def test_while_there_is_no_news_the_head_is_asked_for_only_at_the_end(around: Around) -> None:
    around.position.take_own(STATES[3])
    around.run_is_at(STATES[4])
    around.is_news_now = False
    assert await around.wait_for_result(30.0) is Found.OTHERS
    assert len(around.questions) == 1
    assert around.questions[0] >= 30.0 - LONGEST_PAUSE


@with_others
async def test_the_pauses_between_two_questions_grow_up_to_a_limit(around: Around) -> None:
    around.position.take_own(STATES[3])
    around.run_is_at(STATES[3])
    await around.wait_for_result(20.0)
    moments = around.questions
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert pauses[0] == pytest.approx(POLL_SECONDS)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE)


# --- announcing that we come --------------------------------------------------------------------------------


@with_others
async def test_announced_at_once_and_only_once(around: Around) -> None:
    around.position.take_own(STATES[3])
    around.run_is_at(STATES[3])
    around.run_moves_on(5.0, STATES[4], seconds_left=0.0)
    assert await around.wait_for_result(30.0, Announce.NOW) is Found.OTHERS
    assert around.announced == [0.0]


@with_others
async def test_announced_if_we_are_late_for_the_next_round_too_and_then_its_result_is_awaited(
    around: Around,
) -> None:
    around.position.take_own(STATES[3])
    around.run_is_at(STATES[4], seconds_left=0.0)
    around.run_moves_on(5.0, STATES[5], seconds_left=0.0)
    assert await around.wait_for_result(30.0, Announce.IF_LATE) is Found.OTHERS
    assert around.announced == [0.0]
    assert around.position.now.round == 5
    assert soon(0) == pytest.approx(5.0, abs=LONGEST_PAUSE)


@with_others
async def test_not_announced_if_we_are_in_time_for_the_next_round(around: Around) -> None:
    around.position.take_own(STATES[3])
    around.run_is_at(STATES[4], seconds_left=5.0)
    assert await around.wait_for_result(30.0, Announce.IF_LATE) is Found.OTHERS
    assert around.announced == []


@with_others
async def test_if_the_round_after_it_does_not_end_in_time_we_have_found_the_others_all_the_same(
    around: Around,
) -> None:
    around.position.take_own(STATES[3])
    around.run_is_at(STATES[4], seconds_left=0.0)
    asyncio.get_running_loop().call_at(1.0, lambda: setattr(around, "answers", 0))
    assert await around.wait_for_result(30.0, Announce.IF_LATE) is Found.OTHERS
    assert around.announced == [0.0]


@pytest.mark.parametrize("announce", list(Announce))
def test_a_peer_that_takes_over_states_slowly_does_not_make_the_others_wait(announce: Announce) -> None:
    async def main() -> None:
        around = Around(download_seconds=SLOW)
        around.run_is_at(STATES[3])
        await around.catch_up.join(alone_is_fine=False)
        assert not around.catch_up.is_quick
        around.run_is_at(STATES[4], seconds_left=0.0)
        assert await around.wait_for_result(30.0, announce) is Found.OTHERS
        assert around.announced == []

    simulate(main())


@pytest.mark.parametrize(
    ("seconds_left", "download_seconds", "is_late"),
    [(5.0, 0.0, False), (0.0, 0.0, True), (1.0, 2.0, True), (0.0, SLOW, False)],
)
def test_a_peer_is_late_if_the_others_average_already_and_may_wait_for_it(
    seconds_left: float, download_seconds: float, is_late: bool
) -> None:
    async def main() -> None:
        around = Around(download_seconds=download_seconds)
        assert not around.catch_up.is_late
        around.run_is_at(STATES[3], seconds_left=seconds_left)
        await around.catch_up.join(alone_is_fine=False)
        assert around.catch_up.is_late == is_late

    simulate(main())
