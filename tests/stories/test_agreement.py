"""Whoever is in a round leaves it with the same model as all others, on good lines and bad ones."""

from __future__ import annotations

import pytest

from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from swarm.simulation.faults import Faults, churn
from swarm.simulation.network import Link
from tests.stories.promises import check


@pytest.mark.parametrize("peers", [1, 2, 3, 5, 8, 12])
def test_on_good_lines_everybody_is_in_every_round(peers: int) -> None:
    for seed in range(2):
        story = rehearse(Scenario(peers=peers, rounds=3, seed=seed))
        check(story, 2)
        for book in story.notebooks.values():
            assert [report.members for report in book.rounds] == [peers] * 3
            assert not book.missed


@pytest.mark.parametrize("seed", range(6))
def test_lines_that_stagger_and_stall_for_a_while_cost_rounds_and_never_agreement(seed: int) -> None:
    names, bad = (
        [f"p{number}" for number in range(3 + seed)],
        Link(latency=0.1, jitter=0.4, bandwidth=3e5, loss=0.01),
    )
    faults = sum((Faults().slow(name, bad, between=(4.0, 35.0)) for name in names), Faults())
    story = rehearse(Scenario(peers=len(names), rounds=7, seed=seed, step_seconds=0.6, faults=faults))
    check(story, 6)


@pytest.mark.parametrize("seed", range(6))
def test_whoever_leaves_at_any_time_those_that_stay_agree(seed: int) -> None:
    names = [f"p{number}" for number in range(8)]
    faults = churn(names, seed=seed, share=0.35, between=(3.0, 9.0))
    story = rehearse(Scenario(peers=8, rounds=4, seed=seed, faults=faults))
    check(story, 3, gone=faults.names)
