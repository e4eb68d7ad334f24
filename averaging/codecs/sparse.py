"""Codecs that send part of the numbers, as chains of stages: select → place → value, and before them a mask that moves.

    Sparse    the largest numbers of each chunk        payload = places of those that travel  ‖  their values
    Strided   every 8th number, in turn                payload = that of another codec for these

What does not travel decodes to zero and stays with the sender, in its error feedback: without that these codecs do not train.
"""

# Axes: N numbers of one part, M of them that travel

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from torch import Tensor

from .chunks import cut_of
from .places import Places
from .port import Codec, Raw, Shape, require_finite, require_length, require_vector, room_for
from .select import largest
from .values import Values


@dataclass(frozen=True, slots=True)
class Sparse:
    """Of each chunk of 4096 numbers the ``share`` largest magnitudes, of a shorter chunk as many in proportion (see `chunks`)."""

    share: int
    places: Places
    values: Values
    shape: Shape

    def size(self, numbers: int) -> int:
        """Exact bytes of ``numbers`` encoded values. Raises `ValueError` where they are not of the shape, as all methods do."""
        cut = cut_of(self.shape, numbers, self.share)
        return self.places.size(cut) + self.values.size(cut)

    def encode(self, vector_N: Tensor, decoded: Tensor | None = None) -> bytes:
        """Places and values of the largest of ``vector_N`` (float32). Raises `ValueError` for NaN or infinity."""
        numbers_N = require_vector(vector_N).numpy()
        cut = cut_of(self.shape, len(numbers_N), self.share)
        positions_M = largest(numbers_N, cut)
        payload = self.places.encode(positions_M, cut) + self.values.encode(numbers_N[positions_M], cut)
        if decoded is not None:
            self.decode(payload, len(numbers_N), decoded)
        return payload

    def decode(self, payload: Raw, numbers: int, out: Tensor | None = None) -> Tensor:
        """``[numbers]`` float32, zero where nothing travelled. Raises `Malformed` for whatever `encode` cannot have made."""
        cut = cut_of(self.shape, numbers, self.share)
        head = self.places.size(cut)
        require_length(payload, head + self.values.size(cut))
        raw = np.frombuffer(payload, np.uint8)
        vector_N = room_for(numbers, out)
        numbers_N = vector_N.numpy()
        places, values = self.places.decode(raw[:head], cut), self.values.decode(raw[head:], cut)
        for run, positions, found in zip(cut.by_kept(), places, values, strict=True):
            numbers_N[run.numbers] = 0
            numbers_N[positions] = found
        return vector_N


@dataclass(frozen=True, slots=True)
class Strided:
    """Every ``stride``-th number, from another one on in every round, through the codec that ``inner`` makes for their shape.

    The mask of CocktailSGD (Wang et al. 2023): it costs no bytes, because the round says which numbers it leaves, and after
    ``stride`` rounds all had their turn, also where rounds cut the vector differently, if ``stride`` divides the borders of parts.
    """

    stride: int
    shape: Shape
    inner: Callable[[Shape], Codec]

    def size(self, numbers: int) -> int:
        """Exact bytes of ``numbers`` encoded values; it may differ from round to round by those of one number per tensor."""
        return self._codec.size(self._count(numbers))

    def encode(self, vector_N: Tensor, decoded: Tensor | None = None) -> Raw:
        """What the inner codec makes of this round's numbers. Raises `ValueError` for NaN or infinity, wherever they are."""
        vector_N = require_vector(vector_N)
        require_finite(vector_N)
        payload = self._codec.encode(vector_N[self._first :: self.stride])
        if decoded is not None:
            self.decode(payload, len(vector_N), decoded)
        return payload

    def decode(self, payload: Raw, numbers: int, out: Tensor | None = None) -> Tensor:
        """``[numbers]`` float32, zero where nothing travelled. Raises `Malformed` as the inner codec does."""
        vector_N = room_for(numbers, out).zero_()
        vector_N[self._first :: self.stride] = self._codec.decode(payload, self._count(numbers))
        return vector_N

    @property
    def _first(self) -> int:
        return self.shape.phase % self.stride

    @property
    def _codec(self) -> Codec:
        borders = accumulate(self.shape.pieces, initial=0)
        return self.inner(
            Shape(tuple(self._count(stop) - self._count(start) for start, stop in pairwise(borders)))
        )

    def _count(self, numbers: int) -> int:
        """How many of the first ``numbers`` numbers have their turn."""
        return max(0, -(-(numbers - self._first) // self.stride))
