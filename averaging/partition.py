"""Who reduces which part: the flat vector cut into one contiguous slice per owner.

Every member computes the plan for itself from the same group, so it is exact integer arithmetic: no float decides a cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise

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


def plan(
    numbers: int,
    owners: Sequence[PeerId],
    weights: Sequence[float | Fraction] | None = None,
    *,
    align: int = ALIGN,
) -> tuple[Part, ...]:
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


def water_filled(bandwidths: Sequence[int], members: int) -> tuple[Fraction, ...]:
    """The shares of the vector, 1 in total, with which owners of these ``bandwidths`` in a group of ``members`` are done together.

    Whoever owns a fraction f sends its own update to the others, 1 − f of it, and its result to all of them, (members − 1) f:
    1 + (members − 2) f in all. So f = max(0, (x · bandwidth − 1) / (members − 2)) with the time x at which the shares add up to 1;
    whoever needs longer than x for its own update alone owns nothing. Equal shares where owning costs nothing (two members), and
    where nobody has any bandwidth.
    """
    room, total = members - 2, len(bandwidths)
    if room <= 0 or not any(bandwidths):
        return (Fraction(1, total),) * total
    time, fastest = Fraction(0), sorted(bandwidths, reverse=True)
    for count, summed in enumerate(accumulate(fastest), 1):
        if count > 1 and time * fastest[count - 1] <= 1:
            break  # so slow that it owns nothing, and so does everybody after it
        time = Fraction(room + count, summed)
    return tuple(max(Fraction(0), (time * bandwidth - 1) / room) for bandwidth in bandwidths)


def shaped(parts: Sequence[Part], tensors: Sequence[int], phase: int) -> tuple[Part, ...]:
    """``parts`` with their `Shape`: which stretches of the ``tensors`` (lengths, in order of the vector) lie in each."""
    borders = list(accumulate(tensors, initial=0))
    return tuple(replace(part, shape=Shape(pieces(borders, part.start, part.stop), phase)) for part in parts)


def pieces(borders: Sequence[int], start: int, stop: int) -> tuple[int, ...]:
    """The lengths of the stretches into which ``borders`` (ascending places in the vector) cut [``start``, ``stop``)."""
    cuts = [start, *(border for border in borders if start < border < stop), stop]
    return tuple(after - before for before, after in pairwise(cuts))


def _share(weight: float | Fraction) -> Fraction:
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"{weight} is no share of the numbers")
    return Fraction(weight)
