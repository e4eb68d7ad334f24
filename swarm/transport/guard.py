"""What a stranger may cost us: the limits, and the counters that enforce them. Nothing here opens a socket.

a connection    `Guard.connection`      connections of one host, and of all hosts together
a request       `Guard.check_rate`      requests per second of one peer
a body          `Guard.reserve`         bytes in flight of all peers together
                `Timeouts.transfer`     seconds for each body
each of them    `Refusals`              what was refused, counted by reason, for dashboards and tests
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import AsyncIterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from ..bounded import LeastRecentlyUsed
from ..errors import Busy, Flooding, Malformed, Oversized
from ..hosts import group_of
from ..identity import PeerId
from ..wire import CONTROL_LIMIT
from .throttle import TokenBucket

_RATED_PEERS = 4096
"""Peers whose request rate is remembered, so that strangers cannot fill our memory with their ids."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long we wait for others, in seconds."""

    handshake_seconds: float = 5.0
    """From the accepted (or opened) connection to the end of its TLS handshake."""
    first_request_seconds: float = 5.0
    """From the end of the handshake to the end of the first request's head."""
    idle_seconds: float = 120.0
    """A connection without requests is closed after this time by the side that accepted it, and after half of
    it by the side that opened it."""
    grace_seconds: float = 5.0
    """See ``minimum_rate``."""
    minimum_rate: float = 16 * 1024
    """Bytes per second. A body or reply of n bytes has ``grace_seconds + n / minimum_rate`` to arrive."""
    linger_seconds: float = 1.0
    """How long the rest of a refused body is read and dropped. Else its sender would see a reset, no
    refusal."""
    shutdown_seconds: float = 0.2
    """How long handlers may go on running when the transport closes."""

    def transfer(self, length: int) -> float:
        """Seconds after which ``length`` bytes must have arrived."""
        return self.grace_seconds + length / self.minimum_rate


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many TCP connections a transport keeps, and how it tunes them."""

    per_host: int = 128
    """Accepted connections from one IPv4 address, or from one IPv6 network of 64 bits, which a university may
    share. Each costs about 0.3 MiB."""
    total: int = 512
    """Accepted connections in all, and opened ones in all; many systems allow a process 1,024 descriptors."""
    per_peer: int = 8
    """Connections that we open to one peer for bulk bytes, and as many for short messages."""
    congestion: str = "bbr"
    """TCP congestion control, where the system allows the choice; empty keeps the system's own."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How often a peer may ask, and how much of our memory its requests may take."""

    rate: float = 200.0
    """Requests per second of one peer, after a burst."""
    burst: float = 1000.0
    """Requests that one peer may send at once."""
    in_flight_bytes: int = 512 << 20
    """Bodies that are being read or handled and replies that are being sent, of all peers together."""
    share: float = 0.25
    """The part of ``in_flight_bytes`` that one peer may have in more than one request at a time: a peer that
    announces bodies and sends none must not leave nothing for the others."""
    head_bytes: int = 2048
    """Longest request line, and longest header."""
    headers: int = 16
    """Most headers of a request."""


@dataclass(frozen=True, slots=True)
class DialLimits:
    """How often we dial addresses that have not answered as the peer that names them."""

    tries: float = 4.0
    """Dials of one address of one peer in a row ..."""
    tries_per_second: float = 1 / 15
    """... and after that: four a minute, for a peer whose port is opened late."""
    host_burst: float = 64.0
    """Dials to one host at once, whoever is said to be there. In a local run all peers have the same one."""
    host_rate: float = 1.0
    """Dials to one host per second after that."""
    teller_burst: float = 64.0
    """Dials at once on the word of one teller, or of all behind one public address. A welcome names 40 peers,
    a group has 48, and those that are there give back what they have taken."""
    teller_rate: float = 0.5
    """Dials on that word per second after that."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of this machine other peers may use."""

    timeouts: Timeouts = Timeouts()
    connections: ConnectionLimits = ConnectionLimits()
    requests: RequestLimits = RequestLimits()
    dials: DialLimits = DialLimits()


class Refusals:
    """How many connections and requests were refused, by reason.

    The reasons for connections are ``accept``, ``crowded``, ``handshake``, ``certificate``, ``silent`` (no
    request came) and ``broken`` (it ended, or stalled, within a body or reply). A refused request counts
    under the ``code`` of its error.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"Refusals({', '.join(f'{reason} {count}' for reason, count in sorted(self._counts.items()))})"

    def count(self, reason: str) -> None:
        """Add one refusal for ``reason``."""
        self._counts[reason] += 1

    def snapshot(self) -> Mapping[str, int]:
        """The counts as they are now; later refusals do not change it."""
        return MappingProxyType(dict(self._counts))


class Guard:
    """Enforces the limits of one transport: counts connections, bytes in flight, requests of each peer."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.refusals = Refusals()
        self._connections: Counter[str] = Counter()
        self._in_flight = 0
        self._bodies: Counter[PeerId] = Counter()
        """Bytes of the bodies under way that are larger than a control message, by peer."""
        self._buckets: LeastRecentlyUsed[PeerId, TokenBucket] = LeastRecentlyUsed(_RATED_PEERS)

    def __repr__(self) -> str:
        return f"Guard({self.connections} connections, {self.in_flight} bytes in flight, {self.refusals})"

    @property
    def connections(self) -> int:
        """How many accepted connections are open now."""
        return self._connections.total()

    @property
    def in_flight(self) -> int:
        """Bytes of all bodies and replies that are being carried now."""
        return self._in_flight

    @contextmanager
    def connection(self, host: str) -> Iterator[None]:
        """Count a connection from ``host`` while the context lasts.

        Raises `Flooding` where there are too many already.
        """
        limits = self.limits.connections
        host = group_of(host)
        if self._connections[host] >= limits.per_host or self.connections >= limits.total:
            raise Flooding(f"no more connections from {host}")
        self._connections[host] += 1
        try:
            yield
        finally:
            self._connections[host] -= 1
            if not self._connections[host]:
                del self._connections[host]

    @contextmanager
    def reserve(self, peer: PeerId, length: int) -> Iterator[None]:
        """Count ``length`` bytes of ``peer`` as in flight while the context lasts.

        Raises `Busy` where that would be too many at once: of all peers, or of this one. A single body may
        exceed the share of its peer, and control messages do not count against it: they must get through
        beside a large body.
        """
        limits = self.limits.requests
        body = length if length > CONTROL_LIMIT else 0
        others = self._bodies[peer]
        is_beyond_share = body and others and others + body > limits.share * limits.in_flight_bytes
        if is_beyond_share or self._in_flight + length > limits.in_flight_bytes:
            raise Busy(f"no room for {length} bytes just now")
        self._in_flight += length
        self._bodies[peer] += body
        try:
            yield
        finally:
            self._in_flight -= length
            self._bodies[peer] -= body
            if not self._bodies[peer]:
                del self._bodies[peer]

    def check_rate(self, peer: PeerId, now: float) -> None:
        """Count one request of ``peer``.

        Raises `Flooding` where it comes too fast; a refused request is not counted.
        """
        limits = self.limits.requests
        bucket = self._buckets.get(peer)
        if bucket is None:
            bucket = self._buckets[peer] = TokenBucket(limits.rate, limits.burst)
        else:
            self._buckets.touch(peer)
        if bucket.wait(1, now):
            raise Flooding(f"more than {limits.rate:g} requests per second")
        bucket.take(1, now)


async def collect(chunks: AsyncIterable[bytes], length: int) -> bytes:
    """Join ``chunks`` to exactly ``length`` bytes.

    Raises `Oversized` or `Malformed`; the caller limits the time.

    Memory grows with what has arrived, not with what was announced. Each byte is copied once:
    `BytesIO.getvalue` hands over its buffer without a copy, as nothing else refers to it.
    """
    buffer = io.BytesIO()
    async for chunk in chunks:
        if buffer.tell() + len(chunk) > length:
            raise Oversized(f"more than the {length} bytes that were announced")
        buffer.write(chunk)
    if buffer.tell() != length:
        raise Malformed(f"broke off after {buffer.tell()} of {length} bytes")
    return buffer.getvalue()
