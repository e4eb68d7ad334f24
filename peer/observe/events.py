"""What a peer says about itself as things happen: to its board (for the screens) and to its teller (for lines and machines)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from averaging.averager import Averaged
from swarm.identity import PeerId, petname
from swarm.machine import Report
from swarm.transport import Transport

from ..chunks.download import Headway
from ..ports import Teller
from .metrics import Board
from .reporter import RoundReport, told
from .snapshot import Fetching
from .text import size

FETCHING_SECONDS = 2.0
"""Between two events about one download."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one round was for this peer, besides the average."""

    round: int
    loss: float
    steps: int
    seconds: float
    bits_per_byte: float | None


class Telling:
    """The voice of one peer."""

    def __init__(self, board: Board, teller: Teller, transport: Transport, me: PeerId) -> None:
        self._board, self._teller, self._transport, self._me = board, teller, transport, me
        self._wire = (0, 0)
        self._known: set[PeerId] = set()
        self._fetching_told_at = float("-inf")

    def say(self, event: str, /, **fields: object) -> None:
        """An event, for everybody who listens."""
        self._board.note(told(event, fields), "warning" if event == "warning" else "info")
        self._teller.event(event, **fields)

    def warn(self, code: str, fact: str, **fields: object) -> None:
        """Something a person may want to know."""
        self.say("warning", code=code, fact=fact, **fields)

    def note(self, report: Report) -> None:
        """What a machine has found."""
        who = f"{petname(report.peer)}: " if report.peer else ""
        self.warn(report.code, who + report.fact)

    def progress(self, what: str, headway: Headway) -> None:
        """A download: for the screens at every step, as an event every few seconds and at its end."""
        self._board.fetching = Fetching(
            what=what,
            here=headway.chunks,
            whole=headway.chunks_whole,
            bytes_per_second=headway.bytes_per_second,
            donors=headway.donors,
        )
        now, is_whole = asyncio.get_running_loop().time(), headway.chunks == headway.chunks_whole
        if headway.chunks and (is_whole or now >= self._fetching_told_at + FETCHING_SECONDS):
            self._fetching_told_at = now
            rate = round(headway.bytes_per_second)
            self.say(
                "fetching", what=what, chunks=headway.chunks, of=headway.chunks_whole, bytes_per_second=rate
            )

    def members(self, averaged: Averaged) -> tuple[PeerId, ...]:
        """Tell who came and who left since the last round; the members that are present."""
        present = tuple(peer for peer in averaged.members if peer not in averaged.missing)
        for peer in sorted(set(present) - self._known - {self._me}):
            self.say("joined", peer=peer, name=petname(peer))
        for peer in sorted(self._known - set(present) - {self._me}):
            self.say("left", peer=peer, name=petname(peer))
        self._known = set(present)
        self._board.averaged_with(present)
        return present

    def round_finished(self, lesson: Lesson, averaged: Averaged) -> None:
        """The line that every round gets."""
        board, transport = self._board, self._transport
        up, down = transport.bytes_up, transport.bytes_down
        board.members = max(1, len(averaged.members) - len(averaged.missing))
        board.missing, board.reason = len(averaged.missing), averaged.reason
        board.average_seconds, board.round_seconds, board.loss = averaged.seconds, lesson.seconds, lesson.loss
        board.add_loss(lesson.round, lesson.loss)
        if lesson.bits_per_byte is not None:
            board.add_evaluation(lesson.round, lesson.bits_per_byte)
        report = RoundReport(
            round=lesson.round,
            state_root=board.state_root.hex(),
            members=board.members,
            missing=board.missing,
            loss=lesson.loss,
            bits_per_byte=lesson.bits_per_byte,
            tokens=board.given_tokens,
            local_steps=lesson.steps,
            seconds=round(lesson.seconds, 3),
            average_seconds=round(averaged.seconds, 3),
            bytes_up=up - self._wire[0],
            bytes_down=down - self._wire[1],
        )
        self._wire = (up, down)
        group = f"{board.members} of {board.members + board.missing} peers" if averaged.members else "nobody"
        board.note(
            f"round {report.round} averaged with {group} in {averaged.seconds:.1f} s ({size(report.bytes_up)} up)"
        )
        self._teller.round_finished(report)
