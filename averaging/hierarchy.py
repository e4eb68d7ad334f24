"""A large population averages in two steps: in level-1 groups of about sixteen peers, then one representative
of each in a level-2 group.

    every peer       ──►  its level-1 group, drawn by hash    a round of its members: the group's average
    representatives  ──►  the level-2 group                   a round of them: the average of the averages
    every peer       ◄──  takes the level-2 result            (`record`)

So what a peer sends and hears does not grow with the run, and all peers hold one model after every round.
Each peer computes all of this for itself, from the size of the population, which everyone with the same model
knows (`groups.Group.population`).

Rule 1: up to `ONE_GROUP` peers, or `RunManifest.round.group_size`, form one group; only a larger population
        has two levels.
Rule 2: level-1 groups and representatives stay for `REDRAW_ROUNDS` rounds, so that a group knows which of its
        members are alive. Then they are drawn anew, so that nobody can choose its group for long.
Rule 3: at most one representative per level-1 group sits in the level-2 group, which needs more than half of
        them: so there is at most one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from swarm.identity import PeerId
from swarm.seeds import derive

LEVEL1_SIZE = 16
"""Peers in a level-1 group, about: the number of control messages grows with its square."""
ONE_GROUP = 48
"""Largest population that is one group.

From three level-1 groups on a second level pays: with 64 peers, a peer sends 230 messages instead of 640.
"""
REDRAW_ROUNDS = 16
"""Rounds between two draws of groups and representatives."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The level-1 groups of one round.

    ``count`` is 1 where all peers are one group, else a power of two, so that few peers change groups when it
    changes.
    """

    run: bytes
    epoch: int
    count: int

    @classmethod
    def of(cls, run: bytes, round_: int, population: int, seats: int) -> Hierarchy:
        """The groups of a ``population`` in a run whose groups have at most ``seats`` members, at both
        levels."""
        count = 1
        size = max(1, min(LEVEL1_SIZE, 2 * seats // 3))
        is_one_group = population <= min(seats, ONE_GROUP)
        while not is_one_group and 2 * count <= seats and 2 * population >= 3 * size * count:
            count *= 2  # as near to ``size`` members per group as powers of two come
        return cls(run, round_ // REDRAW_ROUNDS, count)

    def group_index(self, peer: PeerId) -> int:
        """The number of the level-1 group of ``peer``."""
        return _drawn(self.run, self.epoch, peer)[0] % self.count

    def group_mates(self, me: PeerId, peers: Iterable[PeerId]) -> list[PeerId]:
        """Those of ``peers`` in the same level-1 group as ``me``, sorted, without ``me``."""
        run = self.run
        epoch = self.epoch
        count = self.count
        mine = self.group_index(me)
        return sorted(peer for peer in peers if _drawn(run, epoch, peer)[0] % count == mine and peer != me)

    def representative(self, members: Iterable[PeerId]) -> PeerId:
        """The one of ``members`` (at least one) that represents their level-1 group: always the same one
        while it is present."""
        return min(members, key=self._rank)

    def representatives(self, peers: Iterable[PeerId]) -> list[PeerId]:
        """The peers that should be in the level-2 group if ``peers`` are present: one of each level-1 group,
        sorted."""
        first: dict[int, tuple[int, PeerId]] = {}
        for peer in peers:
            drawn, rank = _drawn(self.run, self.epoch, peer)
            index = drawn % self.count
            if index not in first or rank < first[index][0]:
                first[index] = rank, peer
        return sorted(peer for _, peer in first.values())

    def _rank(self, peer: PeerId) -> int:
        return _drawn(self.run, self.epoch, peer)[1]


@lru_cache(maxsize=1 << 14)
def _drawn(run: bytes, epoch: int, peer: PeerId) -> tuple[int, int]:
    """(what decides the peer's level-1 group, its rank as representative).

    Every peer asks this about every peer in every round.
    """
    return derive(run, "cell", epoch, peer), derive(run, "delegate", epoch, peer)


def least(population: int, missed: int = 0) -> int:
    """How many of the ``population`` of the last group must vote for the next one: more than two thirds.

    Then there cannot be two groups, as long as fewer than a third of them lie. If a third of the peers leave
    at once, nobody could go on. So after one attempt that was ``missed``, half of them are enough, and the
    number halves with every further one, down to 0. By then the larger part of the population, if there is
    one, has gone on, and the others follow it. (`terms` has what holds besides: more than half of those that
    are still present.)
    """
    return 2 * population // 3 + 1 if missed == 0 else (population + 1) // 2 >> (missed - 1)


def majority(population: int) -> int:
    """More than half: so many must have voted for a group that is shown to a peer outside it."""
    return population // 2 + 1
