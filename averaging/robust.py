"""How much each member counts in the average of one part.

    weight_i  = min(claimed tokens, 2 · median)          no member counts much only by claiming many tokens;
                                                         0 if the whole update is zero
    clipped_i = weight_i · min(1, median norm / norm_i)  no member counts much only by sending a large update
    load_i    = clipped_i · part norm_i
    c_i       = clipped_i · min(1, 1.5 · median load / load_i) / Σ weight

Rule 1: Coefficients follow only from signed claims, so all members compute the same ones.
Rule 2: The division is by the weights *before* clipping. So clipping shrinks what it clips and strengthens no
        other member: the influence ``c_i · norm_i`` of a member is at most ``weight_i / Σ weight`` times the
        median norm, whatever it sends.
Rule 3: A member whose whole update is zero has no weight, as if it were absent. Otherwise free riders would
        shorten every average by their share of the weights. A part that a member has not changed does not
        change its weight.
Rule 4: A median is the lower one (of an even count the smaller middle value, the cautious choice), over the
        values that are not zero: a part that few members changed must not reduce the others to nothing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WEIGHT_CAP = 2.0
"""The largest weight of one member, in medians of all weights."""

PART_CAP = 1.5
"""The largest load of one member on a part (its weighted norm there), in medians of all loads."""

LARGEST = 1e100
"""Upper bound of a claim: above every norm of float32 numbers, and products of two claims stay finite."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one member has committed to: its weight, and the norms of its whole update and of one part of it.

    Norms are L2 norms of the *decoded* numbers. Raises `ValueError` for NaN, infinity, and values outside [0,
    1e100].
    """

    weight: float
    norm: float
    part_norm: float

    def __post_init__(self) -> None:
        values = (self.weight, self.norm, self.part_norm)
        if not all(math.isfinite(value) and 0 <= value <= LARGEST for value in values):
            raise ValueError("a claim is a weight and two norms, finite and not negative")


def whole_norm(part_norms: Iterable[float]) -> float:
    """Return the norm of an update from the norms of its parts.

    It has the same bits on every machine and Python, because `fsum` and `sqrt` each round only once.
    """
    return math.sqrt(math.fsum(part * part for part in part_norms))


def coefficients(claims: Sequence[Claim]) -> list[float]:
    """Return the coefficients of one part: a float32 value per claim, in their order, at most 1 in all.

    They do not depend on the order of the claims. All are zero if no member has weight.
    """
    weights = _capped_weights(claims)
    norm = _median(claim.norm for claim, weight in zip(claims, weights, strict=True) if weight)
    clipped = [weight * _limit(norm, claim.norm) for claim, weight in zip(claims, weights, strict=True)]
    loads = [factor * claim.part_norm for claim, factor in zip(claims, clipped, strict=True)]
    most = PART_CAP * _median(loads)
    factors = [factor * _limit(most, load) for factor, load in zip(clipped, loads, strict=True)]
    return _divided(factors, math.fsum(weights))


def longest(claims: Sequence[Claim]) -> float:
    """Return how long the average of one part can be at most: if all updates point in one direction."""
    shares = zip(coefficients(claims), claims, strict=True)
    return math.fsum(coefficient * claim.part_norm for coefficient, claim in shares)


def _capped_weights(claims: Sequence[Claim]) -> list[float]:
    weights = [claim.weight if claim.norm else 0.0 for claim in claims]
    most = WEIGHT_CAP * _median(weights)
    return [min(weight, most) for weight in weights]


def _median(values: Iterable[float]) -> float:
    """Return the lower median of the values that are not zero; 0 if all are."""
    ordered = sorted(value for value in values if value)
    return ordered[(len(ordered) - 1) // 2] if ordered else 0.0


def _limit(most: float, value: float) -> float:
    """Return the factor that reduces ``value`` to ``most``; 1 if it is not larger."""
    return most / value if value > most else 1.0


def _divided(factors: Sequence[float], total: float) -> list[float]:
    """Return ``factors`` / ``total`` as float32, whose bits all peers share; zeros if ``total`` is 0."""
    return [_float32(factor / total) if total else 0.0 for factor in factors]


def _float32(value: float) -> float:
    (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    return float(rounded)
