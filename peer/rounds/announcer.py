"""Telling the others where this peer is, at moments that cannot wait for the DHT."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from averaging.averager import Averager
from averaging.groups import Group
from swarm.membership.progress import Phase

from ..network.bans import Bans
from ..network.membership import Membership
from ..sync.activity import Activity
from ..sync.position import PositionTracker


class Announcer:
    """Announces one peer.

    The messages are sent in tasks of ``tasks``, so that a peer that does not answer makes nobody late.
    """

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        membership: Membership,
        averager: Averager,
        bans: Bans,
        position: PositionTracker,
        activity: Activity,
    ) -> None:
        self._tasks = tasks
        self._membership = membership
        self._averager = averager
        self._bans = bans
        self._position = position
        self._activity = activity

    def announce_round(self) -> None:
        """On joining, and after a round without us: tell the others our round, so that they expect us."""
        self._averager.rejoin(self._position.now.round)
        self._activity.enter(Phase.WAITING)
        self._tell_all()

    def train(self) -> None:
        """The first round begins: tell the others that we train."""
        self._activity.enter(Phase.TRAINING)
        self._tell_all()

    def follow(self) -> None:
        """The group of this round stands without us, and we will soon have its result.

        The leader of the next round must know before that, or we are late for every round that is shorter
        than the way to its state.
        """
        self._activity.enter(Phase.FOLLOWING)
        self._start(self._membership.announce_to_next(self._deadline()))

    def compare_notes(self, group: Group) -> None:
        """Our group stood and came to no decision: tell some of its members what we have heard in it, since a
        liar may have told us something else than them."""
        others = [peer for peer in group.members if peer != self._membership.me]
        self._start(self._bans.compare_notes(group.id, self._membership.some(len(others), others)))

    def _tell_all(self) -> None:
        self._start(self._membership.announce(self._deadline(), self._position.hierarchy))

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._activity.spec.assemble_seconds

    def _start(self, telling: Coroutine[None, None, None]) -> None:
        self._tasks.create_task(telling, name="announce")
