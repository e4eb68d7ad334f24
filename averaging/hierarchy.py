"""A population averages in two steps: in cells of about sixteen, and then one delegate of each cell for all of its cell.

    everybody   ──►  its cell, drawn by hash       the cell's average       (a round of its members)
    delegates   ──►  the council                   the average of these     (a round of the delegates)
    everybody   ◄──  takes the council's result    (`record`)

So what a peer sends and hears does not grow with the run, and all have one model after every round. Everything here is computed by
every peer for itself, from the size of the population, which all who have the same model know (`groups.Group.population`).

Rule 1: up to `WHOLE` peers, or `RunManifest.round.group_size`, are one group; only a larger population has cells.
Rule 2: cells and delegates stay for `EPOCH` rounds, so that a cell knows who of it is alive, and are then drawn anew, so that
        nobody chooses its company for long.
Rule 3: at most one delegate of a cell sits in the council, and more than half of the cells make one: so there are no two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from swarm.identity import PeerId
from swarm.seeds import derive

CELL = 16
"""Peers in a cell, about: control messages grow with its square."""
WHOLE = 48
"""Peers that are one group. Three cells and more are worth a second step: what a peer of 64 says falls from 640 messages to 230."""
EPOCH = 16
"""Rounds between two draws."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The cells of one round. ``count``: 1 where all are one group, else a power of two, so that few peers move when it changes."""

    run: bytes
    epoch: int
    count: int

    @classmethod
    def of(cls, run: bytes, round_: int, population: int, seats: int) -> Hierarchy:
        """The cells of a ``population`` in a run whose groups have ``seats``; the council has seats, too."""
        count, each, whole = 1, max(1, min(CELL, 2 * seats // 3)), population <= min(seats, WHOLE)
        while (
            not whole and 2 * count <= seats and 2 * population >= 3 * each * count
        ):  # as near to ``each`` as powers of two come
            count *= 2
        return cls(run, round_ // EPOCH, count)

    def group_index(self, peer: PeerId) -> int:
        """The number of the peer's cell."""
        return _drawn(self.run, self.epoch, peer)[0] % self.count

    def group_mates(self, me: PeerId, peers: Iterable[PeerId]) -> list[PeerId]:
        """Those of ``peers`` that are in my cell, sorted, me not among them."""
        run, epoch, count, mine = self.run, self.epoch, self.count, self.group_index(me)
        return sorted(peer for peer in peers if _drawn(run, epoch, peer)[0] % count == mine and peer != me)

    def representative(self, members: Iterable[PeerId]) -> PeerId:
        """Who of the ``members`` of a cell speaks for it: the same one as long as it is there. At least one member."""
        return min(members, key=self._turn)

    def representatives(self, peers: Iterable[PeerId]) -> list[PeerId]:
        """Who should be in the council, by the ``peers`` that we know: the first of every cell, sorted."""
        first: dict[int, tuple[int, PeerId]] = {}
        for peer in peers:
            cell, turn = _drawn(self.run, self.epoch, peer)
            cell %= self.count
            if cell not in first or turn < first[cell][0]:
                first[cell] = turn, peer
        return sorted(peer for _, peer in first.values())

    def _turn(self, peer: PeerId) -> int:
        return _drawn(self.run, self.epoch, peer)[1]


@lru_cache(maxsize=1 << 14)
def _drawn(run: bytes, epoch: int, peer: PeerId) -> tuple[int, int]:
    """What decides a peer's cell, and its turn to speak for it. Everybody asks it of everybody in every round."""
    return derive(run, "cell", epoch, peer), derive(run, "delegate", epoch, peer)


def least(population: int, missed: int = 0) -> int:
    """How many at least make a group of a run whose last group had ``population``: more than half, so that there are no two such groups.

    Where more than half are gone at once nobody could go on, so after every attempt that was ``missed`` half as many do, and in the
    end whoever is there. By then the larger part, if there is one, has gone on, and who comes back follows it.
    """
    return (population // 2 + 1) >> missed
