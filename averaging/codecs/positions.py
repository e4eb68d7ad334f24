"""The second stage of a sparse codec: it writes the positions of the kept numbers.

    IndexList    12 bits per kept number     shorter where fewer than one number in twelve is kept
    BitMap       1 bit per number            shorter where more are kept

Both decoders are strict: each chunk has exactly as many positions as `chunks` says, ascending, inside the
chunk.
"""

# Axes: M kept numbers of the part, C chunks of one run, K kept numbers of one chunk

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from swarm.errors import Malformed

from .bits import pack_flags, pack_twelve, packed_size, unpack_flags, unpack_twelve
from .chunks import Chunking, ChunkRun

Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]


class PositionCodec(Protocol):
    """One way to write the positions that `select.largest` returns. Axes: M kept numbers of the part."""

    def size(self, chunking: Chunking) -> int:
        """Return the exact bytes."""

    def encode(self, positions_M: Positions, chunking: Chunking) -> bytes:
        """Write ``positions_M`` as ``size(chunking)`` bytes."""

    def decode(self, raw: Bytes, chunking: Chunking) -> Iterator[Positions]:
        """Yield the ascending positions of each run of ``chunking.batches_by_kept()``.

        Raises `Malformed` for bytes that `encode` cannot have made.
        """


class IndexList:
    """For each kept number its index inside its chunk, in 12 bits."""

    def size(self, chunking: Chunking) -> int:
        """Return the exact bytes: 12 bits per kept number."""
        return packed_size(chunking.kept, 12)

    def encode(self, positions_M: Positions, chunking: Chunking) -> bytes:
        """Write the indices of all chunks in order."""
        indices_M = np.empty(chunking.kept, np.int16)
        for run in chunking.batches_by_kept():
            positions_CK = positions_M[run.kept_span].reshape(run.chunks, run.kept)
            indices_M[run.kept_span] = (positions_CK - _starts(run)).reshape(-1)
        return pack_twelve(indices_M).tobytes()

    def decode(self, raw: Bytes, chunking: Chunking) -> Iterator[Positions]:
        """Yield the positions, run by run.

        Raises `Malformed` if indices do not ascend or lie outside their chunk, or if the padding is not zero.
        """
        indices_M = unpack_twelve(raw, chunking.kept)
        for run in chunking.batches_by_kept():
            indices_CK = indices_M[run.kept_span].reshape(run.chunks, run.kept)
            if (indices_CK[:, 1:] <= indices_CK[:, :-1]).any() or (indices_CK[:, -1] >= run.length).any():
                raise Malformed("the indices of a chunk do not ascend, or leave it")
            yield np.add(indices_CK, _starts(run)).reshape(-1)


class BitMap:
    """One bit for every number, 1 where it is kept."""

    def size(self, chunking: Chunking) -> int:
        """Return the exact bytes: 1 bit per number."""
        return packed_size(chunking.numbers, 1)

    def encode(self, positions_M: Positions, chunking: Chunking) -> bytes:
        """Write the bits of the whole vector."""
        flags_N = np.zeros(chunking.numbers, np.bool_)
        flags_N[positions_M] = True
        return pack_flags(flags_N).tobytes()

    def decode(self, raw: Bytes, chunking: Chunking) -> Iterator[Positions]:
        """Yield the positions, run by run.

        Raises `Malformed` if a chunk has too many or too few of them, or if the padding is not zero.
        """
        positions_M = np.flatnonzero(unpack_flags(raw, chunking.numbers))
        if len(positions_M) != chunking.kept:
            raise Malformed(f"{len(positions_M)} numbers are marked, {chunking.kept} are expected")
        for run in chunking.batches_by_kept():
            positions_CK = positions_M[run.kept_span].reshape(run.chunks, run.kept)
            starts_C1 = _starts(run)
            is_before_C1 = positions_CK[:, :1] < starts_C1
            is_behind_C1 = positions_CK[:, -1:] >= starts_C1 + run.length
            if is_before_C1.any() or is_behind_C1.any():
                raise Malformed("a chunk has more marked numbers than another of its length")
            yield positions_M[run.kept_span]


def _starts(run: ChunkRun) -> Positions:
    """Return where the chunks of ``run`` begin in the vector: [C, 1]."""
    return np.arange(run.span.start, run.span.stop, run.length, dtype=np.int64)[:, None]
