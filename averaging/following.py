"""Following: taking over what others have decided, instead of averaging oneself.

The port through which averaging learns of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from swarm.identity import PeerId

from .record import Judge, UpdateShape, VerifiedRecord


class DecidedElsewhere(Protocol):
    """How this peer learns what others have decided.

    `peer.rounds` implements it with the peer's connections and its model.
    """

    @property
    def shape(self) -> UpdateShape:
        """What every peer of the run knows of its updates."""

    def donors(self, first: PeerId, among: Sequence[PeerId] | None = None) -> Sequence[PeerId]:
        """The peers to ask for a record: ``first``, then some of ``among``, or of all present peers."""

    def announce(self, round_: int) -> None:
        """A peer that is in ``round_`` has turned us away: tell the leaders of the next round that we follow
        this one, if we will be in time for it."""

    async def record(
        self, root: bytes, donors: Sequence[PeerId], judge: Judge, deadline: float
    ) -> VerifiedRecord | None:
        """The record of the round that began with the state ``root``, which ``judge`` believes; None if no
        donor has it by ``deadline``."""
