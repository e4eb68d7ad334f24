"""Where a peer can be dialled, in its own signed words, and the book every peer keeps of them."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from typing import ClassVar

import msgspec

from ..errors import Malformed, TheirFault
from ..identity import KeyPair, PeerId
from ..ticket import Address, Entry
from ..wire import Kind, Message, Signed, Stamp, open_frame, pack, seal

_RECORDS = msgspec.msgpack.Decoder(list[bytes])

CONTACT_BYTES = 2048
BOOK_LIMIT = 4096
"""Peers remembered; beyond it the one that was heard of longest ago is forgotten."""


class Contact(Message, frozen=True):
    """The addresses a peer listens on, best first; ``seq`` of the frame says which contact of a peer is the newest."""

    kind: ClassVar[Kind] = Kind.CONTACT

    addresses: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        if len(self.addresses) > 4 or any(
            not (1 <= len(h) <= 253 and 1 <= p < 1 << 16) for h, p in self.addresses
        ):
            raise ValueError("at most 4 addresses, each a host and a port")


@lru_cache(maxsize=BOOK_LIMIT)
def open_contact(raw: bytes, run: bytes) -> Signed[Contact]:
    """A contact record from anybody, checked. Raises the faults of `open_frame`. Remembered: everybody hands on everybody's, and
    hundreds of rehearsed peers share one."""
    return open_frame(raw, Contact, run=run, limit=CONTACT_BYTES)


class Contacts:
    """The address book: the newest signed contact of every peer, and the entries of the ticket."""

    def __init__(self, run: bytes, entries: tuple[Entry, ...] = ()) -> None:
        self._run = run
        self._entries = {entry.peer: entry.address for entry in entries}
        self._known: OrderedDict[PeerId, Signed[Contact]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, raw: bytes) -> Signed[Contact]:
        """Check a contact record from anybody and keep it if it is newer. Raises the faults of `open_frame`."""
        signed = open_contact(bytes(raw), self._run)
        self.keep(signed)
        return signed

    def keep(self, signed: Signed[Contact]) -> None:
        """Keep a contact record that has been opened, if it is newer."""
        known = self._known.get(signed.signer)
        if known is None or signed.stamp.seq > known.stamp.seq:
            self._known[signed.signer] = signed
            while len(self._known) > BOOK_LIMIT:
                self._known.popitem(last=False)
        self._known.move_to_end(signed.signer)

    def learn_all(self, records: list[bytes]) -> int:
        """Keep those of ``records`` that hold; the number of those that did not (the carrier's fault, not ours)."""
        wrong = 0
        for raw in records:
            try:
                self.learn(raw)
            except TheirFault:
                wrong += 1
        return wrong

    def record(self, peer: PeerId) -> bytes | None:
        """The signed contact record of ``peer``, to hand on; None where none is known."""
        known = self._known.get(peer)
        return known.raw if known else None

    def records(self, at_most: int) -> list[bytes]:
        """The ``at_most`` contact records that were heard of last."""
        return [signed.raw for signed in list(self._known.values())[-at_most:]]

    def peers(self) -> list[PeerId]:
        """Everybody in the book, those heard of last first."""
        return list(reversed(self._known))

    def addresses(self, peer: PeerId) -> tuple[Address, ...]:
        """Where to dial ``peer``: its own words first, then the ticket's. Empty where nobody has told us."""
        known = self._known.get(peer)
        found = [Address(host, port) for host, port in known.message.addresses] if known else []
        entry = self._entries.get(peer)
        if entry and entry not in found:
            found.append(entry)
        return tuple(found)

    def entries(self, first: PeerId, at_most: int) -> tuple[Entry, ...]:
        """Entries for a fresh ticket: ``first``, then others that were heard of last."""
        order = [first, *(peer for peer in reversed(self._known) if peer != first)]
        dialable = [(peer, self.addresses(peer)) for peer in order]
        return tuple(Entry(peer, addresses[0]) for peer, addresses in dialable if addresses)[:at_most]


def pack_records(records: list[bytes]) -> bytes:
    """Sealed contacts as one piece, for a file."""
    return pack(records)


def unpack_records(raw: bytes) -> list[bytes]:
    """What `pack_records` packed, unopened: `Contacts.learn_all` checks each. Raises `Malformed`."""
    try:
        return _RECORDS.decode(raw)
    except msgspec.DecodeError as error:
        raise Malformed(f"not a list of contacts: {error}") from error


def seal_contact(key: KeyPair, run: bytes, addresses: tuple[Address, ...], seq: int) -> bytes:
    """Our own contact record, ready to hand out."""
    pairs = tuple((address.host, address.port) for address in addresses)
    return seal(key, Contact(pairs), Stamp(run, seq=seq))
