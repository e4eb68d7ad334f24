"""How a sparse codec writes the numbers that travel, once everybody knows which they are.

    SignAndSize   sign × {small, large}: 2 bits, and two float16 per chunk   (after the values of SparseLoCo, arXiv:2508.15706)
    Blocks        the blocks of `quantised`: 4 bits, and a float16 for 256   (CocktailSGD, Wang et al. 2023)

There are no small numbers among those that were selected: codes spread evenly around zero would waste half of themselves. Four
values even over six standard deviations of the tensor, as SparseLoCo's released code has them, leave ten times the squared error.
"""

# Axes: M numbers that travel, C chunks, K kept of one chunk

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from swarm.errors import Malformed

from .bits import pack, packed_size, unpack
from .chunks import Cut
from .quantised import Quantised

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Halves = NDArray[np.uint16]

_LARGEST = np.float32(65504)
_INFINITE_BITS = 0x7C00
"""A float16 whose bits are below this is finite and not negative."""
_NEGATIVE, _LARGE = np.uint8(1), np.uint8(2)


class Values(Protocol):
    """One way to write the numbers that travel. Axes: M numbers that travel."""

    def size(self, cut: Cut) -> int:
        """Exact bytes."""

    def encode(self, values_M: Floats, cut: Cut) -> bytes:
        """``values_M`` (finite, in order of the chunks) in ``size(cut)`` bytes."""

    def decode(self, raw: Bytes, cut: Cut) -> Iterator[Floats]:
        """All finite, for one of ``cut.by_kept()`` after the other. Raises `Malformed` for whatever `encode` cannot have made."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Whole numbers times a scale, block by block; blocks run on from chunk to chunk."""

    codec: Quantised

    def size(self, cut: Cut) -> int:
        """That of the blocks."""
        return self.codec.size(cut.kept)

    def encode(self, values_M: Floats, cut: Cut) -> bytes:
        """Scales and codes."""
        return bytes(self.codec.encode(torch.from_numpy(values_M)))

    def decode(self, raw: Bytes, cut: Cut) -> Iterator[Floats]:
        """The numbers. Raises `Malformed` as the blocks do."""
        values_M = self.codec.decode(raw.data, cut.kept).numpy()
        return (values_M[run.travelling] for run in cut.by_kept())


class SignAndSize:
    """Each number as its sign and one of two magnitudes, which its chunk names.

        small of every chunk, large of every chunk: float16, little-endian  ‖  codes: bit 0 negative, bit 1 large

    The two are the means of the two groups with the least squared error of all splits by size (what k-means with k = 2 looks for),
    rounded to float16 and at most 65,504. Canonical: small < large where both occur, else they are equal and no code says large;
    where a magnitude is zero no code says negative.
    """

    def size(self, cut: Cut) -> int:
        """4 bytes per chunk, 2 bits per number."""
        return 4 * cut.chunks + packed_size(cut.kept, 2)

    def encode(self, values_M: Floats, cut: Cut) -> bytes:
        """Magnitudes and codes."""
        halves_2C, codes_M = np.empty((2, cut.chunks), "<u2"), np.empty(cut.kept, np.uint8)
        for run in cut.by_kept():
            halves_C2, codes_CK = _quantised(values_M[run.travelling].reshape(run.chunks, run.kept))
            halves_2C[:, run.rows] = halves_C2.T
            codes_M[run.travelling] = codes_CK.reshape(-1)
        return halves_2C.tobytes() + pack(codes_M, 2).tobytes()

    def decode(self, raw: Bytes, cut: Cut) -> Iterator[Floats]:
        """The numbers. Raises `Malformed` for magnitudes and codes that are not canonical, NaN and infinity among them."""
        halves_C2 = raw[: 4 * cut.chunks].view("<u2").reshape(2, cut.chunks).T
        if (halves_C2 >= _INFINITE_BITS).any():
            raise Malformed("a magnitude is NaN, infinite or negative")
        codes_M = unpack(raw[4 * cut.chunks :], cut.kept, 2)
        for run in cut.by_kept():
            codes_CK = codes_M[run.travelling].reshape(run.chunks, run.kept)
            _require_canonical(halves_C2[run.rows], codes_CK)
            yield _restored(halves_C2[run.rows], codes_CK)


def _quantised(values_CK: Floats) -> tuple[Halves, Bytes]:
    """The bits of small and large of each chunk [C, 2], and the codes [C, K]."""
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
    """The largest magnitude of each chunk that counts as small. All K splits are tried; float64 holds their squares."""
    kept = sizes_CK.shape[1]
    ordered_CK = np.sort(sizes_CK, axis=1)
    below_CK = np.cumsum(ordered_CK, axis=1, dtype=np.float64)
    above_CK = below_CK[:, -1:] - below_CK
    counts_K = np.arange(1, kept + 1)
    # the squared error of a split is the sum of squares, the same for all, less this
    explained_CK = below_CK**2 / counts_K + above_CK**2 / np.maximum(kept - counts_K, 1)
    return np.take_along_axis(ordered_CK, explained_CK.argmax(axis=1)[:, None], axis=1)[:, 0]


def _require_canonical(halves_C2: Halves, codes_CK: Bytes) -> None:
    small_C, large_C = halves_C2.T
    saying_large_C = (codes_CK >> 1).sum(axis=1, dtype=np.uint16)
    is_split_C = (saying_large_C > 0) & (saying_large_C < codes_CK.shape[1])
    if not np.where(is_split_C, small_C < large_C, (small_C == large_C) & (saying_large_C == 0)).all():
        raise Malformed("the magnitudes of a chunk are not in order, or one of them is not used")
    if (codes_CK[small_C == 0] == _NEGATIVE).any():
        raise Malformed("a zero has a sign")


def _restored(halves_C2: Halves, codes_CK: NDArray[Any]) -> Floats:
    """What the codes stand for, [C · K]."""
    bits_C2 = (
        halves_C2.view("<f2").astype(np.float32).view(np.uint32)
    )  # whole numbers of the same width: no table, no branch
    codes_CK = codes_CK.astype(np.uint32)
    bits_CK = codes_CK >> 1
    bits_CK *= (bits_C2[:, 1] - bits_C2[:, 0])[:, None]
    bits_CK += bits_C2[:, 0, None]
    codes_CK <<= 31
    bits_CK |= codes_CK
    return bits_CK.view(np.float32).reshape(-1)
