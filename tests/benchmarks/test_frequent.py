"""The arithmetic of `benchmarks.frequent`: what a target costs, and which line is first at which balance."""

from __future__ import annotations

import pytest

from averaging.codecs import bytes_per_parameter
from benchmarks.frequent import BALANCES, Line, first_by_balance, payload_of_round, steps_to, targets_of
from benchmarks.loss.curves import Curve, Points, Task
from benchmarks.loss.methods import FREQUENT, METHODS, method_of
from swarm.manifest import Codec


def curve(name: str, points: Points, seed: int = 0) -> Curve:
    return Curve(task=Task(method=name, seed=seed, rate=8e-3, steps=points[-1][0]), points=points)


def line(name: str, payload: float, *steps: int | None) -> Line:
    return Line(
        method=name,
        steps_between_averages=2,
        rate=8e-3,
        bytes_of_round=1000.0,
        payload_of_round=payload,
        bits_per_byte=[2.0 for _ in steps],
        steps_to_target=list(steps),
    )


def test_a_target_is_reached_at_the_end_of_a_round() -> None:
    falling = curve("fp32-every-5", [(0, 8.0), (20, 4.0), (40, 3.0)])
    assert steps_to(falling, 4.0, 5) == 20
    assert steps_to(falling, 3.5, 5) == 30
    assert steps_to(falling, 3.45, 5) == 35
    assert steps_to(falling, 2.9, 5) is None


def test_every_method_with_frequent_averages_comes_to_the_target_of_a_seed() -> None:
    drawn = {
        "fp32-every-1": [
            curve("fp32-every-1", [(0, 8.0), (20, 2.5)]),
            curve("fp32-every-1", [(0, 8.0), (20, 2.6)], 1),
        ],
        "int4-every-1": [
            curve("int4-every-1", [(0, 8.0), (20, 2.7)]),
            curve("int4-every-1", [(0, 8.0), (20, 2.4)], 1),
        ],
    }
    seldom = {"int4-every-20": [curve("int4-every-20", [(0, 8.0), (20, 4.0)])]}
    assert targets_of(drawn | seldom) == {0: 2.7, 1: 2.6}


def test_time_is_that_of_the_steps_and_of_the_rounds() -> None:
    assert line("a", 1.0, 10, 20).times(0.5, 3.0) == [10 * 0.5 + 5 * 3.0, 20 * 0.5 + 10 * 3.0]
    assert line("a", 1.0, 10, None).times(0.5, 3.0) is None


def test_few_steps_are_first_where_bytes_cost_nothing_and_few_bytes_where_they_cost_much() -> None:
    found = first_by_balance([line("exact", 4.0, 100), line("coarse", 0.1, 200), line("never", 0.0, None)])
    assert [balance for balance, _, _ in found] == list(BALANCES)
    assert (found[0][1], found[-1][1]) == ("exact", "coarse")
    assert found[0][2] == {"exact": 1.0, "coarse": 2.0}


def test_the_payload_is_that_of_parts_or_of_whole_updates() -> None:
    assert payload_of_round(FREQUENT["fp32-every-1"]) == pytest.approx(3 / 4 * (4 + 4))
    sparse = bytes_per_parameter(Codec.SPARSE64)
    assert payload_of_round(FREQUENT["sparse64-every-5"]) == pytest.approx(3 * sparse)


def test_names_are_those_of_the_methods_and_of_no_two() -> None:
    assert not METHODS.keys() & FREQUENT.keys()
    assert all(method_of(name).name == name for name in [*METHODS, *FREQUENT])
