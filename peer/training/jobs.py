"""Local training as jobs for the compute thread, and how much of it fits into a round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from swarm.machine import Arithmetic

from .learner import Assignment, Learner, LocalUpdate


@dataclass(frozen=True, slots=True)
class Budget:
    """How much local training fits: at most ``steps``, and until ``is_over`` says so (it is asked after every
    step)."""

    steps: int
    is_over: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class LocalCompute:
    """What local training runs on."""

    arithmetic: Arithmetic
    budget: Callable[[float], Budget]
    """Seconds of local training -> what fits into them."""


class LocalTraining:
    """One round of local training as a job; ``steps`` is the most that it may take."""

    def __init__(self, learner: Learner, task: Assignment) -> None:
        self._learner = learner
        self._task = task
        self.steps = task.max_steps

    def __call__(self) -> LocalUpdate:
        """Train."""
        return self._learner.work(self._task)


class StepAhead:
    """One local step as a job, so that the arithmetic of an average waits for one step at most."""

    steps = 1

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def __call__(self) -> None:
        """Take the step."""
        self._learner.step_ahead()
