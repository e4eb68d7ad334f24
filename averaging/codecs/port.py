"""The port that every codec fills, and the checks that all of them share."""

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
    """What a codec may know of N numbers besides their values; every member knows it beforehand.

    ``pieces``: lengths of the stretches of different tensors among them, in order, N in all; empty: they are of one tensor. Scales
    differ between tensors, so a codec that picks the largest numbers picks them tensor by tensor. ``phase``: the number of the
    round, for codecs that send other numbers in every round.
    """

    pieces: tuple[int, ...] = ()
    phase: int = 0


ONE_TENSOR = Shape()


Raw = bytes | bytearray | memoryview
PIECE = 1 << 17
"""Numbers handled at a time: half a megabyte is near for the next pass, and leaves room in a core's cache for as much again."""


class Codec(Protocol):
    """One way to write N float32 numbers. Axes: N numbers of one part."""

    def size(self, numbers: int) -> int:
        """Exact bytes of ``numbers`` encoded values."""

    def encode(self, vector_N: Tensor, decoded: Tensor | None = None) -> Raw:
        """``vector_N`` (float32, finite) as ``size(N)`` bytes. Deterministic: same bits in, same bytes out, on any thread count.

        Into ``decoded``, where given, goes what `decode` will read in them: cheaper than to decode them.
        """

    def decode(self, payload: Raw, numbers: int, out: Tensor | None = None) -> Tensor:
        """``[numbers]`` float32, all finite; in ``out`` where given, which after an error holds anything.

        Raises `Malformed` for a wrong length, NaN, infinity or a scale out of range.
        """


def pieces(numbers: int, piece: int | None = None) -> Iterator[slice]:
    """The pieces of ``numbers`` numbers, `PIECE` each or as many as ``piece`` says, in order."""
    piece = piece or PIECE
    return (slice(start, min(start + piece, numbers)) for start in range(0, numbers, piece))


def require_vector(vector_N: Tensor) -> Tensor:
    """``vector_N`` contiguous and without gradient. Raises `ValueError` where it is not one axis of float32 on the CPU."""
    if vector_N.dtype != torch.float32 or vector_N.dim() != 1 or vector_N.device.type != "cpu":
        raise ValueError("a codec takes one axis of float32 numbers on the CPU")
    return vector_N.detach().contiguous()


def reach_of(vector_N: Tensor) -> float:
    """The largest magnitude; NaN where there is one, 0 where there is nothing."""
    return max(abs(float(end)) for end in torch.aminmax(vector_N)) if len(vector_N) else 0.0


def require_finite(vector_N: Tensor) -> float:
    """The largest magnitude of ``vector_N``. Raises `ValueError` for NaN or infinity."""
    reach = reach_of(vector_N)
    if not math.isfinite(reach):
        raise ValueError("NaN or infinity must not leave this peer")
    return reach


def room_for(numbers: int, out: Tensor | None) -> Tensor:
    """Where ``numbers`` decoded values go: ``out``, or a new vector. Raises `ValueError` where ``out`` is no such room."""
    if out is None:
        return torch.empty(numbers, dtype=torch.float32)
    if out.shape != (numbers,) or out.dtype != torch.float32 or not out.is_contiguous():
        raise ValueError(f"{numbers} float32 numbers do not go there")
    return out


def require_length(payload: Raw, size: int) -> None:
    """Raise `Malformed` where ``payload`` does not have exactly ``size`` bytes."""
    if len(payload) != size:
        raise Malformed(f"{len(payload)} bytes came where the numbers take {size}")
