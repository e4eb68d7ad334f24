"""Where this peer stands in the run, and how it gets back to where the others are.

Rule 1: nobody is believed alone while others are there: the state to take is the largest camp's (`peer.sync.head`).
Rule 2: our own word counts as one; so two peers that disagree agree on who is right. Who has only fetched its state is an echo.
Rule 3: who stands where we have been is behind us, and no camp, however many they are: newcomers often do.
Rule 4: a peer that missed a round waits for its result and takes it. Where there is none, the round is void for those who had
        signed for it and go on to the next; who had not, stays in it and comes again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum, auto

from averaging.averager import Averaged
from averaging.hierarchy import Hierarchy
from swarm.errors import NobodyThere
from swarm.identity import KeyPair, PeerId
from swarm.manifest import RunManifest
from swarm.membership.progress import Phase
from swarm.wire import Signed, Stamp, open_frame, seal

from ..chunks.exchange import ChunkExchange
from ..network.membership import ASKED, Membership
from ..observe.events import Events
from ..observe.metrics import Metrics
from ..training.learner import Learner
from ..training.state import SharedState, StateContent, state_root
from .head import ChosenHead, Head, other_side
from .round_log import RoundLog
from .state_sync import POLL_SECONDS, SCOUTS, Sync

JOIN_PATIENCE = 60.0
"""Seconds a newcomer asks around for text and model before it gives up."""
SELDOM_SECONDS = 1.0
"""Longest pause between two questions while we wait for the others: they are many that wait where a run is large."""
ASK_SECONDS = 5.0
"""Patience with one round of questions."""
OWN_ROOTS = 64
"""So many states back we know whether we had a part in them, and that we have gone on from them."""


class Found(Enum):
    """What a peer finds that asks where the run stands."""

    OTHERS = auto()
    """The others stand elsewhere; now we stand there too."""
    SAME = auto()
    """The others stand where we do."""
    NOBODY = auto()
    """Nobody answers, or nothing that could be had."""


@dataclass(frozen=True, slots=True)
class Means:
    """With what a peer gets to where the others are."""

    learner: Learner
    sync: Sync
    chunks: ChunkExchange
    round_log: RoundLog


class Course:
    """The shared state of one peer: what it trains from, and what it offers to others."""

    def __init__(self, manifest: RunManifest, key: KeyPair, metrics: Metrics, events: Events) -> None:
        self._manifest, self._key, self._metrics, self._events = manifest, key, metrics, events
        self._loop = asyncio.get_running_loop()
        self._stands = False
        self._sees_better = False
        self._took = 0.0
        self.train_until = 0.0
        """When this round's local training ends, in the loop's clock."""
        self.seconds_left: float | None = None
        """What the others have left of the round that we came into; None in a round of our own."""
        self.companions: tuple[PeerId, ...] = ()
        """Who said last that it stands in the very round and model that we do: they will come to its average."""
        self._decided: deque[bytes] = deque(maxlen=OWN_ROOTS)
        self._passed: deque[bytes] = deque(maxlen=OWN_ROOTS)
        self.population = 1
        """Peers that were ready for the last round, by the word of all who were in it."""

    @property
    def run_tokens(self) -> int:
        """Tokens of the whole run so far."""
        return self._metrics.run_tokens

    @property
    def hierarchy(self) -> Hierarchy:
        """Who averages with whom in the round that we are in."""
        return Hierarchy.of(
            self._manifest.run_id, self._metrics.round, self.population, self._manifest.round.group_size
        )

    @property
    def is_participant(self) -> bool:
        """Whether we were in the average that led to this state, or began with it: else it is others' work."""
        return self._metrics.state_root in self._decided

    def stand_on(self, state: SharedState, chunks: ChunkExchange) -> None:
        """From now on this is the state that we train from and hand to newcomers."""
        root = state_root(state)
        self._metrics.round, self._metrics.state_root = state.round, root
        self._stands, self.companions = True, ()
        chunks.offer(root, StateContent(state))

    def step_on(self, state: SharedState, chunks: ChunkExchange, averaged: Averaged) -> None:
        """The state after a round: a step by its average; where there was none the same model, for the next round."""
        is_ours = bool(averaged.members) and averaged.counted
        if averaged.average_P is None:
            is_ours = self.is_participant
        else:
            self.population = averaged.population
            self._passed.append(self._metrics.state_root)
        self.stand_on(state, chunks)
        if is_ours:
            self._decided.append(self._metrics.state_root)

    def come_back(self, state: SharedState, chunks: ChunkExchange) -> None:
        """Begin with a state that we had a part in, in an earlier life, or that nobody else has: the founder's."""
        self.stand_on(state, chunks)
        self._decided.append(self._metrics.state_root)

    def offer(self) -> tuple[int, Head] | None:
        """(round, what we say when somebody asks where the run stands); None while we have no state."""
        if not self._stands:
            return None
        ahead = {
            Phase.TRAINING: self.train_until - self._loop.time(),
            Phase.WAITING: self._manifest.round.seconds,
        }
        left = max(0.0, ahead.get(self._metrics.phase, 0.0))
        return self._metrics.round, Head(
            self._metrics.state_root, self._metrics.run_tokens, left, self.population, self.is_participant
        )

    async def join(self, means: Means, *, alone_is_fine: bool) -> None:
        """Find where the run stands and take its state; ``alone_is_fine`` where nobody answers (a founder, or a checkpoint).

        Raises `NobodyThere` where nobody gave us a state in `JOIN_PATIENCE`.
        """
        give_up_at = self._loop.time() + JOIN_PATIENCE
        while True:
            asked_at = self._loop.time()
            standing, answers = await means.sync.standing(
                self._own(), min(give_up_at, asked_at + ASK_SECONDS), self._passed
            )
            if answers == 0 and alone_is_fine:
                break
            if standing and self._stands and standing.state_root == self._metrics.state_root:
                self.companions, self.population = standing.donors, standing.population
                break
            if standing and await self._adopt(standing, asked_at, means):
                break
            if self._loop.time() >= give_up_at:
                fact = "no peer of the run gave us its model"
                raise NobodyThere(fact, "the run may be over; ask the organiser, or try again in a minute")
            await asyncio.sleep(POLL_SECONDS)
        if not self._stands:
            self.come_back(means.learner.state, means.chunks)

    @property
    def is_quick(self) -> bool:
        """Whether the others may wait for us while we take over their state: by how long the last time took."""
        return 2 * self._took <= self._manifest.round.assemble_seconds

    @property
    def is_late(self) -> bool:
        """Whether the state that we have taken over is that of a round which the others are averaging already."""
        return self.seconds_left == 0 and self.is_quick

    async def rejoin(self, means: Means, missed: Averaged, ask_to_wait: Callable[[], None]) -> Found:
        """After a round that we have ``missed``: wait a while for the others to have its result, and take that.

        ``ask_to_wait`` is called once where they have a group without us: at once, or where we are late for their next round, too,
        when we have the state of that. Then we come to the one after it.
        """
        spec, may_ask, pause = self._manifest.round, missed.declined and self.is_quick, POLL_SECONDS
        has_no_result = missed.alone or missed.is_void
        patience = (
            spec.average_seconds if missed.declined else 0.0 if has_no_result else spec.assemble_seconds
        )
        deadline, otherwise = self._loop.time() + patience, Found.NOBODY
        self._metrics.enter(Phase.SYNCING)
        if may_ask and missed.round <= self._metrics.round:
            may_ask = False
            ask_to_wait()
        while True:
            asked_at = self._loop.time()
            late = self._loop.time() + pause >= deadline
            if not late and not await means.sync.is_news(self._own(), asked_at + ASK_SECONDS):
                await asyncio.sleep(pause)
                pause = min(SELDOM_SECONDS, pause * 1.5)
                continue
            standing, answers = await means.sync.standing(self._own(), asked_at + ASK_SECONDS, self._passed)
            late = self._loop.time() + pause >= deadline
            if answers == 0 or standing is None:
                if answers == 0 or late:
                    return otherwise
            elif standing.state_root == self._metrics.state_root:
                self.companions = standing.donors
                if late:
                    return Found.SAME
            elif (late or standing.round > self._metrics.round) and await self._adopt(
                standing, asked_at, means
            ):
                if late or not (may_ask and self.is_late):
                    return Found.OTHERS
                may_ask, pause, otherwise = False, POLL_SECONDS, Found.OTHERS
                ask_to_wait()
            elif late:
                return otherwise
            await asyncio.sleep(pause)
            pause = min(SELDOM_SECONDS, pause * 1.5)

    async def look_around(self, membership: Membership, companions: Collection[PeerId]) -> None:
        """Ask some of the peers that train without us where they stand; where they are the better camp, `move` asks again."""
        at_most = (
            ASKED if self.hierarchy.count == 1 else SCOUTS
        )  # in a population hardly anybody is in our group, and many look
        self._sees_better = await self._elsewhere(membership, companions, at_most) is not None

    async def move(self, means: Means, membership: Membership, companions: Collection[PeerId]) -> bool:
        """Go over to a better camp than that of our ``companions``, where `look_around` has seen one that is still there.

        It is asked again, so that we come into the round in which it is now, and not into one that is over.
        """
        is_due, self._sees_better, asked_at = self._sees_better, False, self._loop.time()
        standing = await self._elsewhere(membership, companions, ASKED) if is_due else None
        return standing is not None and await self._adopt(standing, asked_at, means)

    async def _elsewhere(
        self, membership: Membership, companions: Collection[PeerId], at_most: int
    ) -> ChosenHead | None:
        """The camp to go over to, by what ``at_most`` outsiders say; where these are `ASKED`, the organiser is among them."""
        here, organiser = membership.roster.in_training(self._loop.time()), self._manifest.organiser_id
        outsiders = [peer for peer in here if peer not in companions]
        own = self._own()
        if own is None or not (outsiders and companions):
            return None
        first = [organiser] if organiser in outsiders and at_most == ASKED else []
        asked = dict.fromkeys([*first, *membership.some(at_most, outsiders)])
        heard = await membership.offers(self._loop.time() + ASK_SECONDS, tuple(asked)[:at_most])
        heard = [said for said in heard if said.message.state_root not in self._passed]
        if (
            self.hierarchy.count > 1
        ):  # cells do not take their steps at the same moment: who is a round away is no other camp
            heard = [said for said in heard if abs(said.stamp.round - self._metrics.round) != 1]
        return other_side(heard, len(outsiders), own, companions, organiser) if heard else None

    async def _adopt(self, standing: ChosenHead, asked_at: float, means: Means) -> bool:
        """Take the state that the others believe in; False where it could not be had this time.

        What they had left of their round when we asked has been running since: for the slowest answer, and for the download.
        """
        deadline = self._loop.time() + max(JOIN_PATIENCE, self._manifest.round.seconds)
        self._metrics.enter(Phase.SYNCING)
        state = await means.round_log.state(standing, deadline) if self._stands else None
        state = state or await means.sync.state(standing, means.learner.numbers, deadline)
        if state is None:
            return False
        self._took = self._loop.time() - asked_at
        means.learner.adopt(state)
        self._metrics.run_tokens = max(self._metrics.run_tokens, standing.tokens)
        self.seconds_left = max(0.0, standing.seconds_left - (self._loop.time() - asked_at))
        self.stand_on(state, means.chunks)
        self.companions, self.population = standing.donors, standing.population
        root = self._metrics.state_root.hex()
        self._events.say("synced", round=state.round, donors=len(standing.donors), state_root=root)
        return True

    def _own(self) -> Signed[Head] | None:
        current = self.offer()
        if current is None:
            return None
        run = self._manifest.run_id
        return open_frame(seal(self._key, current[1], Stamp(run, round=current[0])), Head, run=run)
