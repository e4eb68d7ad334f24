"""Computers that are ten times slower than the others contribute what they can, and nobody waits for them.

All seconds here are virtual.
"""

from __future__ import annotations

import pytest

from peer.config.run import RunSettings
from peer.simulation.peers import Notebook, RehearsalResult
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from swarm.simulation.network import Link
from tests.stories.agreement import assert_agreement

SETTINGS = RunSettings(model="tiny", max_steps=1000, round_seconds=5.0, average_seconds=20.0)
STEP_SECONDS = 0.15
"""Per step of the fastest peer; the slowest takes three times as long, before `TIMES`."""
TIMES = 10.0
ROUNDS = 4


def with_slow_peers(seed: int, slower: dict[str, float]) -> RehearsalResult:
    scenario = Scenario(
        peers=5,
        rounds=ROUNDS,
        seed=seed,
        settings=SETTINGS,
        step_seconds=STEP_SECONDS,
        link=Link(latency=0.04, jitter=0.0, bandwidth=2.5e6),
        slower=slower,
    )
    return rehearse(scenario)


def steps_of(notebook: Notebook) -> int:
    return sum(report.local_steps for report in notebook.rounds)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_peer_ten_times_slower_contributes_what_it_can_and_delays_nobody(seed: int) -> None:
    equal = with_slow_peers(seed, {})
    result = with_slow_peers(seed, {"p2": TIMES})
    assert_agreement(result, ROUNDS - 1)
    assert all(notebook.missed == set() for notebook in result.notebooks.values())
    members = [report.members for report in result.notebooks["p0"].rounds]
    assert members == [5] * ROUNDS, "the update of the slow peer is in every average"
    steps = steps_of(result.notebooks["p2"])
    expected = steps_of(equal.notebooks["p2"]) / TIMES
    assert expected / 2 <= steps <= expected * 2, "not exact, because it takes whole steps only"
    longest_step = 3 * STEP_SECONDS * TIMES
    assert result.virtual_seconds <= equal.virtual_seconds + longest_step, "it ends the step that it is in"


def test_four_slow_peers_of_five_delay_nobody_either() -> None:
    slow = [f"p{number}" for number in range(1, 5)]
    result = with_slow_peers(1, dict.fromkeys(slow, TIMES))
    assert_agreement(result, ROUNDS - 1)
    assert all(notebook.missed == set() for notebook in result.notebooks.values())
    fast = steps_of(result.notebooks["p0"])
    assert all(steps_of(result.notebooks[name]) * 2 < fast for name in slow)
