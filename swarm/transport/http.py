"""`Transport` on real sockets: HTTP/1.1 over mutual TLS 1.3, and lanes for short messages and for bulk bytes.

    request(to, ...) ──► a large body, or no reply wanted ──► a lane to `to` ──► the reply, or why not
                     ──► any other                        ──► POST by HTTP   ──► the reply, or why not

Nothing is sent before the other side has proven that it is `to`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType

from ..errors import TooLate
from ..identity import KeyPair, PeerId, petname
from ..membership.contacts import Contacts
from ..ticket import Address
from ..wire import CONTROL_LIMIT
from . import Request, Route
from .client import HttpClient
from .dialing import Addresses, LaneDialer
from .envelope import path_of
from .guard import Guard, Limits
from .lanes import PATH_LIMIT, PROTOCOL_NAME, Lanes
from .server import Contexts, Server
from .sockets import Meter
from .stream import CHUNK
from .tls import client_context, server_context


class HttpTransport:
    """The transport of one peer, an async context manager.

    Within the context it can call; after `listen` it is called.

    ``run`` and ``secret`` come from the ticket (an empty secret for an open run), ``contacts`` says where a
    peer can be reached.
    """

    def __init__(
        self, key: KeyPair, run: bytes, secret: bytes, contacts: Contacts, limits: Limits | None = None
    ) -> None:
        limits = limits or Limits()
        buffer = memoryview(bytearray(CHUNK))  # for all streams: each uses it within one callback only
        self._me = key.peer_id
        self._guard = Guard(limits)
        self._meter = Meter()
        self._routes: dict[str, Route] = {}

        contexts = Contexts(
            http=server_context(key, run, secret), lanes=server_context(key, run, secret, PROTOCOL_NAME)
        )
        self._server = Server(contexts, self._guard, self._meter, self._routes, buffer)

        addresses = Addresses(contacts, limits.dials)
        self._client = HttpClient(client_context(key, run, secret), addresses, self._meter, limits)
        lane_context = client_context(key, run, secret, PROTOCOL_NAME)
        self._dialer = LaneDialer(lane_context, addresses, self._meter, limits, buffer)
        self._bulk_lanes = self._new_lanes(limits)
        self._message_lanes = self._new_lanes(limits)
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"HttpTransport({petname(self._me)}, {self._meter}, {self._guard})"

    async def __aenter__(self) -> HttpTransport:
        await self._stack.enter_async_context(self._server.running())
        await self._stack.enter_async_context(self._client.running())
        self._stack.callback(self._bulk_lanes.close)
        self._stack.callback(self._message_lanes.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    @property
    def me(self) -> PeerId:
        """The id of this peer, as the others see it."""
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
        """How many connections and requests were refused so far, by reason (see `Refusals`)."""
        return self._guard.refusals.snapshot()

    def serve(self, route: Route) -> None:
        """Answer calls to ``route.name``. A second route of the same name replaces the first."""
        path_of(route.name, "")
        self._routes[route.name] = route

    async def listen(self, address: Address) -> Address:
        """Accept calls at ``address``, port 0 for any; returns it with the real port. Raises `PortTaken`."""
        return await self._server.listen(address)

    async def request(self, to: PeerId, request: Request, *, deadline: float) -> bytes:
        """Send ``request`` to ``to`` and return its reply, before ``deadline`` (seconds of ``loop.time()``).

        Large bodies and requests that want no reply go by lane. Raises the errors that the package's
        docstring lists.
        """
        path = path_of(request.route, request.argument)
        body = memoryview(request.body).cast("B")
        is_large = len(body) > CONTROL_LIMIT
        fits_lane = request.limit <= CONTROL_LIMIT and len(path) <= PATH_LIMIT
        try:
            async with asyncio.timeout_at(deadline):
                if not (fits_lane and (is_large or not request.limit)):
                    return await self._client.call(to, path, body, request.limit)
                lanes = self._bulk_lanes if is_large else self._message_lanes
                return await lanes.send(to, path, body)
        except TimeoutError as error:
            raise TooLate(f"{petname(to)} did not answer {request.route!r} in time") from error

    def _new_lanes(self, limits: Limits) -> Lanes:
        """The other side closes an idle lane after ``idle_seconds``, so we use none after half of that."""
        return Lanes(self._dialer.open, limits.connections.per_peer, limits.timeouts.idle_seconds / 2)
