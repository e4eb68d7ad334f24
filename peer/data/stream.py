"""Batches as a function: data = f(run, round, peer). Whoever audits an update can draw the same bytes again."""

# Axes: B sequences in a batch, T positions, W windows, U = T + 1 bytes of a window (each position and the target of the last)

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from swarm.errors import NoData
from swarm.identity import PeerId
from swarm.seeds import derive

from .corpus import Corpus, train_length
from .shards import shard_bounds, shard_count


def batches(
    corpus: Corpus, run: bytes, round_: int, shards: Sequence[int], me: PeerId, batch: int, context: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless ``(x_BT, y_BT)`` of int64 bytes, ``y`` one position ahead of ``x``, from ``me``'s ``shards`` in ``round_``.

    Positions are uniform over the shards and drawn from a generator seeded by (run, round, peer): the n-th batch never depends
    on how fast it was asked for. A window may begin near the end of a shard only as far as it still fits into it.
    """
    generator = torch.Generator().manual_seed(derive(run, "batches", round_, me))
    length = train_length(corpus.spec)
    bounds = [shard_bounds(shard, shard_count(corpus.spec, context), length) for shard in shards]
    start_S = torch.tensor([start for start, _ in bounds])
    room_S = torch.tensor([end - start - context for start, end in bounds])
    while True:
        pick_B = torch.randint(len(bounds), (batch,), generator=generator)
        spot_B = torch.rand(batch, generator=generator, dtype=torch.float64)
        at_B = start_S[pick_B] + (spot_B * room_S[pick_B]).long()
        window_BU = windows_at(corpus, at_B, context)
        yield window_BU[:, :-1], window_BU[:, 1:]


def held_out(corpus: Corpus, context: int, windows: int, seed: int) -> Tensor:
    """``windows`` windows ``[W, context + 1]`` of the held-out tail, not overlapping, the same for the same ``seed``; all of
    them where the tail has fewer. Raises `NoData` where it has none."""
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
