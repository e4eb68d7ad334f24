"""Calls by HTTP: a pool of connections, each pinned to one peer.

A peer that answers with another key gets no byte of a request.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from weakref import WeakSet

import aiohttp
import yarl

from ..errors import Malformed, Oversized, SwarmError, Unreachable
from ..identity import PeerId, petname
from ..ticket import Address
from ..wire import CONTROL_LIMIT
from .dialing import Addresses, impostor, no_answer
from .envelope import CHUNK, HOST, NO_REPLY, REFUSAL_LIMIT, body_length, read_refusal
from .guard import Limits, collect
from .sockets import Meter, factory
from .tls import peer_of


class PeerPin(aiohttp.Fingerprint):
    """The peer that must be at the other end; aiohttp checks it before it sends a byte of a request.

    The pin is part of the key of aiohttp's pool, so a kept connection is used again only for the same peer.
    Bulk bytes have connections of their own, so that no control message waits behind them.
    """

    def __init__(self, peer: PeerId, bulk: bool, on_proven: Callable[[asyncio.Transport], None]) -> None:
        self.peer = peer
        self.bulk = bulk
        self._on_proven = on_proven

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PeerPin) and (self.peer, self.bulk) == (other.peer, other.bulk)

    def __hash__(self) -> int:
        return hash((self.peer, self.bulk))

    def check(self, transport: asyncio.Transport) -> None:
        """Close the connection and raise `aiohttp.ServerFingerprintMismatch` where another peer is there."""
        try:
            found = peer_of(transport.get_extra_info("ssl_object"))
        except Malformed:
            found = PeerId("")
        if found != self.peer:
            host, port = (transport.get_extra_info("peername") or ("", 0))[:2]
            # aiohttp still reads the address from the transport, so abort it a moment later. Without
            # the abort, aiohttp would wait for the other side to close the connection politely.
            asyncio.get_running_loop().call_soon(transport.abort)
            raise aiohttp.ServerFingerprintMismatch(self.peer.encode(), found.encode(), host, port)
        self._on_proven(transport)


class _Connector(aiohttp.TCPConnector):
    """A pool of connections made with our certificate.

    aiohttp takes either a TLS context or a fingerprint per request: the fingerprint comes with the request,
    the context from here. Should a later aiohttp stop calling `_get_ssl_context`, we would show no
    certificate and every server of the run would refuse us, so that nothing gets out.

    Of several idle connections aiohttp takes the one that has been idle longest, so that in steady traffic
    none is ever idle for long enough to be closed, and the largest burst to each peer would stay open for
    ever. Here the newest is taken, and the others grow old.
    """

    def __init__(self, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self._context = context

    def _get_ssl_context(self, req: aiohttp.ClientRequest) -> ssl.SSLContext:
        return self._context

    def _release(self, key: Any, *released: Any, **options: Any) -> None:
        super()._release(key, *released, **options)
        if idle := getattr(self, "_conns", {}).get(key):
            idle.rotate(1)


class HttpClient:
    """Makes the calls of one transport that do not go by lane. It works within the context of `running`."""

    def __init__(self, context: ssl.SSLContext, addresses: Addresses, meter: Meter, limits: Limits) -> None:
        self._context = context
        self._addresses = addresses
        self._meter = meter
        self._limits = limits
        self._opened: WeakSet[asyncio.Transport] = WeakSet()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the pool of connections. All of them are closed at the end."""
        try:
            async with self._new_session() as self._session:
                yield
        finally:
            # aiohttp waits for a polite end of each connection, with a silent other side for half a minute.
            for transport in list(self._opened):
                transport.abort()

    async def call(self, to: PeerId, path: str, body: memoryview, limit: int) -> bytes:
        """The reply of ``to``, of at most ``limit`` bytes. The caller sets the deadline.

        Raises `Unreachable`, `Impostor`, `Oversized`, `Malformed`, or the refusal of the other side.
        """
        send = partial(self._send, to, path, body, limit)
        async with await self._addresses.first_answer(to, send) as response:
            return await self._read(to, response, limit, is_sent=len(body) <= CONTROL_LIMIT)

    def _note_proven(self, to: PeerId, address: Address, transport: asyncio.Transport) -> None:
        self._opened.add(transport)
        self._addresses.answered(to, address)

    async def _send(
        self, to: PeerId, path: str, body: memoryview, limit: int, address: Address
    ) -> aiohttp.ClientResponse:
        """The head of the reply.

        Raises `NoAnswer`, `Impostor`, or `Unreachable` where a connection breaks off.
        """
        is_bulk = max(len(body), limit) > CONTROL_LIMIT
        pin = PeerPin(to, is_bulk, partial(self._note_proven, to, address))
        try:
            return await self._session.post(
                yarl.URL.build(scheme="https", host=address.host, port=address.port, path=path),
                data=_chunks(body) if len(body) > CONTROL_LIMIT else bytes(body),
                headers={"Host": HOST, "Content-Length": str(len(body))},
                ssl=pin,
                server_hostname="swarm",  # the pin decides; a true name would only tell eavesdroppers
                allow_redirects=False,
            )
        except (aiohttp.ServerFingerprintMismatch, aiohttp.ClientConnectorCertificateError) as error:
            raise impostor(address, to) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, ValueError) as error:
            raise no_answer(error) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"the connection to {petname(to)} broke off ({error})") from error

    async def _read(
        self, to: PeerId, response: aiohttp.ClientResponse, limit: int, *, is_sent: bool
    ) -> bytes:
        """The reply; a refusal is raised as an error.

        A refusal may come in the middle of our body (``is_sent`` is then False), whose rest is not sent any
        more.
        """
        if response.status == NO_REPLY:
            return b""
        is_reply = response.status == 200
        try:
            length = body_length(response.headers)
            if length > (limit if is_reply else REFUSAL_LIMIT):
                raise Oversized(f"{petname(to)} answers with {length} bytes, at most {limit} are wanted")
            raw = await collect(response.content.iter_any(), length)
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"the connection to {petname(to)} broke off ({error})") from error
        except SwarmError:
            response.close()
            raise
        if is_reply:
            return raw
        if not is_sent:
            response.close()
        raise read_refusal(petname(to), response.status, raw)

    def _new_session(self) -> aiohttp.ClientSession:
        connections = self._limits.connections
        timeouts = self._limits.timeouts
        requests = self._limits.requests
        connector = _Connector(
            self._context,
            limit=connections.total,
            limit_per_host=connections.per_peer,
            keepalive_timeout=timeouts.idle_seconds / 2,
            socket_factory=factory(self._meter, connections.congestion),
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.handshake_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            auto_decompress=False,
            read_bufsize=CHUNK,
            max_line_size=requests.head_bytes,
            max_field_size=requests.head_bytes,
        )


async def _chunks(body: memoryview) -> AsyncIterator[memoryview]:
    for start in range(0, len(body), CHUNK):
        yield body[start : start + CHUNK]
