"""The storage in which a DHT node keeps other peers' records. It replaces hivemind's.

hivemind takes the record with the later expiry time for newer, and the sender may claim any. A store that it
refuses can even shorten the life of the record that it keeps. In this storage the signed (round, seq) says
which record is newer, and a refused record changes nothing.
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
"""Bytes kept under all keys together, so that all that a node holds fits into one message to a new peer."""

_OVERHEAD = 16
"""Most bytes that a record takes in a bundle besides its frame."""


class Held(NamedTuple):
    """A record, and the time in the storage's clock when it expires."""

    signed: Signed[Message]
    until: float


class Item(NamedTuple):
    """A stored value as hivemind reads it. Its expiry is always 0: the bundle has the seconds to live."""

    value: bytes
    expiration_time: float = 0.0


class RecordStorage:
    """Keeps the newest valid record of each signer under each key of the run's topics.

    It has the four methods of a storage that hivemind calls. ``clock`` counts seconds from any origin; only
    differences leave this object. ``refused`` counts, by error code, what strangers tried to store.
    """

    def __init__(self, topics: Topics, clock: Callable[[], float] = time.monotonic) -> None:
        self._topics = topics
        self._clock = clock
        self._held: dict[int, dict[PeerId, Held]] = {}
        self._bytes: Counter[int] = Counter()
        self._bytes_per_key = HELD_LIMIT // max(1, len(topics))
        self.refused: Counter[str] = Counter()

    def store(self, key: int, value: bytes, expiration_time: float = 0.0, subkey: object = None) -> bool:
        """Keep the records of the bundle ``value``, up to the first invalid one: an honest node sends none.

        True where at least one of the records is now kept, also where it was kept before.
        ``expiration_time`` is ignored.
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
        """Refuse: the signer of a record is its owner, not the name in a sub-key."""
        self.refused["malformed"] += 1
        return False

    def get(self, key: int) -> Item | None:
        """The bundle under ``key``, with the seconds that each record has left; None where it is empty."""
        self._drop_expired(key)
        held = self._held.get(key)
        if not held:
            return None
        now = self._clock()
        return Item(pack_bundle((record.signed.raw, record.until - now) for record in held.values()))

    def items(self) -> Iterator[tuple[int, Item]]:
        """Every key that has records, with its bundle. hivemind sends them to new peers."""
        for key in list(self._held):
            if item := self.get(key):
                yield key, item

    def records(self, key: int) -> list[Signed[Message]]:
        """The records under ``key`` that have not expired."""
        self._drop_expired(key)
        return [record.signed for record in self._held.get(key, {}).values()]

    def _keep(self, key: int, signed: Signed[Message], seconds: float) -> bool:
        """Keep ``signed`` for ``seconds``. Whether it, exactly, is kept now.

        An older record is refused. The same record again is no error but lives no longer, because it may be a
        replay. Where the storage is full, only signers that it knows are accepted: new identities, which cost
        nothing, push no one out.
        """
        held = self._held.setdefault(key, {})
        known = held.get(signed.signer)
        if known and version(known.signed) >= version(signed):
            return version(known.signed) == version(signed)

        size = self._bytes[key] + _cost(signed)
        if known:
            size -= _cost(known.signed)
        is_full = known is None and len(held) >= OWNERS_LIMIT
        if not seconds or is_full or size > self._bytes_per_key:
            self.refused["busy" if seconds else "late"] += 1
            return False
        held[signed.signer] = Held(signed, self._clock() + seconds)
        self._bytes[key] = size
        return True

    def _drop_expired(self, key: int) -> None:
        now = self._clock()
        held = self._held.get(key, {})
        expired = [peer for peer, record in held.items() if record.until <= now]
        for peer in expired:
            self._bytes[key] -= _cost(held.pop(peer).signed)


def _cost(signed: Signed[Message]) -> int:
    """Most bytes that ``signed`` takes in a bundle."""
    return len(signed.raw) + _OVERHEAD
