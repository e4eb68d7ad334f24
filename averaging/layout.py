"""Named tensors as one flat vector and back: the only place that knows where in the vector a tensor lies.

    {"embed": [256, 64], "head": [64, 256], …} ──flatten──► [P] float32 ──unflatten, write──► the same tensors

Everything between the two (error feedback, codecs, parts, reduction) sees only the vector.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor lies in the vector: ``numbers`` numbers from ``start`` on, in row-major order."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def numbers(self) -> int:
        """How many numbers the tensor has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Names and shapes in a fixed order.

    Devices and dtypes are not part of it: they may differ from peer to peer.
    """

    places: tuple[Place, ...]

    @classmethod
    def of(cls, named: Iterable[tuple[str, Tensor]]) -> Layout:
        """Return the layout of ``named`` in the order given, as in ``Layout.of(model.named_parameters())``.

        Raises `ValueError` if a name occurs twice.
        """
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

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return a copy of ``tensors`` as one vector, ``[P]`` float32 on the CPU.

        Tensors that the layout does not have are ignored. Raises `ValueError` if one is missing or has
        another shape.
        """
        vector_P = torch.empty(self.numbers, dtype=torch.float32)
        for view, tensor in self._pairs(vector_P, tensors):
            view.copy_(tensor.detach())
        return vector_P

    def unflatten(self, vector_P: Tensor) -> dict[str, Tensor]:
        """Return the tensors inside ``vector_P``, by name, as views of its memory.

        Raises `ValueError` for another length.
        """
        if vector_P.shape != (self.numbers,):
            raise ValueError(
                f"a vector of {self.numbers} numbers was expected, not one of shape {tuple(vector_P.shape)}"
            )
        return {
            place.name: vector_P[place.start : place.start + place.numbers].view(place.shape)
            for place in self.places
        }

    def write(self, vector_P: Tensor, into: Mapping[str, Tensor]) -> None:
        """Copy ``vector_P`` into existing tensors, which keep their devices and dtypes.

        Raises `ValueError` if a tensor is missing or has another shape; then no tensor has been changed.
        """
        with torch.no_grad():
            for view, tensor in self._pairs(vector_P, into):
                tensor.copy_(view)

    def _pairs(self, vector_P: Tensor, tensors: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Check all names and shapes, then return pairs of a view of the vector and a tensor."""
        for place in self.places:
            if place.name not in tensors or tensors[place.name].shape != place.shape:
                raise ValueError(f"no tensor {place.name!r} of shape {place.shape}")
        return ((view, tensors[name]) for name, view in self.unflatten(vector_P).items())
