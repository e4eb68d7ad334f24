"""`swarm rehearse`: small swarms train as real ones do, large ones less, so that they take minutes."""

from __future__ import annotations

import math

import pytest

from peer.simulation.scenario import MANY_PEERS, SHARDS, SMALLEST_MODEL, scenario_of, with_liars
from swarm.errors import ConfigError


def test_a_small_rehearsal_runs_in_one_process_with_the_usual_model() -> None:
    scenario = scenario_of(MANY_PEERS, 5, 0)
    assert (scenario.shards, scenario.owners, scenario.settings.max_steps) == (1, 16, 4)
    assert scenario.model is None


def test_a_large_rehearsal_trains_less_and_uses_several_processes() -> None:
    scenario = scenario_of(MANY_PEERS + 1, 5, 0)
    assert (scenario.shards, scenario.owners, scenario.settings.max_steps) == (SHARDS, 4, 1)
    assert scenario.model == SMALLEST_MODEL


def test_with_churn_the_ticket_names_several_entries() -> None:
    assert scenario_of(20, 5, 0).entries == ["p0"]
    assert len(scenario_of(20, 5, 0, churn=0.1).entries) == 8
    assert len(scenario_of(3, 5, 0, churn=0.1).entries) == 3


def test_liars_are_drawn_from_the_seed_and_the_founder_is_never_one() -> None:
    drawn = {tuple(with_liars(scenario_of(7, 5, seed), 2).liars) for seed in range(300)}
    assert all(len(liars) == 2 and "p0" not in liars for liars in drawn)
    assert len(drawn) == 15
    assert with_liars(scenario_of(7, 5, 3), 2).liars == with_liars(scenario_of(7, 5, 3), 2).liars


def test_beside_liars_the_model_is_small_and_a_hang_ends() -> None:
    scenario = with_liars(scenario_of(6, 5, 0), 1)
    assert scenario.model == SMALLEST_MODEL
    assert math.isfinite(scenario.patience)
    assert math.isinf(scenario_of(6, 5, 0).patience)


@pytest.mark.parametrize(("peers", "liars"), [(1, 1), (3, 1), (6, 2)])
def test_fewer_than_a_third_of_the_peers_lie(peers: int, liars: int) -> None:
    with pytest.raises(ConfigError):
        with_liars(scenario_of(peers, 5, 0), liars)


@pytest.mark.parametrize("network", [{"churn": 1.0}, {"loss": -0.1}, {"jitter": math.nan}])
def test_chances_out_of_range_are_refused(network: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        scenario_of(8, 5, 0, **network)
