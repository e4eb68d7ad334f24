"""What this peer knows about itself and the run, changed in one place and read as one immutable `Snapshot`."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import psutil

from swarm.identity import PeerId, petname
from swarm.manifest import Codec, RunManifest
from swarm.membership.progress import Phase, Progress
from swarm.membership.roster import Row
from swarm.relaxation import words_of

from .snapshot import Fetching, LoggedEvent, PeerRow, Point, Snapshot, thinned

EVENTS = 60
STRAGGLER = 4
_AT_WORK = frozenset({"training", "averaging", "waiting", "following"})
RATES = 60
"""Seconds of transfer rates kept for the sparkline."""


@dataclass(slots=True)
class Meter:
    """Bytes on the wire, sampled once a second."""

    total_up: int = 0
    total_down: int = 0
    up: deque[float] = field(default_factory=lambda: deque(maxlen=RATES))
    down: deque[float] = field(default_factory=lambda: deque(maxlen=RATES))

    def sample(self, up: int, down: int, seconds: float) -> None:
        """Note the counters' standing ``seconds`` after the last sample."""
        self.up.append(max(0, up - self.total_up) / seconds)
        self.down.append(max(0, down - self.total_down) / seconds)
        self.total_up, self.total_down = up, down

    def recent(self) -> tuple[float, float]:
        """Mean bytes per second up and down over the last ten samples."""
        ups, downs = list(self.up)[-10:], list(self.down)[-10:]
        return sum(ups) / max(1, len(ups)), sum(downs) / max(1, len(downs))


class Metrics:
    """Everything a screen shows of one peer. Attributes are set by the peer as things happen; `snapshot` is the only way out."""

    def __init__(
        self,
        manifest: RunManifest,
        me: PeerId,
        name: str,
        version: str,
        parameters: int,
        clock: Callable[[], float],
    ) -> None:
        self._manifest, self._me, self._name, self._version = manifest, me, name, version
        self._blank = _blank(manifest, me, version, parameters)
        self._clock = clock
        self._began = clock()
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first reading of a process is always zero
        self.phase = Phase.STARTING
        self.phase_ends = self._began
        self.step = 0
        self.round = 0
        self.run_tokens = 0
        self.given_tokens = 0
        self.given_rounds = 0
        self.tokens_per_second = 0.0
        self.loss = 0.0
        self.members = self.missing = 0
        self.average_seconds = self.round_seconds = 0.0
        self.state_root = bytes(32)
        self.reason = ""
        self.fetching = Fetching()
        self.finished = False
        self.sample_text = self.ticket = self.checkpoint = ""
        self.meter = Meter()
        self.cpu = 0.0
        self.companions: frozenset[PeerId] = frozenset()
        self._sent_as = manifest.round.codec
        """Who averaged with us last: what they do now we know better than their last record does."""
        self._averaged_at = self._began
        self._losses: tuple[Point, ...] = ()
        self._evaluations: tuple[Point, ...] = ()
        self._events: deque[LoggedEvent] = deque(maxlen=EVENTS)

    def on_step(self, step: int, loss: float) -> None:
        """Local training has taken this step."""
        self.step = step

    def enter(self, phase: Phase, seconds: float = 0.0) -> None:
        """A new phase that should take ``seconds``."""
        self.phase, self.phase_ends, self.step, self.fetching = phase, self._clock() + seconds, 0, Fetching()

    def sample(self, up: int, down: int, seconds: float, *, with_cpu: bool = True) -> None:
        """Note the wire's counters and the processor time, ``seconds`` after the last sample."""
        self.meter.sample(up, down, seconds)
        if with_cpu:
            self.cpu = self._process.cpu_percent() / 100

    def averaged_with(self, members: Sequence[PeerId]) -> None:
        """A round is over for ``members``, us among them."""
        self.companions, self._averaged_at = frozenset(members), self._clock()

    def note(self, text: str, severity: str = "info") -> None:
        """One line for the list of events."""
        self._events.append(LoggedEvent(time=time.time(), severity=severity, text=text))

    def sends(self, codec: Codec) -> None:
        """How our update travels this round; a line in the list of events where that has changed."""
        usual = self._manifest.round.codec
        if codec != self._sent_as:
            slow = f"this line is slow for the run: its updates go as {codec.name.lower()} instead of {usual.name.lower()}"
            self.note(slow if codec != usual else f"updates go as {codec.name.lower()} again")
        self._sent_as = codec

    def add_loss(self, round_: int, loss: float) -> None:
        """The mean training loss of our local steps in a round."""
        self._losses = thinned((*self._losses, Point(round_, loss)))

    def add_evaluation(self, round_: int, bits_per_byte: float) -> None:
        """The shared model on held-out text after a round."""
        self._evaluations = thinned((*self._evaluations, Point(round_, bits_per_byte)))

    def progress(self, contact: bytes) -> Progress:
        """What we say of ourselves to the others."""
        up, down = self.meter.recent()
        return Progress(
            phase=self.phase,
            state_root=self.state_root,
            tokens=self.given_tokens,
            tokens_per_second=self.tokens_per_second,
            up=up,
            down=down,
            loss=min(self.loss, 1e6),
            name=self._name[:40],
            device="cpu",
            version=self._version,
            contact=contact,
        )

    def snapshot(self, roster: Sequence[tuple[Row, float, bool]]) -> Snapshot:
        """The picture now. ``roster``: the others, seconds since each was heard, and whether it is present."""
        now = self._clock()
        rows = self._rows(roster)
        health, reason = self._health(rows)
        return msgspec.structs.replace(
            self._blank,
            health=health,
            reason=reason,
            uptime=now - self._began,
            round=self.round,
            tokens=self.run_tokens,
            seconds_left=max(0, self._manifest.rounds - self.round) * self.round_seconds,
            phase=self.phase.name.lower(),
            fetching=self.fetching,
            step=self.step,
            phase_left=max(0.0, self.phase_ends - now),
            losses=self._losses,
            evaluations=self._evaluations,
            members=self.members,
            missing=self.missing,
            average_seconds=self.average_seconds,
            round_seconds=self.round_seconds,
            bytes_up=self.meter.total_up,
            bytes_down=self.meter.total_down,
            up=tuple(self.meter.up),
            down=tuple(self.meter.down),
            cpu=self.cpu,
            memory=self._process.memory_info().rss,
            given_seconds=now - self._began,
            given_tokens=self.given_tokens,
            given_rounds=self.given_rounds,
            state_root=self.state_root.hex(),
            peers=rows,
            events=tuple(self._events),
            sample=self.sample_text,
            ticket=self.ticket,
            checkpoint=self.checkpoint,
        )

    def _rows(self, roster: Sequence[tuple[Row, float, bool]]) -> tuple[PeerRow, ...]:
        total = self.tokens_per_second + sum(
            row.progress.tokens_per_second for row, _, here in roster if here
        )
        up, down = self.meter.recent()
        mine = PeerRow(
            peer=self._me,
            name=self._name or petname(self._me),
            state=self.phase.name.lower(),
            device="cpu",
            round=self.round,
            tokens_per_second=self.tokens_per_second,
            up=up,
            down=down,
            share=self.tokens_per_second / total if total else 0.0,
            loss=self.loss,
            is_me=True,
        )
        since = self._clock() - self._averaged_at
        others = (_row(row, seen, here, total) for row, seen, here in roster)
        fresh = [self._refreshed(row, since) if row.peer in self.companions else row for row in others]
        return (mine, *_with_stragglers([mine, *fresh])[1:])

    def _refreshed(self, row: PeerRow, since: float) -> PeerRow:
        """``row`` of a companion, whose record is older than the round that we have just done together."""
        if row.state in ("left", "unreachable") or row.seen_seconds <= since:
            return row
        return msgspec.structs.replace(row, round=max(row.round, self.round), seen_seconds=since)

    def _health(self, rows: Sequence[PeerRow]) -> tuple[str, str]:
        if self.finished:
            return "FINISHED", "the run is over; the model is saved"
        if self.phase in (Phase.STARTING, Phase.SYNCING):
            return (
                "SYNCING",
                self.fetching.words if self.fetching.what else "asking the other peers for text and model",
            )
        if len(rows) == 1:
            return "WAITING", "training alone; invite others with the ticket"
        if self.reason:
            return "DEGRADED", self.reason
        return "HEALTHY", ""


def _blank(manifest: RunManifest, me: PeerId, version: str, parameters: int) -> Snapshot:
    """What stays as it is for the life of this peer: the run, and the computer."""
    return Snapshot(
        run=manifest.run_id.hex(),
        run_name=manifest.name,
        model=f"{manifest.model.name} {manifest.model.layers}x{manifest.model.width}",
        parameters=parameters,
        version=version,
        peer=me,
        health="SYNCING",
        rounds=manifest.rounds,
        tokens_goal=manifest.tokens,
        max_steps=manifest.round.max_steps,
        codec=manifest.round.codec.name.lower(),
        relaxation=words_of(manifest.round),
        cores=psutil.cpu_count() or 1,
        memory_total=psutil.virtual_memory().total,
    )


def _with_stragglers(rows: Sequence[PeerRow]) -> list[PeerRow]:
    """``rows``, with ``slow`` as the state of those whose speed is less than a `STRAGGLER`-th of the usual. They delay nobody: each
    does the steps that fit. Of two peers nobody can say which one is unusual, and of speeds nobody but their owners knows them."""
    speeds = [row.tokens_per_second for row in rows if row.tokens_per_second > 0]
    usual = statistics.median(speeds) if len(speeds) > 2 else 0.0
    return [
        msgspec.structs.replace(row, state="slow")
        if row.state in _AT_WORK and 0 < row.tokens_per_second * STRAGGLER < usual
        else row
        for row in rows
    ]


def _row(row: Row, seen: float, here: bool, total: float) -> PeerRow:
    said = row.progress
    state = "left" if said.phase is Phase.LEAVING else said.phase.name.lower() if here else "unreachable"
    return PeerRow(
        peer=row.peer,
        name=said.name or petname(row.peer),
        state=state,
        device=said.device,
        round=row.round,
        tokens_per_second=said.tokens_per_second if here else 0.0,
        up=said.up,
        down=said.down,
        share=said.tokens_per_second / total if total and here else 0.0,
        seen_seconds=seen,
        loss=said.loss,
    )
