"""Rules of the plan: the parts cover the vector exactly, and every member computes the same ones."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.partition import ALIGN, Part, plan, water_filled
from swarm.identity import PeerId

OWNERS = [PeerId(f"peer{index:02}") for index in range(40)]


def assert_covers(parts: tuple[Part, ...], numbers: int, align: int = ALIGN) -> None:
    assert [part.index for part in parts] == list(range(len(parts)))
    assert [part.start for part in parts] == [0, *(part.stop for part in parts)][: len(parts)]
    assert sum(part.numbers for part in parts) == numbers
    assert all(part.numbers > 0 and part.start % align == 0 for part in parts)


@pytest.mark.parametrize("count", range(1, 41))
def test_parts_cover_the_vector_exactly_for_any_number_of_owners(count: int) -> None:
    draw = random.Random(count)
    for numbers in [
        0,
        1,
        ALIGN - 1,
        ALIGN,
        ALIGN + 1,
        count * ALIGN,
        *(draw.randrange(1, 1 << 22) for _ in range(10)),
    ]:
        assert_covers(plan(numbers, OWNERS[:count]), numbers)


@settings(max_examples=100)
@given(
    st.integers(0, 1 << 40),
    st.lists(st.floats(0, 1e308), min_size=1, max_size=40).filter(any),
    st.sampled_from([1, 2, 256, 4096]),
)
def test_parts_cover_the_vector_exactly_for_any_weights(
    numbers: int, weights: list[float], align: int
) -> None:
    parts = plan(numbers, OWNERS[: len(weights)], weights, align=align)
    assert_covers(parts, numbers, align)
    owners = [part.owner for part in parts]
    assert owners == sorted(set(owners))
    assert all(weights[OWNERS.index(owner)] > 0 for owner in owners)


@given(st.integers(1, 1 << 24), st.integers(1, 40))
def test_equal_owners_get_equal_parts_up_to_one_block(numbers: int, count: int) -> None:
    blocks = [-(-part.numbers // ALIGN) for part in plan(numbers, OWNERS[:count])]
    blocks += [0] * (count - len(blocks))
    assert max(blocks) - min(blocks) <= 1


def test_parts_are_proportional_to_weights() -> None:
    parts = plan(1000 * ALIGN, OWNERS[:3], [1.0, 7.0, 2.0])
    assert [part.numbers // ALIGN for part in parts] == [100, 700, 200]


def test_an_owner_with_no_or_too_little_weight_gets_no_part() -> None:
    parts = plan(100 * ALIGN, OWNERS[:4], [1.0, 0.0, 1e-9, 1.0])
    assert [part.owner for part in parts] == [OWNERS[0], OWNERS[3]]
    assert [part.owner for part in plan(ALIGN, OWNERS[:3])] == [OWNERS[1]]


def test_only_the_ratio_of_weights_matters() -> None:
    weights = [0.1, 0.7, 0.3]
    assert plan(1 << 20, OWNERS[:3], weights) == plan(
        1 << 20, OWNERS[:3], [weight * 2.0**40 for weight in weights]
    )


@pytest.mark.parametrize(
    ("numbers", "owners", "weights"),
    [
        (1, [], None),
        (-1, OWNERS[:1], None),
        (1, OWNERS[:2], [1.0]),
        (1, [OWNERS[0], OWNERS[0]], None),
        (1, OWNERS[:2], [0.0, 0.0]),
        (1, OWNERS[:2], [1.0, -1.0]),
        (1, OWNERS[:1], [float("nan")]),
        (1, OWNERS[:1], [float("inf")]),
    ],
)
def test_a_plan_without_sense_is_refused(
    numbers: int, owners: list[PeerId], weights: list[float] | None
) -> None:
    with pytest.raises(ValueError, match=r"share|plan"):
        plan(numbers, owners, weights)


def done_at(bandwidths: list[int], shares: tuple[Fraction, ...], members: int) -> list[Fraction]:
    """Return when each owner has sent everything: its own update to the others, and its result to all."""
    return [(1 + (members - 2) * share) / Fraction(up) for share, up in zip(shares, bandwidths, strict=True)]


def test_shares_follow_the_bandwidths_and_slow_owners_get_none() -> None:
    shares = water_filled([10, 20, 1, 0, 5], 5)
    assert shares == (Fraction(2, 9), Fraction(7, 9), 0, 0, 0)
    assert [part.numbers for part in plan(1000, OWNERS[:5], shares, align=1)] == [222, 778]


@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=16), st.integers(0, 48))
def test_owners_finish_together_and_one_without_a_share_could_not_finish_sooner(
    bandwidths: list[int], others: int
) -> None:
    members = len(bandwidths) + others
    shares = water_filled(bandwidths, members)
    assert sum(shares) == 1
    assert all(share >= 0 for share in shares)
    if members > 2:
        times = done_at(bandwidths, shares, members)
        together = {time for time, share in zip(times, shares, strict=True) if share}
        assert len(together) == 1
        assert all(time >= max(together) for time, share in zip(times, shares, strict=True) if not share)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=16), st.integers(3, 64), st.randoms())
def test_a_share_follows_from_the_bandwidth_and_not_from_the_order(
    bandwidths: list[int], members: int, draw: random.Random
) -> None:
    mixed = list(range(len(bandwidths)))
    draw.shuffle(mixed)
    shares = water_filled(bandwidths, members)
    assert water_filled([bandwidths[index] for index in mixed], members) == tuple(
        shares[index] for index in mixed
    )
    ordered = sorted(zip(bandwidths, shares, strict=True))
    assert [share for _, share in ordered] == sorted(shares)


@pytest.mark.parametrize(
    ("bandwidths", "members"), [([0, 0, 0], 5), ([3, 3, 3], 9), ([1, 9], 2), ([1, 9], 1)]
)
def test_shares_are_equal_where_owning_is_free_or_no_bandwidth_is_known(
    bandwidths: list[int], members: int
) -> None:
    assert water_filled(bandwidths, members) == (Fraction(1, len(bandwidths)),) * len(bandwidths)
