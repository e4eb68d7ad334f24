"""Lanes: connections that carry one message after the other, with as few bytes around them as possible.

A lane begins with `PREFACE`, then TLS as for a call by HTTP, with `PROTOCOL_NAME` as its ALPN protocol. TLS
and the pinned peer id settle who is there. Then, for each message:

    caller                                                         listener
    head, 128 bytes: length of the body u64 ‖ length u8 and path   ──►
                            ◄──   verdict: GO, or a refusal as in `envelope`
    body                                                           ──►
                            ◄──   verdict: DONE and a reply, or a refusal as in `envelope`

A body of at most `SMALL` bytes follows its head at once, and there is one verdict only. A round consists of
short messages, and by HTTP each would cost both sides three times as much.

The same server and the same limits hold as for a call by HTTP; only the bytes of the body take another way.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import IntEnum

from ..errors import Malformed, SwarmError, TooLate
from ..identity import PeerId, petname
from ..wire import CONTROL_LIMIT
from . import Payload
from .envelope import pack_refusal, read_refusal
from .guard import Timeouts
from .stream import Stream

PREFACE = b"SWARM LANE 1\r\n\r\n"
"""The first bytes of a lane; a connection for HTTP begins with TLS. ALPN then confirms which it is."""
PROTOCOL_NAME = "swarm-lane/1"
"""ALPN name of a lane."""
REPLY_LIMIT = 4096
"""Bytes of the largest reply on a lane, and of the largest refusal."""

SMALL = CONTROL_LIMIT
"""Bytes of the largest body that is sent without waiting for a verdict."""
PATH_LIMIT = 119
"""Characters of the longest path of a call that a lane can carry."""

_HEAD = struct.Struct("<QB119s")
_VERDICT = struct.Struct("<HI")
_READ_WITH_HEAD = 2048
"""Bytes of a body that are read together with its head: most short messages have fewer."""
_SWEEPS_PER_IDLE_TIME = 16
"""How often idle lanes are looked for within the time after which a lane counts as idle."""


class _Code(IntEnum):
    """First field of a verdict. A value from 400 on is the HTTP status of a refusal."""

    GO = 100
    DONE = 200


Body = Payload | Callable[[], Awaitable[Payload]]
"""The body of a message, or a function that reads it."""
Handle = Callable[[str, int, Body], Awaitable[bytes]]
"""(path, length, body) -> the reply. May raise any error; `pack_refusal` tells the other side."""


# --- the side that listens ----------------------------------------------------------------------------------


async def serve(stream: Stream, handle: Handle, timeouts: Timeouts) -> None:
    """Answer on a lane until the other side closes it, idles too long, or leaves a body unfinished.

    Raises `TimeoutError` where the first message does not come within ``timeouts.first_request_seconds``, and
    `TooLate` where the other side does not read an answer.
    """
    buffer = memoryview(bytearray(_HEAD.size + _READ_WITH_HEAD))
    is_first = True
    try:
        while True:
            patience = timeouts.first_request_seconds if is_first else timeouts.idle_seconds
            head, small_body = await _read_message(stream, buffer, patience, timeouts)
            if not await _answer(stream, handle, timeouts, head, small_body):
                return
            is_first = False
    except TooLate:
        raise
    except SwarmError:
        return  # the other side has ended the lane, or broken its rules: nobody here waits for it
    except TimeoutError:
        if is_first:
            raise


async def _read_message(
    stream: Stream, buffer: memoryview, patience: float, timeouts: Timeouts
) -> tuple[bytes, Payload | None]:
    """(head, body) of the next message; the body is None if it is not small.

    The head must come within ``patience`` seconds. Raises `Malformed` where more bytes came than belong to
    the message.
    """
    async with asyncio.timeout(patience):
        received = await stream.read_into(buffer, _HEAD.size)
    head = bytes(buffer[: _HEAD.size])
    begun = buffer[_HEAD.size : received]
    length, *_ = _HEAD.unpack(head)
    is_small = length <= SMALL

    if len(begun) > (length if is_small else 0):
        raise Malformed("bytes came that nobody had asked for")
    if not is_small:
        return head, None

    body = bytearray(length)
    body[: len(begun)] = begun
    if len(begun) < length:
        async with asyncio.timeout(timeouts.transfer(length)):
            await stream.read_into(memoryview(body)[len(begun) :], length - len(begun))
    if stream.has_more:
        raise Malformed("bytes came that nobody had asked for")
    return head, body


class _LargeBody:
    """The body of a message that waits at the other side for a verdict."""

    def __init__(self, stream: Stream, length: int) -> None:
        self._stream = stream
        self._length = length
        self._is_asked_for = False
        self._is_read = False

    @property
    def is_half_read(self) -> bool:
        """Whether we asked for it and did not read all of it, so that the lane cannot be used any more."""
        return self._is_asked_for and not self._is_read

    async def read(self) -> Payload:
        """Ask for the body and read it. Raises `Malformed` where more comes."""
        self._is_asked_for = True
        await self._stream.write(_VERDICT.pack(_Code.GO, 0))
        payload = await self._stream.read(self._length)
        if self._stream.has_more:
            raise Malformed("bytes came that nobody had asked for")
        self._is_read = True
        return payload


async def _answer(
    stream: Stream, handle: Handle, timeouts: Timeouts, head: bytes, small_body: Payload | None
) -> bool:
    """Answer one message. Returns False where the lane cannot be used afterwards.

    Raises `TooLate` where the other side does not read the answer in time: a lane and its memory are not held
    for a peer that only sends.
    """
    length, size, padded = _HEAD.unpack(head)
    large_body = _LargeBody(stream, length) if small_body is None else None
    body: Body = large_body.read if large_body else small_body or b""
    is_path_valid = size <= PATH_LIMIT and not any(padded[size:])
    path = padded[:size].decode("ascii", "replace") if is_path_valid else ""  # an empty path is refused
    try:
        reply = await handle(path, length, body)
        status = int(_Code.DONE)
    except Exception as error:  # noqa: BLE001 - `handle` has logged a bug; the caller gets what it may know
        status, reply = pack_refusal(error)
    try:
        async with asyncio.timeout(timeouts.transfer(len(reply))):
            await stream.write(_VERDICT.pack(status, len(reply)) + reply)
    except TimeoutError as error:
        raise TooLate("the other side does not read what it is answered") from error
    return large_body is None or not large_body.is_half_read


# --- the side that calls ------------------------------------------------------------------------------------


class Lane:
    """One lane to one peer, for one message at a time."""

    def __init__(self, to: PeerId, stream: Stream) -> None:
        self._name = petname(to)
        self._stream = stream
        self.used_at = asyncio.get_running_loop().time()

    @property
    def is_open(self) -> bool:
        """Whether it may be used again."""
        return self._stream.is_open

    async def send(self, path: str, body: memoryview) -> bytes:
        """Send ``body`` to ``path`` (as in `envelope`) and return the reply.

        Raises `Refused`, `Busy`, `Unreachable` or `Malformed`. Afterwards `is_open` says whether the lane may
        be used again.
        """
        raw_path = path.encode("ascii")
        head = _HEAD.pack(len(body), len(raw_path), raw_path)
        is_small = len(body) <= SMALL
        is_complete = False
        try:
            if is_small:
                await self._stream.write(head + body)
            else:
                await self._stream.write(head)
                await self._read_verdict(_Code.GO)
                await self._stream.write(body)
            reply = await self._read_verdict(_Code.DONE)
            is_complete = True
            return reply
        except _Refusal as refusal:
            is_complete = refusal.is_early or is_small
            raise refusal.error from None
        finally:
            self.used_at = asyncio.get_running_loop().time()
            if not is_complete:
                self.abort()

    async def _read_verdict(self, wanted: _Code) -> bytes:
        """The reply that comes with the verdict ``wanted``.

        Raises `_Refusal`, or `Malformed` for another verdict.
        """
        buffer = memoryview(bytearray(_VERDICT.size + REPLY_LIMIT))
        received = await self._stream.read_into(buffer, _VERDICT.size)
        status, length = _VERDICT.unpack_from(buffer)
        if length > REPLY_LIMIT:
            raise Malformed(f"{self._name} answers with {length} bytes")
        end = _VERDICT.size + length
        if received < end:
            received += await self._stream.read_into(buffer[received:end], end - received)
        reply = bytes(buffer[_VERDICT.size : received])
        if status >= 400:
            raise _Refusal(read_refusal(self._name, status, reply), is_early=wanted is _Code.GO)
        if status != wanted or received > end:
            raise Malformed(f"{self._name} does not keep to the order of a lane")
        return reply

    def abort(self) -> None:
        """End the lane at once."""
        self._stream.abort()


class _Refusal(Exception):
    """Carries a refusal out of `_read_verdict`.

    After an early one, before the body, the lane may be used again.
    """

    def __init__(self, error: SwarmError, *, is_early: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.is_early = is_early


@dataclass(slots=True)
class _LanesToPeer:
    free: asyncio.Semaphore
    """Lanes that may still be taken or opened."""
    idle: deque[Lane] = field(default_factory=deque)
    """Lanes that wait for their next message; the one used last is at the right."""
    users: int = 0
    """Calls that use a lane or wait for one."""


class Lanes:
    """The lanes of one transport, by peer.

    They are kept for the next message, at most ``parallel`` to one peer.
    """

    def __init__(
        self, open_lane: Callable[[PeerId], Awaitable[Lane]], parallel: int, idle_seconds: float
    ) -> None:
        """A lane idle for ``idle_seconds`` is not used again; the other side must wait longer than that."""
        self._open_lane = open_lane
        self._parallel = parallel
        self._idle_seconds = idle_seconds
        self._peers: dict[PeerId, _LanesToPeer] = {}
        self._sweep_at = 0.0

    async def send(self, to: PeerId, path: str, body: memoryview) -> bytes:
        """`Lane.send` on an idle lane, or on a new one. The caller sets the deadline."""
        lanes = self._peers.setdefault(to, _LanesToPeer(asyncio.Semaphore(self._parallel)))
        lanes.users += 1
        try:
            async with lanes.free:
                lane = self._take_idle(lanes) or await self._open_lane(to)
                try:
                    return await lane.send(path, body)
                finally:
                    if lane.is_open:
                        lanes.idle.append(lane)
        finally:
            lanes.users -= 1
            self._drop_stale()

    def close(self) -> None:
        """End all idle lanes; the others end with the calls that use them."""
        for lanes in self._peers.values():
            while lanes.idle:
                lanes.idle.pop().abort()

    def _drop_stale(self) -> None:
        """End lanes that were idle for too long: a peer that has lost its power does not close them.

        This happens only now and then, so that a message does not cost a look at every lane.
        """
        now = asyncio.get_running_loop().time()
        if now < self._sweep_at:
            return
        self._sweep_at = now + self._idle_seconds / _SWEEPS_PER_IDLE_TIME
        for peer, lanes in list(self._peers.items()):
            for lane in [lane for lane in lanes.idle if not self._is_fresh(lane)]:
                lanes.idle.remove(lane)
                lane.abort()
            if not lanes.idle and not lanes.users:
                del self._peers[peer]

    def _take_idle(self, lanes: _LanesToPeer) -> Lane | None:
        """The lane that was used last, if it can still be used. Those that cannot are ended."""
        while lanes.idle:
            lane = lanes.idle.pop()
            if self._is_fresh(lane):
                return lane
            lane.abort()
        return None

    def _is_fresh(self, lane: Lane) -> bool:
        return lane.is_open and lane.used_at >= asyncio.get_running_loop().time() - self._idle_seconds
