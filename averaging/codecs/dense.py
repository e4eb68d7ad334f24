"""Numbers as they are: float32 without loss, float16 (IEEE 754 binary16) and bfloat16 at half the bytes. Always little-endian.

Sums of many members must stay finite, so no number on the wire is larger than the codec's ``limit``: encoding clamps to it,
decoding refuses beyond it. What clamping takes away stays in the sender's error feedback.
"""

# Axes: N numbers of one part

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from swarm.errors import Malformed

from .port import Raw, pieces, reach_of, require_finite, require_length, require_vector, room_for


class _Dense:
    """One number after another in one dtype. Subclasses are values: all instances of one are alike."""

    _dtype: ClassVar[torch.dtype]
    _bits: ClassVar[torch.dtype]
    """Whole numbers of the same width: numpy knows no bfloat16."""
    _wire: ClassVar[np.dtype[Any]]
    limit: ClassVar[float]

    def size(self, numbers: int) -> int:
        """Exact bytes of ``numbers`` encoded values."""
        return numbers * self._wire.itemsize

    def encode(self, vector_N: Tensor, decoded: Tensor | None = None) -> bytes:
        """``vector_N`` (float32) clamped to ``limit`` and rounded to nearest even. Raises `ValueError` for NaN or infinity."""
        vector_N = require_vector(vector_N)
        if require_finite(vector_N) > self.limit:
            vector_N = vector_N.clamp(-self.limit, self.limit)
        narrow_N = vector_N.to(self._dtype)
        if decoded is not None:
            decoded.copy_(narrow_N)
        return narrow_N.view(self._bits).numpy().astype(self._wire, copy=False).tobytes()

    def decode(self, payload: Raw, numbers: int, out: Tensor | None = None) -> Tensor:
        """``[numbers]`` float32. Raises `Malformed` for a wrong length, NaN, infinity, or a value beyond ``limit``."""
        require_length(payload, self.size(numbers))
        raw_N, vector_N = np.frombuffer(payload, self._wire), room_for(numbers, out)
        is_fixed = not raw_N.flags.writeable  # torch takes no memory that it may not write to
        for here in pieces(numbers):
            bits = torch.from_numpy(raw_N[here].astype(self._wire.newbyteorder("="), copy=is_fixed))
            piece = vector_N[here].copy_(bits.view(self._dtype))
            if not reach_of(piece) <= self.limit:
                raise Malformed("a value is NaN, infinite or out of range")
        return vector_N


class Float32(_Dense):
    """4 bytes per number, exact up to 2¹⁰⁰: any group of members at that size still adds up to a finite number."""

    _dtype, _bits, _wire = torch.float32, torch.int32, np.dtype("<i4")
    limit = 2.0**100

    def bytes_of(self, vector_N: Tensor) -> memoryview:
        """What `encode` makes of numbers within ``limit``, none of which is looked at: their own memory, to be read only.

        This and what follows are for machines that have their numbers in memory as they travel (`exact_codec`).
        """
        return require_vector(vector_N).numpy().data.cast("B")

    def numbers_in(self, payload: Raw, numbers: int) -> Tensor:
        """What `decode` makes of ``payload`` where it is in order, which is not looked at. To be read only: it may be its memory.

        Raises `Malformed` for a wrong length.
        """
        require_length(payload, self.size(numbers))
        raw_N = np.frombuffer(payload, np.float32)
        return torch.from_numpy(raw_N if raw_N.flags.writeable else raw_N.copy())

    def room(self, head: bytes, numbers: int) -> tuple[memoryview, Tensor]:
        """A payload that begins with ``head``, whole words, and the tensor ``[numbers]`` that is the rest of it, to be written."""
        raw = np.empty(len(head) + self.size(numbers), np.uint8)
        raw[: len(head)] = np.frombuffer(head, np.uint8)
        return raw.data, torch.from_numpy(raw[len(head) :].view(np.float32))


class Float16(_Dense):
    """2 bytes per number: relative error at most 2⁻¹¹, absolute 2⁻²⁵ below 2⁻¹⁴, and nothing beyond 65,504."""

    _dtype, _bits, _wire = torch.float16, torch.int16, np.dtype("<i2")
    limit = 65504.0


class BFloat16(_Dense):
    """2 bytes per number: relative error at most 2⁻⁸ at every magnitude that float32 has, up to 2¹⁰⁰."""

    _dtype, _bits, _wire = torch.bfloat16, torch.int16, np.dtype("<i2")
    limit = 2.0**100
