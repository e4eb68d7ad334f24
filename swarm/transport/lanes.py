"""Lanes for bulk bytes and for mail: connections that carry one body after the other, with as little around them as can be.

    `PREFACE`, then TLS as in every call, whose protocol is `PROTOCOL_NAME`             who it is is settled by TLS and the pin
    head 128: length of the body u64 ‖ length u8 and path               ──►
                            ◄──   verdict: go, or no (a refusal as in `envelope`)   before a byte of the body is sent
    body                                                               ──►
                            ◄──   verdict: done and a reply, or no

A body of at most `SMALL` bytes follows its head at once, and there is one verdict. A round is made of short messages, and by HTTP
each costs both sides three times as much.

The rules are those of a call by HTTP, and the same server keeps them; only the bytes of the body take another way.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import IntEnum

from ..errors import Malformed, SwarmError
from ..identity import PeerId, petname
from ..wire import CONTROL_LIMIT
from . import Payload
from .envelope import pack_refusal, read_refusal
from .guard import Limits
from .stream import Stream

PREFACE = b"SWARM LANE 1\r\n\r\n"
"""The first bytes of a connection that is to be a lane; one for HTTP begins with TLS. Then TLS has the last word (ALPN)."""
PROTOCOL_NAME = "swarm-lane/1"
REPLY_LIMIT = 4096
"""Bytes of the largest reply on a lane, and of the largest refusal."""

SMALL = CONTROL_LIMIT
"""Bytes of the largest body that comes without being asked for."""

_HEAD = struct.Struct("<QB119s")
_VERDICT = struct.Struct("<HI")
PATH_LIMIT = 119
"""Characters of the longest path of a call that a lane can carry."""
_AT_ONCE = 2048
"""Bytes of a body that may be read with its head: most mail is shorter."""
_SWEEPS = 16
"""Looks for idle lanes in the time after which a lane is one."""


class _Say(IntEnum):
    """First field of a verdict; from 400 on it is the HTTP status of a refusal."""

    GO = 100
    DONE = 200


Body = Payload | Callable[[], Awaitable[Payload]]
"""The body of a message, or how to get it."""
Take = Callable[[str, int, Body], Awaitable[bytes]]
"""(path, length, body) -> the reply. Raises what `pack_refusal` knows."""


# --- the side that listens ----------------------------------------------------------------------------------------


async def serve(stream: Stream, take: Take, limits: Limits) -> None:
    """Answer on a lane until its other side ends it, says nothing for ``limits.idle_seconds``, or leaves a body unfinished.

    Raises `TimeoutError` where nothing is ever said on it, for ``limits.first_request_seconds``.
    """
    buffer, is_first = memoryview(bytearray(_HEAD.size + _AT_ONCE)), True
    try:
        while await _answer(stream, take, *await _hear(stream, buffer, limits, is_first)):
            is_first = False
    except SwarmError:
        return  # the other side's end: nobody here waits for it
    except TimeoutError:
        if is_first:
            raise


async def _hear(
    stream: Stream, buffer: memoryview, limits: Limits, is_first: bool
) -> tuple[bytes, Payload | None]:
    """The head of a message, and its body if it is small. Raises `Malformed` where more came than belongs to it."""
    async with asyncio.timeout(limits.first_request_seconds if is_first else limits.idle_seconds):
        here = await stream.read_into(buffer, _HEAD.size)
    head, begun = bytes(buffer[: _HEAD.size]), buffer[_HEAD.size : here]
    length, *_ = _HEAD.unpack(head)
    if len(begun) > (length if length <= SMALL else 0):
        raise Malformed("bytes came that nobody had asked for")
    if length > SMALL:
        return head, None
    body = bytearray(length)
    body[: len(begun)] = begun
    if len(begun) < length:
        async with asyncio.timeout(limits.patience(length)):
            await stream.read_into(memoryview(body)[len(begun) :], length - len(begun))
    if stream.has_more:
        raise Malformed("bytes came that nobody had asked for")
    return head, body


async def _answer(stream: Stream, take: Take, head: bytes, small: Payload | None) -> bool:
    """One message; False where the lane is of no use afterwards."""
    length, size, padded = _HEAD.unpack(head)
    asked = taken = small is not None

    async def body() -> Payload:
        nonlocal asked, taken
        asked = True
        await stream.write(_VERDICT.pack(_Say.GO, 0))
        payload = await stream.read(length)
        if stream.has_more:
            raise Malformed("bytes came that nobody had asked for")
        taken = True
        return payload

    try:
        path = (
            "" if size > PATH_LIMIT or any(padded[size:]) else padded[:size].decode("ascii", "replace")
        )  # "" is no path either
        status, reply = int(_Say.DONE), await take(path, length, body if small is None else small)
    except Exception as error:  # noqa: BLE001 - `take` has told the log; the other side learns what is its business
        status, reply = pack_refusal(error)
    await stream.write(_VERDICT.pack(status, len(reply)) + reply)
    return taken or not asked


# --- the side that calls ------------------------------------------------------------------------------------------


class Lane:
    """One lane to one peer, for one message at a time."""

    def __init__(self, to: PeerId, stream: Stream) -> None:
        self._who, self._stream = petname(to), stream
        self.used_at = asyncio.get_running_loop().time()

    @property
    def is_open(self) -> bool:
        """Whether it may be used again."""
        return self._stream.is_open

    async def send(self, path: str, body: memoryview) -> bytes:
        """The reply to ``body`` under ``path`` (as in `envelope`). Raises refusals and weather; then look at `is_open`."""
        is_whole, is_small, raw = False, len(body) <= SMALL, path.encode("ascii")
        head = _HEAD.pack(len(body), len(raw), raw)
        try:
            if is_small:
                await self._stream.write(head + body)
            else:
                await self._stream.write(head)
                await self._verdict(_Say.GO)
                await self._stream.write(body)
            reply = await self._verdict(_Say.DONE)
            is_whole = True
            return reply
        except _Refusal as refusal:
            is_whole = refusal.is_early or is_small
            raise refusal.error from None
        finally:
            self.used_at = asyncio.get_running_loop().time()
            if not is_whole:
                self.abort()

    async def _verdict(self, wanted: _Say) -> bytes:
        buffer = memoryview(bytearray(_VERDICT.size + REPLY_LIMIT))
        here = await self._stream.read_into(buffer, _VERDICT.size)
        status, length = _VERDICT.unpack_from(buffer)
        if length > REPLY_LIMIT:
            raise Malformed(f"{self._who} answers with {length} bytes")
        if here < _VERDICT.size + length:
            here += await self._stream.read_into(
                buffer[here : _VERDICT.size + length], _VERDICT.size + length - here
            )
        reply = bytes(buffer[_VERDICT.size : here])
        if status >= 400:
            raise _Refusal(read_refusal(self._who, status, reply), is_early=wanted is _Say.GO)
        if status != wanted or here > _VERDICT.size + length:
            raise Malformed(f"{self._who} does not keep to the order of a lane")
        return reply

    def abort(self) -> None:
        """End it."""
        self._stream.abort()


class _Refusal(Exception):
    """Carries a refusal out of `_verdict`; an early one leaves the lane as it was."""

    def __init__(self, error: SwarmError, *, is_early: bool) -> None:
        super().__init__(str(error))
        self.error, self.is_early = error, is_early


@dataclass(slots=True)
class _ToOne:
    seats: asyncio.Semaphore
    idle: deque[Lane] = field(default_factory=deque)
    users: int = 0


class Lanes:
    """The lanes of one transport, by peer: kept for the next message, at most ``parallel`` to one peer."""

    def __init__(
        self, open_lane: Callable[[PeerId], Awaitable[Lane]], parallel: int, idle_seconds: float
    ) -> None:
        """``idle_seconds``: a lane that has lain idle so long is not used again; less than the other side's patience with it."""
        self._open_lane, self._parallel, self._idle_seconds = open_lane, parallel, idle_seconds
        self._peers: dict[PeerId, _ToOne] = {}
        self._sweep_at = 0.0

    async def send(self, to: PeerId, path: str, body: memoryview) -> bytes:
        """`Lane.send` on a free lane, or on a new one. Whoever calls sets the deadline."""
        ours = self._peers.setdefault(to, _ToOne(asyncio.Semaphore(self._parallel)))
        ours.users += 1
        try:
            async with ours.seats:
                lane = self._free(ours) or await self._open_lane(to)
                try:
                    return await lane.send(path, body)
                finally:
                    if lane.is_open:
                        ours.idle.append(lane)
        finally:
            ours.users -= 1
            self._drop_stale()

    def close(self) -> None:
        """End all that are idle; the others end with those who use them."""
        for ours in self._peers.values():
            while ours.idle:
                ours.idle.pop().abort()

    def _drop_stale(self) -> None:
        """End what has lain idle for too long: a peer that has lost its power does not say that it is gone.

        Now and then only: whoever has a hundred lanes would else look at all of them with every message.
        """
        now = asyncio.get_running_loop().time()
        if now < self._sweep_at:
            return
        self._sweep_at = now + self._idle_seconds / _SWEEPS
        for peer, ours in list(self._peers.items()):
            for lane in [lane for lane in ours.idle if not self._is_fresh(lane)]:
                ours.idle.remove(lane)
                lane.abort()
            if not ours.idle and not ours.users:
                del self._peers[peer]

    def _free(self, ours: _ToOne) -> Lane | None:
        """The lane that was used last, if it can still be used; those that cannot are dropped."""
        while ours.idle:
            lane = ours.idle.pop()
            if self._is_fresh(lane):
                return lane
            lane.abort()
        return None

    def _is_fresh(self, lane: Lane) -> bool:
        return lane.is_open and lane.used_at >= asyncio.get_running_loop().time() - self._idle_seconds
