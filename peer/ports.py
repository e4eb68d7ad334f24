"""What a peer needs from outside, as values: on sockets `peer.app.node` fills them, in a rehearsal `peer.simulation.run`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from swarm.identity import KeyPair
from swarm.machine import Arithmetic

from .data.corpus import Corpus
from .network.membership import NetworkPorts
from .observe.reporter import RoundReport
from .training.learner import Assignment, Learner, Work


class EventSink(Protocol):
    """Whom a peer tells what happens: `peer.observe.reporter.Reporter`, or a rehearsal's notebook."""

    def round_finished(self, report: RoundReport) -> None:
        """A round is over."""

    def event(self, name: str, /, **fields: object) -> None:
        """Anything else worth a line."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much local training fits: at most ``steps``, and until ``is_over`` says so (asked after every step)."""

    steps: int
    is_over: Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything a peer needs from outside."""

    network: NetworkPorts
    arithmetic: Arithmetic
    budget: Callable[[float], Budget]
    """Seconds of local training -> what fits into them."""
    event_sink: EventSink


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPeer:
    """Who this peer is: its key, its name for people, where it lives, and what it already has."""

    key: KeyPair
    name: str
    version: str
    contact: bytes
    """Our sealed `Contact`."""
    home: Path | None = None
    corpus: Corpus | None = None
    founder: bool = False
    """Whether it may begin from the fresh model where nobody has a state yet."""
    first_seq: int = 0


class LocalTraining:
    """One round of local training as a job; ``steps`` is what it may cost at most."""

    def __init__(self, learner: Learner, task: Assignment) -> None:
        self._learner, self._task = learner, task
        self.steps = task.max_steps

    def __call__(self) -> Work:
        """Do it."""
        return self._learner.work(self._task)


class StepAhead:
    """One local step as a job, so that the arithmetic of an average waits for one step at most."""

    steps = 1

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def __call__(self) -> None:
        """Do it."""
        self._learner.step_ahead()
