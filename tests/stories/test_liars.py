"""Whatever liars do, honest peers have one model of each round, made by an honest group, and go on.

`judge` looks at the whole rehearsal: every state on which an honest peer stood after every round, every round
that was decided, every task. Thousands of seeds: `swarm rehearse 5 --liars 1 --seeds 1000`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from peer.config.run import RunSettings
from peer.simulation.scenario import Scenario, scenario_of, with_liars
from peer.simulation.strategies import STRATEGIES
from peer.simulation.sweep import Sweep
from peer.simulation.verdict import Violation, judge
from swarm.simulation.faults import Faults

ROUNDS = 4


def sweep_of(seed: int, *, peers: int = 5, liars: int = 1, churn: float = 0.0) -> Sweep:
    """One rehearsal, as `swarm rehearse` makes it."""
    return Sweep(peers=peers, rounds=ROUNDS, seed=seed, liars=liars, network={"churn": churn})


def assert_harmless(sweep: Sweep) -> None:
    """Check that nothing happened to the honest peers; the failure has the command that repeats it."""
    _, wrong = judge(sweep.scenario(sweep.seed))
    assert not wrong, f"{in_words(wrong)}\nto repeat it: {sweep.replay(sweep.seed)}"


def assert_harmless_in(scenario: Scenario) -> None:
    """The same for a scenario that no command makes."""
    _, wrong = judge(scenario)
    assert not wrong, f"{in_words(wrong)}\nliars: {scenario.liars}"


def in_words(wrong: list[Violation]) -> str:
    return "; ".join(f"{violation.code}: {violation.fact}" for violation in wrong)


@pytest.mark.parametrize("seed", range(10))
def test_one_liar_among_five_does_no_harm(seed: int) -> None:
    assert_harmless(sweep_of(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 110))
def test_one_liar_among_five_does_no_harm_in_a_hundred_rehearsals(seed: int) -> None:
    assert_harmless(sweep_of(seed))


@pytest.mark.parametrize("seed", range(3))
def test_two_liars_among_seven_do_no_harm(seed: int) -> None:
    assert_harmless(sweep_of(seed, peers=7, liars=2))


@pytest.mark.parametrize("seed", range(3))
def test_a_liar_does_no_harm_to_peers_that_crash_and_come_back(seed: int) -> None:
    assert_harmless(sweep_of(seed, peers=6, churn=0.1))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_strategy_does_harm(strategy: str) -> None:
    scenario = with_liars(scenario_of(5, ROUNDS, 1), 1)
    assert_harmless_in(replace(scenario, liars=dict.fromkeys(scenario.liars, strategy)))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["forger", "quiet forger", "many heads", "wrong chunks", "mute"])
def test_a_newcomer_gets_the_run_s_model_also_from_between_liars(strategy: str) -> None:
    """``p3`` crashes, and asks for the model again while the others go on."""
    scenario = with_liars(scenario_of(5, 2 * ROUNDS, 3), 1)
    scenario = replace(
        scenario,
        liars={"p1": strategy},
        arrivals={"p3": (0.5, 17.0)},
        faults=Faults().crash("p3", at=14.0),
        settings=replace(scenario.settings, round_seconds=2.0, max_steps=40),
    )
    assert_harmless_in(scenario)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["two faces", "two ballots", "staller", "wrong numbers", "poisoner"])
def test_in_a_gather_exchange_a_liar_does_no_harm(strategy: str) -> None:
    scenario = with_liars(scenario_of(5, ROUNDS, 4), 1)
    settings = RunSettings(model="tiny", max_steps=4, round_seconds=5.0, exchange="gather")
    assert_harmless_in(replace(scenario, liars={"p2": strategy}, settings=settings))


@pytest.mark.parametrize("seed", range(200, 205))
def test_whatever_a_liar_does_it_leaves_no_tasks_behind(seed: int) -> None:
    _, wrong = judge(sweep_of(seed).scenario(seed))
    assert [violation.fact for violation in wrong if violation.code == "leftovers"] == []


SCRIPT = """
from peer.simulation.run import rehearse
from tests.stories.test_liars import sweep_of
print(rehearse(sweep_of(3).scenario(3)).transcript)
"""


def test_the_same_seed_makes_the_same_liars_in_every_process() -> None:
    transcripts = set()
    for hash_seed in ("0", "12345"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        transcripts.add(done.stdout)
    assert len(transcripts) == 1
