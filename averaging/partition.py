"""Who reduces which part: the flat vector, cut into one contiguous slice per owner.

Every member computes the plan by itself from the same group. The cuts must be the same everywhere, so they
are computed in exact integer and rational arithmetic, never in floats.
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
"""All cuts are multiples of this many numbers, a block of the quantised codecs: no cut changes a number."""


@dataclass(frozen=True, slots=True)
class Part:
    """Numbers ``start`` to ``stop`` (exclusive) of the vector; ``index`` counts the parts of a plan from 0.

    ``owner`` is the member that reduces the part. ``shape`` says which tensors lie in it.
    """

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
    """Cut [0, ``numbers``) into one part per owner, in proportion to ``weights`` (default: equal).

    The parts are in the order of ``owners`` and cover the vector exactly, and all cuts are multiples of
    ``align``. An owner whose share rounds to zero blocks gets no part. Raises `ValueError` for no owners, an
    owner twice, another number of weights than of owners, or weights that are negative, infinite or all zero.
    """
    shares = [Fraction(1)] * len(owners) if weights is None else [_share(weight) for weight in weights]
    if numbers < 0 or align < 1 or len(shares) != len(owners) or len(set(owners)) != len(owners):
        raise ValueError("a plan needs numbers, distinct owners, and one weight for each")
    total = sum(shares)
    if not total:
        raise ValueError("nobody has a share in the numbers")

    blocks = -(-numbers // align)
    share_so_far = Fraction(0)
    start = 0
    parts: list[Part] = []
    for owner, share in zip(owners, shares, strict=True):
        share_so_far += share
        stop = min(numbers, math.floor(blocks * share_so_far / total + Fraction(1, 2)) * align)
        if stop > start:
            parts.append(Part(len(parts), start, stop, owner))
        start = stop
    return tuple(parts)


def water_filled(bandwidths: Sequence[int], members: int) -> tuple[Fraction, ...]:
    """Return each owner's share of the vector, 1 in total, with which all owners finish together.

    ``bandwidths`` are the owners' uplinks in any unit, ``members`` is the size of the group.

    An owner of the fraction f sends its own update to the other owners, 1 − f of it, and the result of its
    part to all other members, (members − 1) · f: in all 1 + (members − 2) · f. In time x an owner can
    therefore own f = max(0, (x · bandwidth − 1) / (members − 2)). The shares belong to the x for which they
    add up to 1. An owner that needs longer than x for its own update alone owns nothing.

    Shares are equal where owning costs nothing (two members) and where all bandwidths are 0.
    """
    cost_of_owning = members - 2
    owners = len(bandwidths)
    if cost_of_owning <= 0 or not any(bandwidths):
        return (Fraction(1, owners),) * owners

    time = Fraction(0)
    fastest_first = sorted(bandwidths, reverse=True)
    for count, summed in enumerate(accumulate(fastest_first), 1):
        if count > 1 and time * fastest_first[count - 1] <= 1:
            break  # this owner and all slower ones own nothing
        time = Fraction(cost_of_owning + count, summed)
    return tuple(max(Fraction(0), (time * bandwidth - 1) / cost_of_owning) for bandwidth in bandwidths)


def shaped(parts: Sequence[Part], tensors: Sequence[int]) -> tuple[Part, ...]:
    """Return ``parts`` with their `Shape`: the tensors that lie in each of them.

    ``tensors`` are the lengths of the tensors in the order of the vector.
    """
    borders = list(accumulate(tensors, initial=0))
    return tuple(
        replace(part, shape=Shape(stretch_lengths(borders, part.start, part.stop))) for part in parts
    )


def stretch_lengths(borders: Sequence[int], start: int, stop: int) -> tuple[int, ...]:
    """Return the lengths of the stretches into which the ascending ``borders`` cut [``start``, ``stop``)."""
    cuts = [start, *(border for border in borders if start < border < stop), stop]
    return tuple(after - before for before, after in pairwise(cuts))


def _share(weight: float | Fraction) -> Fraction:
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"{weight} is no share of the numbers")
    return Fraction(weight)
