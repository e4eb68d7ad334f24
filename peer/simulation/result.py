"""What a rehearsal reports: rounds and events of every peer, a hash of it all, and the traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..observe.reporter import RoundReport


@dataclass(frozen=True, slots=True)
class Heard:
    """A message that was received and answered."""

    time: float
    """Virtual seconds."""
    sender: str
    receiver: str
    what: str
    """The kind of a control message (``commit``), else the first word of a bulk item (``part``), else the
    route."""


def silent(report: RoundReport) -> None:
    """Ignore ``report``."""


@dataclass(slots=True)
class Notebook:
    """Everything that one simulated peer has reported: its `EventSink`."""

    tell: Callable[[RoundReport], None]
    """Called with every report."""
    rounds: list[RoundReport] = field(default_factory=list)
    on_round: Callable[[], object] = bool
    """Called at the end of every round, also of one without an average."""
    told_at: list[float] = field(default_factory=list)
    """Virtual seconds at which each of ``rounds`` was over."""
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def missed(self) -> set[int]:
        """The rounds of which this peer had no average, by its own account."""
        return {
            fields["round"]
            for name, fields in self.events
            if name == "warning" and fields["code"] == "round-missed"
        }

    def round_finished(self, report: RoundReport) -> None:
        """Keep ``report``, and pass it on."""
        self.rounds.append(report)
        self.told_at.append(asyncio.get_running_loop().time())
        self.on_round()
        self.tell(report)

    def event(self, name: str, /, **fields: object) -> None:
        """Keep the event."""
        self.events.append((name, fields))
        if fields.get("code") == "round-missed":
            self.on_round()


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalResult:
    """The outcome of a rehearsal, or of one of its processes.

    Peers are called ``p0``, ``p1``, …; ``p0`` is the founder.
    """

    notebooks: dict[str, Notebook]
    """By peer name."""
    transcript: str
    """Hash of every message and of every reported state root: the same for the same scenario."""
    parameters: int
    messages: int
    sent: dict[str, int]
    """Bytes that crossed the network, by the name of the sender, over all its restarts."""
    looked: dict[str, int]
    """Bytes of the records that each peer read in the directory, by its name."""
    crashes: int
    virtual_seconds: float
    leftovers: tuple[str, ...] = ()
    """Names of the tasks that were still there at the end; should be empty."""
    heard: tuple[Heard, ...] = ()
    """All messages in order; empty without ``listen``."""

    def roots(self, round_: int) -> set[str]:
        """The different state roots that were reported by peers that had an average in ``round_``."""
        notebooks = [notebook for notebook in self.notebooks.values() if round_ not in notebook.missed]
        return {
            report.state_root
            for notebook in notebooks
            for report in notebook.rounds
            if report.round == round_
        }

    @property
    def state_roots_equal(self) -> bool:
        """Whether all peers that had an average agreed on its result, for every round."""
        rounds = {report.round for notebook in self.notebooks.values() for report in notebook.rounds}
        return bool(rounds) and all(len(self.roots(round_)) <= 1 for round_ in rounds)
