"""Rules of influence: no claim of one member makes it count more than the claims of the others allow."""

from __future__ import annotations

import math
import random
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.robust import LARGEST, PART_CAP, WEIGHT_CAP, Claim, coefficients, whole_norm

sizes = st.one_of(st.just(0.0), st.floats(0, LARGEST), st.floats(1e-6, 1e6))
claims_of_anybody = st.lists(st.builds(Claim, sizes, sizes, sizes), max_size=12)
honest = st.lists(
    st.builds(Claim, st.floats(100, 1000), st.floats(0.5, 2), st.floats(0.1, 0.4)), min_size=4, max_size=12
)
check = settings(max_examples=200)


def middle(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def float32(value: float) -> float:
    (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    return float(rounded)


def is_float32(value: float) -> bool:
    return float32(value) == value


def unclipped(claims: list[Claim]) -> list[float]:
    """The mean by capped weights, as float32: what the coefficients are before any norm is clipped."""
    weights = [claim.weight if claim.norm else 0.0 for claim in claims]
    if not any(weights):
        return [0.0] * len(claims)
    most = WEIGHT_CAP * middle([weight for weight in weights if weight])
    total = math.fsum(min(weight, most) for weight in weights)
    return [float32(min(weight, most) / total) for weight in weights]


@check
@given(claims_of_anybody)
def test_coefficients_are_float32_numbers_from_0_to_1_whatever_is_claimed(claims: list[Claim]) -> None:
    found = coefficients(claims)
    assert len(found) == len(claims)
    assert all(0 <= value <= 1 and is_float32(value) for value in found)
    assert sum(found) <= 1 + 1e-6


@check
@given(claims_of_anybody, st.randoms())
def test_the_order_of_the_claims_changes_no_bit(claims: list[Claim], chance: random.Random) -> None:
    order = list(range(len(claims)))
    chance.shuffle(order)
    found = coefficients(claims)
    assert coefficients([claims[index] for index in order]) == [found[index] for index in order]


def test_equal_members_count_equally() -> None:
    assert coefficients([Claim(10, 1.0, 0.5)] * 4) == [0.25] * 4


def test_members_count_by_their_weight() -> None:
    assert coefficients([Claim(weight, 1.0, 0.0) for weight in (1, 2, 3, 2)]) == [0.125, 0.25, 0.375, 0.25]


@check
@given(honest, st.floats(1e4, LARGEST))
def test_a_member_that_claims_a_huge_weight_counts_at_most_twice_the_median(
    claims: list[Claim], weight: float
) -> None:
    claims[0] = replace(claims[0], weight=weight)
    most = WEIGHT_CAP * middle([claim.weight for claim in claims])
    total = sum(min(claim.weight, most) for claim in claims)
    assert coefficients(claims)[0] <= most / total * (1 + 1e-6)


@check
@given(honest, st.floats(1, 1e12))
def test_the_influence_of_a_scaled_update_is_bounded_by_the_median_norm(
    claims: list[Claim], factor: float
) -> None:
    claims[0] = replace(claims[0], norm=claims[0].norm * factor, part_norm=claims[0].part_norm * factor)
    limit = middle([claim.norm for claim in claims])
    for claim, share, own in zip(claims, unclipped(claims), coefficients(claims), strict=True):
        assert own * claim.norm <= share * limit * (1 + 1e-6)


@check
@given(honest, st.floats(1, 1e12))
def test_the_influence_on_one_part_is_bounded_by_what_the_others_put_into_it(
    claims: list[Claim], factor: float
) -> None:
    claims[0] = replace(claims[0], part_norm=claims[0].part_norm * factor)
    shares = [
        share * min(1, middle([claim.norm for claim in claims]) / claim.norm)
        for claim, share in zip(claims, unclipped(claims), strict=True)
    ]
    limit = PART_CAP * middle([share * claim.part_norm for claim, share in zip(claims, shares, strict=True)])
    assert all(
        own * claim.part_norm <= limit * (1 + 1e-6)
        for claim, own in zip(claims, coefficients(claims), strict=True)
    )


@check
@given(claims_of_anybody)
def test_clipping_one_member_makes_no_other_stronger(claims: list[Claim]) -> None:
    assert all(own <= share for own, share in zip(coefficients(claims), unclipped(claims), strict=True))


def test_an_update_within_the_median_norm_is_not_clipped() -> None:
    claims = [Claim(1, norm, 0.0) for norm in (0.5, 1.0, 1.0, 4.0)]
    assert coefficients(claims) == [0.25, 0.25, 0.25, 0.0625]


def test_idle_members_do_not_silence_the_others() -> None:
    assert coefficients([Claim(5, 2.0, 1.0), Claim(0, 0.0, 0.0), Claim(0, 0.0, 0.0)]) == [1.0, 0.0, 0.0]


def test_a_member_that_changed_nothing_in_one_part_keeps_its_weight_there() -> None:
    claims = [Claim(5, 2.0, 1.0), Claim(5, 2.0, 0.0), Claim(5, 2.0, 0.0), Claim(5, 2.0, 1.0)]
    assert coefficients(claims) == [0.25] * 4


@check
@given(honest, st.integers(1, 12), st.sampled_from([1.0, 100.0, 1e12]))
def test_members_that_send_zeros_count_as_if_they_were_absent(
    claims: list[Claim], idle: int, weight: float
) -> None:
    found = coefficients([*claims, *[Claim(weight, 0.0, 0.0)] * idle])
    assert found == [*coefficients(claims), *[0.0] * idle]


def test_weightless_claims_move_no_median() -> None:
    population = [Claim(1, 1.0, 0.5)] * 3
    assert coefficients([*population, *[Claim(0, 1e-9, 1e-9)] * 9])[:3] == coefficients(population)


def test_nobody_with_weight_gives_zeros_and_nobody_at_all_gives_nothing() -> None:
    assert coefficients([Claim(0, 1.0, 1.0)] * 3) == [0.0] * 3
    assert coefficients([]) == []


def test_of_two_the_smaller_is_the_median() -> None:
    assert coefficients([Claim(1, 1.0, 1.0), Claim(1, 1000.0, 1000.0)]) == pytest.approx([0.5, 0.0005])


def test_a_lone_member_keeps_its_update_whole() -> None:
    assert coefficients([Claim(12345, 678.9, 678.9)]) == [1.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 1e101])
@pytest.mark.parametrize("field", ["weight", "norm", "part_norm"])
def test_a_claim_that_is_no_size_is_refused(field: str, bad: float) -> None:
    with pytest.raises(ValueError, match="claim"):
        replace(Claim(1, 1, 1), **{field: bad})


def test_the_whole_norm_is_that_of_the_parts_in_any_order() -> None:
    assert whole_norm([3.0, 0.0, 4.0]) == 5.0
    assert whole_norm([]) == 0.0
    uneven = [1e8, 1.0, 1e-3, 1.0, 1.0] * 7
    assert whole_norm(uneven) == whole_norm(sorted(uneven)) == whole_norm(sorted(uneven, reverse=True))
