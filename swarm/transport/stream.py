"""A connection after its upgrade: bytes straight from TLS into the memory they are meant for, and back.

    get_buffer ◄── what `read` waits for ──► buffer_updated        nothing is awaited: a little is kept, much ends the connection
    write ──► TLS, at most a chunk ahead of the line

aiohttp's parser and stream cost one and a half times the work of TLS itself for large bodies; a buffered protocol next to nothing.
"""

from __future__ import annotations

import asyncio
import ctypes

from ..errors import Malformed, SwarmError, Unreachable

CHUNK = 1 << 18
"""Bytes handed to TLS at once: what has been encrypted still fits a core's cache when it is sent."""
_EARLY = 1024
"""Bytes that may come before anybody waits for them: the head of the next message."""


_unwritten = ctypes.pythonapi.PyByteArray_FromStringAndSize
_unwritten.restype = ctypes.py_object
_unwritten.argtypes = (ctypes.c_char_p, ctypes.c_ssize_t)


class Stream(asyncio.BufferedProtocol):
    """Takes ``transport`` over from ``before``, which hears only of the end. One reader and one writer at a time."""

    def __init__(self, transport: asyncio.Transport, before: asyncio.BaseProtocol) -> None:
        self._transport, self._before = transport, before
        self._loop = asyncio.get_running_loop()
        self._target: memoryview | None = None
        self._filled = self._least = 0
        self._is_early = True
        self._waiter: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._failure: SwarmError | None = None
        self._early = b""
        self._scratch = memoryview(bytearray(_EARLY))
        transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        """Whether the other side may still be there."""
        return self._failure is None

    # --- what asyncio calls ---------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes belong."""
        self._is_early = self._target is None or self._filled == len(self._target)
        return self._scratch if self._is_early or self._target is None else self._target[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """So many have come."""
        if self._is_early:
            self._early += self._scratch[:nbytes]
            if len(self._early) > _EARLY:
                self._fail(Malformed("bytes came that nobody had asked for"))
            return
        self._filled += nbytes
        if self._filled >= self._least:
            self._wake()

    def eof_received(self) -> None:
        """The other side says no more, so this is the end."""
        self._fail(Unreachable("the connection was closed"))

    def pause_writing(self) -> None:
        """Enough is on its way."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """There is room again."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end; whoever waits hears of it, and so does the protocol before us."""
        self._fail(Unreachable(f"the connection broke off ({exc or 'closed'})"))
        self._before.connection_lost(exc)

    # --- what we call ---------------------------------------------------------------------------------------------

    async def read(self, length: int) -> bytearray:
        """Exactly ``length`` bytes, each written once, and none before it has come: the system gives memory for no more.

        Raises `Unreachable` where the connection ends before, `Malformed` where much more came than was asked for. After an error,
        a timeout or a cancellation the stream is of no use any more: `abort` it.
        """
        body: bytearray = _unwritten(None, length)
        with memoryview(body) as view:
            await self.read_into(view, length)
        return body

    async def read_into(self, target: memoryview, least: int) -> int:
        """At least ``least`` bytes into ``target``; how many came."""
        if self._failure:
            raise self._failure
        early, self._early = self._early[: len(target)], self._early[len(target) :]
        target[: len(early)] = early
        if len(early) >= least:
            return len(early)
        self._target, self._filled, self._least = target, len(early), least
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._target = self._waiter = None
        if self._failure and self._filled < least:
            raise self._failure
        return self._filled

    async def write(self, body: bytes | bytearray | memoryview) -> None:
        """All of ``body``. Raises `Unreachable` where the connection ends."""
        view = memoryview(body).cast("B")
        for start in range(0, len(view), CHUNK):
            if self._failure:
                raise self._failure
            self._transport.write(view[start : start + CHUNK])
            await self._writable.wait()

    def abort(self) -> None:
        """End the connection at once."""
        self._fail(Unreachable("the connection was closed here"))

    def _fail(self, failure: SwarmError) -> None:
        self._failure = self._failure or failure
        self._transport.abort()
        self._writable.set()
        self._wake()

    def _wake(self) -> None:
        """Whoever reads may go on. Until it does, what still comes goes on filling its target."""
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
