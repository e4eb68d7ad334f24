"""Numbers as they are: float32 without loss, float16 (IEEE 754 binary16) at half the bytes. Little-endian on every machine.

Sums of many members must stay finite, so no number on the wire is larger than the codec's ``limit``: encoding clamps to it,
decoding refuses beyond it. What clamping takes away stays in the sender's error feedback.
"""

# Axes: N numbers of one part

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from swarm.errors import Malformed

from .port import require_length, require_vector


class _Dense:
    """One number after another in one dtype. Subclasses are values: all instances of one are alike."""

    _dtype: ClassVar[torch.dtype]
    _wire: ClassVar[np.dtype[np.generic]]
    limit: ClassVar[float]

    def size(self, numbers: int) -> int:
        """Exact bytes of ``numbers`` encoded values."""
        return numbers * self._wire.itemsize

    def encode(self, vector_N: Tensor) -> bytes:
        """``vector_N`` (float32) clamped to ``limit`` and rounded to nearest even. Raises `ValueError` for NaN or infinity."""
        vector_N = require_vector(vector_N)
        reach = _reach(vector_N)
        if not math.isfinite(reach):
            raise ValueError("NaN or infinity must not leave this peer")
        clamped_N = vector_N.clamp(-self.limit, self.limit) if reach > self.limit else vector_N
        return clamped_N.to(self._dtype).numpy().astype(self._wire, copy=False).tobytes()

    def decode(self, payload: bytes, numbers: int) -> Tensor:
        """``[numbers]`` float32. Raises `Malformed` for a wrong length, NaN, infinity, or a value beyond ``limit``."""
        require_length(payload, self.size(numbers))
        narrow_N = np.frombuffer(payload, self._wire).astype(self._wire.newbyteorder("="))
        vector_N = torch.from_numpy(narrow_N).to(torch.float32)
        if not _reach(vector_N) <= self.limit:
            raise Malformed("a value is NaN, infinite or out of range")
        return vector_N


def _reach(vector_N: Tensor) -> float:
    """The largest magnitude; NaN where there is one, 0 where there is nothing."""
    return max(abs(float(end)) for end in torch.aminmax(vector_N)) if len(vector_N) else 0.0


class Float32(_Dense):
    """4 bytes per number, exact up to 2¹⁰⁰: any group of members at that size still adds up to a finite number."""

    _dtype = torch.float32
    _wire = np.dtype("<f4")
    limit = 2.0**100


class Float16(_Dense):
    """2 bytes per number: relative error at most 2⁻¹¹, absolute 2⁻²⁵ below 2⁻¹⁴, and nothing beyond 65,504."""

    _dtype = torch.float16
    _wire = np.dtype("<f2")
    limit = 65504.0
