"""What a peer says about itself as things happen: to its board (for the screens) and to its teller (for lines and machines)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from averaging.averager import Averaged
from swarm.identity import PeerId, petname
from swarm.machine import Report
from swarm.transport import Transport

from ..chunks.download import DownloadProgress
from ..ports import EventSink
from .metrics import Metrics
from .reporter import RoundReport, told
from .snapshot import Fetching
from .text import size

FETCHING_SECONDS = 2.0
"""Between two events about one download."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSummary:
    """What one round was for this peer, besides the average."""

    round: int
    loss: float
    steps: int
    seconds: float
    bits_per_byte: float | None


class Events:
    """The voice of one peer."""

    def __init__(self, metrics: Metrics, event_sink: EventSink, transport: Transport, me: PeerId) -> None:
        self._metrics, self._event_sink, self._transport, self._me = metrics, event_sink, transport, me
        self._wire = (0, 0)
        self._known: set[PeerId] = set()
        self._fetching_told_at = float("-inf")

    def say(self, event: str, /, **fields: object) -> None:
        """An event, for everybody who listens."""
        self._metrics.note(told(event, fields), "warning" if event == "warning" else "info")
        self._event_sink.event(event, **fields)

    def warn(self, code: str, fact: str, **fields: object) -> None:
        """Something a person may want to know."""
        self.say("warning", code=code, fact=fact, **fields)

    def note(self, report: Report) -> None:
        """What a machine has found."""
        who = f"{petname(report.peer)}: " if report.peer else ""
        self.warn(report.code, who + report.fact)

    def progress(self, what: str, progress: DownloadProgress) -> None:
        """A download: for the screens at every step, as an event every few seconds and at its end."""
        self._metrics.fetching = Fetching(
            what=what,
            here=progress.chunks,
            whole=progress.chunks_whole,
            bytes_per_second=progress.bytes_per_second,
            donors=progress.donors,
        )
        now, is_whole = asyncio.get_running_loop().time(), progress.chunks == progress.chunks_whole
        if progress.chunks and (is_whole or now >= self._fetching_told_at + FETCHING_SECONDS):
            self._fetching_told_at = now
            rate = round(progress.bytes_per_second)
            self.say(
                "fetching", what=what, chunks=progress.chunks, of=progress.chunks_whole, bytes_per_second=rate
            )

    def members(self, averaged: Averaged) -> tuple[PeerId, ...]:
        """Tell who came and who left since the last round; the members that are present."""
        present = tuple(peer for peer in averaged.members if peer not in averaged.missing)
        for peer in sorted(set(present) - self._known - {self._me}):
            self.say("joined", peer=peer, name=petname(peer))
        for peer in sorted(self._known - set(present) - {self._me}):
            self.say("left", peer=peer, name=petname(peer))
        self._known = set(present)
        self._metrics.averaged_with(present)
        return present

    def round_finished(self, lesson: RoundSummary, averaged: Averaged) -> None:
        """The line that every round gets."""
        metrics, transport = self._metrics, self._transport
        up, down = transport.bytes_up, transport.bytes_down
        metrics.members = max(1, len(averaged.members) - len(averaged.missing))
        metrics.missing, metrics.reason = len(averaged.missing), averaged.reason
        metrics.average_seconds, metrics.round_seconds, metrics.loss = (
            averaged.seconds,
            lesson.seconds,
            lesson.loss,
        )
        metrics.add_loss(lesson.round, lesson.loss)
        if lesson.bits_per_byte is not None:
            metrics.add_evaluation(lesson.round, lesson.bits_per_byte)
        report = RoundReport(
            round=lesson.round,
            state_root=metrics.state_root.hex(),
            members=metrics.members,
            missing=metrics.missing,
            loss=lesson.loss,
            bits_per_byte=lesson.bits_per_byte,
            tokens=metrics.given_tokens,
            local_steps=lesson.steps,
            seconds=round(lesson.seconds, 3),
            average_seconds=round(averaged.seconds, 3),
            bytes_up=up - self._wire[0],
            bytes_down=down - self._wire[1],
        )
        self._wire = (up, down)
        group = (
            f"{metrics.members} of {metrics.members + metrics.missing} peers"
            if averaged.members
            else "nobody"
        )
        metrics.note(
            f"round {report.round} averaged with {group} in {averaged.seconds:.1f} s ({size(report.bytes_up)} up)"
        )
        self._event_sink.round_finished(report)
