"""The arithmetic of `benchmarks.loss`: when a target is reached, its cost, the rates of a sweep."""

from __future__ import annotations

import pytest

from benchmarks.loss.curves import Curve, Points, Task, bytes_of_round, draw
from benchmarks.loss.methods import METHODS, PRESETS, QUICK
from benchmarks.loss.sweep import CLOSE, HIGHEST, LOWEST, best_of, best_rate, beyond, close_rates
from benchmarks.loss.table import crossing, fastest, findings, mean_of, rows, seconds, targets_of
from benchmarks.loss.wire import Cost

FALLING: Points = [(0, 8.0), (20, 4.0), (40, 3.0), (60, 3.5), (80, 2.0)]


def curve(method: str, points: Points, *, seed: int = 0, rate: float = 8e-3) -> Curve:
    return Curve(task=Task(method=method, seed=seed, rate=rate, steps=points[-1][0]), points=points)


def cost(method: str, mbit: float, each: float, size: float) -> Cost:
    return Cost(method=method, mbit=mbit, seconds=each, bytes=size, samples=3)


@pytest.mark.parametrize(
    ("target", "step"),
    [
        (9.0, 0.0),
        (8.0, 0.0),
        (6.0, 10.0),
        (4.0, 20.0),
        (3.5, 30.0),
        (3.0, 40.0),
        (2.75, 70.0),
        (2.0, 80.0),
        (1.9, None),
    ],
)
def test_a_target_is_reached_where_the_curve_first_meets_it(target: float, step: float | None) -> None:
    assert crossing(FALLING, target) == (step if step is None else pytest.approx(step))


def test_a_curve_without_points_reaches_nothing() -> None:
    assert crossing([], 3.0) is None


def test_time_is_steps_and_waiting_and_bytes_are_those_of_the_rounds() -> None:
    drawn = {"swarm-int4": [curve("swarm-int4", FALLING)]}
    (row,) = rows(drawn, [cost("swarm-int4", 20, 0.5, 1000)], {0: 3.5}, 0.1)
    assert row.seconds_to_target == pytest.approx(30 * 0.1 + 3 * 0.5)
    assert row.bytes_to_target == pytest.approx(3 * 1000)
    assert (row.method, row.link_mbit, row.seed, row.bits_per_byte) == ("swarm-int4", 20, 0, 2.0)


def test_a_target_within_a_round_is_reached_at_its_end() -> None:
    drawn = {"swarm-int4-h30": [curve("swarm-int4-h30", FALLING)]}
    (row,) = rows(drawn, [cost("swarm-int4-h30", 20, 0.5, 1000)], {0: 3.4}, 0.1)
    assert (row.seconds_to_target, row.bytes_to_target) == (pytest.approx(2 * (3 + 0.5)), 2000)


def test_an_exchange_every_step_costs_every_step() -> None:
    drawn = {"synchronous-fp32": [curve("synchronous-fp32", FALLING)]}
    (row,) = rows(drawn, [cost("synchronous-fp32", 20, 0.5, 1000)], {0: 3.5}, 0.1)
    assert (row.seconds_to_target, row.bytes_to_target) == (pytest.approx(30 * 0.6), pytest.approx(30_000))


def test_a_lone_peer_has_a_row_on_every_link_and_no_costs() -> None:
    drawn = {"alone": [curve("alone", FALLING)], "swarm-int4": [curve("swarm-int4", FALLING)]}
    costs = [cost("swarm-int4", mbit, 0.5, 1000) for mbit in (20, 100)]
    alone = [row for row in rows(drawn, costs, {0: 3.5}, 0.1) if row.method == "alone"]
    assert [(row.link_mbit, row.seconds_to_target, row.bytes_to_target) for row in alone] == [
        (100, pytest.approx(3.0), 0.0),
        (20, pytest.approx(3.0), 0.0),
    ]


def test_what_was_not_measured_has_no_row_and_what_was_not_reached_is_none() -> None:
    drawn = {name: [curve(name, FALLING)] for name in ("swarm-int4", "swarm-fp16")}
    (row,) = rows(drawn, [cost("swarm-int4", 20, 0.5, 1000)], {0: 1.0}, 0.1)
    assert (row.method, row.seconds_to_target, row.bytes_to_target) == ("swarm-int4", None, None)


def test_a_mean_needs_every_seed() -> None:
    assert mean_of([1.0, 3.0]) == 2.0
    assert mean_of([1.0, None]) is None
    assert mean_of([]) is None


def test_the_fastest_reaches_the_target_with_all_seeds() -> None:
    slow: Points = [(0, 8.0), (80, 2.0)]
    drawn = {
        "swarm-int4": [curve("swarm-int4", FALLING), curve("swarm-int4", FALLING, seed=1)],
        "swarm-fp16": [curve("swarm-fp16", FALLING), curve("swarm-fp16", [(0, 8.0), (80, 7.0)], seed=1)],
        "swarm-sparse256": [curve("swarm-sparse256", slow), curve("swarm-sparse256", slow, seed=1)],
    }
    table = rows(drawn, [cost(method, 20, 0.1, 10) for method in drawn], {0: 3.5, 1: 3.5}, 0.1)
    assert fastest(table, PRESETS, 20) == ("swarm-int4", pytest.approx(3.3))
    assert seconds(table, "swarm-fp16", 20) is None
    assert fastest(table, ["swarm-fp16"], 20) is None


def test_the_target_of_a_seed_is_what_every_preset_comes_to_with_it() -> None:
    drawn = final(swarm_int4=2.5, swarm_sparse256=2.6, alone=4.0)
    drawn["swarm-int4"].append(curve("swarm-int4", [(0, 8.0), (100, 2.613)], seed=1))
    assert targets_of(drawn) == {0: pytest.approx(2.6), 1: pytest.approx(2.62)}
    table = rows(drawn, [cost(method, 20, 0.1, 10) for method in drawn], targets_of(drawn), 0.1)
    assert all(seconds(table, method, 20) for method in ("swarm-int4", "swarm-sparse256"))
    assert targets_of({"alone": drawn["alone"]}) == {}
    assert rows({"alone": drawn["alone"]}, [cost("alone", 20, 0.1, 10)], {}, 0.1) == []


def test_rivals_are_taken_at_the_best_of_them_with_each_seed() -> None:
    early: Points = [(0, 8.0), (10, 2.0)]
    late: Points = [(0, 8.0), (80, 2.0)]
    ends = {
        "swarm-int4": (early, early),
        "hivemind-local": (early, late),
        "hivemind-local-h20": (late, early),
    }
    drawn = {
        name: [curve(name, points, seed=seed) for seed, points in enumerate(both)]
        for name, both in ends.items()
    }
    table = rows(drawn, [cost(method, 20, 0.1, 10) for method in drawn], {0: 3.5, 1: 3.5}, 0.1)
    found = next(finding.found for finding in findings(drawn, [], table) if "hivemind" in finding.promise)
    assert found == "1.5 times (swarm-int4 1.1 s, hivemind-local or hivemind-local-h20 1.6 s)"


def final(**ends: float) -> dict[str, list[Curve]]:
    return {
        name: [curve(name, [(0, 8.0), (100, bits)])]
        for name, bits in ((key.replace("_", "-"), ends[key]) for key in ends)
    }


def test_promises_hold_or_not_or_were_not_measured() -> None:
    drawn = final(
        alone=3.5,
        synchronous_fp32=3.0,
        swarm_sparse256=3.3,
        swarm_fp32=3.1,
        swarm_int4=3.14,
        swarm_int4_dropped=3.2,
    )
    costs = [cost("synchronous-fp32", 20, 0.3, 1000), cost("swarm-sparse256", 20, 0.1, 100)]
    found = {finding.promise: finding.holds for finding in findings(drawn, costs, [])}
    assert list(found.values()) == [True, False, None, True, None, True]
    closer = {
        finding.promise: finding.holds
        for finding in findings({**drawn, **final(swarm_sparse256=3.31)}, [], [])
    }
    assert list(closer.values()) == [False, False, None, True, None, None]


def test_another_preset_may_win_on_another_link() -> None:
    drawn = {
        "swarm-int4": [curve("swarm-int4", [(0, 8.0), (100, 2.0)])],
        "swarm-fp16": [curve("swarm-fp16", [(0, 8.0), (90, 2.0)])],
        "hivemind-local": [curve("hivemind-local", [(0, 8.0), (100, 2.0)])],
        "synchronous-fp32": [curve("synchronous-fp32", [(0, 8.0), (50, 2.0)])],
    }
    costs = [
        *(cost("swarm-int4", mbit, 0.1, 100) for mbit in (20, 1000)),
        *(cost("swarm-fp16", mbit, each, 400) for mbit, each in ((20, 0.4), (1000, 0.1))),
        *(cost("hivemind-local", mbit, 1.0, 500) for mbit in (20, 1000)),
        *(cost("synchronous-fp32", mbit, each, 800) for mbit, each in ((20, 0.2), (1000, 0.01))),
    ]
    found = findings(drawn, costs, rows(drawn, costs, {0: 2.0}, 0.01))
    by_promise = {finding.promise: finding for finding in found}
    hivemind = next(finding for promise, finding in by_promise.items() if "hivemind" in promise)
    assert (hivemind.holds, hivemind.found.split()[0]) == (True, "5.5")
    assert next(
        finding.holds
        for promise, finding in by_promise.items()
        if "parallel in fp32" in promise and "20" in promise
    )
    assert by_promise["another preset wins on the fastest link than on the slowest"].holds


def test_the_best_rate_is_that_of_the_lowest_end() -> None:
    drawn = [
        curve("alone", [(0, 8.0), (10, bits)], rate=rate)
        for rate, bits in ((8e-3, 3.0), (4e-3, 2.9), (2e-3, 2.9))
    ]
    assert best_rate(drawn) == 2e-3


def test_rates_that_one_seed_cannot_tell_apart_are_all_tried_with_the_others() -> None:
    ends = {2e-3: 3.0, 4e-3: 2.9 + CLOSE, 8e-3: 2.9, 16e-3: 2.91}
    assert close_rates(
        [curve("alone", [(0, 8.0), (10, bits)], rate=rate) for rate, bits in ends.items()]
    ) == [4e-3, 8e-3, 16e-3]


def test_the_best_mean_over_all_seeds_counts_and_no_rate_that_failed_with_one() -> None:
    def drawn(rate: float, *ends: float) -> list[Curve]:
        return [curve("alone", [(0, 8.0), (10, bits)], rate=rate) for bits in ends]

    candidates = [drawn(2e-3, 2.9, 3.1), drawn(4e-3, 2.95, 2.95), drawn(8e-3, 2.0)]
    assert best_of(candidates) == candidates[1]


def test_a_sweep_goes_on_beyond_an_edge_until_its_limits() -> None:
    assert beyond([2e-3, 4e-3, 8e-3], 4e-3) is None
    assert beyond([2e-3, 4e-3, 8e-3], 8e-3) == 16e-3
    assert beyond([2e-3, 4e-3, 8e-3], 2e-3) == 1e-3
    assert beyond([LOWEST, 2 * LOWEST, 4 * LOWEST], LOWEST) is None
    assert beyond([HIGHEST / 2, HIGHEST], HIGHEST) is None


def test_the_peers_of_a_curve_average_as_peers_do() -> None:
    """All four are in every average, and hold one model after it (the run compares their bits)."""
    assert bytes_of_round("swarm-int4", rounds=2) < bytes_of_round("swarm-fp16", rounds=2) / 2
    learned = draw(Task(method="swarm-int4", seed=0, rate=1e-2, steps=20))
    assert learned.final < learned.points[0][1]


def test_every_method_that_is_named_exists() -> None:
    assert {*PRESETS, *QUICK} <= METHODS.keys()
    assert all(method.name == name for name, method in METHODS.items())
