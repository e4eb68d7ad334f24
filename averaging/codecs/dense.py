"""All numbers, one after another, as float32, float16 (IEEE 754 binary16) or bfloat16.

All are little-endian. The sum of many members' numbers must stay finite, so no number on the wire is larger
than the codec's ``limit``: the encoder clamps to it, the decoder refuses a larger number. What clamping takes
away stays in the sender's residual (error feedback).
"""

# Axes: N numbers of one part

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from swarm.errors import Malformed

from .port import (
    Raw,
    largest_magnitude,
    least_norm_of,
    output_for,
    pieces,
    require_finite,
    require_length,
    require_vector,
)


class _Dense:
    """One number after another in one dtype. Instances of a subclass have no state of their own."""

    _dtype: ClassVar[torch.dtype]
    _bits: ClassVar[torch.dtype]
    """An integer dtype of the same width: numpy has no bfloat16."""
    _wire: ClassVar[np.dtype[Any]]
    limit: ClassVar[float]
    _relative: ClassVar[float] = 0.0
    """How much of a number rounding may add to it ..."""
    _absolute: ClassVar[float] = 0.0
    """... or, to a very small one, how much in all."""

    def size(self, numbers: int) -> int:
        """Return the exact bytes of ``numbers`` encoded values."""
        return numbers * self._wire.itemsize

    def encode(self, vector_N: Tensor, decoded: Tensor | None = None) -> bytes:
        """Encode ``vector_N`` (float32), clamped to ``limit`` and rounded to nearest even.

        Raises `ValueError` for NaN or infinity.
        """
        vector_N = require_vector(vector_N)
        if require_finite(vector_N) > self.limit:
            vector_N = vector_N.clamp(-self.limit, self.limit)
        narrow_N = vector_N.to(self._dtype)
        if decoded is not None:
            decoded.copy_(narrow_N)
        return narrow_N.view(self._bits).numpy().astype(self._wire, copy=False).tobytes()

    def decode(self, payload: Raw, numbers: int, out: Tensor | None = None) -> Tensor:
        """Return ``[numbers]`` float32.

        Raises `Malformed` for a wrong length, NaN, infinity, or a value beyond ``limit``.
        """
        require_length(payload, self.size(numbers))
        raw_N = np.frombuffer(payload, self._wire)
        vector_N = output_for(numbers, out)
        is_read_only = not raw_N.flags.writeable  # torch takes no memory that it may not write to
        for here in pieces(numbers):
            bits = torch.from_numpy(raw_N[here].astype(self._wire.newbyteorder("="), copy=is_read_only))
            piece = vector_N[here].copy_(bits.view(self._dtype))
            if not largest_magnitude(piece) <= self.limit:  # also true for NaN
                raise Malformed("a value is NaN, infinite or out of range")
        return vector_N

    def least_norm(self, payload: Raw, decoded_N: Tensor) -> float:
        """Return a norm that no vector which `encode` turns into ``payload`` is shorter than."""
        return least_norm_of(decoded_N, self._relative, self._absolute)


class Float32(_Dense):
    """4 bytes per number, exact up to 2¹⁰⁰: so large numbers of a whole group still have a finite sum.

    The methods below `decode` avoid copies. They are only for machines whose memory holds float32 as it
    travels, which is little-endian (`codecs.zero_copy_codec`).
    """

    _dtype = torch.float32
    _bits = torch.int32
    _wire = np.dtype("<i4")
    limit = 2.0**100

    def payload_view(self, vector_N: Tensor) -> memoryview:
        """Return what `encode` makes of numbers within ``limit``, without a copy and without checking them.

        It is the memory of ``vector_N`` and must only be read.
        """
        return require_vector(vector_N).numpy().data.cast("B")

    def vector_view(self, payload: Raw, numbers: int) -> Tensor:
        """Return what `decode` makes of a valid ``payload``, if possible without a copy. Checks no number.

        It may be the memory of ``payload`` and must only be read. Raises `Malformed` for a wrong length.
        """
        require_length(payload, self.size(numbers))
        raw_N = np.frombuffer(payload, np.float32)
        return torch.from_numpy(raw_N if raw_N.flags.writeable else raw_N.copy())

    def empty_payload(self, head: bytes, numbers: int) -> tuple[memoryview, Tensor]:
        """Return a new payload that begins with ``head``, and the rest of it as a tensor ``[numbers]``.

        The caller writes the numbers into the tensor. The length of ``head`` must be a multiple of 4.
        """
        raw = np.empty(len(head) + self.size(numbers), np.uint8)
        raw[: len(head)] = np.frombuffer(head, np.uint8)
        return raw.data, torch.from_numpy(raw[len(head) :].view(np.float32))


class Float16(_Dense):
    """2 bytes per number: relative error at most 2⁻¹¹, absolute 2⁻²⁵ below 2⁻¹⁴; magnitudes up to 65,504."""

    _dtype = torch.float16
    _bits = torch.int16
    _wire = np.dtype("<i2")
    limit = 65504.0
    _relative = 2.0**-11
    _absolute = 2.0**-25


class BFloat16(_Dense):
    """2 bytes per number: relative error at most 2⁻⁸ at every magnitude that float32 has, up to 2¹⁰⁰."""

    _dtype = torch.bfloat16
    _bits = torch.int16
    _wire = np.dtype("<i2")
    limit = 2.0**100
    _relative = 2.0**-8
    _absolute = 2.0**-134
