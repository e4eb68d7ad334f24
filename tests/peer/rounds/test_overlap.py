"""Training on while the average is under way: its arithmetic waits for one step at most."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from peer.config.run import RunSettings
from peer.rounds.overlap import meanwhile
from peer.simulation.peers import RehearsalResult
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from peer.training.compute import Inline
from peer.training.jobs import Budget, LocalCompute, StepAhead
from swarm.manifest import RoundSpec
from swarm.simulation.clock import simulate
from swarm.simulation.faults import Faults
from swarm.simulation.network import Link

STEP = 1.0


class NotingLearner:
    """A learner that notes when it was asked for what."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, str]] = []

    def step_ahead(self) -> None:
        self.asked.append((asyncio.get_running_loop().time(), "step"))

    def carry_over(self) -> None:
        self.asked.append((asyncio.get_running_loop().time(), "carry"))


def compute_for(steps: int) -> LocalCompute:
    """A computer on which a step takes `STEP` seconds, and ``steps`` fit into the time of the overlap."""
    arithmetic = Inline(lambda job: STEP if isinstance(job, StepAhead) else 0.0)
    return LocalCompute(arithmetic, lambda seconds: Budget(steps, lambda: False))


def act(
    averaging: Callable[[LocalCompute], Any], spec: RoundSpec, steps: int = 1000
) -> tuple[Any, list[tuple[float, str]]]:
    """The average, and what the learner was asked for meanwhile."""
    noting = NotingLearner()
    learner: Any = noting

    async def main() -> Any:
        compute = compute_for(steps)
        return await meanwhile(averaging(compute), learner, compute, spec)

    return simulate(main()), noting.asked


async def wait(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "the average"


def test_steps_end_with_the_average_and_then_their_sum_is_kept() -> None:
    average, asked = act(lambda compute: wait(3.5), RoundSpec(seconds=100, overlap=0.5))
    assert average == "the average"
    assert asked == [(1.0, "step"), (2.0, "step"), (3.0, "step"), (4.0, "step"), (4.0, "carry")]


def test_steps_end_with_their_time_while_the_average_takes_longer() -> None:
    _, asked = act(lambda compute: wait(50), RoundSpec(seconds=100, overlap=0.5), steps=2)
    assert [what for _, what in asked] == ["step", "step", "carry"]


def test_no_peer_does_more_than_the_fraction_of_a_round_s_steps() -> None:
    _, asked = act(lambda compute: wait(50), RoundSpec(seconds=100, max_steps=25, overlap=0.1))
    assert [what for _, what in asked] == ["step"] * 3 + ["carry"]


def test_the_average_s_arithmetic_waits_for_one_step_at_most() -> None:
    waits: list[float] = []

    async def averaging(compute: LocalCompute) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(6):
            await asyncio.sleep(0.3)
            began = loop.time()
            await compute.arithmetic.run(lambda: None)
            waits.append(loop.time() - began)

    act(averaging, RoundSpec(seconds=100, overlap=0.5))
    assert max(waits) <= STEP


def test_an_average_that_fails_is_told_after_the_steps_have_ended() -> None:
    async def averaging(compute: LocalCompute) -> None:
        await asyncio.sleep(1.5)
        raise RuntimeError("no average")

    with pytest.raises(ExceptionGroup) as failed:
        act(averaging, RoundSpec(seconds=100, overlap=0.5))
    assert failed.group_contains(RuntimeError, match="no average")


# --- whole peers --------------------------------------------------------------------------------------------


def rehearsal(preset: str, **changes: Any) -> RehearsalResult:
    settings = RunSettings(
        model="tiny", max_steps=20, round_seconds=60.0, average_seconds=20.0, preset=preset
    )
    link = Link(latency=0.2, jitter=0.1, bandwidth=2e5)
    return rehearse(Scenario(peers=4, rounds=5, settings=settings, link=link, **changes))


def steps_of(result: RehearsalResult) -> list[int]:
    return [report.local_steps for notebook in result.notebooks.values() for report in notebook.rounds]


@pytest.mark.parametrize("seed", range(3))
def test_peers_that_train_ahead_agree_after_every_round(seed: int) -> None:
    result = rehearsal("ahead", seed=seed)
    assert result.state_roots_equal
    assert result.leftovers == ()
    assert all(len(notebook.rounds) == 5 for notebook in result.notebooks.values())


def test_peers_that_train_ahead_are_done_sooner_with_the_same_steps() -> None:
    ahead = rehearsal("ahead")
    safe = rehearsal("safe")
    assert steps_of(ahead) == steps_of(safe) == [20] * 20
    assert ahead.virtual_seconds < safe.virtual_seconds


def test_a_peer_that_vanishes_meanwhile_costs_the_others_nothing() -> None:
    result = rehearsal("ahead", faults=Faults().crash("p2", at=8.0))
    roots = [{notebook.rounds[-1].state_root for name, notebook in result.notebooks.items() if name != "p2"}]
    assert [len(found) for found in roots] == [1]
    assert result.leftovers == ()
