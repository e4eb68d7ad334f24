"""The shelf that a DHT node keeps other peers' records on, in the place of hivemind's own.

hivemind decides what is newer by the expiry that the sender claims, and lets a store that it *refuses* shorten the life of
the record that it keeps. Here newer is what its signer says, (round, seq), and what is refused changes nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..errors import TheirFault
from ..identity import PeerId
from ..wire import Message, Signed
from .records import OWNERS_LIMIT, Topics, pack_bundle, unpack_bundle, version

HELD_LIMIT = 4 * 1024 * 1024
"""Bytes kept under all keys together, so that whatever a node holds fits one message to a newcomer."""

_OVERHEAD = 16
"""Bytes that a record costs in a bundle beside its frame, at most."""


class Held(NamedTuple):
    """A record and when it ends, in the storage's own clock."""

    signed: Signed[Message]
    until: float


class Item(NamedTuple):
    """What hivemind reads of a stored value. Its expiry is always 0: the lives stand in the bundle, in seconds to go."""

    value: bytes
    expiration_time: float = 0.0


class RecordStorage:
    """Newest valid record of every signer under every key of the run's topics; has the four methods that hivemind calls.

    ``clock`` counts seconds from anywhere; nothing of it ever leaves this object but differences. ``refused`` counts, by error
    code, what strangers tried to store.
    """

    def __init__(self, topics: Topics, clock: Callable[[], float] = time.monotonic) -> None:
        self._topics = topics
        self._clock = clock
        self._shelves: dict[int, dict[PeerId, Held]] = {}
        self._bytes: Counter[int] = Counter()
        self._room = HELD_LIMIT // max(1, len(topics))
        self.refused: Counter[str] = Counter()

    def store(self, key: int, value: bytes, expiration_time: float = 0.0, subkey: object = None) -> bool:
        """Keep what holds of the bundle ``value``; reading ends at the first record that does not: an honest node has none.

        True where at least one of its records is now kept (also where it was before); ``expiration_time`` is not believed.
        """
        kept = False
        try:
            records = unpack_bundle(value)
            self._drop_expired(key)
            for frame, seconds in records:
                kept |= self._keep(key, self._topics.open(key, frame), seconds)
        except TheirFault as fault:
            self.refused[fault.code] += 1
        return kept

    def store_subkey(self, key: int, subkey: object, value: bytes, expiration_time: float) -> bool:
        """Refused: a record's owner is its signer, not whoever a sub-key names."""
        self.refused["malformed"] += 1
        return False

    def get(self, key: int) -> Item | None:
        """The bundle under ``key``, with the seconds that each record has left; None where nothing lives."""
        self._drop_expired(key)
        shelf, now = self._shelves.get(key), self._clock()
        return (
            Item(pack_bundle((held.signed.raw, held.until - now) for held in shelf.values()))
            if shelf
            else None
        )

    def items(self) -> Iterator[tuple[int, Item]]:
        """Every key that holds something, with its bundle: what hivemind hands over to a newcomer."""
        for key in list(self._shelves):
            if item := self.get(key):
                yield key, item

    def records(self, key: int) -> list[Signed[Message]]:
        """The living records under ``key``."""
        self._drop_expired(key)
        return [held.signed for held in self._shelves.get(key, {}).values()]

    def _keep(self, key: int, signed: Signed[Message], seconds: float) -> bool:
        """An older record is refused; the same one again is fine but lives no longer, else a replay could keep the dead alive.

        A full shelf keeps whom it knows: a flood of fresh identities cannot push anybody out.
        """
        shelf = self._shelves.setdefault(key, {})
        known = shelf.get(signed.signer)
        if known and version(known.signed) >= version(signed):
            return version(known.signed) == version(signed)
        grown = self._bytes[key] + _cost(signed) - (_cost(known.signed) if known else 0)
        full = not known and len(shelf) >= OWNERS_LIMIT
        if not seconds or full or grown > self._room:
            self.refused["busy" if seconds else "late"] += 1
            return False
        shelf[signed.signer], self._bytes[key] = Held(signed, self._clock() + seconds), grown
        return True

    def _drop_expired(self, key: int) -> None:
        now, shelf = self._clock(), self._shelves.get(key, {})
        for peer in [peer for peer, held in shelf.items() if held.until <= now]:
            self._bytes[key] -= _cost(shelf.pop(peer).signed)


def _cost(signed: Signed[Message]) -> int:
    return len(signed.raw) + _OVERHEAD
