"""The second stage of a sparse codec: it writes the positions of the kept numbers, 12 bits for each.

The decoder is strict: each chunk has exactly as many positions as `chunks` says, ascending, inside the chunk.
"""

# Axes: M kept numbers of the part, C chunks of one run, K kept numbers of one chunk

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from swarm.errors import Malformed

from .bits import pack_twelve, packed_size, unpack_twelve
from .chunks import Chunking, ChunkRun

Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]


class IndexList:
    """For each kept number its index inside its chunk, in 12 bits."""

    def size(self, chunking: Chunking) -> int:
        """Return the exact bytes: 12 bits per kept number."""
        return packed_size(chunking.kept, 12)

    def encode(self, positions_M: Positions, chunking: Chunking) -> bytes:
        """Write the indices of all chunks in order. ``positions_M`` is what `select.largest` has returned."""
        indices_M = np.empty(chunking.kept, np.int16)
        for run in chunking.batches_by_kept():
            positions_CK = positions_M[run.kept_span].reshape(run.chunks, run.kept)
            indices_M[run.kept_span] = (positions_CK - _starts(run)).reshape(-1)
        return pack_twelve(indices_M).tobytes()

    def decode(self, raw: Bytes, chunking: Chunking) -> Iterator[Positions]:
        """Yield the ascending positions of each run of ``chunking.batches_by_kept()``.

        Raises `Malformed` if indices do not ascend or lie outside their chunk, or if the padding is not zero.
        """
        indices_M = unpack_twelve(raw, chunking.kept)
        for run in chunking.batches_by_kept():
            indices_CK = indices_M[run.kept_span].reshape(run.chunks, run.kept)
            if (indices_CK[:, 1:] <= indices_CK[:, :-1]).any() or (indices_CK[:, -1] >= run.length).any():
                raise Malformed("the indices of a chunk do not ascend, or leave it")
            yield np.add(indices_CK, _starts(run)).reshape(-1)


def _starts(run: ChunkRun) -> Positions:
    """Return where the chunks of ``run`` begin in the vector: [C, 1]."""
    return np.arange(run.span.start, run.span.stop, run.length, dtype=np.int64)[:, None]
