"""Computers that are ten times slower than the rest: they give what they can, and nobody waits for them."""

from __future__ import annotations

import pytest

from peer.config.run import RunSettings
from peer.simulation.peers import RehearsalResult
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from swarm.simulation.network import Link
from tests.stories.promises import check

RECIPE = RunSettings(model="tiny", max_steps=1000, round_seconds=5.0, average_seconds=20.0)
TIMES = 10.0
ROUNDS = 4


def story(seed: int, slower: dict[str, float]) -> RehearsalResult:
    link = Link(latency=0.04, jitter=0.0, bandwidth=2.5e6)
    return rehearse(
        Scenario(
            peers=5, rounds=ROUNDS, seed=seed, settings=RECIPE, step_seconds=0.15, link=link, slower=slower
        )
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_a_peer_ten_times_slower_gives_what_it_can_and_delays_nobody(seed: int) -> None:
    calm, lame = story(seed, {}), story(seed, {"p2": TIMES})
    check(lame, ROUNDS - 1)
    assert all(book.missed == set() for book in lame.notebooks.values())
    assert all(report.members == 5 for report in lame.notebooks["p0"].rounds), (
        "its update is in every average"
    )
    steps, before = (
        sum(report.local_steps for report in told.notebooks["p2"].rounds) for told in (lame, calm)
    )
    assert before / TIMES / 2 <= steps <= before / TIMES * 2, "whole steps only"
    step = 3 * 0.15 * TIMES
    assert lame.virtual_seconds <= calm.virtual_seconds + step, (
        "at most the step that it is in when time is up"
    )


def test_most_being_slow_changes_nothing_either() -> None:
    lame = story(1, {f"p{number}": TIMES for number in range(1, 5)})
    check(lame, ROUNDS - 1)
    assert all(book.missed == set() for book in lame.notebooks.values())
    fast = sum(report.local_steps for report in lame.notebooks["p0"].rounds)
    assert all(
        sum(report.local_steps for report in lame.notebooks[f"p{n}"].rounds) * 2 < fast for n in range(1, 5)
    )
