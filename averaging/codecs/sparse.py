"""Codecs that send only some of the numbers, as a chain of stages: select → positions → values.

    Sparse    the largest numbers of each chunk      payload = positions of the kept numbers  ‖  their values
    Strided   every 8th number, others each round    payload = that of another codec for these numbers

A number that is not sent decodes to zero. It stays in the sender's residual (error feedback); without error
feedback these codecs do not train.
"""

# Axes: N numbers of one part, M kept numbers of the part

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from torch import Tensor

from .chunks import chunking_of
from .port import Codec, Raw, Shape, output_for, require_finite, require_length, require_vector
from .positions import PositionCodec
from .select import largest
from .values import ValueCodec


@dataclass(frozen=True, slots=True)
class Sparse:
    """Keeps the ``share`` largest magnitudes of each 4096 numbers, the same proportion of a shorter chunk.

    All methods raise `ValueError` if the numbers are not of ``shape``. See `chunks`.
    """

    share: int
    positions: PositionCodec
    values: ValueCodec
    shape: Shape

    def size(self, numbers: int) -> int:
        """Return the exact bytes of ``numbers`` encoded values."""
        chunking = chunking_of(self.shape, numbers, self.share)
        return self.positions.size(chunking) + self.values.size(chunking)

    def encode(self, vector_N: Tensor, decoded: Tensor | None = None) -> bytes:
        """Write positions and values of the largest of ``vector_N`` (float32).

        Raises `ValueError` for NaN or infinity.
        """
        numbers_N = require_vector(vector_N).numpy()
        chunking = chunking_of(self.shape, len(numbers_N), self.share)
        positions_M = largest(numbers_N, chunking)
        encoded_positions = self.positions.encode(positions_M, chunking)
        encoded_values = self.values.encode(numbers_N[positions_M], chunking)
        payload = encoded_positions + encoded_values
        if decoded is not None:
            self.decode(payload, len(numbers_N), decoded)
        return payload

    def decode(self, payload: Raw, numbers: int, out: Tensor | None = None) -> Tensor:
        """Return ``[numbers]`` float32, zero where nothing was sent.

        Raises `Malformed` for what `encode` cannot have made.
        """
        chunking = chunking_of(self.shape, numbers, self.share)
        positions_size = self.positions.size(chunking)
        require_length(payload, positions_size + self.values.size(chunking))
        raw = np.frombuffer(payload, np.uint8)
        vector_N = output_for(numbers, out)
        numbers_N = vector_N.numpy()
        positions_by_run = self.positions.decode(raw[:positions_size], chunking)
        values_by_run = self.values.decode(raw[positions_size:], chunking)
        runs = chunking.batches_by_kept()
        for run, positions, values in zip(runs, positions_by_run, values_by_run, strict=True):
            numbers_N[run.span] = 0
            numbers_N[positions] = values
        return vector_N


@dataclass(frozen=True, slots=True)
class Strided:
    """Sends every ``stride``-th number, beginning one further in every round, in the codec from ``inner``.

    This is the mask of CocktailSGD (Wang et al. 2023). It costs no bytes, because the round says which
    numbers it covers. After ``stride`` rounds every number has been covered once; if ``stride`` divides the
    borders of parts, also where rounds cut the vector differently.
    """

    stride: int
    shape: Shape
    inner: Callable[[Shape], Codec]

    def size(self, numbers: int) -> int:
        """Return the exact bytes of ``numbers`` encoded values.

        The size of one number per tensor varies by the round.
        """
        return self._codec.size(self._count(numbers))

    def encode(self, vector_N: Tensor, decoded: Tensor | None = None) -> Raw:
        """Encode this round's numbers with the inner codec.

        Raises `ValueError` for NaN or infinity anywhere in ``vector_N``.
        """
        vector_N = require_vector(vector_N)
        require_finite(vector_N)
        payload = self._codec.encode(vector_N[self._first :: self.stride])
        if decoded is not None:
            self.decode(payload, len(vector_N), decoded)
        return payload

    def decode(self, payload: Raw, numbers: int, out: Tensor | None = None) -> Tensor:
        """Return ``[numbers]`` float32, zero where nothing was sent.

        Raises `Malformed` as the inner codec does.
        """
        vector_N = output_for(numbers, out).zero_()
        vector_N[self._first :: self.stride] = self._codec.decode(payload, self._count(numbers))
        return vector_N

    @property
    def _first(self) -> int:
        return self.shape.round % self.stride

    @property
    def _codec(self) -> Codec:
        borders = accumulate(self.shape.tensor_lengths, initial=0)
        lengths = tuple(self._count(stop) - self._count(start) for start, stop in pairwise(borders))
        return self.inner(Shape(lengths))

    def _count(self, numbers: int) -> int:
        """Return how many of the first ``numbers`` numbers this round covers."""
        return max(0, -(-(numbers - self._first) // self.stride))
