"""The peer's status page on this computer: one snapshot as JSON.

The dashboard, scripts and container health checks read it.

    GET /v1/status   200, the snapshot as JSON (`peer.observe.snapshot`)
    GET /v1/health   200 or 503, the health word and its reason as text

Rule 1: it only reads: every method but GET is refused.
Rule 2: it listens on 127.0.0.1 alone.
Rule 3: its cost does not grow with its readers: a snapshot is made at most every `FRESH_SECONDS`.
Rule 4: it answers only requests to 127.0.0.1 or localhost. A hostile web page can point a name of its own at
        127.0.0.1 (DNS rebinding), but then the browser sends that name in ``Host``, and the request is
        refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

import aiohttp
import msgspec
from aiohttp import web

from swarm.errors import Malformed, PortTaken, Unreachable

from .snapshot import Snapshot, decode, encode, is_well
from .text import clean

LIMIT = 8 << 20
"""Most bytes of a status page that `fetch` accepts; a run with a thousand peers needs a quarter of a
megabyte."""

FRESH_SECONDS = 0.25
"""A snapshot that is younger is given again. A screen asks twice a second."""

_CONNECTIONS = 32
"""Most connections at a time."""
_HOST = "127.0.0.1"
_OUR_NAMES = frozenset({_HOST, "localhost"})
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'",
}


class _TooMany(asyncio.Protocol):
    """Closes a connection beyond `_CONNECTIONS` at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()


class StatusPage:
    """Serves what ``snapshot()`` returns, while the ``async with`` block runs.

    ``port`` 0 takes any free one. Raises `PortTaken` on entry where another program has the port.
    """

    def __init__(self, snapshot: Callable[[], Snapshot], port: int = 0) -> None:
        self._make_snapshot = snapshot
        self._latest: Snapshot | None = None
        self._raw = b""
        """``_latest`` as JSON; empty where nobody has asked for that yet."""
        self._made_at = 0.0
        self._port = port
        self._server = web.Server(self._answer, access_log=None, keepalive_timeout=5.0, lingering_time=0.0)
        self._listener: asyncio.Server | None = None

    def __repr__(self) -> str:
        return f"StatusPage({self.address})"

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``, as `fetch` takes it; the port is final inside the block."""
        return f"{_HOST}:{self._port}"

    def snapshot(self) -> Snapshot:
        """The snapshot of this moment, or of one at most `FRESH_SECONDS` ago."""
        now = asyncio.get_running_loop().time()
        if self._latest is None or now >= self._made_at + FRESH_SECONDS:
            self._latest = self._make_snapshot()
            self._raw = b""
            self._made_at = now
        return self._latest

    def status(self) -> bytes:
        """The same as JSON, for readers on this computer and elsewhere."""
        snapshot = self.snapshot()
        self._raw = self._raw or encode(snapshot)
        return self._raw

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(self._admit, _HOST, self._port)
        except OSError as error:
            raise PortTaken(
                f"cannot listen on {self.address}: {error.strerror}",
                "choose another port for the status page, or 0",
            ) from error
        self._port = int(self._listener.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener:
            self._listener.close()
        await self._server.shutdown(timeout=1.0)

    def _admit(self) -> asyncio.BaseProtocol:
        """Return what handles the next connection."""
        return self._server() if len(self._server.connections) < _CONNECTIONS else _TooMany()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        host = request.headers.get("Host", "")
        name = host.rpartition(":")[0] or host
        if name.lower() not in _OUR_NAMES:
            return _text(403, "ask for 127.0.0.1 or localhost")
        if request.method != "GET":
            return _text(405, "this page only reads: use GET", Allow="GET")
        if request.path == "/v1/status":
            return web.Response(body=self.status(), content_type="application/json", headers=_HEADERS)
        if request.path == "/v1/health":
            snapshot = self.snapshot()
            return _text(200 if is_well(snapshot) else 503, clean(f"{snapshot.health} {snapshot.reason}"))
        return _text(404, "there are /v1/status and /v1/health")


def _text(status: int, words: str, **headers: str) -> web.Response:
    return web.Response(status=status, text=words + "\n", headers={**_HEADERS, **headers})


async def fetch(address: str, deadline: float) -> Snapshot:
    """Return the snapshot of the peer whose status page is at ``address`` (``HOST:PORT``).

    ``deadline`` is in ``loop.time()``.

    Raises `Unreachable` where no answer comes in time, `Malformed` where it is not a status page or longer
    than `LIMIT`.
    """
    try:
        async with (
            asyncio.timeout_at(deadline),
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False) as session,
            session.get(f"http://{address}/v1/status", allow_redirects=False) as reply,
        ):
            if reply.status != 200:
                raise Malformed(f"{address} answers {reply.status}: that is not the status page of a peer")
            raw = await _whole(reply.content)
    except TimeoutError as error:
        raise Unreachable(
            f"nobody answered at {address} in time", "is the peer running? start it, or name its status page"
        ) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Unreachable(
            f"nobody answers at {address}", "is the peer running? start it, or name its status page"
        ) from error
    try:
        return decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(
            f"the answer of {address} is not the status of a peer: {error}",
            "do both sides run the same version?",
        ) from error


async def _whole(stream: aiohttp.StreamReader) -> bytes:
    """Read the whole body, up to `LIMIT` bytes."""
    raw = bytearray()
    async for piece in stream.iter_any():
        raw += piece
        if len(raw) > LIMIT:
            raise Malformed(f"the status page is longer than {LIMIT} bytes")
    return bytes(raw)
