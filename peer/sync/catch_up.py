"""How this peer gets to where the other peers are: when it joins, and after a round that it has missed.

Rule 1: the state to take is that of the run's head, by fork choice (`peer.sync.head`). Our own head counts as
        one claim, so that two peers with different states choose the same one.
Rule 2: peers at a state that we have already passed are ignored, however many they are: newcomers often are
        at such a state.
Rule 3: a peer that missed a round waits for its result and takes it. If there is none,
        `peer.rounds.next_step` says how to go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from swarm.errors import NobodyThere
from swarm.membership.progress import Phase

from ..observe.events import Events
from ..training.learner import Learner
from .activity import Activity
from .head import ChosenHead
from .head_exchange import HeadExchange
from .position import PositionTracker
from .round_log import RoundLog
from .state_sync import POLL_SECONDS, StateSync

JOIN_PATIENCE = 60.0
"""Seconds that a newcomer asks for text and model before it gives up, and that any download may take."""
LONGEST_PAUSE = 1.0
"""Seconds between two questions while we wait for the others, at most: in a large run many peers wait."""
ASK_SECONDS = 5.0
"""Patience with one round of questions."""


class Found(Enum):
    """What a peer finds that asks where the run stands."""

    OTHERS = auto()
    """The others had another head; now we have that, too."""
    SAME = auto()
    """The others have the same head as we do."""
    NOBODY = auto()
    """Nobody answers, or the state could not be had."""


class Announce(Enum):
    """Whether to tell the leaders of the next round that we will come to it after missing this one."""

    NEVER = auto()
    NOW = auto()
    """At once: a group of this round stands without us."""
    IF_LATE = auto()
    """Only if the others are averaging already the round whose state we then take."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How to wait for the others after a missed round."""

    seconds: float
    """How long others may take to have the round's result."""
    announce: Announce = Announce.NEVER


class CatchUp:
    """Finds the run's head, and takes its state."""

    def __init__(
        self,
        learner: Learner,
        position: PositionTracker,
        activity: Activity,
        heads: HeadExchange,
        sources: tuple[RoundLog, StateSync],
        events: Events,
    ) -> None:
        """``sources``: where states come from.

        Replaying the missed rounds is tried first, then downloading the state.
        """
        self._learner = learner
        self._position = position
        self._activity = activity
        self._heads = heads
        self._round_log, self._state_sync = sources
        self._events = events
        self._took = 0.0
        """Seconds that it took us the last time to take over a state."""

    @property
    def is_quick(self) -> bool:
        """Whether the others may wait for us while we take over their state, going by how long the last time
        took."""
        return 2 * self._took <= self._activity.spec.assemble_seconds

    @property
    def is_late(self) -> bool:
        """Whether the others are averaging already the round whose state we have taken, and we are quick."""
        return self._activity.seconds_left == 0 and self.is_quick

    async def join(self, *, alone_is_fine: bool) -> None:
        """Find the run's head and take its state.

        ``alone_is_fine``: go on if nobody answers (a founder, or with a checkpoint).

        Raises `NobodyThere` if no peer gave us a state in `JOIN_PATIENCE`.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + JOIN_PATIENCE
        failed: set[bytes] = set()
        while True:
            asked_at = loop.time()
            head, answers = await self._heads.choose(min(give_up_at, asked_at + ASK_SECONDS), failed)
            if answers == 0 and alone_is_fine:
                break
            if head and self._is_ours(head):
                self._position.agree(head)
                break
            if head and await self.adopt(head, asked_at):
                break
            # A state that could not be had is tried again only when no other is left.
            failed = failed | {head.state_root} if head else set()
            if loop.time() >= give_up_at:
                fact = "no peer of the run gave us its model"
                raise NobodyThere(fact, "the run may be over; ask the organiser, or try again in a minute")
            await asyncio.sleep(POLL_SECONDS)
        if not self._position.has_state:
            self._position.take_own(self._learner.state)

    async def wait_for_result(self, waiting: Waiting, announce: Callable[[], None]) -> Found:
        """After a missed round: wait for the others to have its result, and take that.

        ``announce`` is called at most once, as ``waiting.announce`` says, and only if we are quick enough for
        the others.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + waiting.seconds
        may_announce = waiting.announce is not Announce.NEVER and self.is_quick
        self._activity.enter(Phase.SYNCING)
        if may_announce and waiting.announce is Announce.NOW:
            may_announce = False
            announce()
        otherwise = Found.NOBODY
        pause = POLL_SECONDS
        while True:
            asked_at = loop.time()
            is_last = loop.time() + pause >= deadline
            if is_last or await self._heads.is_news(asked_at + ASK_SECONDS):
                found = await self._look(asked_at, deadline, pause)
                if found.is_final:
                    return found.what or otherwise
                if found.what is Found.OTHERS:
                    if not (may_announce and self.is_late):
                        return Found.OTHERS
                    may_announce = False
                    pause = POLL_SECONDS
                    otherwise = Found.OTHERS
                    announce()
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 1.5)

    async def _look(self, asked_at: float, deadline: float, pause: float) -> _Look:
        """Ask once for the run's head, and take its state if it is ahead of ours (or whatever it is, if this
        is the last time)."""
        loop = asyncio.get_running_loop()
        head, answers = await self._heads.choose(asked_at + ASK_SECONDS)
        is_last = loop.time() + pause >= deadline
        if answers == 0:
            return _Look(is_final=True)
        if head is None:
            return _Look(is_final=is_last)
        if self._is_ours(head):
            self._position.same_head = head.donors
            return _Look(Found.SAME, is_final=is_last)
        is_ahead = head.round > self._position.now.round
        if (is_last or is_ahead) and await self.adopt(head, asked_at):
            return _Look(Found.OTHERS, is_final=is_last)
        return _Look(is_final=is_last)

    def _is_ours(self, head: ChosenHead) -> bool:
        return self._position.has_state and head.state_root == self._position.now.state_root

    async def adopt(self, head: ChosenHead, asked_at: float) -> bool:
        """Take the state of ``head``; False if it could not be had this time.

        What the others had left of their round when we asked has been running since: during the slowest
        answer and the download.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max(JOIN_PATIENCE, self._activity.spec.seconds)
        self._activity.enter(Phase.SYNCING)
        state = await self._round_log.state(head, deadline) if self._position.has_state else None
        state = state or await self._state_sync.state(head, self._learner.numbers, deadline)
        if state is None:
            return False
        self._took = loop.time() - asked_at
        self._learner.adopt(state)
        self._activity.seconds_left = max(0.0, head.seconds_left - (loop.time() - asked_at))
        self._position.adopt(state, head)
        root = self._position.now.state_root.hex()
        self._events.say("synced", round=state.round, donors=len(head.donors), state_root=root)
        return True


@dataclass(frozen=True, slots=True)
class _Look:
    """What one question has come to.

    ``what`` None: no answer that settles it; ``is_final``: do not ask again.
    """

    what: Found | None = None
    is_final: bool = False
