"""A sweep reports every seed, what was wrong with it and how to repeat it, in the order of the seeds."""

from __future__ import annotations

import io
import json
import os
from typing import Any

import pytest

from peer.observe.reporter import Reporter
from peer.simulation import sweep as sweeps
from peer.simulation.sweep import Sweep, sweep_and_report
from peer.simulation.verdict import Violation
from swarm.errors import ConfigError


def swept(sweep: Sweep) -> tuple[bool, list[dict[str, Any]]]:
    """Whether all was well, and the events."""
    out = io.StringIO()
    is_fine = sweep_and_report(sweep, Reporter(out, json_lines=True))
    return is_fine, [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_single_rehearsal_with_liars_ends_with_its_summary() -> None:
    _, events = swept(Sweep(peers=4, rounds=2, seed=1, liars=1))
    assert events[0]["event"] == "rehearsing"
    assert events[-1]["event"] == "rehearsal"
    assert events[-1]["liars"] == 1
    assert {"forks", "uncertified_states", "rounds_decided", "rounds_decided_per_minute"} <= events[-1].keys()


def test_a_sweep_gives_the_same_in_one_process_and_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    transcripts = []
    for cores in (1, 2):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        _, events = swept(Sweep(peers=4, rounds=1, seed=4, seeds=2, liars=1))
        summaries = [event for event in events if event["event"] == "rehearsal"]
        assert events[0]["processes"] == cores
        assert [summary["seed"] for summary in summaries] == [4, 5]
        assert (events[-1]["event"], events[-1]["seeds"]) == ("rehearsals", 2)
        transcripts.append([summary["transcript"] for summary in summaries])
    assert transcripts[0] == transcripts[1]


def test_what_was_wrong_comes_with_the_command_that_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [Violation("fork", "after round 1")]
    monkeypatch.setattr(sweeps, "judge", lambda scenario, tell: (None, wrong if scenario.seed == 8 else []))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    is_fine, events = swept(
        Sweep(peers=7, rounds=3, seed=7, seeds=2, liars=2, network={"churn": 0.1, "loss": 0.0})
    )
    (violation,) = [event for event in events if event["event"] == "violation"]
    assert not is_fine
    assert violation["seed"] == 8
    assert violation["replay"] == "swarm rehearse 7 --liars 2 --churn 0.1 --rounds 3 --seed 8"
    assert len(violation["strategies"]) == 2
    assert (events[-1]["failed"], events[-1]["violations"]) == (1, {"fork": 1})


def test_without_a_violation_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "judge", lambda scenario, tell: (None, []))
    assert swept(Sweep(peers=5, rounds=3, liars=1))[0]


def test_impossible_options_are_refused_before_anything_begins() -> None:
    with pytest.raises(ConfigError):
        swept(Sweep(peers=3, rounds=1, liars=1))
