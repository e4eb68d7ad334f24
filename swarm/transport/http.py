"""`Transport` on real sockets: HTTP/1.1 over mutual TLS 1.3, and lanes for mail and for bulk bytes.

request(to, ...) ──► addresses of `to` ──► connect, handshake ──► is it `to`? ──► POST, or a lane ──► the reply, or why not
                     the last good first                          else nothing is sent
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any
from weakref import WeakSet

import aiohttp
import yarl

from ..errors import Impostor, Malformed, Oversized, SwarmError, TooLate, Unreachable
from ..identity import KeyPair, PeerId, petname
from ..membership.contacts import BOOK_LIMIT, Contacts
from ..ticket import Address
from ..wire import CONTROL_LIMIT
from . import Request, Route
from .envelope import HOST, NO_REPLY, REFUSAL_LIMIT, body_length, path_of, read_refusal
from .guard import Guard, Limits, collect
from .lanes import PATH_LIMIT, PREFACE, PROTOCOL_NAME, Lane, Lanes
from .server import CHUNK, Server
from .sockets import Meter, connected, factory
from .stream import CHUNK as STREAM_CHUNK
from .stream import Stream
from .tls import client_context, peer_of, server_context


class PeerPin(aiohttp.Fingerprint):
    """The condition of every connection: aiohttp checks it after the handshake and before it sends the first byte of a request.

    It is part of the key of aiohttp's pool, so a kept connection is used again only for the same peer, and bulk bytes never make
    a control message wait for a connection.
    """

    def __init__(self, peer: PeerId, bulk: bool, opened: WeakSet[asyncio.Transport]) -> None:
        self.peer = peer
        self.bulk = bulk
        self._opened = opened

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PeerPin) and (self.peer, self.bulk) == (other.peer, other.bulk)

    def __hash__(self) -> int:
        return hash((self.peer, self.bulk))

    def check(self, transport: asyncio.Transport) -> None:
        """Break the connection off and raise `aiohttp.ServerFingerprintMismatch` where it is not with the peer."""
        self._opened.add(transport)
        try:
            found = peer_of(transport.get_extra_info("ssl_object"))
        except Malformed:
            found = PeerId("")
        if found != self.peer:
            host, port = (transport.get_extra_info("peername") or ("", 0))[:2]
            # Not at once: aiohttp still asks the transport who that was. But it would then wait for a polite end of the connection.
            asyncio.get_running_loop().call_soon(transport.abort)
            raise aiohttp.ServerFingerprintMismatch(self.peer.encode(), found.encode(), host, port)


class _Connector(aiohttp.TCPConnector):
    """A pool of connections made with our certificate.

    aiohttp takes either a TLS context or a fingerprint per request; the fingerprint comes with the request, the context from here.
    Should a later aiohttp stop asking this method, we show no certificate, and every server of the run refuses us: it fails closed.

    Of several idle connections aiohttp takes the one that has been idle longest, so that in traffic none ever is for long enough to
    be closed: the largest burst to each peer would stay open for good. Here the newest is taken, and what a burst left grows old.
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


class HttpTransport:
    """The transport of one peer. An async context manager; it calls as soon as it is entered, and is called once it listens.

    ``run`` and ``secret`` come from the ticket (an empty secret for an open run), ``contacts`` says where a peer can be dialled.
    """

    def __init__(
        self, key: KeyPair, run: bytes, secret: bytes, contacts: Contacts, limits: Limits | None = None
    ) -> None:
        self.limits = limits or Limits()
        self._me = key.peer_id
        self._contacts = contacts
        self._guard = Guard(self.limits)
        self._meter = Meter()
        self._routes: dict[str, Route] = {}
        self._buffer = memoryview(bytearray(STREAM_CHUNK))
        contexts = server_context(key, run, secret), server_context(key, run, secret, PROTOCOL_NAME)
        self._server = Server(contexts, self._guard, self._meter, self._routes, self._buffer)
        self._client_context = client_context(key, run, secret)
        self._lane_context = client_context(key, run, secret, PROTOCOL_NAME)
        self._good: OrderedDict[PeerId, Address] = OrderedDict()
        self._opened: WeakSet[asyncio.Transport] = WeakSet()
        self._lanes, self._mail_lanes = (
            Lanes(self._open_lane, self.limits.parallel_calls, self.limits.idle_seconds / 2)
            for _ in ("bulk", "mail")
        )
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"HttpTransport({petname(self._me)}, {self._meter}, {self._guard})"

    async def __aenter__(self) -> HttpTransport:
        await self._stack.enter_async_context(self._server.running())
        self._stack.callback(self._abort_connections)
        self._session = await self._stack.enter_async_context(self._new_session())
        self._stack.callback(self._lanes.close)
        self._stack.callback(self._mail_lanes.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    @property
    def me(self) -> PeerId:
        """The id that the other sides see."""
        return self._me

    @property
    def bytes_up(self) -> int:
        """Bytes sent so far, as TCP counts them: bodies, heads, TLS."""
        return self._meter.up

    @property
    def bytes_down(self) -> int:
        """Bytes received so far, as TCP counts them."""
        return self._meter.down

    @property
    def refusals(self) -> Mapping[str, int]:
        """Who was turned away so far, by reason (`Refusals`)."""
        return self._guard.refusals.snapshot()

    def serve(self, route: Route) -> None:
        """Answer calls to ``route.name``; the latest route of a name wins."""
        path_of(route.name, "")
        self._routes[route.name] = route

    async def listen(self, address: Address) -> Address:
        """Be callable at ``address``, port 0 for any; the address with the real port. Raises `PortTaken`."""
        return await self._server.listen(address)

    async def request(self, to: PeerId, request: Request, *, deadline: float) -> bytes:
        """The reply of ``to``, before ``deadline`` (in ``loop.time()``). Raises what the module says.

        What is large, and what wants no reply, goes by lane.
        """
        path = path_of(request.route, request.argument)
        view = memoryview(request.body).cast("B")
        is_large = len(view) > CONTROL_LIMIT
        by_lane = (
            (is_large or not request.limit) and request.limit <= CONTROL_LIMIT and len(path) <= PATH_LIMIT
        )
        lanes = self._lanes if is_large else self._mail_lanes
        try:
            async with asyncio.timeout_at(deadline):
                return await (
                    lanes.send(to, path, view) if by_lane else self._call(to, path, view, request.limit)
                )
        except TimeoutError as error:
            raise TooLate(f"{petname(to)} did not answer {request.route!r} in time") from error

    async def _call(self, to: PeerId, path: str, body: memoryview, limit: int) -> bytes:
        headers = {"Host": HOST, "Content-Length": str(len(body))}
        async with await self._reach(
            to, path, headers, body, is_bulk=max(len(body), limit) > CONTROL_LIMIT
        ) as response:
            return await self._read(to, response, limit, is_sent=len(body) <= CONTROL_LIMIT)

    async def _open_lane(self, to: PeerId) -> Lane:
        """One address after the other until a lane stands."""
        trouble: SwarmError = Unreachable(f"nobody has told us where {petname(to)} is")
        for address in self._addresses(to):
            try:
                stream = await self._dial(address, to)
            except Impostor as error:
                trouble = error
            except (OSError, TimeoutError, Malformed, ValueError) as error:
                trouble = Unreachable(f"{petname(to)} does not answer at {address} ({_reason(error)})")
            else:
                self._remember(to, address)
                return Lane(to, stream)
        raise trouble

    async def _dial(self, address: Address, to: PeerId) -> Stream:
        """A connection to ``to``, if that is who is there. Raises `Impostor`, `Malformed`, `OSError` or `TimeoutError`."""
        async with asyncio.timeout(self.limits.handshake_seconds):
            connection = await connected(address, factory(self._meter, self.limits.congestion))
            stream = Stream(connection, self._lane_context, self._buffer, is_server=False)
            try:
                await asyncio.get_running_loop().sock_sendall(connection, PREFACE)
                await stream.handshake()
                if stream.tls.selected_alpn_protocol() != PROTOCOL_NAME:
                    raise Malformed("no lane is spoken there")
                if peer_of(stream.tls) != to:
                    raise _impostor(address, to)
            except ssl.SSLCertVerificationError as error:
                stream.abort()
                raise _impostor(address, to) from error
            except BaseException:
                stream.abort()
                raise
        return stream

    async def _reach(
        self, to: PeerId, path: str, headers: Mapping[str, str], body: memoryview, *, is_bulk: bool
    ) -> aiohttp.ClientResponse:
        """One address after the other until a connection stands; from then on it is that one or none, so nothing is asked twice."""
        trouble: SwarmError = Unreachable(f"nobody has told us where {petname(to)} is")
        for address in self._addresses(to):
            try:
                response = await self._send(address, PeerPin(to, is_bulk, self._opened), path, headers, body)
            except (aiohttp.ServerFingerprintMismatch, aiohttp.ClientConnectorCertificateError):
                trouble = _impostor(address, to)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, ValueError) as error:
                trouble = Unreachable(f"{petname(to)} does not answer at {address} ({_reason(error)})")
            except (aiohttp.ClientError, OSError) as error:
                raise Unreachable(f"the connection to {petname(to)} broke off ({error})") from error
            else:
                self._remember(to, address)
                return response
        raise trouble

    async def _send(
        self, address: Address, pin: PeerPin, path: str, headers: Mapping[str, str], body: memoryview
    ) -> aiohttp.ClientResponse:
        """The head of the reply. Raises what aiohttp raises, and `ValueError` for a host that cannot be one."""
        return await self._session.post(
            yarl.URL.build(scheme="https", host=address.host, port=address.port, path=path),
            data=_chunks(body) if len(body) > CONTROL_LIMIT else bytes(body),
            headers=headers,
            ssl=pin,
            server_hostname="swarm",  # the pin decides; a name would only tell listeners on the line who is called
            allow_redirects=False,
        )

    async def _read(
        self, to: PeerId, response: aiohttp.ClientResponse, limit: int, *, is_sent: bool
    ) -> bytes:
        """The reply, or the refusal as an error. A refusal may come in the middle of a body, whose rest is then kept back."""
        answered = response.status == 200
        if response.status == NO_REPLY:
            return b""
        try:
            length = body_length(response.headers)
            if length > (limit if answered else REFUSAL_LIMIT):
                raise Oversized(f"{petname(to)} answers with {length} bytes, at most {limit} are wanted")
            raw = await collect(response.content.iter_any(), length)
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"the connection to {petname(to)} broke off ({error})") from error
        except SwarmError:
            response.close()
            raise
        if not answered:
            if not is_sent:
                response.close()
            raise read_refusal(petname(to), response.status, raw)
        return raw

    def _addresses(self, to: PeerId) -> list[Address]:
        """Where to try, the last good address first while it is still among them."""
        good = self._good.get(to)
        return sorted(self._contacts.addresses(to), key=lambda address: address != good)

    def _remember(self, to: PeerId, address: Address) -> None:
        self._good[to] = address
        self._good.move_to_end(to)
        if len(self._good) > BOOK_LIMIT:
            self._good.popitem(last=False)

    def _new_session(self) -> aiohttp.ClientSession:
        limits = self.limits
        connector = _Connector(
            self._client_context,
            limit=limits.connections,
            limit_per_host=limits.parallel_calls,
            keepalive_timeout=limits.idle_seconds / 2,
            socket_factory=factory(self._meter, limits.congestion),
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.handshake_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            auto_decompress=False,
            read_bufsize=CHUNK,
            max_line_size=limits.head_bytes,
            max_field_size=limits.head_bytes,
        )

    def _abort_connections(self) -> None:
        """aiohttp lets a closed connection say goodbye, for which a silent other side may take half a minute: not at our end."""
        for transport in list(self._opened):
            transport.abort()


async def _chunks(body: memoryview) -> AsyncIterator[memoryview]:
    for start in range(0, len(body), CHUNK):
        yield body[start : start + CHUNK]


def _impostor(address: Address, to: PeerId) -> Impostor:
    return Impostor(
        f"{address} does not hold the key of {petname(to)}", "it may have moved: ask others for it"
    )


def _reason(error: Exception) -> str:
    """What the system says about a failed connection; aiohttp's own words name Python objects."""
    cause = getattr(error, "os_error", None) or error
    number = getattr(cause, "errno", None)
    return os.strerror(number) if number else str(cause) or type(error).__name__
