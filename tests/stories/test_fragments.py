"""Rounds that average a fragment of the model give the same guarantees as rounds that average all of it."""

from __future__ import annotations

from typing import Any

import pytest

from peer.config.run import RunSettings
from peer.simulation.peers import RehearsalResult
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from swarm.simulation.faults import Faults

ROUNDS = 20


def in_fragments(
    *, fragments: int = 2, peers: int = 4, preset: str = "safe", codec: str = "", **changes: Any
) -> RehearsalResult:
    settings = RunSettings(
        model="tiny",
        max_steps=4,
        round_seconds=5.0,
        average_seconds=20.0,
        fragments=fragments,
        preset=preset,
        codec=codec,
    )
    return rehearse(Scenario(peers=peers, rounds=ROUNDS, settings=settings, **changes))


@pytest.mark.parametrize("preset", ["safe", "ahead", "wan"])
def test_all_peers_agree_after_every_round_and_the_model_learns(preset: str) -> None:
    result = in_fragments(preset=preset)
    assert result.state_roots_equal
    assert result.leftovers == ()
    assert all(len(notebook.rounds) == ROUNDS for notebook in result.notebooks.values())
    (score,) = {
        report.bits_per_byte
        for notebook in result.notebooks.values()
        for report in notebook.rounds
        if report.bits_per_byte
    }
    assert score < 6, "a fresh model has about eight"


def test_a_round_sends_a_part_of_the_bytes() -> None:
    halves = in_fragments(codec="fp32")
    whole = in_fragments(codec="fp32", fragments=1)
    assert sum(halves.sent.values()) < 0.75 * sum(whole.sent.values())


def test_newcomers_and_peers_that_come_back_take_the_same_steps_as_the_others() -> None:
    arrivals = {"p3": (0.5, 12.0), "p4": (10.0,)}
    result = in_fragments(peers=5, faults=Faults().crash("p3", at=8.0), arrivals=arrivals)
    assert result.state_roots_equal
    assert result.leftovers == ()
    assert [notebook.rounds[-1].members for notebook in result.notebooks.values()] == [5] * 5
    assert len({notebook.rounds[-1].state_root for notebook in result.notebooks.values()}) == 1
