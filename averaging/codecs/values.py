"""The third stage of a sparse codec: it writes the values of the kept numbers, in order.

    SignMagnitude   sign × {small, large}: 2 bits, two float16 per chunk (after SparseLoCo, arXiv:2508.15706)

The kept numbers are the large ones: none lies near zero, so codes spread evenly around zero would leave half
of themselves unused. SparseLoCo's released code has four values spread evenly over six standard deviations of
the tensor; that leaves ten times the squared error of `SignMagnitude`.
"""

# Axes: M kept numbers of the part, C chunks, K kept numbers of one chunk

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.errors import Malformed

from .bits import pack, packed_size, unpack
from .chunks import Chunking

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Halves = NDArray[np.uint16]

_LARGEST = np.float32(65504)
"""The largest finite float16."""

_INFINITE_BITS = 0x7C00
"""A float16 whose bits are below this is finite and not negative."""

_NEGATIVE = np.uint8(1)
"""The bit of a code that says: the number is negative."""

_LARGE = np.uint8(2)
"""The bit of a code that says: the number has the large magnitude of its chunk."""


class SignMagnitude:
    """Each number as its sign and one of the two magnitudes of its chunk, called small and large.

        small of every chunk, large of every chunk: float16, little-endian  ‖  codes: bit 0 negative, bit 1
        large

    The kept numbers of a chunk are split by size into two groups, at the split with the least squared error
    (the optimum that k-means with k = 2 looks for). The two magnitudes are the means of the groups, at most
    65,504, rounded to float16. Canonical: small < large if both occur; otherwise the two are equal and no
    code has the large bit. Where a magnitude is zero, no code has the negative bit.
    """

    def size(self, chunking: Chunking) -> int:
        """Return the exact bytes: 4 bytes per chunk, 2 bits per kept number."""
        return 4 * chunking.chunks + packed_size(chunking.kept, 2)

    def encode(self, values_M: Floats, chunking: Chunking) -> bytes:
        """Write magnitudes and codes of ``values_M``, which are finite and in the order of the chunks."""
        halves_2C = np.empty((2, chunking.chunks), "<u2")
        codes_M = np.empty(chunking.kept, np.uint8)
        for run in chunking.batches_by_kept():
            halves_C2, codes_CK = _quantised(values_M[run.kept_span].reshape(run.chunks, run.kept))
            halves_2C[:, run.chunk_span] = halves_C2.T
            codes_M[run.kept_span] = codes_CK.reshape(-1)
        return halves_2C.tobytes() + pack(codes_M, 2).tobytes()

    def decode(self, raw: Bytes, chunking: Chunking) -> Iterator[Floats]:
        """Yield the values of each run of ``chunking.batches_by_kept()``, all finite.

        Raises `Malformed` for magnitudes and codes that are not canonical, and for NaN and infinity.
        """
        halves_C2 = raw[: 4 * chunking.chunks].view("<u2").reshape(2, chunking.chunks).T
        if (halves_C2 >= _INFINITE_BITS).any():
            raise Malformed("a magnitude is NaN, infinite or negative")
        codes_M = unpack(raw[4 * chunking.chunks :], chunking.kept, 2)
        for run in chunking.batches_by_kept():
            codes_CK = codes_M[run.kept_span].reshape(run.chunks, run.kept)
            _require_canonical(halves_C2[run.chunk_span], codes_CK)
            yield _restored(halves_C2[run.chunk_span], codes_CK)


def _quantised(values_CK: Floats) -> tuple[Halves, Bytes]:
    """Return the float16 bits of each chunk's small and large magnitude, [C, 2], and the codes, [C, K]."""
    sizes_CK = np.minimum(np.abs(values_CK), _LARGEST)
    is_large_CK = sizes_CK > _borders(sizes_CK)[:, None]
    large_C = is_large_CK.sum(axis=1)
    total_of_large_C = np.where(is_large_CK, sizes_CK, 0).sum(axis=1, dtype=np.float64)
    total_of_small_C = np.where(is_large_CK, 0, sizes_CK).sum(axis=1, dtype=np.float64)
    small_mean_C = total_of_small_C / (values_CK.shape[1] - large_C)
    large_mean_C = np.where(large_C > 0, total_of_large_C / np.maximum(large_C, 1), small_mean_C)
    halves_C2 = np.stack([small_mean_C, large_mean_C], axis=1).astype("<f2").view("<u2")
    is_large_CK &= halves_C2[:, :1] < halves_C2[:, 1:]  # two means may round to the same float16
    is_negative_CK = (values_CK < 0) & (np.where(is_large_CK, halves_C2[:, 1:], halves_C2[:, :1]) > 0)
    return halves_C2, is_negative_CK * _NEGATIVE | is_large_CK * _LARGE


def _borders(sizes_CK: Floats) -> NDArray[np.float32]:
    """Return, for each chunk, the largest magnitude of its small group: [C].

    Tries all K splits, with squares in float64.
    """
    kept = sizes_CK.shape[1]
    ordered_CK = np.sort(sizes_CK, axis=1)
    below_CK = np.cumsum(ordered_CK, axis=1, dtype=np.float64)
    above_CK = below_CK[:, -1:] - below_CK
    counts_K = np.arange(1, kept + 1)
    # the squared error of a split is the sum of all squares, which no split changes, minus this
    explained_CK = below_CK**2 / counts_K + above_CK**2 / np.maximum(kept - counts_K, 1)
    return np.take_along_axis(ordered_CK, explained_CK.argmax(axis=1)[:, None], axis=1)[:, 0]


def _require_canonical(halves_C2: Halves, codes_CK: Bytes) -> None:
    small_C, large_C = halves_C2.T
    large_count_C = (codes_CK >> 1).sum(axis=1, dtype=np.uint16)
    is_split_C = (large_count_C > 0) & (large_count_C < codes_CK.shape[1])
    if not np.where(is_split_C, small_C < large_C, (small_C == large_C) & (large_count_C == 0)).all():
        raise Malformed("the magnitudes of a chunk are not in order, or one of them is not used")
    if (codes_CK[small_C == 0] == _NEGATIVE).any():
        raise Malformed("a zero has a sign")


def _restored(halves_C2: Halves, codes_CK: NDArray[Any]) -> Floats:
    """Return the numbers that the codes stand for: [C · K]."""
    # float32 bits as integers of the same width: chosen by integer arithmetic, without a table or a branch
    bits_C2 = halves_C2.view("<f2").astype(np.float32).view(np.uint32)
    codes_CK = codes_CK.astype(np.uint32)
    bits_CK = codes_CK >> 1
    bits_CK *= (bits_C2[:, 1] - bits_C2[:, 0])[:, None]
    bits_CK += bits_C2[:, 0, None]
    codes_CK <<= 31
    bits_CK |= codes_CK
    return bits_CK.view(np.float32).reshape(-1)
