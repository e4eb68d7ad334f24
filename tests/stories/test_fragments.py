"""Rounds that average a fragment of the model at a time: the same promises as for whole ones."""

from __future__ import annotations

from typing import Any

import pytest

from peer.config.run import RunSettings
from peer.simulation.peers import RehearsalResult
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from swarm.simulation.faults import Faults


def story(*, fragments: int = 2, peers: int = 4, steps: int = 4, **changes: Any) -> RehearsalResult:
    chosen = {name: changes.pop(name) for name in ("preset", "codec") if name in changes}
    settings = RunSettings(
        model="tiny", max_steps=steps, round_seconds=5.0, average_seconds=20.0, fragments=fragments, **chosen
    )
    return rehearse(Scenario(peers=peers, rounds=20, settings=settings, **changes))


@pytest.mark.parametrize("preset", ["safe", "ahead", "wan"])
def test_all_peers_agree_after_every_round_and_the_model_learns(preset: str) -> None:
    result = story(preset=preset)
    assert result.state_roots_equal
    assert result.leftovers == ()
    assert all(len(book.rounds) == 20 for book in result.notebooks.values())
    (score,) = {
        report.bits_per_byte
        for book in result.notebooks.values()
        for report in book.rounds
        if report.bits_per_byte
    }
    assert score < 6, "a fresh model has about eight"


def test_a_round_sends_a_part_of_the_bytes() -> None:
    halves, whole = story(codec="fp32"), story(codec="fp32", fragments=1)
    assert sum(halves.sent.values()) < 0.75 * sum(whole.sent.values())


def test_newcomers_and_whoever_comes_back_take_the_same_steps_as_the_others() -> None:
    result = story(peers=5, faults=Faults().crash("p3", at=8.0), arrivals={"p3": (0.5, 12.0), "p4": (10.0,)})
    assert result.state_roots_equal
    assert result.leftovers == ()
    assert [book.rounds[-1].members for book in result.notebooks.values()] == [5] * 5
    assert len({book.rounds[-1].state_root for book in result.notebooks.values()}) == 1
