"""The codecs that send only the largest numbers of each chunk, in three stages: select → positions → values.

    payload = positions of the kept numbers  ‖  their values

A number that is not sent decodes to zero. It stays in the sender's residual (error feedback); without error
feedback these codecs do not train.
"""

# Axes: N numbers of one part, M kept numbers of the part

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .chunks import chunking_of
from .port import Raw, Shape, least_norm_of, output_for, require_length, require_vector
from .positions import IndexList
from .select import largest
from .values import SignMagnitude

_POSITIONS = IndexList()
_VALUES = SignMagnitude()


@dataclass(frozen=True, slots=True)
class Sparse:
    """Keeps the ``share`` largest magnitudes of each 4096 numbers, the same proportion of a shorter chunk.

    After SparseLoCo (arXiv:2508.15706). A kept number takes 14 bits, and a chunk 4 bytes more. All methods
    raise `ValueError` if the numbers are not of ``shape``. See `chunks`.
    """

    share: int
    shape: Shape

    def size(self, numbers: int) -> int:
        """Return the exact bytes of ``numbers`` encoded values."""
        chunking = chunking_of(self.shape, numbers, self.share)
        return _POSITIONS.size(chunking) + _VALUES.size(chunking)

    def encode(self, vector_N: Tensor, decoded: Tensor | None = None) -> bytes:
        """Write positions and values of the largest of ``vector_N`` (float32).

        Raises `ValueError` for NaN or infinity.
        """
        numbers_N = require_vector(vector_N).numpy()
        chunking = chunking_of(self.shape, len(numbers_N), self.share)
        positions_M = largest(numbers_N, chunking)
        encoded_positions = _POSITIONS.encode(positions_M, chunking)
        encoded_values = _VALUES.encode(numbers_N[positions_M], chunking)
        payload = encoded_positions + encoded_values
        if decoded is not None:
            self.decode(payload, len(numbers_N), decoded)
        return payload

    def decode(self, payload: Raw, numbers: int, out: Tensor | None = None) -> Tensor:
        """Return ``[numbers]`` float32, zero where nothing was sent.

        Raises `Malformed` for what `encode` cannot have made.
        """
        chunking = chunking_of(self.shape, numbers, self.share)
        positions_size = _POSITIONS.size(chunking)
        require_length(payload, positions_size + _VALUES.size(chunking))
        raw = np.frombuffer(payload, np.uint8)
        vector_N = output_for(numbers, out)
        numbers_N = vector_N.numpy()
        positions_by_run = _POSITIONS.decode(raw[:positions_size], chunking)
        values_by_run = _VALUES.decode(raw[positions_size:], chunking)
        runs = chunking.batches_by_kept()
        for run, positions, values in zip(runs, positions_by_run, values_by_run, strict=True):
            numbers_N[run.span] = 0
            numbers_N[positions] = values
        return vector_N

    def least_norm(self, payload: Raw, decoded_N: Tensor) -> float:
        """Return a norm that no vector which `encode` turns into ``payload`` is shorter than.

        A magnitude is the mean of those that it stands for, and the square of a mean is never more than the
        mean of the squares. So only its rounding to float16 can add to the norm.
        """
        return least_norm_of(decoded_N, 2.0**-11, 2.0**-25)
