"""Where this peer stands in the run, and how it gets back to where the others are.

Rule 1: nobody is believed alone while others are there: the state to take is the largest camp's (`peer.offers`).
Rule 2: our own word counts as one; so two peers that disagree agree on who is right.
Rule 3: a peer that missed a round waits for its result and takes it; if there is none, it goes on as it is.
"""

from __future__ import annotations

import asyncio

from swarm.errors import NobodyThere
from swarm.identity import KeyPair
from swarm.manifest import RunManifest
from swarm.membership.progress import Phase
from swarm.wire import Signed, Stamp, open_frame, seal

from .board import Board
from .learner import Learner
from .library import Library
from .offers import Offer, Standing
from .state import SharedState, StateContent, state_root
from .sync import POLL_SECONDS, Sync
from .telling import Telling

JOIN_PATIENCE = 60.0
"""Seconds a newcomer asks around for text and model before it gives up."""
ASK_SECONDS = 5.0
"""Patience with one round of questions."""


class Course:
    """The shared state of one peer: what it trains from, and what it offers to others."""

    def __init__(self, manifest: RunManifest, key: KeyPair, board: Board, telling: Telling) -> None:
        self._manifest, self._key, self._board, self._telling = manifest, key, board, telling
        self._loop = asyncio.get_running_loop()
        self._stands = False
        self.train_until = 0.0
        """When this round's local training ends, in the loop's clock."""
        self.seconds_left: float | None = None
        """What the others have left of the round that we came into; None in a round of our own."""

    def stand_on(self, state: SharedState, library: Library) -> None:
        """From now on this is the state that we train from and hand to newcomers."""
        root = state_root(state)
        self._board.round, self._board.state_root = state.round, root
        self._stands = True
        library.offer(root, StateContent(state))

    def offer(self) -> tuple[int, Offer] | None:
        """(round, what we say when somebody asks where the run stands); None while we have no state."""
        if not self._stands:
            return None
        left = self.train_until - self._loop.time() if self._board.phase is Phase.TRAINING else 0.0
        return self._board.round, Offer(self._board.state_root, self._board.run_tokens, max(0.0, left))

    async def join(self, learner: Learner, sync: Sync, library: Library, *, alone_is_fine: bool) -> None:
        """Find where the run stands and take its state; ``alone_is_fine`` where nobody answers (a founder, or a checkpoint).

        Raises `NobodyThere` where nobody gave us a state in `JOIN_PATIENCE`.
        """
        give_up_at = self._loop.time() + JOIN_PATIENCE
        while True:
            standing, answers = await sync.standing(self._own(), min(give_up_at, self._loop.time() + ASK_SECONDS))
            if answers == 0 and alone_is_fine:
                break
            if standing and self._stands and standing.state_root == self._board.state_root:
                break
            if standing and await self._adopt(standing, learner, sync, library):
                break
            if self._loop.time() >= give_up_at:
                fact = "no peer of the run gave us its model"
                raise NobodyThere(fact, "the run may be over; ask the organiser, or try again in a minute")
            await asyncio.sleep(POLL_SECONDS)
        if not self._stands:
            self.stand_on(learner.state, library)

    async def rejoin(self, learner: Learner, sync: Sync, library: Library, patience: float) -> bool:
        """After a round without us: wait up to ``patience`` seconds for the others' result and take it.

        False where there is nothing to take: nobody answers, or they stand where we do.
        """
        deadline = self._loop.time() + patience
        self._board.enter(Phase.SYNCING)
        while True:
            standing, answers = await sync.standing(self._own(), self._loop.time() + ASK_SECONDS)
            late = self._loop.time() + POLL_SECONDS >= deadline
            ours = standing is None or standing.state_root == self._board.state_root
            if answers == 0 or (late and ours):
                return False
            if standing and not ours and (late or standing.round > self._board.round):
                if await self._adopt(standing, learner, sync, library):
                    return True
                if late:
                    return False
            await asyncio.sleep(POLL_SECONDS)

    async def _adopt(self, standing: Standing, learner: Learner, sync: Sync, library: Library) -> bool:
        """Take the state that the others believe in; False where it could not be had this time."""
        deadline = self._loop.time() + max(JOIN_PATIENCE, self._manifest.round.seconds)
        state = await sync.state(standing, learner.numbers, deadline)
        if state is None:
            return False
        learner.adopt(state)
        self._board.run_tokens = max(self._board.run_tokens, standing.tokens)
        self.seconds_left = standing.seconds_left
        self.stand_on(state, library)
        root = self._board.state_root.hex()
        self._telling.say("synced", round=state.round, donors=len(standing.donors), state_root=root)
        return True

    def _own(self) -> Signed[Offer] | None:
        current = self.offer()
        if current is None:
            return None
        run = self._manifest.run_id
        return open_frame(seal(self._key, current[1], Stamp(run, round=current[0])), Offer, run=run)
