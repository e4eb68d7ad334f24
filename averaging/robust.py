"""How much each member counts: coefficients from signed claims alone, so that all members compute the same ones.

    weight_i  = min(claimed tokens, 2 · median)                                  nobody counts by claiming much
    clipped_i = weight_i · min(1, median norm / norm_i)                          nobody counts by shouting
    c_i       = clipped_i · min(1, 1.5 · median_k(clipped_k · part norm_k) / (clipped_i · part norm_i)) / Σ weight

Dividing by the weights *before* clipping means that clipping shrinks what it clips and strengthens nobody else: the influence
``c_i · norm_i`` of one member is at most ``weight_i / Σ weight`` times the median norm, whatever it sends.
Medians are lower ones (of an even number the smaller middle value: the cautious choice) over what is not zero: an idle member, or
a part that few members touched, must not silence the others.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WEIGHT_CAP = 2.0
"""Times the median weight: the most one member can count."""

PART_CAP = 1.5
"""Times the median weighted norm of a part: the most one member can put into it."""

LARGEST = 1e100
"""Bound of a claim, far above every norm of finite float32 numbers; products of two claims stay finite."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one member committed to: its weight, the norm of its whole update, and that of its share of the part in question.

    Norms are L2 of the *decoded* numbers. Raises `ValueError` for NaN, infinity, and values outside [0, 1e100].
    """

    weight: float
    norm: float
    part_norm: float

    def __post_init__(self) -> None:
        if not all(
            math.isfinite(value) and 0 <= value <= LARGEST
            for value in (self.weight, self.norm, self.part_norm)
        ):
            raise ValueError("a claim is a weight and two norms, finite and not negative")


def whole_norm(part_norms: Iterable[float]) -> float:
    """The norm of an update from those of its parts, the same bits on every machine and Python: `fsum` and `sqrt` round once."""
    return math.sqrt(math.fsum(part * part for part in part_norms))


def coefficients(claims: Sequence[Claim]) -> list[float]:
    """The ``clipmean`` rule for one part: a float32 value per claim, in their order, at most 1 in total.

    All zero where nobody has weight. The order of the claims changes no coefficient.
    """
    weights = _weights(claims)
    norm = _median(claim.norm for claim, weight in zip(claims, weights, strict=True) if weight)
    clipped = [weight * _limit(norm, claim.norm) for claim, weight in zip(claims, weights, strict=True)]
    loads = [factor * claim.part_norm for claim, factor in zip(claims, clipped, strict=True)]
    most = PART_CAP * _median(loads)
    return _shares(
        [factor * _limit(most, load) for factor, load in zip(clipped, loads, strict=True)], weights
    )


def mean(claims: Sequence[Claim]) -> list[float]:
    """The plain mean by capped weights, for runs among friends and as a baseline: norms are not looked at."""
    weights = _weights(claims)
    return _shares(weights, weights)


def _weights(claims: Sequence[Claim]) -> list[float]:
    most = WEIGHT_CAP * _median(claim.weight for claim in claims)
    return [min(claim.weight, most) for claim in claims]


def _median(values: Iterable[float]) -> float:
    """The lower median of what is not zero; 0 where all is."""
    ordered = sorted(value for value in values if value)
    return ordered[(len(ordered) - 1) // 2] if ordered else 0.0


def _limit(most: float, value: float) -> float:
    """The factor that brings ``value`` down to ``most``, or 1."""
    return most / value if value > most else 1.0


def _shares(factors: Sequence[float], weights: Sequence[float]) -> list[float]:
    """``factors`` over the sum of ``weights``, as float32: everybody must multiply with the same bits (`fsum` knows no order)."""
    total = math.fsum(weights)
    return [_float32(factor / total) if total else 0.0 for factor in factors]


def _float32(value: float) -> float:
    (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    return float(rounded)
