"""Fetch content that is known by its hashes from several peers at once: the model's state, or the training text.

    hashes of all chunks ──► each donor is asked for the next chunk nobody has asked for ──► checked ──► kept, or asked of another

Rule 1: a chunk that does not hash to what the root says costs its sender the rest of the work, never us the download.
Rule 2: a donor that leaves is a non-event as long as one is left; what is kept stays kept.
Rule 3: when the queue is empty, idle donors are asked for what slow ones still owe, so the slowest donor does not set the pace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from swarm.identity import PeerId
from swarm.machine import Command, Compute, Computed, Delivered, Event, Fetch, Finish, Report, Unreached, WakeAt

PIPELINE = 2
"""Chunks under way per donor: one travels while the next is being asked for."""


@dataclass(frozen=True, slots=True)
class CheckChunk:
    """Hold a chunk against its hash, away from the event loop."""

    index: int
    donor: PeerId
    payload: bytes
    hash: bytes

    def run(self) -> bool:
        """Whether the chunk is what the root promised."""
        return hashlib.sha256(self.payload).digest() == self.hash


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to fetch: hash and exact length of every chunk, and when to give up (in the clock of ``now``)."""

    hashes: tuple[bytes, ...]
    lengths: tuple[int, ...]
    finish_by: float


@dataclass(frozen=True, slots=True)
class Fetched:
    """The end: ``chunks`` by index. Incomplete where all donors have left or time is up: hand it to the next attempt."""

    chunks: Mapping[int, bytes]
    complete: bool


@dataclass(slots=True)
class _Donor:
    owes: set[int] = field(default_factory=set)


class CatchUp:
    """The machine. ``have``: chunks of an earlier attempt. ``progress`` counts chunks for people."""

    def __init__(self, wanted: Wanted, donors: Sequence[PeerId], have: Mapping[int, bytes] | None = None) -> None:
        self._wanted = wanted
        self._donors = {donor: _Donor() for donor in donors}
        self._have: dict[int, bytes] = dict(have or {})

    @property
    def progress(self) -> tuple[int, int]:
        """(chunks that are here, chunks in all)."""
        return len(self._have), len(self._wanted.hashes)

    def start(self, now: float) -> Iterable[Command]:
        """Ask every donor at once."""
        yield WakeAt(self._wanted.finish_by)
        yield from self._go_on(now)

    def handle(self, event: Event, now: float) -> Iterable[Command]:
        """Keep what holds, drop who fails, ask on."""
        match event:
            case Delivered(sender, item, payload) if sender in self._donors:
                index = int(item)
                yield Compute(CheckChunk(index, sender, payload, self._wanted.hashes[index]))
            case Computed(CheckChunk(index, donor, payload, _), ok):
                if ok:
                    self._have.setdefault(index, payload)
                    if donor in self._donors:
                        self._donors[donor].owes.discard(index)
                elif self._donors.pop(donor, None):
                    yield Report("bad-chunk", "sent a chunk that is not what it should be; nothing more is asked of it", donor)
            case Unreached(peer):
                self._donors.pop(peer, None)
        yield from self._go_on(now)

    def _go_on(self, now: float) -> Iterator[Command]:
        missing = [index for index in range(len(self._wanted.hashes)) if index not in self._have]
        if not missing or not self._donors or now >= self._wanted.finish_by:
            yield Finish(Fetched(self._have, not missing))
            return
        asked = {index for donor in self._donors.values() for index in donor.owes}
        fresh = iter([index for index in missing if index not in asked])
        for peer, donor in self._donors.items():
            while len(donor.owes) < PIPELINE:
                index = next(fresh, None)
                if index is None and not donor.owes:
                    index = next((late for late in reversed(missing) if late not in donor.owes), None)
                if index is None:
                    break
                donor.owes.add(index)
                yield Fetch(peer, str(index), self._wanted.lengths[index])
