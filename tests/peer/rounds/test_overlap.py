"""Training on while the average is under way: at most one step between the average and the arithmetic, and never without end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from peer.config.run import RunSettings
from peer.ports import Budget, StepAhead
from peer.rounds.overlap import meanwhile
from peer.simulation.peers import RehearsalResult
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from peer.training.compute import Inline
from swarm.manifest import RoundSpec
from swarm.simulation.clock import simulate
from swarm.simulation.faults import Faults
from swarm.simulation.network import Link

STEP = 1.0


class Walker:
    """A learner that notes when it was asked for what."""

    def __init__(self) -> None:
        self.said: list[tuple[float, str]] = []

    def step_ahead(self) -> None:
        self.said.append((asyncio.get_running_loop().time(), "step"))

    def carry(self) -> None:
        self.said.append((asyncio.get_running_loop().time(), "carry"))


class Place:
    """The two ports that are needed."""

    def __init__(self, steps: int) -> None:
        self.arithmetic = Inline(lambda job: STEP if isinstance(job, StepAhead) else 0.0)
        self.budget: Callable[[float], Budget] = lambda seconds: Budget(steps, lambda: False)


def act(
    averaging: Callable[[Place], Any], spec: RoundSpec, steps: int = 1000
) -> tuple[Any, list[tuple[float, str]]]:
    walker, found = Walker(), []

    async def story() -> None:
        place = Place(steps)
        found.append(await meanwhile(averaging(place), walker, place, spec))  # type: ignore[arg-type]

    simulate(story())
    return found[0], walker.said


async def wait(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "the average"


def test_steps_end_with_the_average_and_then_their_sum_is_kept() -> None:
    average, said = act(lambda place: wait(3.5), RoundSpec(seconds=100, overlap=0.5))
    assert average == "the average"
    assert said == [(1.0, "step"), (2.0, "step"), (3.0, "step"), (4.0, "step"), (4.0, "carry")]


def test_steps_end_with_their_time_while_the_average_takes_longer() -> None:
    _, said = act(lambda place: wait(50), RoundSpec(seconds=100, overlap=0.5), steps=2)
    assert [what for _, what in said] == ["step", "step", "carry"]


def test_nobody_does_more_than_the_fraction_of_a_round_s_steps() -> None:
    _, said = act(lambda place: wait(50), RoundSpec(seconds=100, max_steps=25, overlap=0.1))
    assert [what for _, what in said] == ["step"] * 3 + ["carry"]


def test_the_average_s_arithmetic_waits_for_one_step_at_most() -> None:
    waits: list[float] = []

    async def averaging(place: Place) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(6):
            await asyncio.sleep(0.3)
            asked = loop.time()
            await place.arithmetic.run(lambda: None)
            waits.append(loop.time() - asked)

    act(averaging, RoundSpec(seconds=100, overlap=0.5))
    assert max(waits) <= STEP


def test_an_average_that_fails_is_told_after_the_steps_have_ended() -> None:
    async def averaging(place: Place) -> None:
        await asyncio.sleep(1.5)
        raise RuntimeError("no average")

    with pytest.raises(ExceptionGroup) as failed:
        act(averaging, RoundSpec(seconds=100, overlap=0.5))
    assert failed.group_contains(RuntimeError, match="no average")


# --- whole peers --------------------------------------------------------------------------------------------


def story(preset: str, **changes: Any) -> RehearsalResult:
    settings = RunSettings(
        model="tiny", max_steps=20, round_seconds=60.0, average_seconds=20.0, preset=preset
    )
    link = Link(latency=0.2, jitter=0.1, bandwidth=2e5)
    return rehearse(Scenario(peers=4, rounds=5, settings=settings, link=link, **changes))


def steps_of(result: RehearsalResult) -> list[int]:
    return [report.local_steps for book in result.notebooks.values() for report in book.rounds]


@pytest.mark.parametrize("seed", range(3))
def test_peers_that_train_ahead_agree_after_every_round(seed: int) -> None:
    result = story("ahead", seed=seed)
    assert result.state_roots_equal
    assert result.leftovers == ()
    assert all(len(book.rounds) == 5 for book in result.notebooks.values())


def test_whoever_trains_ahead_is_done_sooner_with_the_same_steps() -> None:
    ahead, behind = story("ahead"), story("safe")
    assert steps_of(ahead) == steps_of(behind) == [20] * 20
    assert ahead.virtual_seconds < behind.virtual_seconds


def test_a_peer_that_vanishes_meanwhile_costs_the_others_nothing() -> None:
    result = story("ahead", faults=Faults().crash("p2", at=8.0))
    roots = [{book.rounds[-1].state_root for name, book in result.notebooks.items() if name != "p2"}]
    assert [len(found) for found in roots] == [1]
    assert result.leftovers == ()
