"""What is signed of numbers, their hash and their L2 norm, and the one walk over the memory where they lie that finds both.

A part is larger than a core's cache: to hash it, then to measure it, then to copy it is to fetch it from memory three times, and
four peers on two cores have no memory to spare. So a piece at a time is fetched, and everything is done with it.
"""

# Axes: N numbers of one part

from __future__ import annotations

import math

import torch
from torch import Tensor

from swarm.hashing import Hasher

from .codecs import Packed, Raw, pieces

Vector = Tensor | Packed
"""N numbers, or what they can be read in, piece by piece."""

NORM_TOLERANCE = 1e-4
"""Relative difference between a committed and a measured norm that is still honest: summation order differs between machines."""

_ROW = 512
"""Numbers whose squares are summed in float32: an order of summation cannot be further than 512 roundings from another one."""
_NARROW = (1e-10, math.inf)
"""Between these a norm was computed in float32 without anything of weight falling out of its range."""


def norm(vector_N: Vector) -> float:
    """The L2 norm of ``vector_N``, to 2e-5 of itself: finite for all finite numbers, NaN or infinite where one of them is not."""
    return _root(sum(squares(vector_N[here]) for here in pieces(len(vector_N))), vector_N)


def hash_and_norm(payload: Raw, numbers_N: Tensor, out_N: Tensor | None = None) -> tuple[bytes, float]:
    """`digest` of ``payload`` and `norm` of the float32 numbers that are its end, which are copied to ``out_N`` where given."""
    walk = Walk(payload, numbers_N)
    for here in pieces(len(numbers_N)):
        walk.look(here)
        if out_N is not None:
            out_N[here] = numbers_N[here]
    return walk.hash, walk.norm


class Walk:
    """`hash_and_norm` for somebody who comes by all the pieces anyway, and looks at each of them in its turn."""

    def __init__(self, payload: Raw, numbers_N: Tensor) -> None:
        self._raw, self._numbers_N = memoryview(payload).cast("B"), numbers_N
        self._head, self._squares = len(self._raw) - numbers_N.nbytes, 0.0
        self._hasher = Hasher()
        self._hasher.update(self._raw[: self._head])

    def look(self, here: slice) -> None:
        """At the next of the `pieces`."""
        self._hasher.update(self._raw[self._head + 4 * here.start : self._head + 4 * here.stop])
        self._squares += squares(self._numbers_N[here])

    @property
    def hash(self) -> bytes:
        """Of the whole payload, once all of it has been looked at."""
        return self._hasher.digest()

    @property
    def norm(self) -> float:
        """Of all the numbers, likewise."""
        return _root(self._squares, self._numbers_N)


def squares(piece_N: Tensor) -> float:
    """The sum of the squares of ``piece_N``. Infinite where a row of them is too large for float32."""
    rows = len(piece_N) // _ROW
    wide = torch.linalg.vector_norm(piece_N[: rows * _ROW].view(rows, _ROW), dim=1).to(torch.float64)
    found = float(torch.dot(wide, wide))
    if rows * _ROW == len(piece_N):
        return found
    last = piece_N[rows * _ROW :].to(torch.float64)
    return found + float(torch.dot(last, last))


def is_near(claimed: float, measured: float) -> bool:
    """Whether a norm that was signed is the one that was measured."""
    return abs(measured - claimed) <= NORM_TOLERANCE * measured


def _root(total: float, vector_N: Vector) -> float:
    """The norm behind a sum of squares; computed once more where its numbers have squares that no float32 can hold."""
    found = math.sqrt(total)
    if _NARROW[0] < found < _NARROW[1]:
        return found
    wide = (vector_N[here].to(torch.float64) for here in pieces(len(vector_N)))
    return math.sqrt(sum(float(torch.dot(piece_N, piece_N)) for piece_N in wide))
