"""How this peer learns what others have decided: the averager's port `following.DecidedElsewhere`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from averaging.record import Record, UpdateShape
from swarm.identity import PeerId, peer_id_from_digest
from swarm.membership.roster import Roster

from ..network.membership import Membership
from ..sync.catch_up import CatchUp
from ..sync.head_exchange import HeadExchange
from ..sync.position import PositionTracker
from ..sync.round_log import RoundLog
from ..training.state import state_root
from .announcer import Announcer

ASKED = 4
"""Peers asked at a time for a record, or whether they have come to the same state."""
OTHERS_ASKED = 2
"""Of all present peers, so many are asked as well: a peer that names its friends as the deciders is not the
only one to be heard."""
PAUSE_SECONDS = 0.5
"""Between two questions whether others have come to the same state."""


class RoundFollower:
    """Fetches records, and compares what they lead to with the heads of others."""

    def __init__(
        self,
        membership: Membership,
        heads: HeadExchange,
        round_log: RoundLog,
        position: PositionTracker,
        catch_up: CatchUp,
        announcer: Announcer,
    ) -> None:
        self._membership = membership
        self._heads = heads
        self._round_log = round_log
        self._position = position
        self._catch_up = catch_up
        self._announcer = announcer

    @property
    def shape(self) -> UpdateShape:
        """What every peer of the run knows of its updates."""
        return self._round_log.shape

    def donors(self, first: PeerId, among: Sequence[PeerId] | None = None) -> Sequence[PeerId]:
        """The peers to ask for a record: ``first``, then some of ``among``, or of all present peers."""
        return (first, *self._membership.some(ASKED, among))

    def announce(self, round_: int) -> None:
        """A peer in ``round_`` has turned us away: tell the leaders of the next round that we follow this
        one.

        Not if the run is further than we are, or if we are too slow for the others to wait.
        """
        if round_ <= self._position.now.round and self._catch_up.is_quick:
            self._announcer.follow()

    async def record(self, root: bytes, donors: Sequence[PeerId], deadline: float) -> Record | None:
        """The record of the round that began with ``root``; None if no donor has it by ``deadline``."""
        found = await self._round_log.record(root, donors, deadline)
        return found[0] if found else None

    async def confirm(self, record: Record, deadline: float) -> int | None:
        """The tokens of the round, if more than half of the first peers that answer have the state to which
        ``record`` leads; else None.

        The peers that should have decided the round are asked, and some others; those that are not yet as far
        do not count. Raises `Malformed` for a record that no group of the run can have decided.
        """
        loop = asyncio.get_running_loop()
        membership = self._membership
        after = await self._round_log.after(record)
        root = state_root(after)
        deciders = known_members(record, membership.roster)
        while loop.time() < deadline:
            asked = dict.fromkeys([*membership.some(ASKED, deciders), *membership.some(OTHERS_ASKED)])
            heads = await self._heads.heads(deadline, tuple(asked))
            as_far = [signed.message for signed in heads if signed.stamp.round >= after.round]
            same = [
                head for head in as_far if (head.state_root, head.population) == (root, record.population)
            ]
            if as_far:
                tokens = sorted(head.tokens for head in same)
                is_confirmed = 2 * len(same) > len(as_far)
                return max(0, tokens[len(tokens) // 2] - self._position.now.tokens) if is_confirmed else None
            await asyncio.sleep(PAUSE_SECONDS)
        return None


def known_members(record: Record, roster: Roster) -> tuple[PeerId, ...]:
    """The members of ``record`` that are on the ``roster``, sorted."""
    members = map(peer_id_from_digest, record.members)
    return tuple(sorted(peer for peer in members if peer in roster))
