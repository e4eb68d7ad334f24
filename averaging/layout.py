"""Named tensors as one flat vector and back: the only place that knows where in the vector a tensor lies.

    {"embed": [256, 64], "head": [64, 256], ...}  ──flatten──►  [P] float32  ──unflatten, write──►  the same names and shapes

Everything between two layouts (feedback, codecs, parts, reduction) sees the vector only.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from swarm.wire import pack


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor lies: numbers ``start`` to ``start + numbers`` of the vector, in row-major order."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def numbers(self) -> int:
        """How many numbers the tensor has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Names and shapes in a fixed order. Devices and dtypes are no part of it: every peer may keep its model as it likes."""

    places: tuple[Place, ...]

    @classmethod
    def of(cls, named: Iterable[tuple[str, Tensor]]) -> Layout:
        """The layout of ``named`` in the order given (``model.named_parameters()``). Raises `ValueError` for a name twice."""
        places: list[Place] = []
        start = 0
        for name, tensor in named:
            places.append(Place(name, tuple(tensor.shape), start))
            start += tensor.numel()
        if len({place.name for place in places}) != len(places):
            raise ValueError("two tensors of a layout have the same name")
        return cls(tuple(places))

    @cached_property
    def numbers(self) -> int:
        """P, the length of the vector."""
        return sum(place.numbers for place in self.places)

    @cached_property
    def fingerprint(self) -> bytes:
        """32 bytes that are equal on two peers exactly where names, shapes and their order are."""
        return hashlib.sha256(
            b"swarm-layout-v1" + pack([(place.name, place.shape) for place in self.places])
        ).digest()

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """``[P]`` float32 on the CPU, a copy. Raises `ValueError` where a tensor is missing or misshapen; more are ignored."""
        vector_P = torch.empty(self.numbers, dtype=torch.float32)
        for view, tensor in self._pairs(vector_P, tensors):
            view.copy_(tensor.detach())
        return vector_P

    def unflatten(self, vector_P: Tensor) -> dict[str, Tensor]:
        """The tensors inside ``vector_P``, by name: views, which share its memory."""
        if vector_P.shape != (self.numbers,):
            raise ValueError(
                f"a vector of {self.numbers} numbers was expected, not one of shape {tuple(vector_P.shape)}"
            )
        return {
            place.name: vector_P[place.start : place.start + place.numbers].view(place.shape)
            for place in self.places
        }

    def write(self, vector_P: Tensor, into: Mapping[str, Tensor]) -> None:
        """Copy ``vector_P`` into existing tensors, which keep device and dtype. Where it raises `ValueError`, none was changed."""
        with torch.no_grad():
            for view, tensor in self._pairs(vector_P, into):
                tensor.copy_(view)

    def _pairs(self, vector_P: Tensor, tensors: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Each view of the vector beside the tensor of its name; every name and shape is checked before the first pair is made."""
        for place in self.places:
            if place.name not in tensors or tensors[place.name].shape != place.shape:
                raise ValueError(f"no tensor {place.name!r} of shape {place.shape}")
        return ((view, tensors[name]) for name, view in self.unflatten(vector_P).items())
