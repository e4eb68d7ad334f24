"""A TLS connection for bulk bytes: from the socket into the memory where they are needed, and back.

    socket ──► a buffer that all streams share ──► TLS ──► the target of `read_into`
    write ──► TLS, a chunk at a time ──► socket

While nobody reads, a stream takes a few bytes from the socket and then stops, so that TCP makes the sender
wait. asyncio's own TLS copies every byte twice more, and takes a third more processor time for large bodies
(decision 16).
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import ssl
from dataclasses import dataclass

from ..errors import SwarmError, Unreachable

CHUNK = 1 << 18
"""Bytes through TLS and the socket in one call: few enough to stay in a core's cache."""
_EARLY = 4096
"""Bytes taken from the socket while nobody reads: enough for a short message, and to notice the end."""

# TLS wants a name. We check the peer id instead; a true name would only tell eavesdroppers who is called.
_NAME = "swarm"

# Makes a bytearray of a length without writing its memory first, as ``bytearray(length)`` would.
_unwritten = ctypes.pythonapi.PyByteArray_FromStringAndSize
_unwritten.restype = ctypes.py_object
_unwritten.argtypes = (ctypes.c_char_p, ctypes.c_ssize_t)


@dataclass(slots=True)
class _PendingRead:
    """A read of at least ``least`` bytes into ``target``, of which ``filled`` have arrived."""

    target: memoryview
    least: int
    filled: int = 0
    is_over: asyncio.Future[None] | None = None
    """Done when enough bytes have arrived, or the connection has ended; None while nobody waits for that."""


class Stream:
    """One TLS connection. It owns ``connection``, which must not block; `abort` ends it.

    At most one task may read and one may write at a time.
    """

    def __init__(
        self, connection: socket.socket, context: ssl.SSLContext, buffer: memoryview, *, is_server: bool
    ) -> None:
        """``buffer`` takes what comes from the socket; all streams of one event loop may share one."""
        self._socket = connection
        self._buffer = buffer
        self._loop = asyncio.get_running_loop()
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._in, self._out, server_side=is_server, server_hostname=None if is_server else _NAME
        )
        self._failure: SwarmError | None = None
        self._pending: _PendingRead | None = None
        self._is_listening = False
        self._writer: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the connection has not ended, as far as this side knows."""
        return self._failure is None

    @property
    def has_more(self) -> bool:
        """Whether bytes have arrived that were not read yet."""
        return bool(self._in.pending or self.tls.pending())

    async def handshake(self) -> None:
        """Exchange certificates with the other side (see `tls`).

        Raises `OSError`, also for TLS, or `Unreachable`.
        """
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                raw = await self._loop.sock_recv(self._socket, _EARLY)
                if not raw:
                    raise ConnectionResetError("the other side closed the connection") from None
                self._in.write(raw)
        await self._flush()
        self._listen()

    # --- reading --------------------------------------------------------------------------------------------

    async def read(self, length: int) -> bytearray:
        """Read exactly ``length`` bytes. Their memory is written as they arrive, so it is taken no earlier.

        Raises `Unreachable` where the connection ends before. After an error, a timeout or a cancellation
        the stream cannot be used any more: `abort` it.
        """
        body: bytearray = _unwritten(None, length)
        with memoryview(body) as view:
            await self.read_into(view, length)
        return body

    async def read_into(self, target: memoryview, least: int) -> int:
        """Read at least ``least`` bytes into ``target``; returns how many.

        Raises `Unreachable` as `read` does.
        """
        pending = self._pending = _PendingRead(target, least)
        try:
            self._decrypt()
            if pending.filled < least:
                if self._failure:
                    raise self._failure
                self._listen()
                pending.is_over = self._loop.create_future()
                await pending.is_over
        finally:
            self._pending = None
        if self._failure and pending.filled < least:
            raise self._failure
        return pending.filled

    def _listen(self) -> None:
        if not self._is_listening and self.is_open:
            self._loop.add_reader(self._socket.fileno(), self._on_readable)
            self._is_listening = True

    def _on_readable(self) -> None:
        """Take what the socket has: bytes, or the end of the connection."""
        buffer = self._buffer if self._pending else self._buffer[:_EARLY]
        try:
            count = self._socket.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(Unreachable(f"the connection broke off ({error})"))
            return
        if not count:
            self._fail(Unreachable("the connection was closed"))
            return
        self._in.write(buffer[:count])
        self._decrypt()
        if self._in.pending >= _EARLY and self.is_open:
            # Nobody reads: stop here, so that TCP makes the other side wait.
            self._loop.remove_reader(self._socket.fileno())
            self._is_listening = False

    def _decrypt(self) -> None:
        """Decrypt what has arrived into the target of the pending read, as far as it fits."""
        pending = self._pending
        if pending is not None:
            self._fill(pending)
            if pending.filled >= pending.least:
                _wake(pending.is_over)

    def _fill(self, pending: _PendingRead) -> None:
        """TLS returns one record of 16 kB at a time, so the loop below runs 60,000 times per gigabyte."""
        read = self.tls.read
        target = pending.target
        size = len(target)
        filled = pending.filled
        try:
            while filled < size:
                count: int = read(size, target[filled:])  # type: ignore[assignment]
                if not count:
                    self._fail(Unreachable("the connection was closed"))
                    break
                filled += count
        except ssl.SSLWantReadError:
            return  # no more whole records
        except ssl.SSLError as error:
            self._fail(Unreachable(f"the connection broke off ({error.reason or error})"))
        finally:
            pending.filled = filled

    # --- writing --------------------------------------------------------------------------------------------

    async def write(self, body: bytes | bytearray | memoryview) -> None:
        """Send all of ``body``. Raises `Unreachable` where the connection ends."""
        view = memoryview(body).cast("B")
        for start in range(0, len(view), CHUNK):
            if self._failure:
                raise self._failure
            try:
                self.tls.write(view[start : start + CHUNK])
                await self._flush()
            except OSError as error:
                self._fail(Unreachable(f"the connection broke off ({error})"))

        if self._failure:
            raise self._failure

    async def _flush(self) -> None:
        """Send what TLS has encrypted."""
        left = memoryview(self._out.read())
        while left and self.is_open:
            try:
                left = left[self._socket.send(left) :]
            except (BlockingIOError, InterruptedError):
                self._writer = self._loop.create_future()
                self._loop.add_writer(self._socket.fileno(), _wake, self._writer)
                try:
                    await self._writer
                finally:
                    if self.is_open:
                        self._loop.remove_writer(self._socket.fileno())

    # --- the end --------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """End the connection at once."""
        self._fail(Unreachable("the connection was closed here"))

    def _fail(self, failure: SwarmError) -> None:
        if self._failure:
            return
        self._failure = failure
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        if self._pending:
            _wake(self._pending.is_over)
        _wake(self._writer)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter and not waiter.done():
        waiter.set_result(None)
