"""The ticket: the one string that a volunteer needs to join a run.

    ticket  = "swarm1" ‖ base64url( content ‖ checksum 4 )
    content = length of the secret 1 ‖ number of entries 1 ‖ run id 32 ‖ secret 0 or 16 ‖ entries
    entry   = peer id 32 ‖ port u16 (little-endian) ‖ length of the host 1 ‖ host

The checksum finds tickets that were cut short or typed wrong. A ticket has one spelling only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
import struct
from dataclasses import dataclass

from .errors import TicketError
from .identity import PeerId, digest_of, peer_id_from_digest

PREFIX = "swarm1"
MAX_ENTRIES = 8
"""Entries of a ticket; the string stays short enough for a mail or a chat."""

_HOST = re.compile(r"[A-Za-z0-9_.:%-]{1,253}")
_MAX_BYTES = 4096
_ADVICE = "copy the whole ticket, from 'swarm1' to its end, or ask the organiser for a fresh one"


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a peer listens. ``host`` is an IPv4 or IPv6 address or a DNS name of at most 253 characters."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port`` or ``[v6]:port``. Raises `ValueError`."""
        host, separator, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        is_port = port.isascii() and port.isdigit() and int(port) < 1 << 16
        if not (separator and is_port and 1 <= len(host) <= 253):
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(host, int(port))


def is_host(text: str) -> bool:
    """Whether ``text`` has only characters of IP addresses and DNS names.

    Strangers give addresses, and error messages show them: no other words may travel in them.
    """
    return _HOST.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Entry:
    """A peer to ask first, and where. The id is checked before anything is sent to that address."""

    peer: PeerId
    address: Address


@dataclass(frozen=True, slots=True)
class Ticket:
    """The run id (32 bytes), up to 8 entries, and a secret of 16 bytes (empty where anybody may join)."""

    run_id: bytes
    entries: tuple[Entry, ...]
    secret: bytes = b""

    def pack(self) -> str:
        """The ticket as one line of URL-safe characters with a checksum; about 100 for one entry."""
        raw = bytes([len(self.secret), len(self.entries)]) + self.run_id + self.secret
        for entry in self.entries:
            host = _pack_host(entry.address.host)
            raw += digest_of(entry.peer) + struct.pack("<HB", entry.address.port, len(host)) + host
        return PREFIX + _encode(raw + _checksum(raw))

    @classmethod
    def unpack(cls, text: str) -> Ticket:
        """Read a ticket that a person pasted; white space is ignored. Raises `TicketError` with an advice."""
        text = "".join(text.split())
        if not text.startswith(PREFIX):
            raise TicketError(f"a ticket begins with '{PREFIX}', this begins with {text[:12]!r}", _ADVICE)
        encoded = text.removeprefix(PREFIX)
        try:
            raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise TicketError("the ticket has characters that no ticket has", _ADVICE) from error
        is_spelt_well = _encode(raw) == encoded  # base64 has several spellings of the same bytes
        if len(raw) > _MAX_BYTES or _checksum(raw[:-4]) != raw[-4:] or not is_spelt_well:
            raise TicketError(
                "the ticket is cut short or has a typing error (its checksum does not fit)", _ADVICE
            )
        try:
            return cls._read(raw[:-4])
        except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
            raise TicketError(f"the ticket does not have the form of one ({error})", _ADVICE) from error

    @classmethod
    def _read(cls, raw: bytes) -> Ticket:
        secret_length = raw[0]
        count = raw[1]
        run_id = raw[2:34]
        secret = raw[34 : 34 + secret_length]
        rest = raw[34 + secret_length :]
        is_secret_valid = secret_length in (0, 16) and len(secret) == secret_length
        if not is_secret_valid or len(run_id) != 32 or count > MAX_ENTRIES:
            raise ValueError("lengths do not fit")

        entries = []
        for _ in range(count):
            entry, rest = _read_entry(rest)
            entries.append(entry)
        if rest:
            raise ValueError("bytes are left over")
        return cls(run_id, tuple(entries), secret)


def _read_entry(raw: bytes) -> tuple[Entry, bytes]:
    """The first entry in ``raw``, and the bytes after it."""
    digest = raw[:32]
    port, length = struct.unpack_from("<HB", raw, 32)
    host = raw[35 : 35 + length]
    if len(host) != length:
        raise ValueError("an address is cut short")
    entry = Entry(peer_id_from_digest(digest), Address(_unpack_host(host), port))
    return entry, raw[35 + length :]


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _checksum(raw: bytes) -> bytes:
    return hashlib.sha256(b"swarm-ticket-v1" + raw).digest()[:4]


def _pack_host(host: str) -> bytes:
    """A tag byte, then 4 or 16 bytes of an IP address (tag 4, 6) or the text of a name (tag 0)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return b"\0" + host.encode()
    return bytes([address.version]) + address.packed


def _unpack_host(raw: bytes) -> str:
    if raw[0] == 0:
        name = raw[1:].decode()
        if not is_host(name):
            raise ValueError("an address is not one")
        return name
    if (raw[0], len(raw)) not in ((4, 5), (6, 17)):
        raise ValueError("an address has the wrong length")
    return str(ipaddress.ip_address(raw[1:]))
