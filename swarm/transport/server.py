"""The listening side. Every connection must prove a peer id, and every step of it has a limit and a timeout.

    a connection:   not too many ──► TLS, key proven ──► by HTTP, or a lane ──► first head in time
    each request:   rate ──► route ──► route.admit, length ──► bytes in flight ──► body in time ──► handler

Each step has its limit in `Limits`. A connection or request that fails one is refused and counted
(`Refusals`). aiohttp only parses: its own defaults wait for ever, unpack gzip bombs and print a traceback for
every port scanner.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

from aiohttp import web

from ..errors import Flooding, Malformed, Refused, TheirFault, TooLate, Unreachable, Weather
from ..identity import PeerId
from ..ticket import Address
from . import Allowance, Call, Payload, Route
from .envelope import NO_REPLY, body_length, pack_refusal, read_path
from .guard import Guard, collect
from .lanes import PREFACE, PROTOCOL_NAME, REPLY_LIMIT, Body, serve
from .sockets import Meter, adopt, begins_with, listen_on
from .stream import Stream
from .tls import peer_of

_LOG = logging.getLogger(__name__)
_ACCEPT_PAUSE = 0.1  # seconds after an accept that failed
_PIECE = 1 << 18  # bytes of a reply that are handed to a connection at once, and then count as sent
_READ_AHEAD = 1 << 18  # bytes; aiohttp buffers twice as many per connection before anybody reads them


class Contexts(NamedTuple):
    """TLS contexts of a listening side."""

    http: ssl.SSLContext
    lanes: ssl.SSLContext


@dataclass(slots=True)
class _Sending:
    """How many bytes of a reply have not been sent yet."""

    left: int


class Connection(web.RequestHandler):
    """aiohttp's side of a connection, and what aiohttp does not keep: its peer, first request and end."""

    def __init__(self, server: web.Server, guard: Guard, **options: Any) -> None:
        super().__init__(server, **options)
        self.peer: PeerId | None = None
        self.has_request = asyncio.Event()
        self.has_ended = asyncio.Event()
        self._guard = guard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """After the handshake: read the peer id, before a byte of a request is parsed."""
        super().connection_made(transport)
        try:
            self.peer = peer_of(transport.get_extra_info("ssl_object"))
        except Malformed:
            self._guard.refusals.count("certificate")
            cast(asyncio.Transport, transport).abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection has ended, from either side."""
        super().connection_lost(exc)
        self.has_request.set()
        self.has_ended.set()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Count bytes that are not HTTP, and abort; aiohttp would log a traceback and reveal its version.

        Errors of our handlers do not come here: `Server` catches them.
        """
        self.has_request.set()
        self._guard.refusals.count(Malformed.code)
        if self.transport:
            self.transport.abort()
        return web.Response(status=status)


class Server:
    """Listens, and answers calls to ``routes``, which may grow while it runs.

    It works within the context of `running`.
    """

    def __init__(
        self, contexts: Contexts, guard: Guard, meter: Meter, routes: dict[str, Route], buffer: memoryview
    ) -> None:
        """``buffer`` is shared by all streams of the transport."""
        self._contexts = contexts
        self._guard = guard
        self._meter = meter
        self._routes = routes
        self._buffer = buffer
        self._bugs_reported: set[tuple[str, type[Exception]]] = set()
        self._listeners: dict[socket.socket, asyncio.Task[None]] = {}
        self._connections: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while the context lasts. At its end all tasks and sockets of the server have ended."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._respond)
        app.on_response_prepare.append(_drop_headers)
        runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=self._guard.limits.timeouts.shutdown_seconds,
        )
        await runner.setup()
        self._http = cast(web.Server, runner.server)
        try:
            yield
        finally:
            await _cancel(self._listeners.values())
            for listener in self._listeners:
                listener.close()
            await runner.cleanup()
            await _cancel(self._connections)

    async def listen(self, address: Address) -> Address:
        """Accept connections at ``address``; returns it with the real port. Raises `PortTaken`."""
        listener = await listen_on(address)
        self._listeners[listener] = asyncio.create_task(self._accept(listener))
        return Address(address.host, listener.getsockname()[1])

    # --- connections ----------------------------------------------------------------------------------------

    async def _accept(self, listener: socket.socket) -> None:
        """Start a task for each connection.

        No TaskGroup: it would wrap errors raised within the context of `running` in an exception group.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, where = await loop.sock_accept(listener)
            except OSError:
                # No descriptor is free, or the connection has ended already: go on, but not at once.
                self._guard.refusals.count("accept")
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            task = asyncio.create_task(self._serve_connection(accepted, where[0]))
            self._connections.add(task)
            task.add_done_callback(partial(self._forget, accepted))

    def _forget(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        accepted.close()  # `adopt` has emptied it, unless the task never began or the connection was refused

    async def _serve_connection(self, accepted: socket.socket, host: str) -> None:
        """Serve one connection from its first to its last byte."""
        try:
            with self._guard.connection(host):
                connection = adopt(accepted, self._meter, self._guard.limits.connections.congestion)
                if await self._is_lane(connection):
                    await self._serve_lane(connection, host)
                else:
                    await self._serve_http(connection)
        except (OSError, TimeoutError):  # also TLS alerts: port scanners, lost links, peers of another run
            self._guard.refusals.count("handshake")
        except Flooding:
            self._guard.refusals.count("crowded")
        except Exception as error:  # noqa: BLE001 - a bug of ours: it costs this connection only
            self._report("a connection", error)

    async def _is_lane(self, connection: socket.socket) -> bool:
        try:
            async with asyncio.timeout(self._guard.limits.timeouts.handshake_seconds):
                return await begins_with(connection, PREFACE)
        except BaseException:
            connection.close()
            raise

    async def _serve_lane(self, connection: socket.socket, host: str) -> None:
        """Serve a lane until it ends. Raises `OSError` and `TimeoutError` where its handshake fails."""
        timeouts = self._guard.limits.timeouts
        stream = Stream(connection, self._contexts.lanes, self._buffer, is_server=True)
        try:
            async with asyncio.timeout(timeouts.handshake_seconds):
                await stream.handshake()
            if stream.tls.selected_alpn_protocol() != PROTOCOL_NAME:
                raise ConnectionResetError("the other side has not asked for a lane by ALPN")
            sender = peer_of(stream.tls)
        except Malformed:
            self._guard.refusals.count("certificate")
            stream.abort()
            return
        except BaseException:
            stream.abort()
            raise

        try:
            await serve(stream, partial(self._handle_message, sender, host), timeouts)
        except TimeoutError:
            self._guard.refusals.count("silent")
        except TooLate:
            self._guard.refusals.count("broken")
        finally:
            stream.abort()

    async def _serve_http(self, accepted: socket.socket) -> None:
        """Serve a connection by HTTP until it ends. Raises as `_serve_lane` does."""
        loop = asyncio.get_running_loop()
        timeouts = self._guard.limits.timeouts
        requests = self._guard.limits.requests
        connection = Connection(
            self._http,
            self._guard,
            loop=loop,
            access_log=None,
            keepalive_timeout=timeouts.idle_seconds,
            lingering_time=timeouts.linger_seconds,
            max_line_size=requests.head_bytes,
            max_field_size=requests.head_bytes,
            max_headers=requests.headers,
            read_bufsize=_READ_AHEAD,
            auto_decompress=False,
        )
        # `loop.create_server(ssl=...)` could not limit connections, and does not report failed handshakes.
        transport, _ = await loop.connect_accepted_socket(
            lambda: connection,
            accepted,
            ssl=self._contexts.http,
            ssl_handshake_timeout=timeouts.handshake_seconds,
            ssl_shutdown_timeout=timeouts.linger_seconds,
        )
        try:
            async with asyncio.timeout(timeouts.first_request_seconds):
                await connection.has_request.wait()
            await connection.has_ended.wait()
        except TimeoutError:
            self._guard.refusals.count("silent")
        finally:
            transport.abort()

    # --- requests -------------------------------------------------------------------------------------------

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        """Answer a request by HTTP, with the reply or a refusal."""
        connection = cast(Connection, request.protocol)
        connection.has_request.set()
        try:
            return await self._handle_request(request, connection)
        except (TheirFault, Weather) as error:
            self._guard.refusals.count(error.code)
            status, raw = pack_refusal(error)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not end the server
            self._report(self._place_of(request.path), error)
            status, raw = pack_refusal(error)
        return await self._send(request, raw, status)

    def _place_of(self, path: str) -> str:
        """Where a bug was, for the log; of a stranger's text only the name of a known route."""
        name = path.split("/")[3:4]
        if name and name[0] in self._routes:
            return f"the handler of {name[0]!r}"
        return "a request"

    async def _handle_request(self, request: web.Request, connection: Connection) -> web.StreamResponse:
        """Check the peer, its rate, the path and the length, in this order; the body is read last."""
        if connection.peer is None:
            raise Malformed("no key was proven on this connection")
        self._guard.check_rate(connection.peer, asyncio.get_running_loop().time())
        name, argument = read_path(request.method, request.raw_path)
        length = body_length(request.headers)
        call = Call(connection.peer, argument, b"", request.remote or "")
        reply = await self._answer(call, name, length, lambda: collect(request.content.iter_any(), length))
        progress = _Sending(len(memoryview(reply).cast("B")))
        try:
            with self._guard.reserve(connection.peer, progress.left):
                return await self._send(request, reply, progress=progress)
        finally:
            route = self._routes[name]
            if progress.left and route.on_unsent:
                route.on_unsent(call, progress.left)

    async def _handle_message(self, sender: PeerId, host: str, path: str, length: int, body: Body) -> bytes:
        """The reply to a message on a lane. Raises the error that the other side gets."""
        try:
            self._guard.check_rate(sender, asyncio.get_running_loop().time())
            name, argument = read_path("POST", path)
            reply = bytes(await self._answer(Call(sender, argument, b"", host), name, length, body))
            if len(reply) > REPLY_LIMIT:
                raise Refused(f"a lane carries no reply of {len(reply)} bytes; ask for it by HTTP")
            return reply
        except (TheirFault, Weather) as error:
            self._guard.refusals.count(error.code)
            raise
        except Exception as error:
            self._report(self._place_of(path), error)
            raise

    async def _answer(self, call: Call, name: str, length: int, body: Body) -> Payload:
        """The reply of route ``name`` to ``call``.

        A body that waits is read when route, length and memory allow it.
        """
        route = self._routes.get(name)
        if route is None:
            raise Malformed(f"this peer does not answer to {name!r}")
        allowance = route.admit(call.sender, call.argument)
        allowance.check(length)
        with self._guard.reserve(call.sender, length):
            payload = await self._read(body, length, allowance) if callable(body) else body
            return await route.handler(Call(call.sender, call.argument, payload, call.host))

    async def _read(
        self, read: Callable[[], Awaitable[Payload]], length: int, allowance: Allowance
    ) -> Payload:
        """The whole body. Raises `TooLate`, or `Malformed` where the connection ended before it."""
        seconds = min(allowance.seconds, self._guard.limits.timeouts.transfer(length))
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

    async def _send(
        self, request: web.Request, reply: Payload, status: int = 200, progress: _Sending | None = None
    ) -> web.StreamResponse:
        """Send a reply in time, or abort: a peer that reads slowly must not hold our memory."""
        view = memoryview(reply).cast("B")
        response = web.StreamResponse(status=status if view or status != 200 else NO_REPLY)
        if response.status != NO_REPLY:
            response.content_length = len(view)
        try:
            async with asyncio.timeout(self._guard.limits.timeouts.transfer(len(view))):
                await response.prepare(request)
                for start in range(0, len(view), _PIECE):
                    if progress:
                        progress.left = max(0, len(view) - start - _PIECE)
                    await response.write(view[start : start + _PIECE])
                    # The loop must notice a caller that has hung up, which cancels this. Otherwise asyncio
                    # encrypts all the rest for nobody, and logs a line for each piece.
                    await asyncio.sleep(0)
                await response.write_eof()
        except (TimeoutError, ConnectionError):
            self._guard.refusals.count("broken")
            if request.transport:
                request.transport.abort()
        return response

    def _report(self, place: str, error: Exception) -> None:
        """Log a bug with its traceback the first time only: a stranger who found it could fill the disk."""
        level = logging.DEBUG if (place, type(error)) in self._bugs_reported else logging.ERROR
        self._bugs_reported.add((place, type(error)))
        _LOG.log(level, "%s failed; the other side was told only that", place, exc_info=error)


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel ``tasks`` and wait until they have ended."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


async def _drop_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """No date, no program name, no type: a short head, which does not tell our version."""
    for name in ("Date", "Server", "Content-Type"):
        response.headers.popall(name, None)
