"""Fetch content that is known by its hashes from several peers at once: the model's state, or the training text.

    hashes of all chunks ──► each donor is asked for the next chunk nobody has asked for ──► checked ──► kept, or asked of another

Rule 1: a chunk that does not hash to what the root says costs its sender the rest of the work, never us the download. Until its
        first chunk has been checked, a donor owes us one at a time: a liar costs one chunk of the line, not a pipeline full.
Rule 2: a donor that leaves is a non-event as long as one is left; what is kept stays kept. One that is busy is asked again later.
Rule 3: every request has a deadline that follows from how long chunks have taken. What hangs is asked of another donor, and its
        donor gets more time and less work: slow is no crime.
Rule 4: when the queue is empty, idle donors are asked for what has been under way for much longer than a chunk usually takes, so
        the slowest donor does not set the pace, and nothing is fetched twice without need.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from swarm.errors import Busy, TooLate
from swarm.hashing import digest
from swarm.identity import PeerId
from swarm.machine import (
    Command,
    Compute,
    Computed,
    Delivered,
    Event,
    Fetch,
    Finish,
    Report,
    Unreached,
    WakeAt,
)

UNDER_WAY, PIPELINE = 8, 2
"""Chunks under way, shared by the donors, but at least so many from each that has given a good one. One long line with loss wants
several connections; many donors are several connections, and the less each of them owes, the less it wastes when it leaves."""
PATIENCE = 10.0
"""Least seconds for a chunk, whatever others took: a donor may just be averaging."""
SLOWEST_RATE = 1 << 16
"""Bytes per second that a donor is given time for before anything has been measured."""
MARGIN = 4.0
"""A request may take so many times what chunks usually take."""
OVERTIME = 2.0
"""So many times the usual, and a chunk is worth asking for twice where a donor is idle."""
QUICK_RATE = 1 << 20
"""Bytes per second that count as usual before anything has been measured."""
SHORTEST_REST, LONGEST_REST = 0.25, 8.0
"""Bounds of the seconds that a busy or late donor is left alone."""
REMEMBERED = 15
"""Chunks whose times make up what is usual."""


@dataclass(frozen=True, slots=True)
class CheckChunk:
    """Hold a chunk against its hash, away from the event loop."""

    index: int
    donor: PeerId
    payload: bytes
    hash: bytes

    def run(self) -> bool:
        """Whether the chunk is what the root promised."""
        return digest(self.payload) == self.hash


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to fetch: hash and exact length of every chunk, and when to give up (in the clock of ``now``)."""

    hashes: tuple[bytes, ...]
    lengths: tuple[int, ...]
    finish_by: float


@dataclass(frozen=True, slots=True)
class Fetched:
    """The end: ``chunks`` by index. Incomplete where all donors have left or time is up: hand it to the next attempt.

    ``liars`` sent chunks that do not hash to what they should: they are not to be asked again.
    """

    chunks: Mapping[int, bytes]
    complete: bool
    liars: frozenset[PeerId] = frozenset()


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """How far a download is: chunks and bytes that are here, of how many; the mean rate since it began; and the donors left."""

    chunks: int
    chunks_whole: int
    bytes: int
    bytes_whole: int
    bytes_per_second: float
    donors: int


@dataclass(slots=True)
class _Donor:
    owes: dict[int, float] = field(default_factory=dict)
    """When each chunk was asked for."""
    has_proven: bool = False
    seconds: float = 0.0
    """What its last chunk took."""
    trouble: int = 0
    """How often in a row it was busy or late."""
    rests_until: float = 0.0


class Download:
    """The machine. ``have``: chunks of an earlier attempt. `progress` is for people."""

    def __init__(
        self, wanted: Wanted, donors: Sequence[PeerId], have: Mapping[int, bytes] | None = None
    ) -> None:
        self._wanted = wanted
        self._donors = {donor: _Donor() for donor in donors}
        self._have: dict[int, bytes] = dict(have or {})
        self._liars: set[PeerId] = set()
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._had = self._bytes = sum(map(len, self._have.values()))
        self._began = 0.0
        self._alarm: float | None = None

    def progress(self, now: float) -> DownloadProgress:
        """How far it is."""
        rate = (self._bytes - self._had) / max(1e-3, now - self._began)
        chunks, lengths = len(self._have), self._wanted.lengths
        return DownloadProgress(chunks, len(lengths), self._bytes, sum(lengths), rate, len(self._donors))

    def start(self, now: float) -> Iterable[Command]:
        """Ask every donor at once."""
        self._began = now
        yield from self._go_on(now)

    def handle(self, event: Event, now: float) -> Iterable[Command]:
        """Keep what holds, drop who lies or leaves, ask on."""
        match event:
            case Delivered(sender, item, payload) if sender in self._donors:
                yield from self._take(self._donors[sender], int(item), sender, bytes(payload), now)
            case Computed(CheckChunk(index, donor, payload, _), ok):
                yield from self._judge(index, donor, payload, bool(ok))
            case Unreached(peer, item, code) if peer in self._donors:
                self._miss(peer, int(item or -1), code, now)
        yield from self._go_on(now)

    def _take(
        self, donor: _Donor, index: int, sender: PeerId, payload: bytes, now: float
    ) -> Iterator[Command]:
        asked = donor.owes.get(index)
        if asked is not None:
            donor.seconds = now - asked
            self._seconds.append(donor.seconds)
        if index in self._have:  # another donor was faster
            donor.owes.pop(index, None)
            donor.trouble = 0
        else:
            yield Compute(CheckChunk(index, sender, payload, self._wanted.hashes[index]))

    def _judge(self, index: int, peer: PeerId, payload: bytes, ok: bool) -> Iterator[Command]:
        if not ok:
            if self._donors.pop(peer, None):
                self._liars.add(peer)
                yield Report(
                    "bad-chunk",
                    "sent a chunk that is not what it should be; nothing more is asked of it",
                    peer,
                )
            return
        if index not in self._have:
            self._have[index] = payload
            self._bytes += len(payload)
        if donor := self._donors.get(peer):
            donor.owes.pop(index, None)
            donor.has_proven, donor.trouble = True, 0

    def _miss(self, peer: PeerId, index: int, code: str, now: float) -> None:
        """Who is busy or late may rest; anything else that goes wrong is a donor that has left, or has moved on."""
        if code not in (Busy.code, TooLate.code):
            del self._donors[peer]
            return
        donor = self._donors[peer]
        donor.owes.pop(index, None)
        if now >= donor.rests_until:  # what was under way together is one trouble
            donor.rests_until = now + min(LONGEST_REST, SHORTEST_REST * 2**donor.trouble)
            donor.trouble = min(donor.trouble + 1, 8)

    # --- asking ---------------------------------------------------------------------------------------------

    def _go_on(self, now: float) -> Iterator[Command]:
        missing = [index for index in range(len(self._wanted.hashes)) if index not in self._have]
        if not missing or not self._donors or now >= self._wanted.finish_by:
            yield Finish(Fetched(self._have, not missing, frozenset(self._liars)))
            return
        fresh = iter([index for index in missing if index not in self._asked()])
        awake = [(peer, donor) for peer, donor in self._donors.items() if donor.rests_until <= now]
        for peer, donor in awake:
            while len(donor.owes) < self._room(donor) and (index := next(fresh, None)) is not None:
                yield self._ask(peer, donor, index, now)
        for peer, donor in awake:
            if not donor.owes and (late := self._overdue(now)) is not None:
                yield self._ask(peer, donor, late, now)
        yield from self._wake(now, someone_is_idle=any(not donor.owes for _, donor in awake))

    def _room(self, donor: _Donor) -> int:
        """Chunks that it may owe us."""
        return max(PIPELINE, UNDER_WAY // len(self._donors)) if donor.has_proven and not donor.trouble else 1

    def _ask(self, peer: PeerId, donor: _Donor, index: int, now: float) -> Fetch:
        length = self._wanted.lengths[index]
        donor.owes[index] = now
        usual = (
            max(MARGIN * max(self._usual(length), donor.seconds), PATIENCE)
            if self._seconds
            else PATIENCE + length / SLOWEST_RATE
        )
        return Fetch(peer, str(index), length, min(self._wanted.finish_by, now + usual * 2**donor.trouble))

    def _asked(self) -> dict[int, float]:
        """When each missing chunk that is under way was asked for last."""
        asked: dict[int, float] = {}
        for donor in self._donors.values():
            for index, at in donor.owes.items():
                if index not in self._have:
                    asked[index] = max(at, asked.get(index, at))
        return asked

    def _usual(self, length: int) -> float:
        return median(self._seconds) if self._seconds else 1.0 + length / QUICK_RATE

    def _overdue_at(self) -> dict[int, float]:
        """When each chunk under way becomes worth a second request."""
        return {
            index: at + OVERTIME * self._usual(self._wanted.lengths[index])
            for index, at in self._asked().items()
        }

    def _overdue(self, now: float) -> int | None:
        """The chunk that should have been here longest; None where all are in time."""
        index, at = min(self._overdue_at().items(), key=lambda each: (each[1], each[0]), default=(0, now + 1))
        return index if at <= now else None

    def _wake(self, now: float, *, someone_is_idle: bool) -> Iterator[Command]:
        """At the end of a rest, when a chunk is overdue for idle donors, and at the end of it all; whichever is next."""
        times = [self._wanted.finish_by, *(donor.rests_until for donor in self._donors.values())]
        times += self._overdue_at().values() if someone_is_idle else ()
        alarm = min(time for time in times if time > now)
        if alarm != self._alarm:
            self._alarm = alarm
            yield WakeAt(alarm)
