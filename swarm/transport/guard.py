"""What a stranger may cost us: limits, and the books that enforce them. Nothing here opens a socket.

connect     seats      connections of one host, and of all
call        pace       requests per second of one peer
body        room       bytes in flight of all peers together, `patience` for each
any of it   Refusals   counted by reason, so that dashboards and tests can see who was turned away
"""

from __future__ import annotations

import io
from collections import Counter, OrderedDict
from collections.abc import AsyncIterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import Busy, Flooding, Malformed, Oversized
from ..identity import PeerId
from .throttle import TokenBucket

_PEERS_PACED = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of this machine others may use, and how patient we are with them. Times in seconds, rates per second."""

    handshake_seconds: float = 5.0
    """From the accepted connection to the end of the TLS handshake; also the patience with a peer that we dial."""
    first_request_seconds: float = 5.0
    """From the handshake to the end of the first request's head."""
    idle_seconds: float = 120.0
    """A connection without a request is closed after this long by the side that accepted it, after half of it by the other."""
    connections_per_host: int = 128
    """Open connections from one IP address, which a whole university may share. Each costs about 0.3 MiB."""
    connections: int = 512
    """Open connections from everybody, and again to everybody; many systems give a process 1,024 descriptors."""
    head_bytes: int = 2048
    """Longest request line, and longest header."""
    headers: int = 16
    """Most headers of a request."""
    grace_seconds: float = 5.0
    minimum_rate: float = 16 * 1024
    """Bytes per second. A body or reply of n bytes must have crossed after ``grace_seconds + n / minimum_rate``."""
    in_flight_bytes: int = 512 << 20
    """Bodies being read or handled and replies being sent, all together."""
    requests_rate: float = 200.0
    requests_burst: float = 1000.0
    """Requests of one peer: ``requests_rate`` per second, after a burst."""
    linger_seconds: float = 1.0
    """How long the rest of a refused body is thrown away, so that its sender reads the refusal rather than a reset."""
    shutdown_seconds: float = 0.2
    """How long running handlers may go on when the transport closes."""
    parallel_calls: int = 8
    """Connections that we open to one peer for bulk bytes, and again for control messages."""
    congestion: str = "bbr"
    """TCP congestion control where the system allows the choice; empty leaves the system's own."""

    def patience(self, length: int) -> float:
        """Seconds after which ``length`` bytes must have crossed."""
        return self.grace_seconds + length / self.minimum_rate


class Refusals:
    """How often strangers and peers were turned away, by reason: ``crowded``, ``handshake``, ``certificate``, ``silent``,
    ``broken`` at the door, and the code of the error afterwards."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"Refusals({', '.join(f'{reason} {count}' for reason, count in sorted(self._counts.items()))})"

    def count(self, reason: str) -> None:
        """One more."""
        self._counts[reason] += 1

    def snapshot(self) -> Mapping[str, int]:
        """The counts as they are now; later refusals do not change it."""
        return MappingProxyType(dict(self._counts))


class Guard:
    """The books of one transport."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.refusals = Refusals()
        self._seats: Counter[str] = Counter()
        self._in_flight = 0
        self._paces: OrderedDict[PeerId, TokenBucket] = OrderedDict()

    def __repr__(self) -> str:
        return f"Guard({self._seats.total()} connections, {self._in_flight} bytes in flight, {self.refusals})"

    @contextmanager
    def seat(self, host: str) -> Iterator[None]:
        """A connection from ``host``, for as long as the context lasts. Raises `Flooding` where there are too many."""
        if (
            self._seats[host] >= self.limits.connections_per_host
            or self._seats.total() >= self.limits.connections
        ):
            raise Flooding(f"no more connections from {host}")
        self._seats[host] += 1
        try:
            yield
        finally:
            self._seats[host] -= 1
            if not self._seats[host]:
                del self._seats[host]

    @contextmanager
    def room(self, length: int) -> Iterator[None]:
        """Room for ``length`` bytes, for as long as the context lasts. Raises `Busy` where there is none just now."""
        if self._in_flight + length > self.limits.in_flight_bytes:
            raise Busy(f"no room for {length} bytes just now")
        self._in_flight += length
        try:
            yield
        finally:
            self._in_flight -= length

    def pace(self, peer: PeerId, now: float) -> None:
        """One more request of ``peer``. Raises `Flooding` where it comes too fast; a refused one does not count against it."""
        bucket = self._paces.get(peer)
        if bucket is None:
            bucket = self._paces[peer] = TokenBucket(self.limits.requests_rate, self.limits.requests_burst)
        self._paces.move_to_end(peer)
        while len(self._paces) > _PEERS_PACED:
            self._paces.popitem(last=False)
        if bucket.wait(1, now):
            raise Flooding(f"more than {self.limits.requests_rate:g} requests per second")
        bucket.take(1, now)


async def collect(chunks: AsyncIterable[bytes], length: int) -> bytes:
    """Exactly ``length`` bytes out of ``chunks``, whose time the caller limits. Raises `Oversized` or `Malformed`.

    Memory follows what has really arrived, not what was announced, and each byte is copied once: a `BytesIO` that nobody else
    looks into grows in place and hands its buffer over as it is.
    """
    buffer = io.BytesIO()
    async for chunk in chunks:
        if buffer.tell() + len(chunk) > length:
            raise Oversized(f"more than the {length} bytes that were announced")
        buffer.write(chunk)
    if buffer.tell() != length:
        raise Malformed(f"broke off after {buffer.tell()} of {length} bytes")
    return buffer.getvalue()
