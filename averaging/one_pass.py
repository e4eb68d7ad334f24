"""The hash and the L2 norm of a payload, found in one pass over its memory.

Both are signed: the hash of the bytes as they travel, the norm of the numbers that they decode to.

A part is larger than a core's cache. Hashing it, then measuring it, then copying it would fetch it from
memory three times, and memory bandwidth is what limits four peers on two cores. So each piece is fetched
once, and everything is done with it while it is in the cache.
"""

# Axes: N numbers of one part

from __future__ import annotations

import math

import torch
from torch import Tensor

from swarm.hashing import Hasher

from .codecs import LazyVector, Raw, pieces

Vector = Tensor | LazyVector
"""N numbers, in memory or decoded piece by piece."""

NORM_TOLERANCE = 1e-4
"""Relative difference up to which a measured norm confirms a committed one: orders of summation differ."""

_ROW = 512
"""Numbers whose squares are summed in float32: two orders of summation differ by at most 512 roundings."""

_SMALLEST = 1e-10
"""Above this, a norm that was computed in float32 has not lost squares that matter to underflow."""


def norm(vector_N: Vector) -> float:
    """Return the L2 norm of ``vector_N``, to 2e-5 of itself.

    It is finite for all finite numbers, and NaN or infinite if one of them is.
    """
    return _root(sum(_sum_of_squares(vector_N[here]) for here in pieces(len(vector_N))), vector_N)


def hash_and_norm(payload: Raw, numbers_N: Tensor, out_N: Tensor | None = None) -> tuple[bytes, float]:
    """Return the hash of ``payload`` and the `norm` of the float32 numbers at its end, ``numbers_N``.

    Also copies the numbers to ``out_N`` if given.
    """
    measure = HashAndNorm(payload, numbers_N)
    for here in pieces(len(numbers_N)):
        measure.update(here)
        if out_N is not None:
            out_N[here] = numbers_N[here]
    return measure.hash, measure.norm


class HashAndNorm:
    """`hash_and_norm` piece by piece, for a caller whose own loop goes over the pieces of ``numbers_N``.

    The caller calls `update` with each of the `pieces` in order, and then reads `hash` and `norm`.
    """

    def __init__(self, payload: Raw, numbers_N: Tensor) -> None:
        self._raw = memoryview(payload).cast("B")
        self._numbers_N = numbers_N
        self._head_size = len(self._raw) - numbers_N.nbytes
        self._squares = 0.0
        self._hasher = Hasher()
        self._hasher.update(self._raw[: self._head_size])

    def update(self, here: slice) -> None:
        """Hash and measure the next of the `pieces`."""
        self._hasher.update(self._raw[self._head_size + 4 * here.start : self._head_size + 4 * here.stop])
        self._squares += _sum_of_squares(self._numbers_N[here])

    @property
    def hash(self) -> bytes:
        """The hash of the whole payload, after the last piece."""
        return self._hasher.digest()

    @property
    def norm(self) -> float:
        """The norm of all the numbers, after the last piece."""
        return _root(self._squares, self._numbers_N)


def _sum_of_squares(piece_N: Tensor) -> float:
    """Return the sum of the squares of ``piece_N``; infinite if those of a row are too large for float32."""
    rows = len(piece_N) // _ROW
    row_norms = torch.linalg.vector_norm(piece_N[: rows * _ROW].view(rows, _ROW), dim=1).to(torch.float64)
    found = float(torch.dot(row_norms, row_norms))
    if rows * _ROW == len(piece_N):
        return found
    rest = piece_N[rows * _ROW :].to(torch.float64)
    return found + float(torch.dot(rest, rest))


def is_near(claimed: float, measured: float) -> bool:
    """Return whether a measured norm confirms the claimed one, within `NORM_TOLERANCE`."""
    return abs(measured - claimed) <= NORM_TOLERANCE * measured


def _root(total: float, vector_N: Vector) -> float:
    """Return the norm for a sum of squares; summed again in float64 if float32 may have been too narrow."""
    found = math.sqrt(total)
    if _SMALLEST < found < math.inf:
        return found
    wide = (vector_N[here].to(torch.float64) for here in pieces(len(vector_N)))
    return math.sqrt(sum(float(torch.dot(piece_N, piece_N)) for piece_N in wide))
