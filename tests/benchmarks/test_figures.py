"""What the benchmark of all-reduce computes from its measurements: rows, ratios, and the file."""

from __future__ import annotations

import json

import pytest

from benchmarks.figures import Round, Row, Timing, Usage, cell_name, document, ratios, sent_by_one, summary
from benchmarks.worker import Times


def times(called: float, began: float, ended: float, sent: int = 0, fault: str = "") -> Times:
    return Times(called=called, began=began, ended=ended, sent=sent, fault=fault)


def round_of(*told: Times, cpu: float = 1.0, loopback: int = 0) -> Round:
    return Round(told, cpu, 0.25, loopback)


def row(system: str, codec: str, seconds: float, peers: int = 4, parameters: int = 10_000_000) -> Row:
    return Row(
        system=system,
        peers=peers,
        parameters=parameters,
        codec=codec,
        timing=Timing(seconds=seconds, cpu_seconds=1.0, bytes=3),
        usage=Usage(memory_mb=2.0),
    )


def test_a_round_lasts_from_the_first_complete_group_to_the_last_average() -> None:
    measured = round_of(times(10.0, 10.5, 11.0), times(10.2, 10.4, 11.5))
    assert measured.seconds == pytest.approx(1.1)
    assert measured.assembly == pytest.approx(0.2)
    assert measured.whole == pytest.approx(1.5)


def test_a_group_that_was_complete_before_the_last_call_took_no_time() -> None:
    assert round_of(times(0.0, 1.0, 2.0), times(1.5, 1.6, 2.0)).assembly == 0.0


def test_the_summary_is_of_complete_rounds_only_and_per_peer() -> None:
    good = [
        round_of(times(0, 0, second, sent), times(0, 0, second, sent), cpu=2.0)
        for second, sent in ((1, 100), (9, 110), (3, 120))
    ]
    bad = round_of(times(0, 0, 100, 130), times(0, 0, 100, 130, fault="a group of 1 instead of 2"), cpu=50.0)
    figures = summary([*good, bad])
    assert (figures.seconds, figures.cpu_seconds) == (3, 1.0)
    assert (figures.rounds, figures.failed) == (3, 1)
    assert figures.bytes == 10


def test_without_a_complete_round_the_faults_are_raised() -> None:
    with pytest.raises(ValueError, match="a group of 1 instead of 2"):
        summary([round_of(times(0, 0, 1, fault="a group of 1 instead of 2"))])


def test_bytes_come_from_the_interface_where_peers_do_not_count() -> None:
    """Other programs only add to it, so the least figure is nearest."""
    rounds = [round_of(times(0, 0, 1), times(0, 0, 1), loopback=total) for total in (500, 400, 900)]
    assert sent_by_one(rounds) == 200


def test_ratios_divide_two_systems_of_one_cell() -> None:
    rows = [
        row("swarm", "fp32", 2.0),
        row("hivemind", "fp32", 6.0),
        row("floor", "fp32", 1.6),
        row("gloo", "fp32", 0.5),
    ]
    rows += [row("swarm", "int8", 1.0), row("hivemind", "int8", 4.0), row("swarm", "fp32", 9.0, peers=8)]
    assert ratios(rows) == {
        "4x10M": {
            "hivemind_over_swarm": 3.0,
            "hivemind8_over_swarm8": 4.0,
            "swarm_over_floor": 1.25,
            "swarm_over_gloo": 4.0,
        }
    }


@pytest.mark.parametrize(
    ("parameters", "name"), [(1_000_000, "2x1M"), (50_000_000, "2x50M"), (500_000, "2x0.5M")]
)
def test_cells_have_short_names(parameters: int, name: str) -> None:
    assert cell_name(2, parameters) == name


def test_the_file_has_the_agreed_fields() -> None:
    told = json.loads(json.dumps(document([row("swarm", "fp32", 2.0), row("floor", "fp32", 1.0)])))
    agreed = {"system", "peers", "parameters", "codec", "seconds", "cpu_seconds", "memory_mb", "bytes"}
    assert all(agreed <= found.keys() for found in told["rows"])
    assert told["ratios"] == {"4x10M": {"swarm_over_floor": 2.0}}
