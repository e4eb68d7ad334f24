"""With whom this peer averages: what it knows of the others at the end of local training, handed to the one
call of `averaging`."""

from __future__ import annotations

import asyncio

from averaging.averager import Averager
from averaging.following import DecidedElsewhere
from averaging.outcome import Decided, Declined, Followed, Outcome, Unanswered, cause_of
from averaging.terms import Attendance
from averaging.update import Update
from swarm.identity import PeerId
from swarm.manifest import RunManifest

from ..network.membership import Membership
from ..sync.activity import Activity
from ..sync.position import PositionTracker
from ..sync.state_sync import POLL_SECONDS

START_PATIENCE = 120.0
"""Seconds to wait for `RunManifest.start_with` peers before the first round."""


class Coordinator:
    """The averages of one peer."""

    def __init__(
        self,
        manifest: RunManifest,
        membership: Membership,
        averager: Averager,
        elsewhere: DecidedElsewhere,
        position: PositionTracker,
        activity: Activity,
    ) -> None:
        self._manifest = manifest
        self._membership = membership
        self._averager = averager
        self._elsewhere = elsewhere
        self._position = position
        self._activity = activity
        self._missed = 0
        """How many rounds in a row we have had no average of."""

    async def wait_for_start(self) -> None:
        """Before the first round: wait until as many peers are ready as the run wants to start with.

        Ends as well when a peer that knows of more of them has begun, or when patience ends. While the
        organiser is present, it decides: the round is its own.
        """
        loop = asyncio.get_running_loop()
        roster = self._membership.roster
        organiser = self._manifest.organiser_id
        give_up_at = loop.time() + START_PATIENCE
        seen = -1
        while loop.time() < give_up_at and not roster.has_begun:
            # Many peers look often, and seldom is there news.
            if roster.changes != seen and not roster.is_present(organiser, loop.time()):
                seen = roster.changes
                if len(roster.in_training(loop.time())) + 1 >= self._manifest.start_with:
                    return
            await asyncio.sleep(POLL_SECONDS)

    async def average(self, update: Update) -> Outcome:
        """Average ``update`` with the peers that are present."""
        if self._have_others_finished():
            return Unanswered("the others have come to the end of the run, and left", update.round)
        outcome = await self._averager.average(update, self._attendance(update), self._elsewhere)
        self._count_missed(outcome)
        return outcome

    def _have_others_finished(self) -> bool:
        """Whether nobody of the last average is here any more, and more than a third have reached the end.

        A peer that has lost touch with them shortly before must not go on alone, and have a last model of its
        own.
        """
        roster = self._membership.roster
        now = asyncio.get_running_loop().time()
        others = [peer for peer in self._position.participants if peer != self._membership.me]
        if any(roster.is_present(peer, now) for peer in others):
            return False
        known = [peer for peer in others if peer in roster]
        finished = sum(roster.round_of(peer) >= self._manifest.rounds > 0 for peer in known)
        return 3 * finished > len(self._position.participants)

    def others_went_on(self) -> None:
        """We have found the others further than we are.

        In a large population, then, not all have missed the rounds that we have missed. A few peers have
        missed as many as we have.
        """
        if self._position.hierarchy.count > 1:
            self._missed = 0

    def _count_missed(self, outcome: Outcome) -> None:
        has_group = isinstance(cause_of(outcome), (Decided, Followed, Declined))
        self._missed = 0 if has_group else self._missed + 1

    def _attendance(self, update: Update) -> Attendance:
        now = asyncio.get_running_loop().time()
        roster = self._membership.roster
        position = self._position.now
        known = [peer for peer in self._position.companions if peer in roster]
        departed = [peer for peer in known if not roster.is_present(peer, now)]
        still_here = set(self._position.companions) - set(departed)
        return Attendance(
            near=still_here | {peer for peer in self._position.same_head if not roster.is_banned(peer)},
            at_round=roster.at_round(update.round, now),
            present=roster.peers(now),
            close_at=self._activity.train_until + self._activity.spec.assemble_seconds,
            patience=self._activity.spec.assemble_seconds,
            population=position.population,
            participants=[peer for peer in self._position.participants if not self._has_left(peer, now)],
            others=self._others(update, len(departed), now),
            missed=self._missed,
            first_leader=self._manifest.organiser_id,
        )

    def _has_left(self, peer: PeerId, now: float) -> bool:
        """Whether ``peer`` has said that it leaves, has not been heard of for long, or is banned."""
        roster = self._membership.roster
        is_known = peer in roster and peer != self._membership.me
        return roster.is_banned(peer) or (is_known and not roster.is_present(peer, now))

    def _others(self, update: Update, departed: int, now: float) -> list[PeerId]:
        """Present peers that train, and beside which we must not average alone.

        If we are the only one left of the last average, ignore peers that are behind us: they follow us.
        """
        roster = self._membership.roster
        others = roster.in_training(now)
        is_last_one_left = self._position.now.population - departed <= 1
        if self._position.now.is_participant and is_last_one_left:
            return [peer for peer in others if roster.round_of(peer) >= update.round]
        return others
