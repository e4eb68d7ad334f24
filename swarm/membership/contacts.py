"""The signed contact record of a peer (the addresses it listens on), and the address book of all contacts."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import msgspec

from ..bounded import LeastRecentlyUsed
from ..errors import Malformed, TheirFault
from ..identity import KeyPair, PeerId
from ..ticket import Address, Entry, is_host
from ..wire import Kind, Message, Signed, Stamp, open_frame, pack, seal

CONTACT_BYTES = 2048
"""Bytes of the largest contact record."""

BOOK_LIMIT = 4096
"""Most peers in the address book; beyond it the contact that was heard of longest ago is dropped."""

ADDRESSES_LIMIT = 4
"""Most addresses of a peer."""

_RECORDS = msgspec.msgpack.Decoder(list[bytes])


class Contact(Message, frozen=True):
    """The addresses (host, port) that a peer listens on, best first.

    The contact with the highest ``seq`` in its stamp is the newest of a peer.
    """

    kind: ClassVar[Kind] = Kind.CONTACT

    addresses: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        are_valid = all(is_host(host) and 1 <= port < 1 << 16 for host, port in self.addresses)
        if not are_valid or len(self.addresses) > ADDRESSES_LIMIT:
            raise ValueError(f"at most {ADDRESSES_LIMIT} addresses, each a host and a port")


@lru_cache(maxsize=BOOK_LIMIT)
def open_contact(raw: bytes, run: bytes) -> Signed[Contact]:
    """Check a contact record from any peer. Raises the errors of `open_frame`.

    Results are cached: peers pass each other's contacts on, so the same record comes many times.
    """
    return open_frame(raw, Contact, run=run, limit=CONTACT_BYTES)


class Contacts:
    """The address book: the newest signed contact of every peer, and the entries of the ticket."""

    def __init__(self, run: bytes, entries: tuple[Entry, ...] = ()) -> None:
        self._run = run
        self._entries = {entry.peer: entry.address for entry in entries}
        self._known: LeastRecentlyUsed[PeerId, Signed[Contact]] = LeastRecentlyUsed(BOOK_LIMIT)
        """In the order in which the peers were heard of."""

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, raw: bytes) -> Signed[Contact]:
        """Check a contact record from any peer and `keep` it. Raises the errors of `open_frame`."""
        signed = open_contact(bytes(raw), self._run)
        self.keep(signed)
        return signed

    def keep(self, signed: Signed[Contact]) -> None:
        """Note that we heard of the signer, and replace its contact if this one is newer."""
        known = self._known.get(signed.signer)
        if known is None or signed.stamp.seq > known.stamp.seq:
            self._known[signed.signer] = signed
        else:
            self._known.touch(signed.signer)

    def learn_all(self, records: list[bytes]) -> int:
        """Keep the valid ones of ``records``. Returns how many were invalid, which is the sender's fault."""
        wrong = 0
        for raw in records:
            try:
                self.learn(raw)
            except TheirFault:
                wrong += 1
        return wrong

    def record(self, peer: PeerId) -> bytes | None:
        """The signed contact record of ``peer``, to pass on; None where none is known."""
        known = self._known.get(peer)
        return known.raw if known else None

    def records(self, at_most: int) -> list[bytes]:
        """The ``at_most`` contact records of the peers that were heard of last, the latest at the end."""
        return [signed.raw for signed in list(self._known.values())[-at_most:]]

    def peers(self) -> list[PeerId]:
        """All peers with a contact, the latest heard of first."""
        return list(reversed(self._known))

    def addresses(self, peer: PeerId) -> tuple[Address, ...]:
        """Where to dial ``peer``: first its own contact, then the ticket. Empty where no address is known."""
        known = self._known.get(peer)
        found = [Address(host, port) for host, port in known.message.addresses] if known else []
        entry = self._entries.get(peer)
        if entry and entry not in found:
            found.append(entry)
        return tuple(found)

    def entries(self, first: PeerId, at_most: int) -> tuple[Entry, ...]:
        """Entries for a fresh ticket: ``first``, then the peers heard of last. Each has an address."""
        order = [first, *(peer for peer in reversed(self._known) if peer != first)]
        dialable = [(peer, self.addresses(peer)) for peer in order]
        return tuple(Entry(peer, addresses[0]) for peer, addresses in dialable if addresses)[:at_most]


def pack_records(records: list[bytes]) -> bytes:
    """Contact records as the content of a file."""
    return pack(records)


def unpack_records(raw: bytes) -> list[bytes]:
    """The records in a file from `pack_records`, unchecked: `Contacts.learn_all` does. Raises `Malformed`."""
    try:
        return _RECORDS.decode(raw)
    except msgspec.DecodeError as error:
        raise Malformed(f"not a list of contacts: {error}") from error


def seal_contact(key: KeyPair, run: bytes, addresses: tuple[Address, ...], seq: int) -> bytes:
    """Our own contact record, signed with ``key``."""
    pairs = tuple((address.host, address.port) for address in addresses)
    return seal(key, Contact(pairs), Stamp(run, seq=seq))
