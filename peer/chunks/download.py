"""Fetch content that is known by its hashes from several peers at once: a state, or the training text.

    hashes of all chunks ──► ask each donor for the next chunk ──► check it ──► keep it, or ask another donor

Rule 1: A chunk that does not match its hash costs its sender all further requests, and never costs us the
        download. Until its first chunk has been checked, a donor has one request at a time: a liar wastes
        one chunk of our link, not a full pipeline.
Rule 2: A donor that leaves does no harm as long as one is left; chunks that are here stay here. A donor that
        is busy is asked again later.
Rule 3: Every request has a deadline that follows from how long chunks have taken. A chunk that is late is
        asked of another donor; the late donor gets more time and fewer requests, but is not punished.
Rule 4: When every missing chunk has been asked for, idle donors are asked for chunks that are overdue: the
        slowest donor does not set the pace, and nothing is fetched twice without need.

The state of each donor, and what it becomes ("rested": as soon as its rest is over):

    donor      requests at once       good chunk         bad chunk     busy or late           other failure
    new        1                      proven             out, a liar   resting                out
    proven     `PIPELINE` or more     proven             out, a liar   resting                out
    resting    0, then 1              proven, rested     out, a liar   resting, twice as long out
    out        0                      kept               ignored       ignored                ignored

What the download does on each event:

    start               ask
    Delivered           check the chunk; drop it if it is here already; then ask
    Computed            good: keep the chunk. Bad: report its sender. Then ask
    Unreached, Woken    ask
    ask                 `Finish` where all chunks are here, no donor is left, or time is up. Otherwise `Fetch`
                        what the donors may be asked for, and `WakeAt` the next time when that changes
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
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

UNDER_WAY = 8
"""Requests at once, shared by the donors. One long link with loss wants several; with many donors each has
few, so that little is wasted when one leaves."""
PIPELINE = 2
"""Requests at once to each proven donor, at least, so that its link does not idle between two chunks."""
MIN_TIMEOUT = 10.0
"""Least seconds for a chunk, however fast others were: a donor may be busy with averaging."""
SLOWEST_RATE = 1 << 16
"""Bytes per second: a donor gets time for this rate before anything has been measured."""
TIMEOUT_FACTOR = 4.0
"""A request may take this many times as long as chunks usually take."""
OVERDUE_FACTOR = 2.0
"""After this many times the usual time, an idle donor is asked for the same chunk."""
USUAL_RATE = 1 << 20
"""Bytes per second that count as usual before anything has been measured."""
SHORTEST_REST = 0.25
"""Seconds before a busy or late donor is asked again; doubled each time in a row."""
LONGEST_REST = 8.0
"""Seconds of the longest rest."""
REMEMBERED = 15
"""The usual time is the median of this many latest chunks."""


@dataclass(frozen=True, slots=True)
class CheckChunk:
    """Compare a chunk with its hash, away from the event loop."""

    index: int
    donor: PeerId
    payload: bytes
    hash: bytes

    def run(self) -> bool:
        """Whether the chunk has the hash that the root promises."""
        return digest(self.payload) == self.hash


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to fetch: hash and exact length of every chunk, and when to give up (in the clock of ``now``)."""

    hashes: tuple[bytes, ...]
    lengths: Sequence[int]
    finish_by: float


@dataclass(frozen=True, slots=True)
class Fetched:
    """The outcome: ``chunks`` by index. Incomplete where all donors have left or time is up; the next attempt
    can start with these chunks.

    ``liars`` sent chunks that do not match their hash; nothing should be asked of them again.
    """

    chunks: Mapping[int, bytes]
    complete: bool
    liars: frozenset[PeerId] = frozenset()


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """How far a download is."""

    chunks: int
    """Chunks that are here."""
    chunks_whole: int
    """Chunks of the whole content."""
    bytes: int
    """Bytes that are here."""
    bytes_per_second: float
    """Mean rate since this attempt began."""
    donors: int
    """Donors that are left."""


@dataclass(slots=True)
class _Donor:
    requests: dict[int, float] = field(default_factory=dict)
    """When each chunk that is under way was asked for."""
    is_proven: bool = False
    """Whether it has sent a good chunk."""
    seconds: float = 0.0
    """What its last chunk took."""
    failures: int = 0
    """How often in a row it was busy or late."""
    rests_until: float = 0.0


class Download:
    """The machine. ``have`` are chunks of an earlier attempt."""

    def __init__(
        self, wanted: Wanted, donors: Sequence[PeerId], have: Mapping[int, bytes] | None = None
    ) -> None:
        self._wanted = wanted
        self._donors = {donor: _Donor() for donor in donors}
        self._have: dict[int, bytes] = dict(have or {})
        self._next = 0
        """The chunks before this one are here, or have been asked for."""
        self._returned: list[int] = []
        """A heap of chunks for which a request has failed. Each is asked for again, unless another donor has
        been asked for it meanwhile."""
        self._liars: set[PeerId] = set()
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._bytes_before = sum(map(len, self._have.values()))
        self._bytes = self._bytes_before
        self._began = 0.0
        self._wake_at: float | None = None

    def progress(self, now: float) -> DownloadProgress:
        """How far the download is, for people to see."""
        return DownloadProgress(
            chunks=len(self._have),
            chunks_whole=len(self._wanted.lengths),
            bytes=self._bytes,
            bytes_per_second=(self._bytes - self._bytes_before) / max(1e-3, now - self._began),
            donors=len(self._donors),
        )

    def start(self, now: float) -> Iterable[Command]:
        """Ask every donor for a chunk."""
        self._began = now
        yield from self._ask(now)

    def handle(self, event: Event, now: float) -> Iterable[Command]:
        """Check or keep the chunk that has come, drop the donor that has failed, and ask for more."""
        match event:
            case Delivered(sender, item, payload) if sender in self._donors:
                yield from self._on_chunk(sender, int(item), bytes(payload), now)
            case Computed(CheckChunk() as check, is_good):
                yield from self._on_checked(check, is_good=bool(is_good))
            case Unreached(peer, item, code) if peer in self._donors:
                self._on_failure(peer, int(item or -1), code, now)
        yield from self._ask(now)

    # --- what comes back ------------------------------------------------------------------------------------

    def _on_chunk(self, sender: PeerId, index: int, payload: bytes, now: float) -> Iterator[Command]:
        donor = self._donors[sender]
        asked_at = donor.requests.get(index)
        if asked_at is not None:
            donor.seconds = now - asked_at
            self._seconds.append(donor.seconds)
        if index in self._have:  # another donor was faster
            donor.requests.pop(index, None)
            donor.failures = 0
        else:
            yield Compute(CheckChunk(index, sender, payload, self._wanted.hashes[index]))

    def _on_checked(self, check: CheckChunk, *, is_good: bool) -> Iterator[Command]:
        if not is_good:
            if check.donor in self._donors:
                self._drop(check.donor)
                self._liars.add(check.donor)
                yield Report(
                    "bad-chunk",
                    "sent a chunk that is not what it should be; nothing more is asked of it",
                    check.donor,
                )
            return

        if check.index not in self._have:
            self._have[check.index] = check.payload
            self._bytes += len(check.payload)
        donor = self._donors.get(check.donor)
        if donor is not None:
            donor.requests.pop(check.index, None)
            donor.is_proven = True
            donor.failures = 0

    def _on_failure(self, peer: PeerId, index: int, code: str, now: float) -> None:
        """Let a donor rest that was busy or late. Drop it for any other error: it has left or moved on."""
        if code not in (Busy.code, TooLate.code):
            self._drop(peer)
            return
        donor = self._donors[peer]
        if donor.requests.pop(index, None) is not None:
            heappush(self._returned, index)
        if now >= donor.rests_until:  # requests that were under way together count as one failure
            donor.rests_until = now + min(LONGEST_REST, SHORTEST_REST * 2**donor.failures)
            donor.failures = min(donor.failures + 1, 8)

    def _drop(self, peer: PeerId) -> None:
        """Ask nothing more of a donor; the chunks that it owes may be asked of the others."""
        for index in self._donors.pop(peer).requests:
            heappush(self._returned, index)

    # --- asking ---------------------------------------------------------------------------------------------

    def _ask(self, now: float) -> Iterator[Command]:
        """`Finish`, or the next requests and the time of the next wake-up."""
        is_complete = len(self._have) == len(self._wanted.hashes)
        if is_complete or not self._donors or now >= self._wanted.finish_by:
            yield Finish(Fetched(self._have, is_complete, frozenset(self._liars)))
            return
        awake = {peer: donor for peer, donor in self._donors.items() if donor.rests_until <= now}
        yield from self._ask_for_new(awake, now)
        yield from self._ask_for_overdue(awake, now)
        has_idle_donor = any(not donor.requests for donor in awake.values())
        yield from self._wake(now, has_idle_donor=has_idle_donor)

    def _ask_for_new(self, awake: Mapping[PeerId, _Donor], now: float) -> Iterator[Command]:
        """Requests for chunks that no donor has been asked for, as many as each donor may have."""
        for peer, donor in awake.items():
            while len(donor.requests) < self._allowed_requests(donor):
                index = self._next_unasked()
                if index is None:
                    return
                yield self._request(peer, donor, index, now)

    def _next_unasked(self) -> int | None:
        """The first chunk that is neither here nor asked of a donor; None where there is no such chunk.

        Large content has a million chunks, so this does not look at all of them again at each event.
        """
        while self._returned or self._next < len(self._wanted.hashes):
            if self._returned:
                index = heappop(self._returned)
            else:
                index = self._next
                self._next += 1
            if index not in self._have and not self._is_under_way(index):
                return index
        return None

    def _is_under_way(self, index: int) -> bool:
        return any(index in donor.requests for donor in self._donors.values())

    def _ask_for_overdue(self, awake: Mapping[PeerId, _Donor], now: float) -> Iterator[Command]:
        """One request of each idle donor for a chunk that another donor owes for too long."""
        for peer, donor in awake.items():
            if not donor.requests and (index := self._most_overdue(now)) is not None:
                yield self._request(peer, donor, index, now)

    def _allowed_requests(self, donor: _Donor) -> int:
        if not donor.is_proven or donor.failures:
            return 1
        return max(PIPELINE, UNDER_WAY // len(self._donors))

    def _request(self, peer: PeerId, donor: _Donor, index: int, now: float) -> Fetch:
        length = self._wanted.lengths[index]
        donor.requests[index] = now
        if self._seconds:
            timeout = max(TIMEOUT_FACTOR * max(self._usual_seconds(length), donor.seconds), MIN_TIMEOUT)
        else:
            timeout = MIN_TIMEOUT + length / SLOWEST_RATE
        by = min(self._wanted.finish_by, now + timeout * 2**donor.failures)
        return Fetch(peer, str(index), length, by)

    # --- time -----------------------------------------------------------------------------------------------

    def _asked_at(self) -> dict[int, float]:
        """When each missing chunk that is under way was last asked for."""
        asked: dict[int, float] = {}
        for donor in self._donors.values():
            for index, at in donor.requests.items():
                if index not in self._have:
                    asked[index] = max(at, asked.get(index, at))
        return asked

    def _usual_seconds(self, length: int) -> float:
        return median(self._seconds) if self._seconds else 1.0 + length / USUAL_RATE

    def _overdue_at(self) -> dict[int, float]:
        """When each chunk under way becomes worth a second request."""
        return {
            index: at + OVERDUE_FACTOR * self._usual_seconds(self._wanted.lengths[index])
            for index, at in self._asked_at().items()
        }

    def _most_overdue(self, now: float) -> int | None:
        """The chunk that has been overdue for longest; None where all are in time."""
        overdue = [(at, index) for index, at in self._overdue_at().items() if at <= now]
        return min(overdue)[1] if overdue else None

    def _wake(self, now: float, *, has_idle_donor: bool) -> Iterator[Command]:
        """Wake up when a rest ends, when an idle donor could fetch an overdue chunk, or at the end."""
        times = [self._wanted.finish_by, *(donor.rests_until for donor in self._donors.values())]
        if has_idle_donor:
            times += self._overdue_at().values()
        wake_at = min(time for time in times if time > now)
        if wake_at != self._wake_at:
            self._wake_at = wake_at
            yield WakeAt(wake_at)
