"""How a sparse codec says which numbers travel. The cheaper way depends on their share: 12 bits for each, or 1 bit for all.

A list costs 12 bits per kept number, a map 1 bit per number: below one in twelve the list is shorter. Both are strict: a chunk
has exactly as many numbers as the cut says, in ascending order, inside the chunk.
"""

# Axes: M numbers that travel, C chunks of one run, K kept of one chunk

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from swarm.errors import Malformed

from .bits import pack_flags, pack_twelve, packed_size, unpack_flags, unpack_twelve
from .chunks import Cut, Run

Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]


class Places(Protocol):
    """One way to write positions of `select.largest`. Axes: M numbers that travel."""

    def size(self, cut: Cut) -> int:
        """Exact bytes."""

    def encode(self, positions_M: Positions, cut: Cut) -> bytes:
        """``positions_M`` in ``size(cut)`` bytes."""

    def decode(self, raw: Bytes, cut: Cut) -> Iterator[Positions]:
        """Ascending, for one of ``cut.by_kept()`` after the other. Raises `Malformed` for whatever `encode` cannot have made."""


class IndexList:
    """The index inside its chunk, 12 bits each."""

    def size(self, cut: Cut) -> int:
        """12 bits per kept number."""
        return packed_size(cut.kept, 12)

    def encode(self, positions_M: Positions, cut: Cut) -> bytes:
        """The indices of all chunks in order."""
        indices_M = np.empty(cut.kept, np.int16)
        for run in cut.by_kept():
            indices_M[run.travelling] = (
                positions_M[run.travelling].reshape(run.chunks, run.kept) - _starts(run)
            ).reshape(-1)
        return pack_twelve(indices_M).tobytes()

    def decode(self, raw: Bytes, cut: Cut) -> Iterator[Positions]:
        """The positions. Raises `Malformed` where indices do not ascend or leave their chunk, or the padding is not zero."""
        indices_M = unpack_twelve(raw, cut.kept)
        for run in cut.by_kept():
            indices_CK = indices_M[run.travelling].reshape(run.chunks, run.kept)
            if (indices_CK[:, 1:] <= indices_CK[:, :-1]).any() or (indices_CK[:, -1] >= run.length).any():
                raise Malformed("the indices of a chunk do not ascend, or leave it")
            yield np.add(indices_CK, _starts(run)).reshape(-1)


class BitMap:
    """One bit for every number, 1 where it travels."""

    def size(self, cut: Cut) -> int:
        """1 bit per number."""
        return packed_size(cut.numbers, 1)

    def encode(self, positions_M: Positions, cut: Cut) -> bytes:
        """The map of the whole vector."""
        flags_N = np.zeros(cut.numbers, np.bool_)
        flags_N[positions_M] = True
        return pack_flags(flags_N).tobytes()

    def decode(self, raw: Bytes, cut: Cut) -> Iterator[Positions]:
        """The positions. Raises `Malformed` where a chunk has another number of them, or the padding is not zero."""
        positions_M = np.flatnonzero(unpack_flags(raw, cut.numbers))
        if len(positions_M) != cut.kept:
            raise Malformed(f"{len(positions_M)} numbers are marked, {cut.kept} travel")
        for run in cut.by_kept():
            positions_CK = positions_M[run.travelling].reshape(run.chunks, run.kept)
            starts_C1 = _starts(run)
            if (positions_CK[:, :1] < starts_C1).any() or (
                positions_CK[:, -1:] >= starts_C1 + run.length
            ).any():
                raise Malformed("a chunk has more marked numbers than another of its length")
            yield positions_M[run.travelling]


def _starts(run: Run) -> Positions:
    """Where the chunks of ``run`` begin, [C, 1]."""
    return np.arange(run.numbers.start, run.numbers.stop, run.length, dtype=np.int64)[:, None]
