"""How this peer learns what others have decided: the averager's port `following.DecidedElsewhere`."""

from __future__ import annotations

from collections.abc import Sequence

from averaging.record import Judge, Record, UpdateShape, VerifiedRecord
from swarm.identity import PeerId, peer_id_from_digest
from swarm.membership.roster import Roster

from ..network.membership import Membership
from ..sync.catch_up import CatchUp
from ..sync.head_exchange import HeadExchange
from ..sync.position import PositionTracker
from ..sync.round_log import RoundLog
from .announcer import Announcer

ASKED = 4
"""Peers asked at a time for a record, besides the one that should have it."""


class RoundFollower:
    """Fetches records, and announces that we follow."""

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

    async def record(
        self, root: bytes, donors: Sequence[PeerId], judge: Judge, deadline: float
    ) -> VerifiedRecord | None:
        """The record of the round that began with ``root``, which ``judge`` believes; None if no donor has it
        by ``deadline``."""
        return await self._round_log.decided(root, donors, judge, deadline)


def known_members(record: Record, roster: Roster) -> tuple[PeerId, ...]:
    """The members of ``record`` that are on the ``roster``, sorted."""
    members = map(peer_id_from_digest, record.members)
    return tuple(sorted(peer for peer in members if peer in roster))
