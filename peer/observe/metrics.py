"""What the screens show of this peer.

Metrics only observe: the peer's state has other owners, which tell it here as it changes.

PositionTracker, Activity        ──►  `Metrics.moved`, `Metrics.entered`
training, averaging, downloads   ──►  figures by topic
all of it                        ──►  `Metrics.snapshot`: one immutable `Snapshot` for every screen
"""

from __future__ import annotations

import heapq
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import psutil

from swarm.identity import PeerId, petname
from swarm.manifest import RunManifest
from swarm.membership.progress import Phase, Progress
from swarm.membership.roster import Row
from swarm.presets import describe

from .snapshot import EVENTS, LISTED, Fetching, LoggedEvent, PeerRow, Point, Snapshot, thinned
from .text import encodable

STRAGGLER = 4
"""A peer is slow if its speed is less than this fraction of the usual."""
AT_WORK = frozenset({"training", "averaging", "waiting", "following"})
"""States of a peer whose speed says something."""
RATES = 60
"""Seconds of transfer rates kept for the sparkline."""
RECENT = 10
"""Seconds over which the rates are averaged that the others are told."""
NAME_LENGTH = 40
"""Letters of its name that a peer tells the others."""
LARGEST_LOSS = 1e6


@dataclass(slots=True)
class WireFigures:
    """Bytes on the wire, sampled once a second."""

    total_up: int = 0
    total_down: int = 0
    up: deque[float] = field(default_factory=lambda: deque(maxlen=RATES))
    down: deque[float] = field(default_factory=lambda: deque(maxlen=RATES))

    def sample(self, up: int, down: int, seconds: float) -> None:
        """The counters stand at ``up`` and ``down``, ``seconds`` after the last sample."""
        self.up.append(max(0, up - self.total_up) / seconds)
        self.down.append(max(0, down - self.total_down) / seconds)
        self.total_up = up
        self.total_down = down

    def recent(self) -> tuple[float, float]:
        """Mean bytes per second up and down over the last samples."""
        ups = list(self.up)[-RECENT:]
        downs = list(self.down)[-RECENT:]
        return sum(ups) / max(1, len(ups)), sum(downs) / max(1, len(downs))


@dataclass(slots=True)
class TrainingFigures:
    """What this peer has trained."""

    step: int = 0
    """Of the round under way."""
    given_tokens: int = 0
    """Tokens that this peer has trained on in the whole run."""
    given_rounds: int = 0
    """Rounds whose average contains its work."""
    tokens_per_second: float = 0.0
    loss: float = 0.0
    losses: tuple[Point, ...] = ()
    evaluations: tuple[Point, ...] = ()

    def on_step(self, step: int, loss: float) -> None:
        """Local training has taken this step."""
        self.step = step

    def trained(self, tokens: int, seconds: float) -> None:
        """Local training of a round is over."""
        self.given_tokens += tokens
        self.tokens_per_second = tokens / max(1e-3, seconds)

    def add_loss(self, round_: int, loss: float) -> None:
        """The mean training loss of our local steps in a round."""
        self.loss = loss
        self.losses = thinned((*self.losses, Point(round_, loss)))

    def add_evaluation(self, round_: int, bits_per_byte: float) -> None:
        """The shared model's bits per byte on held-out text after a round."""
        self.evaluations = thinned((*self.evaluations, Point(round_, bits_per_byte)))


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """The last group of this peer."""

    members: int = 0
    """Peers whose work is in the average."""
    missing: int = 0
    """Peers of the group whose work is not."""
    average_seconds: float = 0.0
    reason: str = ""
    """Why there was no average; empty if there was one."""


@dataclass(slots=True)
class Shown:
    """Texts and states that the screens show as they are."""

    sample: str = ""
    """What the shared model writes."""
    ticket: str = ""
    checkpoint: str = ""
    fetching: Fetching = field(default_factory=Fetching)
    is_finished: bool = False


@dataclass(frozen=True, slots=True)
class About:
    """What stays as it is for the life of a peer."""

    peer: PeerId
    name: str
    version: str
    parameters: int


class Metrics:
    """Everything that a screen shows of one peer. `snapshot` is the only way out."""

    def __init__(self, manifest: RunManifest, about: About, clock: Callable[[], float]) -> None:
        self._about = about
        self._blank = _blank(manifest, about)
        self._clock = clock
        self._began = clock()
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first reading of a process is always zero
        self._cpu = 0.0
        self._place = _Place(phase_ends=self._began, averaged_at=self._began)
        self._events: deque[LoggedEvent] = deque(maxlen=EVENTS)
        self.wire = WireFigures()
        self.training = TrainingFigures()
        self.group = GroupFigures()
        self.shown = Shown()

    # --- what is told ---------------------------------------------------------------------------------------

    def moved(self, round_: int, state_root: bytes, tokens: int) -> None:
        """The peer's position in the run has changed."""
        self._place.round = round_
        self._place.state_root = state_root
        self._place.run_tokens = tokens

    def entered(self, phase: Phase, ends_at: float) -> None:
        """A new phase, which should end at ``ends_at``."""
        self._place.phase = phase
        self._place.phase_ends = ends_at
        self.training.step = 0
        self.shown.fetching = Fetching()

    def sample(self, up: int, down: int, seconds: float, *, with_cpu: bool = True) -> None:
        """The wire's counters and the processor time, ``seconds`` after the last sample."""
        self.wire.sample(up, down, seconds)
        if with_cpu:
            self._cpu = self._process.cpu_percent() / 100

    def averaged_with(self, members: Sequence[PeerId]) -> None:
        """A round is over for ``members``, us among them.

        What they do now we know better than their last records say.
        """
        self._place.companions = frozenset(members)
        self._place.averaged_at = self._clock()

    def finish_round(self, round_: int, loss: float, seconds: float, group: GroupFigures) -> None:
        """A round is over, which took ``seconds``."""
        self.training.add_loss(round_, loss)
        self._place.round_seconds = seconds
        self.group = group

    def note(self, text: str, severity: str = "info") -> None:
        """One line for the list of events."""
        self._events.append(LoggedEvent(time=time.time(), severity=severity, text=encodable(text)))

    # --- what is read ---------------------------------------------------------------------------------------

    def progress(self, phase: Phase, state_root: bytes, contact: bytes) -> Progress:
        """What we tell the other peers about ourselves. ``contact`` is our sealed contact."""
        up, down = self.wire.recent()
        return Progress(
            phase=phase,
            state_root=state_root,
            tokens=self.training.given_tokens,
            tokens_per_second=self.training.tokens_per_second,
            up=up,
            down=down,
            loss=min(self.training.loss, LARGEST_LOSS),
            name=self._about.name[:NAME_LENGTH],
            device="cpu",
            version=self._about.version,
            contact=contact,
        )

    def snapshot(self, roster: Sequence[tuple[Row, float, bool]]) -> Snapshot:
        """The picture now.

        ``roster``: the others, seconds since each was heard, and whether it is present.
        """
        now = self._clock()
        place = self._place
        rows = self._rows(roster)
        more = 1 + len(roster) - len(rows)
        health, reason = self._health(rows)
        return msgspec.structs.replace(
            self._blank,
            health=health,
            reason=reason,
            uptime=now - self._began,
            round=place.round,
            tokens=place.run_tokens,
            seconds_left=max(0, self._blank.rounds - place.round) * place.round_seconds,
            phase=place.phase.name.lower(),
            fetching=self.shown.fetching,
            step=self.training.step,
            phase_left=max(0.0, place.phase_ends - now),
            losses=self.training.losses,
            evaluations=self.training.evaluations,
            members=self.group.members,
            missing=self.group.missing,
            average_seconds=self.group.average_seconds,
            round_seconds=place.round_seconds,
            bytes_up=self.wire.total_up,
            bytes_down=self.wire.total_down,
            up=tuple(self.wire.up),
            down=tuple(self.wire.down),
            cpu=self._cpu,
            memory=self._process.memory_info().rss,
            given_seconds=now - self._began,
            given_tokens=self.training.given_tokens,
            given_rounds=self.training.given_rounds,
            state_root=place.state_root.hex(),
            peers=rows,
            events=tuple(self._events),
            sample=self.shown.sample,
            ticket=self.shown.ticket,
            checkpoint=encodable(self.shown.checkpoint),
            more_peers=more,
        )

    def _rows(self, roster: Sequence[tuple[Row, float, bool]]) -> tuple[PeerRow, ...]:
        ours = self.training.tokens_per_second
        total = ours + sum(row.progress.tokens_per_second for row, _, is_present in roster if is_present)
        up, down = self.wire.recent()
        mine = PeerRow(
            peer=self._about.peer,
            name=self._about.name or petname(self._about.peer),
            state=self._place.phase.name.lower(),
            device="cpu",
            round=self._place.round,
            tokens_per_second=ours,
            up=up,
            down=down,
            share=ours / total if total else 0.0,
            loss=self.training.loss,
            is_me=True,
        )
        listed = self._listed(roster)
        others = [self._refreshed(_row(row, seen, is_present, total)) for row, seen, is_present in listed]
        return (mine, *_with_stragglers([mine, *others])[1:])

    def _listed(self, roster: Sequence[tuple[Row, float, bool]]) -> Sequence[tuple[Row, float, bool]]:
        """Those of ``roster`` that get a row, in its order, where not all do.

        First come those of the last average, whom nobody can push out by new identities, then those that are
        present and were heard last.
        """
        if len(roster) < LISTED:
            return roster

        def importance(place: int) -> tuple[bool, bool, float]:
            row, seen, is_present = roster[place]
            return row.peer not in self._place.companions, not is_present, seen

        return [
            roster[place] for place in sorted(heapq.nsmallest(LISTED - 1, range(len(roster)), importance))
        ]

    def _refreshed(self, row: PeerRow) -> PeerRow:
        """``row`` brought up to date for a companion whose record is older than the round that we have just
        done together."""
        since = self._clock() - self._place.averaged_at
        is_companion = row.peer in self._place.companions
        if not is_companion or row.state in ("left", "unreachable") or row.seen_seconds <= since:
            return row
        return msgspec.structs.replace(row, round=max(row.round, self._place.round), seen_seconds=since)

    def _health(self, rows: Sequence[PeerRow]) -> tuple[str, str]:
        if self.shown.is_finished:
            return "FINISHED", "the run is over; the model is saved"
        if self._place.phase in (Phase.STARTING, Phase.SYNCING):
            fetching = self.shown.fetching
            return "SYNCING", fetching.words if fetching.what else "asking the other peers for text and model"
        if len(rows) == 1:
            return "WAITING", "training alone; invite others with the ticket"
        if self.group.reason:
            return "DEGRADED", self.group.reason
        return "HEALTHY", ""


@dataclass(slots=True)
class _Place:
    """Where the peer is in the run and in its round, as it has told us last."""

    phase_ends: float
    averaged_at: float
    round: int = 0
    state_root: bytes = bytes(32)
    run_tokens: int = 0
    phase: Phase = Phase.STARTING
    round_seconds: float = 0.0
    companions: frozenset[PeerId] = frozenset()
    """The members of the last average."""


def _blank(manifest: RunManifest, about: About) -> Snapshot:
    """What stays as it is for the life of this peer: the run, and the computer."""
    return Snapshot(
        run=manifest.run_id.hex(),
        run_name=manifest.name,
        model=f"{manifest.model.name} {manifest.model.layers}x{manifest.model.width}",
        parameters=about.parameters,
        version=about.version,
        peer=about.peer,
        health="SYNCING",
        rounds=manifest.rounds,
        tokens_goal=manifest.tokens,
        max_steps=manifest.round.max_steps,
        codec=manifest.round.codec.name.lower(),
        relaxation=describe(manifest.round),
        cores=psutil.cpu_count() or 1,
        memory_total=psutil.virtual_memory().total,
    )


def _with_stragglers(rows: Sequence[PeerRow]) -> list[PeerRow]:
    """``rows``, with ``slow`` as the state of peers that are much slower than usual.

    They delay nobody: each does the steps that fit.

    Of two peers it is impossible to say which one is unusual. Speeds are the peers' own claims.
    """
    speeds = [row.tokens_per_second for row in rows if row.tokens_per_second > 0]
    usual = statistics.median(speeds) if len(speeds) > 2 else 0.0
    return [
        msgspec.structs.replace(row, state="slow")
        if row.state in AT_WORK and 0 < row.tokens_per_second * STRAGGLER < usual
        else row
        for row in rows
    ]


def _row(row: Row, seen: float, is_present: bool, total: float) -> PeerRow:
    progress = row.progress
    speed = progress.tokens_per_second if is_present else 0.0
    return PeerRow(
        peer=row.peer,
        name=progress.name or petname(row.peer),
        state=_state(progress.phase, is_present=is_present),
        device=progress.device,
        round=row.round,
        tokens_per_second=speed,
        up=progress.up,
        down=progress.down,
        share=speed / total if total else 0.0,
        seen_seconds=seen,
        loss=progress.loss,
    )


def _state(phase: Phase, *, is_present: bool) -> str:
    if phase is Phase.LEAVING:
        return "left"
    return phase.name.lower() if is_present else "unreachable"
