"""The interface that every codec implements, and the checks that all codecs share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from swarm.errors import Malformed


@dataclass(frozen=True, slots=True)
class Shape:
    """What a codec may know of N numbers besides their values. Every member knows it before any bytes arrive.

    ``tensor_lengths``: how many of the numbers belong to each tensor of the model, in order; their sum is N.
    Empty means that all are of one tensor. Scales differ between tensors, so a codec that keeps the largest
    numbers chooses them tensor by tensor.
    """

    tensor_lengths: tuple[int, ...] = ()


ONE_TENSOR = Shape()
"""All numbers are of one tensor."""

Raw = bytes | bytearray | memoryview
"""Encoded numbers, whatever object holds them."""

PIECE = 1 << 17
"""Numbers of one piece, the unit of all loops over a vector: half a megabyte of float32 stays in a core's
cache for the next pass over it, beside as much again for a result."""


class Codec(Protocol):
    """One way to write N float32 numbers as bytes. Axes: N numbers of one part."""

    def size(self, numbers: int) -> int:
        """Return the exact bytes of ``numbers`` encoded values."""

    def encode(self, vector_N: Tensor, decoded: Tensor | None = None) -> Raw:
        """Encode ``vector_N`` (float32, finite) into ``size(N)`` bytes.

        Deterministic: the same bits give the same bytes, for any count of threads. Where ``decoded`` is
        given, the numbers that `decode` will read from these bytes are written into it, which is cheaper than
        decoding them. Raises `ValueError` for NaN or infinity.
        """

    def decode(self, payload: Raw, numbers: int, out: Tensor | None = None) -> Tensor:
        """Decode ``payload``: ``[numbers]`` float32, all finite; in ``out`` if given, else in a new tensor.

        Raises `Malformed` for a wrong length, NaN, infinity or a scale out of range; then the content of
        ``out`` is undefined.
        """

    def least_norm(self, payload: Raw, decoded_N: Tensor) -> float:
        """Return a norm that no vector which `encode` turns into ``payload`` is shorter than.

        ``decoded_N`` is what `decode` has read from these bytes. So the rounding of a codec makes no honest
        vector look too long, and a payload has no room for more than that.
        """


def pieces(numbers: int, piece: int | None = None) -> Iterator[slice]:
    """Return slices that cut ``numbers`` numbers into pieces of ``piece`` (default: `PIECE`), in order."""
    piece = piece or PIECE
    return (slice(start, min(start + piece, numbers)) for start in range(0, numbers, piece))


def require_vector(vector_N: Tensor) -> Tensor:
    """Return ``vector_N``, contiguous and detached.

    Raises `ValueError` unless it is one axis of float32 on the CPU.
    """
    if vector_N.dtype != torch.float32 or vector_N.dim() != 1 or vector_N.device.type != "cpu":
        raise ValueError("a codec takes one axis of float32 numbers on the CPU")
    return vector_N.detach().contiguous()


def largest_magnitude(vector_N: Tensor) -> float:
    """Return the largest magnitude in ``vector_N``: NaN if it contains a NaN, 0 if it is empty."""
    return max(abs(float(end)) for end in torch.aminmax(vector_N)) if len(vector_N) else 0.0


def require_finite(vector_N: Tensor) -> float:
    """Return the largest magnitude in ``vector_N``. Raises `ValueError` for NaN or infinity."""
    largest = largest_magnitude(vector_N)
    if not math.isfinite(largest):
        raise ValueError("NaN or infinity must not leave this peer")
    return largest


def least_norm_of(decoded_N: Tensor, relative: float, absolute: float) -> float:
    """Return the least norm of numbers that round to ``decoded_N``.

    Rounding moves each by at most ``relative`` of itself, or by ``absolute`` if that is more.
    """
    found = float(torch.linalg.vector_norm(decoded_N, dtype=torch.float64))
    return max(0.0, found * (1 - relative) - absolute * math.sqrt(len(decoded_N)))


def output_for(numbers: int, out: Tensor | None) -> Tensor:
    """Return the tensor that ``numbers`` decoded values are written to: ``out``, or a new one if it is None.

    Raises `ValueError` if ``out`` is not ``[numbers]`` contiguous float32.
    """
    if out is None:
        return torch.empty(numbers, dtype=torch.float32)
    if out.shape != (numbers,) or out.dtype != torch.float32 or not out.is_contiguous():
        raise ValueError(f"{numbers} float32 numbers do not fit the output tensor")
    return out


def require_length(payload: Raw, size: int) -> None:
    """Raise `Malformed` unless ``payload`` has exactly ``size`` bytes."""
    if len(payload) != size:
        raise Malformed(f"{len(payload)} bytes came where the numbers take {size}")
