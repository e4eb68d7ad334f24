"""Who trains on which part of the text: disjoint shards, drawn anew every round by a hash that everybody can recompute.

train region  │ 0 │ 1 │ 2 │ … │ S−1 │ held out        order = shuffle(shards; run, round);  k-th member takes order[k::n]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from swarm.errors import NoData
from swarm.identity import PeerId
from swarm.manifest import DataSpec
from swarm.seeds import derive, shuffled

from .corpus import train_length

MOST = 1024
"""Shards of a long text: four for each member of the largest group."""

CONTEXTS = 16
"""A shard holds at least this many contexts, as long as that leaves one for everybody who may come."""


def shard_count(spec: DataSpec, context: int) -> int:
    """How many shards the train region is cut into; the same for everybody in a run.

    Raises `NoData` where the text is shorter than one sequence and its target.
    """
    length = train_length(spec)
    if length <= context:
        raise NoData(
            f"{length} bytes to train on are fewer than one context of {context}", "give --data more text"
        )
    return max(1, min(MOST, length // (CONTEXTS * context)))


def shard_bounds(shard: int, shards: int, length: int) -> tuple[int, int]:
    """Start and end (exclusive) of ``shard`` in a train region of ``length`` bytes; together the shards cover it exactly."""
    return shard * length // shards, (shard + 1) * length // shards


def assign(run: bytes, round_: int, members: Sequence[PeerId], me: PeerId, shards: int) -> list[int]:
    """The shards ``me`` trains on in ``round_``, in ascending order; never empty.

    For one list of members (in any order) the members' shards are disjoint and cover all. Two cases share a shard with somebody:
    a peer that is no member yet, and a member of a population larger than the number of shards; each gets one drawn by hash.
    """
    population = sorted(set(members))
    seat = population.index(me) if me in population else shards
    if seat >= shards:
        return [derive(run, "shard", round_, me) % shards]
    return sorted(_order(run, round_, shards)[seat :: len(population)])


@lru_cache(maxsize=4)
def _order(run: bytes, round_: int, shards: int) -> tuple[int, ...]:
    """The shards in the order in which the round's members take them: the same for all peers that share a process."""
    return tuple(int(shard) for shard in shuffled(run, map(str, range(shards)), "shards", round_))
