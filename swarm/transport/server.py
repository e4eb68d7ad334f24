"""The listening side: every connection is a guest with a seat, a name it has proven, and a clock that runs.

    accept ──► seat? ──► TLS, key proven ──► first head in time? ──► pace? route? length? room? ──► body in time? ──► handler
               by HTTP, or as a lane

Each arrow has a limit from `Limits`; whoever fails it is turned away, counted, and gone. aiohttp parses, this module decides:
its own defaults wait for ever, unpack gzip bombs and print a traceback for every port scanner.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

from aiohttp import web

from ..errors import Flooding, Malformed, TheirFault, TooLate, Unreachable, Weather
from ..identity import PeerId
from ..ticket import Address
from . import Allowance, Call, Payload, Route
from .envelope import NO_REPLY, body_length, pack_refusal, read_path
from .guard import Guard, collect
from .lanes import PREFACE, PROTOCOL_NAME, REPLY_LIMIT, Body, serve
from .sockets import Meter, adopt, begins_with, listen_on
from .stream import Stream
from .tls import peer_of

CHUNK = 1 << 20
"""Bytes handed to a connection at once: more would be encrypted into memory before the first byte leaves."""

_LOG = logging.getLogger(__name__)
_ACCEPT_PAUSE = 0.1
_READ_AHEAD = (
    1 << 18
)  # twice this is buffered per connection before anybody has asked for it, so it is not generous


class Connection(web.RequestHandler):
    """aiohttp's side of one connection, and what it does not keep: who this is, when it first spoke, that it has ended."""

    def __init__(self, server: web.Server, guard: Guard, **options: Any) -> None:
        super().__init__(server, **options)
        self.peer: PeerId | None = None
        self.heard = asyncio.Event()
        self.gone = asyncio.Event()
        self._guard = guard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done: learn who it was with, before a byte of a request is parsed."""
        super().connection_made(transport)
        try:
            self.peer = peer_of(transport.get_extra_info("ssl_object"))
        except Malformed:
            self._guard.refusals.count("certificate")
            cast(asyncio.Transport, transport).abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The end, whoever wanted it."""
        super().connection_lost(exc)
        self.heard.set()
        self.gone.set()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Bytes that are not HTTP: counted, and the end, where aiohttp would print a traceback here and its version there.

        Our own bugs never come here.
        """
        self.heard.set()
        self._guard.refusals.count(Malformed.code)
        if self.transport:
            self.transport.abort()
        return web.Response(status=status)


class Server:
    """Listens, and answers the calls of ``routes``, which may grow while it runs. Lives as long as the context of `running`."""

    def __init__(
        self,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext],
        guard: Guard,
        meter: Meter,
        routes: dict[str, Route],
        buffer: memoryview,
    ) -> None:
        """``contexts``: for HTTP and for lanes; ``buffer``: what all streams of the transport share."""
        self._context, self._lane_context = contexts
        self._buffer = buffer
        self._guard = guard
        self._meter = meter
        self._routes = routes
        self._bugs_reported: set[tuple[str, type[Exception]]] = set()
        self._doors: dict[socket.socket, asyncio.Task[None]] = {}
        self._guests: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Whoever leaves this context finds no task and no socket of ours behind."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._respond)
        app.on_response_prepare.append(_shorten)
        limits = self._guard.limits
        runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=limits.shutdown_seconds,
        )
        await runner.setup()
        self._http = cast(web.Server, runner.server)
        try:
            yield
        finally:
            await _end(self._doors.values())
            for listener in self._doors:
                listener.close()
            await runner.cleanup()
            await _end(self._guests)

    async def listen(self, address: Address) -> Address:
        """Accept connections at ``address``; the address with the port that it became. Raises `PortTaken`."""
        listener = await listen_on(address)
        self._doors[listener] = asyncio.create_task(self._accept(listener))
        return Address(address.host, listener.getsockname()[1])

    async def _accept(self, listener: socket.socket) -> None:
        """One task per connection. No TaskGroup: it would wrap the errors of whoever holds our context in a group of its own."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, where = await loop.sock_accept(listener)
            except (
                OSError
            ):  # out of descriptors, or gone before we looked: the door stays open, but does not spin
                self._guard.refusals.count("accept")
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            guest = asyncio.create_task(self._receive(accepted, where[0]))
            self._guests.add(guest)
            guest.add_done_callback(partial(self._forget, accepted))

    def _forget(self, accepted: socket.socket, guest: asyncio.Task[None]) -> None:
        self._guests.discard(guest)
        accepted.close()  # empty by now, unless the task never began or found no seat

    async def _receive(self, accepted: socket.socket, host: str) -> None:
        """One connection from its first to its last byte."""
        try:
            with self._guard.seat(host):
                connection = adopt(accepted, self._meter, self._guard.limits.congestion)
                if await self._is_lane(connection):
                    await self._serve_lane(connection, host)
                else:
                    await self._serve(connection)
        except (OSError, TimeoutError):  # also TLS alerts: scanners, cut lines, members of another run
            self._guard.refusals.count("handshake")
        except Flooding:
            self._guard.refusals.count("crowded")
        except Exception as error:  # noqa: BLE001 - a bug of ours: it costs this connection, and nobody waits for this task
            self._report("a connection", error)

    async def _is_lane(self, connection: socket.socket) -> bool:
        try:
            async with asyncio.timeout(self._guard.limits.handshake_seconds):
                return await begins_with(connection, PREFACE)
        except BaseException:
            connection.close()
            raise

    async def _serve_lane(self, connection: socket.socket, host: str) -> None:
        """A connection that is to be a lane, until it ends. Raises `OSError` and `TimeoutError` before it is one."""
        limits = self._guard.limits
        stream = Stream(connection, self._lane_context, self._buffer, is_server=True)
        try:
            async with asyncio.timeout(limits.handshake_seconds):
                await stream.handshake()
            if stream.tls.selected_alpn_protocol() != PROTOCOL_NAME:
                raise ConnectionResetError("the other side does not speak of lanes")
            sender = peer_of(stream.tls)
        except Malformed:
            self._guard.refusals.count("certificate")
            stream.abort()
            return
        except BaseException:
            stream.abort()
            raise
        try:
            await serve(stream, partial(self._take, sender, host), limits)
        except TimeoutError:
            self._guard.refusals.count("silent")
        finally:
            stream.abort()

    async def _serve(self, accepted: socket.socket) -> None:
        """The same by HTTP."""
        loop, limits = asyncio.get_running_loop(), self._guard.limits
        connection = Connection(
            self._http,
            self._guard,
            loop=loop,
            access_log=None,
            keepalive_timeout=limits.idle_seconds,
            lingering_time=limits.linger_seconds,
            max_line_size=limits.head_bytes,
            max_field_size=limits.head_bytes,
            max_headers=limits.headers,
            read_bufsize=_READ_AHEAD,
            auto_decompress=False,
        )
        # Not `loop.create_server(ssl=...)`: it has no place for a seat, and keeps failed handshakes to itself.
        transport, _ = await loop.connect_accepted_socket(
            lambda: connection,
            accepted,
            ssl=self._context,
            ssl_handshake_timeout=limits.handshake_seconds,
            ssl_shutdown_timeout=limits.linger_seconds,
        )
        try:
            async with asyncio.timeout(limits.first_request_seconds):
                await connection.heard.wait()
            await connection.gone.wait()
        except TimeoutError:
            self._guard.refusals.count("silent")
        finally:
            transport.abort()

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        connection = cast(Connection, request.protocol)
        connection.heard.set()
        try:
            return await self._call(request, connection)
        except (TheirFault, Weather) as error:
            self._guard.refusals.count(error.code)
            status, raw = pack_refusal(error)
        except Exception as error:  # noqa: BLE001 - a bug of ours, which a stranger may have found: it must not end the server
            name = request.path.split("/")[3:4]
            self._report(
                f"the handler of {name[0]!r}" if name and name[0] in self._routes else "a request", error
            )
            status, raw = pack_refusal(error)
        return await self._send(request, raw, status)

    async def _call(self, request: web.Request, connection: Connection) -> web.StreamResponse:
        """Who, what, how much, room: in this order, and the body is read last."""
        if connection.peer is None:
            raise Malformed("nobody has proven a key on this connection")
        self._guard.pace(connection.peer, asyncio.get_running_loop().time())
        name, argument = read_path(request.method, request.raw_path)
        length = body_length(request.headers)
        call = Call(connection.peer, argument, b"", request.remote or "")
        reply = await self._answer(call, name, length, lambda: collect(request.content.iter_any(), length))
        with self._guard.room(len(memoryview(reply).cast("B"))):
            return await self._send(request, reply)

    async def _answer(self, call: Call, name: str, length: int, body: Body) -> Payload:
        """The reply to ``call``, whose ``body``, if it is not here yet, is read only when route, length and room allow it."""
        route = self._routes.get(name)
        if route is None:
            raise Malformed(f"this peer does not answer to {name!r}")
        allowance = route.admit(call.sender, call.argument)
        allowance.check(length)
        with self._guard.room(length):
            whole = await self._read(body, length, allowance) if callable(body) else body
            return await route.handler(Call(call.sender, call.argument, whole, call.host))

    async def _take(self, sender: PeerId, host: str, path: str, length: int, body: Body) -> bytes:
        """The reply to a message on a lane. Raises what the other side is told."""
        try:
            self._guard.pace(sender, asyncio.get_running_loop().time())
            name, argument = read_path("POST", path)
            reply = bytes(await self._answer(Call(sender, argument, b"", host), name, length, body))
            if len(reply) > REPLY_LIMIT:
                raise ValueError(f"a lane cannot carry a reply of {len(reply)} bytes")
            return reply
        except (TheirFault, Weather) as error:
            self._guard.refusals.count(error.code)
            raise
        except Exception as error:
            self._report(f"a handler behind {path[:80]!r}", error)
            raise

    async def _read(
        self, read: Callable[[], Awaitable[Payload]], length: int, allowance: Allowance
    ) -> Payload:
        """The whole body, or `TooLate`; `Malformed` where the connection ended before it."""
        seconds = min(allowance.seconds, self._guard.limits.patience(length))
        try:
            async with asyncio.timeout(seconds):
                return await read()
        except TimeoutError as error:
            raise TooLate(f"the {length} bytes did not come within {seconds:.3g} s") from error
        except (OSError, Unreachable, web.RequestPayloadError) as error:
            raise Malformed("the connection broke off in the middle of a body") from error
        except asyncio.CancelledError:
            self._guard.refusals.count("broken")
            raise

    async def _send(self, request: web.Request, reply: Payload, status: int = 200) -> web.StreamResponse:
        """Write a reply in time, or break off: a slow reader does not hold our memory."""
        view = memoryview(reply).cast("B")
        response = web.StreamResponse(status=status if view or status != 200 else NO_REPLY)
        if response.status != NO_REPLY:
            response.content_length = len(view)
        try:
            async with asyncio.timeout(self._guard.limits.patience(len(view))):
                await response.prepare(request)
                for start in range(0, len(view), CHUNK):
                    await response.write(view[start : start + CHUNK])
                await response.write_eof()
        except (TimeoutError, ConnectionError):
            self._guard.refusals.count("broken")
            if request.transport:
                request.transport.abort()
        return response

    def _report(self, place: str, error: Exception) -> None:
        """Log a bug with its traceback at its first appearance; a stranger who found it cannot fill the disk with it."""
        level = logging.DEBUG if (place, type(error)) in self._bugs_reported else logging.ERROR
        self._bugs_reported.add((place, type(error)))
        _LOG.log(level, "%s failed; the other side was told only that", place, exc_info=error)


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


async def _shorten(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """No date, no program name, no type: a short head, and nothing for those who look for old versions."""
    for name in ("Date", "Server", "Content-Type"):
        response.headers.popall(name, None)
