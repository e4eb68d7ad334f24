"""The signed contact record of a peer (the addresses it listens on), and the address book of all contacts.

A signature proves who names an address, and not whose address it is: a peer may sign any address for itself.
So the book remembers who told it, and no word leads from the internet into a private network, or from there
to this computer:

Rule 1: an address is dialled only on the word of a teller that is as near, or, where nobody knows the teller,
        by a peer whose own addresses all are.
Rule 2: what a peer would not dial, it does not pass on: others may be nearer, and would take its word.
Rule 3: how much is dialled on whose word has a limit (`swarm.transport.dials`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import ClassVar

import msgspec

from ..bounded import LeastRecentlyUsed
from ..errors import Malformed, TheirFault
from ..hosts import Nearness, group_of, nearness, share_of
from ..identity import KeyPair, PeerId
from ..ticket import Address, Entry, is_host
from ..wire import Kind, Message, Signed, Stamp, open_frame, pack, seal

CONTACT_BYTES = 2048
"""Bytes of the largest contact record."""

BOOK_LIMIT = 4096
"""Most peers in the address book; beyond it the contact that was heard of longest ago is dropped."""

BOOK_SHARE = 1024
"""Most peers in the address book on the word of one teller, or of all behind one public address."""

NOBODY = PeerId("")
"""The owner of a book that belongs to no peer."""

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


@dataclass(frozen=True, slots=True)
class Teller:
    """The peer that told us an address, and the IP address that it called from or answered at.

    ``host`` is empty where there is none, as in a rehearsal.
    """

    peer: PeerId
    host: str = ""

    @property
    def share(self) -> str:
        """With whom it shares what may be dialled on its word."""
        return share_of(self.peer, self.host)

    @property
    def nearness(self) -> Nearness:
        """Where it is."""
        return nearness(self.host) if self.host else Nearness.HERE


@dataclass(frozen=True, slots=True)
class _Known:
    """A contact, who told it, and how near the nearest of its tellers was. The signer is the best teller."""

    signed: Signed[Contact]
    teller: Teller | None
    nearness: Nearness

    @property
    def share(self) -> str:
        """With whom its teller shares; empty where nobody knows the teller."""
        return self.teller.share if self.teller else ""

    @property
    def speaks_for_itself(self) -> bool:
        """Whether the signer has told us."""
        return self.teller is not None and self.teller.peer == self.signed.signer

    @property
    def addresses(self) -> list[Address]:
        """All its addresses; those at which the signer itself has called come first.

        A stranger's address before its own would tell it how long we waited there.
        """
        own = group_of(self.teller.host) if self.teller and self.speaks_for_itself else ""
        found = [Address(host, port) for host, port in self.signed.message.addresses]
        return sorted(found, key=lambda address: group_of(address.host) != own)


class Contacts:
    """The address book: the newest signed contact of every peer, and the entries of the ticket."""

    def __init__(self, run: bytes, entries: tuple[Entry, ...] = (), me: PeerId = NOBODY) -> None:
        """``me``: the peer that owns the book."""
        self._run = run
        self._me = me
        self._entries = {entry.peer: entry.address for entry in entries}
        self._known: OrderedDict[PeerId, _Known] = OrderedDict()
        """In the order in which the peers were heard of."""
        self._told: Counter[str] = Counter()
        """How many of them are here on the word of each share."""
        self._answered_at: LeastRecentlyUsed[PeerId, str] = LeastRecentlyUsed(BOOK_LIMIT)
        """The IP addresses at which peers have answered."""

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, raw: bytes, teller: Teller | None = None) -> Signed[Contact]:
        """Check a contact record from any peer and `keep` it. Raises the errors of `open_frame`."""
        signed = open_contact(bytes(raw), self._run)
        self.keep(signed, teller)
        return signed

    def keep(self, signed: Signed[Contact], teller: Teller | None = None) -> None:
        """Note that we heard of the signer from ``teller``, and replace its contact if this one is newer."""
        told_from = teller.nearness if teller else self._nearness
        known = self._known.get(signed.signer)
        if known is None or signed.stamp.seq > known.signed.stamp.seq:
            self._put(_Known(signed, teller, told_from))
        elif signed.raw == known.signed.raw:
            speaks_for_itself = teller is not None and teller.peer == signed.signer
            best = teller if speaks_for_itself or known.teller is None else known.teller
            self._put(_Known(signed, best, max(known.nearness, told_from)))
        else:
            self._known.move_to_end(signed.signer)

    def _put(self, known: _Known) -> None:
        """Note a contact as the newest one.

        Where its share of the book is full, it takes the place of the oldest contact on the same word: nobody
        can fill the book with names that it has made up.
        """
        signer = known.signed.signer
        share = known.share
        if signer in self._known:
            self._drop(signer)
        if share and self._told[share] >= BOOK_SHARE:
            self._drop(next(peer for peer, other in self._known.items() if other.share == share))
        elif len(self._known) >= BOOK_LIMIT:
            self._drop(next(iter(self._known)))
        self._known[signer] = known
        self._told[share] += 1

    def _drop(self, peer: PeerId) -> None:
        share = self._known.pop(peer).share
        self._told[share] -= 1
        if not self._told[share]:
            del self._told[share]

    def learn_all(self, records: list[bytes], teller: Teller | None = None) -> int:
        """Keep the valid ones of ``records``. Returns how many were invalid, which is the sender's fault."""
        wrong = 0
        for raw in records:
            try:
                self.learn(raw, teller)
            except TheirFault:
                wrong += 1
        return wrong

    def record(self, peer: PeerId) -> bytes | None:
        """The signed contact record of ``peer``, to pass on; None where there is none, or none to pass on."""
        known = self._known.get(peer)
        return known.signed.raw if known and self._may_pass_on(known) else None

    def records(self, at_most: int) -> list[bytes]:
        """The ``at_most`` contact records of the peers that were heard of last, the latest at the end."""
        latest = (known.signed.raw for known in reversed(self._known.values()) if self._may_pass_on(known))
        return list(islice(latest, at_most))[::-1]

    def peers(self) -> list[PeerId]:
        """All peers with a contact, the latest heard of first."""
        return list(reversed(self._known))

    def addresses(self, peer: PeerId) -> tuple[Address, ...]:
        """Where to dial ``peer``: first its own contact, then the ticket. Empty where no address is known."""
        known = self._known.get(peer)
        named = known.addresses if known else []
        found = [address for address in named if known and self._may_dial(known, address.host)]
        entry = self._entries.get(peer)
        if entry and entry not in found:
            found.append(entry)
        return tuple(found)

    def allows(self, peer: PeerId, address: Address, host: str) -> bool:
        """Whether ``peer`` may be dialled at the IP address ``host``, which ``address`` of it stands for."""
        known = self._known.get(peer)
        return self.is_entry(peer, address) or (known is not None and self._may_dial(known, host))

    def is_entry(self, peer: PeerId, address: Address) -> bool:
        """Whether the ticket names ``address`` for ``peer``: a person's word, and no stranger's."""
        return self._entries.get(peer) == address

    def is_at(self, peer: PeerId, host: str) -> bool:
        """Whether ``peer``, which calls from ``host``, names no other computer on the internet."""
        return all(
            self.is_entry(peer, address)
            or nearness(address.host) > Nearness.INTERNET
            or group_of(address.host) == group_of(host)
            for address in self.addresses(peer)
        )

    def share(self, peer: PeerId) -> str:
        """On whose word ``peer`` has its addresses; empty where nobody knows."""
        known = self._known.get(peer)
        return known.share if known else ""

    def teller(self, peer: PeerId) -> Teller:
        """``peer`` as one that has just answered us."""
        return Teller(peer, self._answered_at.get(peer, ""))

    def note_answer(self, peer: PeerId, host: str) -> None:
        """Note that ``peer`` answers at the IP address ``host``."""
        self._answered_at[peer] = host

    @property
    def _nearness(self) -> Nearness:
        """How near all our own addresses are, as far as we know them."""
        own = self._known.get(self._me)
        hosts = [host for host, _ in own.signed.message.addresses] if own else []
        return min(map(nearness, hosts), default=Nearness.HERE)

    def _may_dial(self, known: _Known, host: str) -> bool:
        return known.signed.signer == self._me or nearness(host) <= known.nearness

    def _may_pass_on(self, known: _Known) -> bool:
        return all(self._may_dial(known, host) for host, _ in known.signed.message.addresses)

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
