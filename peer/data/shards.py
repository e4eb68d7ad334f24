"""Which member trains on which part of the text: disjoint shards, drawn anew every round by a hash.

train region  │ 0 │ 1 │ 2 │ … │ S−1 │ held out
order = shuffle(shards; run, round); member k of n takes order[k::n]

Every peer can compute the shards of every member.
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
"""Contexts that a shard holds at least. A text too short for that is a single shard."""


def shard_count(spec: DataSpec, context: int) -> int:
    """How many shards the train region is cut into; the same for every peer of a run.

    Raises `NoData` where the text is shorter than one sequence and its target.
    """
    length = train_length(spec)
    if length <= context:
        raise NoData(
            f"{length} bytes to train on are fewer than one context of {context}", "give --data more text"
        )
    return max(1, min(MOST, length // (CONTEXTS * context)))


def shard_bounds(shard: int, shards: int, length: int) -> tuple[int, int]:
    """Start and end (exclusive) of ``shard`` in a train region of ``length`` bytes.

    Together the shards cover the region exactly.
    """
    return shard * length // shards, (shard + 1) * length // shards


def assign(run: bytes, round_: int, members: Sequence[PeerId], me: PeerId, shards: int) -> list[int]:
    """The shards that ``me`` trains on in ``round_``, in ascending order; never empty.

    For one list of members (in any order) the members' shards are disjoint and cover all. In two cases a peer
    shares one shard, drawn by hash, with another: where it is not a member yet, and where there are more
    members than shards.
    """
    population = sorted(set(members))
    seat = population.index(me) if me in population else shards
    if seat >= shards:
        return [derive(run, "shard", round_, me) % shards]
    return sorted(_order(run, round_, shards)[seat :: len(population)])


@lru_cache(maxsize=4)
def _order(run: bytes, round_: int, shards: int) -> tuple[int, ...]:
    """The shards in the order in which the round's members take them.

    Cached, because all peers of a simulation share one process.
    """
    return tuple(int(shard) for shard in shuffled(run, map(str, range(shards)), "shards", round_))
