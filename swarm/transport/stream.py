"""A TLS connection for bulk bytes: from the socket through TLS straight into the memory they are meant for, and back.

    socket ──► a buffer that all streams share ──► TLS ──► what `read_into` waits for
    write ──► TLS, a chunk at a time ──► socket            nothing is awaited: a little is taken in, then the line stands still

asyncio's own TLS copies every byte twice more, and takes a third more of the processor for large bodies (decision 16).
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import ssl

from ..errors import SwarmError, Unreachable

CHUNK = 1 << 18
"""Bytes handed to TLS at once, and taken from the socket at once: they still fit a core's cache when they have been encrypted."""
_EARLY = 4096
"""Bytes that are taken from the socket while nobody waits for any: a small message whole, and the end of the connection."""
_NAME = "swarm"  # the pin decides; a name would only tell listeners on the line who is called


_unwritten = ctypes.pythonapi.PyByteArray_FromStringAndSize
_unwritten.restype = ctypes.py_object
_unwritten.argtypes = (ctypes.c_char_p, ctypes.c_ssize_t)


class Stream:
    """Owns ``connection``, which does not block. One reader and one writer at a time; `abort` it in the end."""

    def __init__(
        self, connection: socket.socket, context: ssl.SSLContext, buffer: memoryview, *, is_server: bool
    ) -> None:
        """``buffer``: room for what the socket has, which all streams of one event loop share."""
        self._socket, self._buffer = connection, buffer
        self._loop = asyncio.get_running_loop()
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._in, self._out, server_side=is_server, server_hostname=None if is_server else _NAME
        )
        self._failure: SwarmError | None = None
        self._target: memoryview | None = None
        self._filled = self._least = 0
        self._is_listening = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the other side may still be there."""
        return self._failure is None

    @property
    def has_more(self) -> bool:
        """Whether bytes have come that nobody has read."""
        return bool(self._in.pending or self.tls.pending())

    async def handshake(self) -> None:
        """Prove who we are, and learn who is there (`tls`). Raises `OSError`, TLS errors among them, or `Unreachable`."""
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                raw = await self._loop.sock_recv(self._socket, _EARLY)
                if not raw:
                    raise ConnectionResetError("the other side hung up") from None
                self._in.write(raw)
        await self._flush()
        self._listen()

    # --- reading --------------------------------------------------------------------------------------------------

    async def read(self, length: int) -> bytearray:
        """Exactly ``length`` bytes, each written once, and none before it has come: the system gives memory for no more.

        Raises `Unreachable` where the connection ends before. After an error, a timeout or a cancellation the stream is of no use
        any more: `abort` it.
        """
        body: bytearray = _unwritten(None, length)
        with memoryview(body) as view:
            await self.read_into(view, length)
        return body

    async def read_into(self, target: memoryview, least: int) -> int:
        """At least ``least`` bytes into ``target``; how many came."""
        self._target, self._filled, self._least = target, 0, least
        try:
            self._decrypt()
            if self._filled < least:
                if self._failure:
                    raise self._failure
                self._listen()
                self._reader = self._loop.create_future()
                await self._reader
        finally:
            self._target = self._reader = None
        if self._failure and self._filled < least:
            raise self._failure
        return self._filled

    def _listen(self) -> None:
        if not self._is_listening and self.is_open:
            self._loop.add_reader(self._socket.fileno(), self._on_readable)
            self._is_listening = True

    def _on_readable(self) -> None:
        """The socket has something: bytes, or the end."""
        room = self._buffer if self._target else self._buffer[:_EARLY]
        try:
            count = self._socket.recv_into(room)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(Unreachable(f"the connection broke off ({error})"))
            return
        if not count:
            self._fail(Unreachable("the connection was closed"))
            return
        self._in.write(room[:count])
        self._decrypt()
        if (
            self._in.pending >= _EARLY and self.is_open
        ):  # nobody wants it yet: TCP tells the other side to wait
            self._loop.remove_reader(self._socket.fileno())
            self._is_listening = False

    def _decrypt(self) -> None:
        """As much into the target as is here, and has room there."""
        if self._target is not None:
            self._fill(self._target)
            if self._filled >= self._least:
                _wake(self._reader)

    def _fill(self, target: memoryview) -> None:
        """TLS hands over one record of 16 kB at a time: what stands in the loop is done 60,000 times per gigabyte."""
        read, filled, size = self.tls.read, self._filled, len(target)
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
            self._filled = filled

    # --- writing --------------------------------------------------------------------------------------------------

    async def write(self, body: bytes | bytearray | memoryview) -> None:
        """All of ``body``. Raises `Unreachable` where the connection ends."""
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
        """What TLS has to say, to the socket."""
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

    # --- the end --------------------------------------------------------------------------------------------------

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
        _wake(self._reader)
        _wake(self._writer)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter and not waiter.done():
        waiter.set_result(None)
