"""All peers of a round leave it with the same model, on good links and on bad ones."""

from __future__ import annotations

import pytest

from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from swarm.simulation.faults import Faults, churn
from swarm.simulation.network import Link
from tests.stories.agreement import assert_agreement


@pytest.mark.parametrize("peers", [1, 2, 3, 5, 8, 12])
def test_on_good_links_all_peers_are_in_every_round(peers: int) -> None:
    for seed in range(2):
        result = rehearse(Scenario(peers=peers, rounds=3, seed=seed))
        assert_agreement(result, 2)
        for notebook in result.notebooks.values():
            assert [report.members for report in notebook.rounds] == [peers] * 3
            assert not notebook.missed


@pytest.mark.parametrize("seed", range(6))
def test_links_that_are_bad_for_a_while_cost_rounds_and_never_agreement(seed: int) -> None:
    names = [f"p{number}" for number in range(3 + seed)]
    bad = Link(latency=0.1, jitter=0.4, bandwidth=3e5, loss=0.01)
    faults = sum((Faults().slow(name, bad, between=(4.0, 35.0)) for name in names), Faults())
    result = rehearse(Scenario(peers=len(names), rounds=7, seed=seed, step_seconds=0.6, faults=faults))
    assert_agreement(result, 6)


@pytest.mark.parametrize("seed", range(6))
def test_whenever_peers_leave_those_that_stay_agree(seed: int) -> None:
    names = [f"p{number}" for number in range(8)]
    faults = churn(names, seed=seed, share=0.35, between=(3.0, 9.0))
    result = rehearse(Scenario(peers=8, rounds=8, seed=seed, faults=faults))
    assert_agreement(result, 7, gone=faults.names)
