"""Who reduces which part: the flat vector cut into one contiguous slice per owner.

Every member computes the plan for itself from the same group, so it is exact integer arithmetic: no float decides a cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from fractions import Fraction

from swarm.identity import PeerId

from .codecs import ONE_TENSOR, Shape

ALIGN = 256
"""Numbers per quantisation block. A cut never goes through one, so cutting changes no decoded number."""


@dataclass(frozen=True, slots=True)
class Part:
    """Numbers ``start`` to ``stop`` (exclusive) of the vector; ``index`` counts the parts of a plan from 0."""

    index: int
    start: int
    stop: int
    owner: PeerId
    shape: Shape = ONE_TENSOR

    @property
    def numbers(self) -> int:
        """How many numbers the part has; at least 1 in a plan."""
        return self.stop - self.start


def plan(numbers: int, owners: Sequence[PeerId], weights: Sequence[float] | None = None, *, align: int = ALIGN) -> tuple[Part, ...]:
    """Cut [0, ``numbers``) into parts in the order of ``owners``, in proportion to ``weights`` (equal where None).

    The parts cover the vector exactly and all cuts are multiples of ``align``; whoever's share rounds to nothing gets no part.
    Raises `ValueError` where nobody can own the numbers: no owners, one twice, weights that are negative, infinite or all zero.
    """
    shares = [Fraction(1)] * len(owners) if weights is None else [_share(weight) for weight in weights]
    if numbers < 0 or align < 1 or len(shares) != len(owners) or len(set(owners)) != len(owners):
        raise ValueError("a plan needs numbers, distinct owners, and one weight for each")
    total = sum(shares)
    if not total:
        raise ValueError("nobody has a share in the numbers")
    blocks, share, start = -(-numbers // align), Fraction(0), 0
    parts: list[Part] = []
    for owner, own in zip(owners, shares, strict=True):
        share += own
        stop = min(numbers, math.floor(blocks * share / total + Fraction(1, 2)) * align)
        if stop > start:
            parts.append(Part(len(parts), start, stop, owner))
        start = stop
    return tuple(parts)


def shaped(parts: Sequence[Part], tensors: Sequence[int], phase: int) -> tuple[Part, ...]:
    """``parts`` with their `Shape`: which stretches of the ``tensors`` (lengths, in order of the vector) lie in each."""
    borders = list(accumulate(tensors, initial=0))
    return tuple(replace(part, shape=Shape(_pieces(part, borders), phase)) for part in parts)


def _pieces(part: Part, borders: Sequence[int]) -> tuple[int, ...]:
    cuts = [part.start, *(border for border in borders if part.start < border < part.stop), part.stop]
    return tuple(after - before for before, after in pairwise(cuts))


def _share(weight: float) -> Fraction:
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"{weight} is no share of the numbers")
    return Fraction(weight)
