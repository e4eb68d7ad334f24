"""Batches as a function: data = f(run, round, peer). An auditor of an update can draw them again."""

# Axes: B sequences in a batch, T positions, W windows, S shards,
#       U = T + 1 bytes of a window (each position and the target of the last)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from swarm.errors import NoData
from swarm.identity import PeerId
from swarm.seeds import derive

from .corpus import Corpus, train_length
from .shards import shard_bounds, shard_count


@dataclass(frozen=True, slots=True)
class Draw:
    """Whose batches: one peer's, in one round of a run. Equal draws from equal shards are equal batches."""

    run: bytes
    round: int
    peer: PeerId

    @property
    def seed(self) -> int:
        """Of the random positions."""
        return derive(self.run, "batches", self.round, self.peer)


def batches(
    corpus: Corpus, draw: Draw, shards: Sequence[int], batch: int, context: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless ``(x_BT, y_BT)`` of int64 bytes from ``shards``, ``y`` one position ahead of ``x``.

    Positions are uniform over the shards and drawn from a generator seeded by ``draw``: batch n is the same
    however fast it is asked for. A window lies inside its shard as a whole.
    """
    generator = torch.Generator().manual_seed(draw.seed)
    length = train_length(corpus.spec)
    bounds = [shard_bounds(shard, shard_count(corpus.spec, context), length) for shard in shards]
    start_S = torch.tensor([start for start, _ in bounds])
    room_S = torch.tensor([end - start - context for start, end in bounds])
    while True:
        shard_B = torch.randint(len(bounds), (batch,), generator=generator)
        share_B = torch.rand(batch, generator=generator, dtype=torch.float64)
        at_B = start_S[shard_B] + (share_B * room_S[shard_B]).long()
        window_BU = windows_at(corpus, at_B, context)
        yield window_BU[:, :-1], window_BU[:, 1:]


def held_out(corpus: Corpus, context: int, windows: int, seed: int) -> Tensor:
    """``windows`` windows ``[W, context + 1]`` of the held-out tail, the same ones for the same ``seed``.

    They do not overlap. Fewer where the tail has fewer; raises `NoData` where it has none.
    """
    start = train_length(corpus.spec)
    slots = (corpus.spec.length - start) // (context + 1)
    if slots == 0:
        raise NoData(
            f"the held-out {corpus.spec.length - start} bytes are fewer than one context of {context}",
            "give --data more text, or hold out a larger fraction",
        )
    generator = torch.Generator().manual_seed(seed)
    chosen_W = torch.randperm(slots, generator=generator)[:windows].sort().values
    return windows_at(corpus, start + chosen_W * (context + 1), context)


def windows_at(corpus: Corpus, at_W: Tensor, context: int) -> Tensor:
    """The ``context + 1`` bytes from each position, int64 ``[W, U]``."""
    return corpus.text_N[at_W[:, None] + torch.arange(context + 1)].long()
