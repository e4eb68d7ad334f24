"""Local training as the first stage of a round: how much of it there is, and what the update says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from averaging.certificate import Origin
from averaging.groups import LinkClaim
from averaging.update import Update
from peer.rounds.training_stage import TrainingStage
from peer.sync.activity import Activity
from peer.sync.position import Position
from peer.training.compute import Inline
from peer.training.inner import Trained
from peer.training.jobs import Budget, LocalCompute, LocalTraining
from peer.training.learner import Assignment, LocalUpdate
from swarm.identity import PeerId
from swarm.manifest import Codec, RoundSpec
from swarm.membership.progress import Phase
from swarm.simulation.clock import simulate
from tests.peer.company import key

MEMBERS = [key(1).peer_id, key(2).peer_id]
SPEC = RoundSpec(seconds=10.0, max_steps=8, codec=Codec.INT8)
ORIGIN = Origin(bytes([6]) * 16, 4, (), b"")
HERE = Position(round=5, state_root=bytes([1]) * 32, origin=ORIGIN)
CLAIM = LinkClaim(1000, dialable=False)
SEED = bytes([2]) * 32
STEP = 1.0
"""Seconds of one step."""


@dataclass(eq=False)
class Around:
    """Everything around the stage: learner, uplink, events and figures; what they were told is noted."""

    is_usable: bool = True
    steps_ahead: int = 0
    budget_steps: int = 1000
    budget_is_over: bool = False
    position: Position = HERE
    assignments: list[Assignment] = field(default_factory=list)
    budgets: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    codecs: list[tuple[Codec, Codec]] = field(default_factory=list)
    figures: list[tuple[int, float]] = field(default_factory=list)

    def stage(self, seconds_left: float | None = None) -> TrainingStage:
        """The stage of a peer; ``seconds_left``: of a round of the others."""
        everything: Any = self
        clock = asyncio.get_running_loop().time
        self.activity = Activity(SPEC, clock, lambda phase, ends_at: None)
        self.activity.seconds_left = seconds_left
        tracker: Any = SimpleNamespace(now=self.position)
        arithmetic = Inline(lambda job: job.steps * STEP if isinstance(job, LocalTraining) else 0.0)
        compute = LocalCompute(arithmetic, self.budget)
        return TrainingStage(
            everything, compute, everything, tracker, self.activity, (everything, everything)
        )

    def budget(self, seconds: float) -> Budget:
        """What fits into so many seconds."""
        self.budgets.append(seconds)
        return Budget(self.budget_steps, lambda: self.budget_is_over)

    def learned(self, act: Callable[[TrainingStage], None] = lambda stage: None) -> Update:
        """The update of one round, before which ``act`` happens."""

        async def main() -> Update:
            stage = self.stage()
            act(stage)
            return await stage.learn(MEMBERS)

        return simulate(main())

    # --- the learner ----------------------------------------------------------------------------------------

    def work(self, task: Assignment) -> LocalUpdate:
        """Train."""
        self.assignments.append(task)
        trained = Trained(tokens=640, steps=task.max_steps, loss=2.5)
        return LocalUpdate(trained, torch.full((6,), 3.0), is_usable=self.is_usable)

    def fragment(self, round_: int) -> Any:
        """What the round averages."""
        assert round_ == self.position.round
        return SimpleNamespace(index=1, numbers=6, tensors=(2, 4))

    def seed_of(self, round_: int) -> bytes:
        """The name of the data."""
        assert round_ == self.position.round
        return SEED

    # --- uplink, events, figures ----------------------------------------------------------------------------

    def codec(self, spec: RoundSpec, numbers: int, members: int) -> Codec:
        """How the update is encoded."""
        assert (spec, numbers, members) == (SPEC, 6, len(MEMBERS))
        return Codec.INT4

    def claim(self) -> LinkClaim:
        """What we tell about our link."""
        return CLAIM

    def warn(self, code: str, fact: str) -> None:
        """A warning for people."""
        self.warnings.append(code)

    def sends_as(self, codec: Codec, usual: Codec) -> None:
        """How the update travels."""
        self.codecs.append((codec, usual))

    def on_step(self, step: int, loss: float) -> None:
        """A step was taken."""

    def trained(self, tokens: int, seconds: float) -> None:
        """Training is over."""
        self.figures.append((tokens, seconds))


def test_the_update_says_what_the_others_need_to_know() -> None:
    around = Around()
    update = around.learned()
    assert torch.equal(update.vector_P, torch.full((6,), 3.0))
    assert (update.round, update.state_root, update.parent) == (5, HERE.state_root, ORIGIN.group_id)
    assert (update.tokens, update.seed) == (640, SEED)
    assert (update.fragment, update.tensors) == (1, (2, 4))
    assert (update.codec, update.link) == (Codec.INT4, CLAIM)
    assert around.codecs == [(Codec.INT4, Codec.INT8)]


def test_the_text_of_the_round_is_shared_with_the_members_of_the_last_average() -> None:
    around = Around()
    around.learned()
    (task,) = around.assignments
    members: tuple[PeerId, ...] = tuple(MEMBERS)
    assert task.members == members


@pytest.mark.parametrize(
    ("budget_steps", "steps_ahead", "steps"),
    [
        pytest.param(1000, 0, 8, id="as many as the run allows"),
        pytest.param(3, 0, 3, id="as many as fit"),
        pytest.param(1000, 6, 2, id="without those that were taken during the last average"),
        pytest.param(0, 0, 1, id="but at least one"),
        pytest.param(1000, 20, 1, id="however many were taken before"),
    ],
)
def test_how_many_steps_a_peer_takes(budget_steps: int, steps_ahead: int, steps: int) -> None:
    around = Around(budget_steps=budget_steps, steps_ahead=steps_ahead)
    around.learned()
    (task,) = around.assignments
    assert task.max_steps == steps
    assert around.figures == [(640, steps * STEP)]


def test_training_takes_a_round_or_what_the_others_have_left_of_theirs() -> None:
    around = Around()

    async def main() -> None:
        stage = around.stage(seconds_left=3.0)
        for _ in range(2):
            await stage.learn(MEMBERS)
            assert around.activity.phase is Phase.TRAINING

    simulate(main())
    assert around.budgets == [3.0, SPEC.seconds]


def test_it_ends_early_if_its_time_is_over_or_the_peer_leaves() -> None:
    for stop in ("budget", "leave", None):
        around = Around()
        stages: list[TrainingStage] = []
        around.learned(stages.append)
        (task,) = around.assignments
        assert not task.until()
        around.budget_is_over = stop == "budget"
        stages[0].is_stopping = stop == "leave"
        assert task.until() == (stop is not None)


def test_what_the_last_round_gave_is_kept_for_the_others() -> None:
    around = Around()

    async def main() -> None:
        stage = around.stage()
        assert stage.work is None
        await asyncio.sleep(2.0)
        await stage.learn(MEMBERS)
        assert stage.began == 2.0
        assert stage.work is not None
        assert stage.work.trained.tokens == 640

    simulate(main())


@pytest.mark.parametrize("is_usable", [True, False])
def test_training_that_has_diverged_is_told(is_usable: bool) -> None:
    around = Around(is_usable=is_usable)
    around.learned()
    assert around.warnings == ([] if is_usable else ["diverged"])
