"""Local training as jobs: each says how many steps it is, by which a rehearsal knows how long it takes."""

from __future__ import annotations

from typing import Any

from peer.training.inner import Trained
from peer.training.jobs import LocalTraining, StepAhead
from peer.training.learner import Assignment, LocalUpdate


class CountingLearner:
    """A learner that notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[Assignment | str] = []

    def work(self, task: Assignment) -> LocalUpdate:
        """Train."""
        self.asked.append(task)
        nothing: Any = None
        return LocalUpdate(Trained(steps=task.max_steps, tokens=10, loss=2.5), nothing)

    def step_ahead(self) -> None:
        """Take one step."""
        self.asked.append("step")


def test_a_round_of_local_training_is_one_job_of_as_many_steps_as_it_may_take() -> None:
    learner: Any = CountingLearner()
    task = Assignment(members=(), max_steps=7, until=lambda: False, on_step=lambda step, loss: None)
    job = LocalTraining(learner, task)
    assert job.steps == 7
    assert learner.asked == []
    assert job().trained.steps == 7
    assert learner.asked == [task]


def test_a_step_ahead_is_a_job_of_one_step() -> None:
    learner: Any = CountingLearner()
    job = StepAhead(learner)
    assert job.steps == 1
    job()
    job()
    assert learner.asked == ["step", "step"]
