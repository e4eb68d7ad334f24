"""What a peer tells as things happen: to its metrics (for the screens) and to an event sink (lines for
people, JSON for machines)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from averaging.outcome import Decided, Missed, Undecided, Void
from swarm.identity import PeerId, petname
from swarm.machine import Report
from swarm.manifest import Codec
from swarm.transport import Transport

from .metrics import GroupFigures, Metrics
from .reporter import RoundReport, told
from .snapshot import Fetching
from .text import size

FETCHING_SECONDS = 2.0
"""Between two events about one download."""


class EventSink(Protocol):
    """Takes what a peer tells: `peer.observe.reporter.Reporter`, or the notebook of a rehearsal."""

    def round_finished(self, report: RoundReport) -> None:
        """A round is over."""

    def event(self, name: str, /, **fields: object) -> None:
        """Anything else worth a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSummary:
    """What one round was for this peer, besides the average."""

    round: int
    state_root: bytes
    """Of the state after the round."""
    loss: float
    """Mean training loss of the local steps, nats per token."""
    steps: int
    seconds: float
    """Of the whole round."""
    bits_per_byte: float | None
    """Of the shared model on held-out text; None if this round was not evaluated."""


class Events:
    """Tells what happens to one peer."""

    def __init__(self, metrics: Metrics, event_sink: EventSink, transport: Transport, me: PeerId) -> None:
        self._metrics = metrics
        self._event_sink = event_sink
        self._transport = transport
        self._me = me
        self._bytes_up = 0
        self._bytes_down = 0
        self._known: set[PeerId] = set()
        self._codec: Codec | None = None
        self._fetching_told_at = float("-inf")

    def say(self, event: str, /, **fields: object) -> None:
        """An event, for everybody who listens."""
        self._metrics.note(told(event, fields), "warning" if event == "warning" else "info")
        self._event_sink.event(event, **fields)

    def warn(self, code: str, fact: str, **fields: object) -> None:
        """Something that a person may want to know."""
        self.say("warning", code=code, fact=fact, **fields)

    def note(self, report: Report) -> None:
        """What a machine has found."""
        who = f"{petname(report.peer)}: " if report.peer else ""
        self.warn(report.code, who + report.fact)

    def fetching(self, fetching: Fetching) -> None:
        """How far a download is: for screens at every step, as an event now and then and at its end."""
        self._metrics.shown.fetching = fetching
        now = asyncio.get_running_loop().time()
        is_whole = fetching.here == fetching.whole
        if fetching.here and (is_whole or now >= self._fetching_told_at + FETCHING_SECONDS):
            self._fetching_told_at = now
            self.say(
                "fetching",
                what=fetching.what,
                chunks=fetching.here,
                of=fetching.whole,
                bytes_per_second=round(fetching.bytes_per_second),
            )

    def sends_as(self, codec: Codec, usual: Codec) -> None:
        """How our update travels this round. Tells it if that has changed; ``usual`` is the run's codec."""
        if codec != (usual if self._codec is None else self._codec):
            name = codec.name.lower()
            slow = f"this link is slow for the run: its updates go as {name} instead of {usual.name.lower()}"
            self._metrics.note(slow if codec != usual else f"updates go as {name} again")
        self._codec = codec

    def members(self, decided: Decided) -> None:
        """Tell which peers have come and gone since the last round."""
        present = set(decided.present)
        for peer in sorted(present - self._known - {self._me}):
            self.say("joined", peer=peer, name=petname(peer))
        for peer in sorted(self._known - present - {self._me}):
            self.say("left", peer=peer, name=petname(peer))
        self._known = present
        self._metrics.averaged_with(decided.present)

    def round_finished(self, summary: RoundSummary, outcome: Decided | Missed) -> None:
        """The line that every round gets."""
        figures = _group_figures(outcome)
        self._metrics.finish_round(summary.round, summary.loss, summary.seconds, figures)
        if summary.bits_per_byte is not None:
            self._metrics.training.add_evaluation(summary.round, summary.bits_per_byte)
        up = self._transport.bytes_up
        down = self._transport.bytes_down
        report = RoundReport(
            round=summary.round,
            state_root=summary.state_root.hex(),
            members=figures.members,
            missing=figures.missing,
            loss=summary.loss,
            bits_per_byte=summary.bits_per_byte,
            tokens=self._metrics.training.given_tokens,
            local_steps=summary.steps,
            seconds=round(summary.seconds, 3),
            average_seconds=round(figures.average_seconds, 3),
            bytes_up=up - self._bytes_up,
            bytes_down=down - self._bytes_down,
        )
        self._bytes_up = up
        self._bytes_down = down
        has_group = isinstance(outcome, (Decided, Undecided, Void))
        group = f"{figures.members} of {figures.members + figures.missing} peers" if has_group else "nobody"
        sent = size(report.bytes_up)
        self._metrics.note(
            f"round {report.round} averaged with {group} in {figures.average_seconds:.1f} s ({sent} up)"
        )
        self._event_sink.round_finished(report)


def _group_figures(outcome: Decided | Missed) -> GroupFigures:
    """What the screens show of the group. Without an average the peer counts as its only member."""
    match outcome:
        case Decided():
            return GroupFigures(
                members=max(1, len(outcome.present)),
                missing=len(outcome.missing),
                average_seconds=outcome.seconds,
            )
        case Undecided() | Void():
            present = len(outcome.group.members) - len(outcome.missing)
            return GroupFigures(
                members=max(1, present),
                missing=len(outcome.missing),
                average_seconds=outcome.seconds,
                reason=outcome.reason,
            )
    return GroupFigures(members=1, reason=outcome.reason)
