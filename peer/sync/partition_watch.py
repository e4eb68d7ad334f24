"""Looking for the other side of a partition: peers that train without us, from another state, and are the
side to change to."""

from __future__ import annotations

import asyncio

from swarm.manifest import RunManifest

from ..network.membership import ASKED, Membership
from .catch_up import ASK_SECONDS, CatchUp
from .head import ChosenHead, other_side
from .head_exchange import SCOUTS, HeadExchange
from .position import PositionTracker


class PartitionWatch:
    """Asks now and then, and changes sides at the end of a round."""

    def __init__(
        self, manifest: RunManifest, membership: Membership, heads: HeadExchange, position: PositionTracker
    ) -> None:
        self._organiser = manifest.organiser_id
        self._membership = membership
        self._heads = heads
        self._position = position
        self._has_seen = False

    async def keep_looking(self, interval: float) -> None:
        """For ever: look every ``interval`` seconds."""
        while True:
            await asyncio.sleep(interval)
            await self.look()

    async def look(self) -> None:
        """Ask some of the peers that train without our companions of the last average.

        If they are the side to change to, `change_sides` asks again.

        In a large population hardly any peer is in our group, and many peers look: then fewer are asked.
        """
        at_most = ASKED if self._position.hierarchy.count == 1 else SCOUTS
        self._has_seen = await self._other_side(at_most) is not None

    async def change_sides(self, catch_up: CatchUp) -> bool:
        """Go over to the other side, if `look` has seen one that is still there.

        It is asked again, so that we come into the round in which it is now, and not into one that is over.
        """
        is_due = self._has_seen
        self._has_seen = False
        asked_at = asyncio.get_running_loop().time()
        head = await self._other_side(ASKED) if is_due else None
        return head is not None and await catch_up.adopt(head, asked_at)

    async def _other_side(self, at_most: int) -> ChosenHead | None:
        """The head of the side to change to, by the claims of ``at_most`` peers that train without us.

        If so many are asked as `ASKED`, the organiser is among them.
        """
        membership = self._membership
        companions = self._position.companions
        loop = asyncio.get_running_loop()
        training = membership.roster.in_training(loop.time())
        outsiders = [peer for peer in training if peer not in companions]
        own = self._heads.own()
        if own is None or not outsiders or not companions:
            return None
        first = [self._organiser] if self._organiser in outsiders and at_most == ASKED else []
        asked = tuple(dict.fromkeys([*first, *membership.some(at_most, outsiders)]))[:at_most]
        answers = await self._heads.heads(loop.time() + ASK_SECONDS, asked)
        heads = self._heads.not_passed(answers)
        if self._position.hierarchy.count > 1:
            # Groups do not take their steps at the same moment: a peer that is one round away is on our side.
            heads = [signed for signed in heads if abs(signed.stamp.round - self._position.now.round) != 1]
        if not heads:
            return None
        mine, *claims = await self._heads.claims([own, *heads], loop.time() + ASK_SECONDS)
        return other_side(claims, len(outsiders), mine, companions, self._organiser)
