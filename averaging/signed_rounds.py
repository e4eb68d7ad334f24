"""For which rounds this peer has signed: it votes once in a round, also if it crashes and comes back in it.

    before a round   the round is kept on disk      ──►  then the first signature may be sent
    after a restart  rounds up to the one on disk   ──►  this peer stays out of them: it does not know what
                                                         it has signed in them

Two votes of one peer in one round prove that it lies (`evidence`), so an honest peer must never send two.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from swarm.machine import Arithmetic

REMEMBERED = 256
"""Votes of this process: a peer that changes sides after a partition may come to a round a second time."""


class SignedStore(Protocol):
    """Where a peer keeps the last round that it may have signed for."""

    @property
    def last(self) -> int:
        """That round, as it was when the process began; -1 if there is none."""

    def keep(self, round_: int) -> None:
        """Keep ``round_`` so that it survives a crash. May block."""


class SignedInMemory:
    """Keeps the round for as long as the process lives: for tests, and for the peers of a rehearsal."""

    def __init__(self) -> None:
        self.last = -1

    def keep(self, round_: int) -> None:
        """Keep ``round_``."""
        self.last = round_


@dataclass(frozen=True, slots=True)
class KeepRound:
    """The job that keeps a round."""

    store: SignedStore
    round: int

    def run(self) -> None:
        """Keep it; back when it is safe."""
        self.store.keep(self.round)


class SignedRounds:
    """What one peer may still sign."""

    def __init__(self, store: SignedStore, arithmetic: Arithmetic) -> None:
        self._store = store
        self._arithmetic = arithmetic
        self._before = store.last
        self._kept = store.last
        self._voted: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED)

    async def begin(self, round_: int) -> bool:
        """Whether this peer may take part in ``round_``. If it may, that is kept first.

        It may not if it has voted in this round already: it has changed sides after a partition.
        """
        has_voted = any(voted == round_ for voted, _ in self._voted)
        if round_ <= self._before or has_voted:
            return False
        if round_ > self._kept:
            self._kept = round_
            await self._arithmetic.run(KeepRound(self._store, round_).run)
        return True

    def may_vote(self, round_: int, level: bytes) -> bool:
        """Whether this process has not voted yet in ``round_`` on the ``level``. From here on it has."""
        if (round_, level) in self._voted:
            return False
        self._voted.append((round_, level))
        return True
