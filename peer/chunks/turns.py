"""Who may have bytes of this peer next: the share of each of those that fetch from it, its takers.

    a request ──► `Busy` if it would wait too long ──► it waits for its turn ──► it is paid ──► it is sent
                                                       what was not sent in the end is given back ◄──┘

Turns follow start-time fair queuing (Goyal, Vin and Cheng 1996). Each request gets a start tag: the end of
its taker's request before, or the tag that is being served now if that is later. The smallest tag is next. So
a taker that asks for much waits behind its own requests, and one that asks for little is served almost at
once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from swarm.bounded import LeastRecentlyUsed
from swarm.errors import Busy
from swarm.hosts import share_of
from swarm.transport import Call
from swarm.transport.throttle import TokenBucket

TAKERS = 1024
"""Takers whose last tag is remembered."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What newcomers may cost a donor, so that it can still train."""

    rate: float = 16 * 1024 * 1024
    """Bytes per second, after a burst."""
    burst: float = 64 * 1024 * 1024
    """Bytes that may leave at once after a pause."""
    parallel: int = 32
    """Requests that may wait for their turn. Beyond that only a taker of which none waits may ask."""
    patience: float = 2.0
    """Seconds that a request may wait for its turn. If it would have to wait longer, we are `Busy`."""


@dataclass(eq=False, slots=True)
class _Turn:
    """A request that waits. ``tag`` is its start tag, in bytes."""

    taker: str
    size: int
    tag: float
    is_next: asyncio.Event = field(default_factory=asyncio.Event)
    is_paid: bool = False


class Turns:
    """The turns of one peer."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._bucket = TokenBucket(serving.rate, serving.burst)
        self._waiting: list[_Turn] = []
        """In the order in which they came; the one that is being paid is among them."""
        self._tag = 0.0
        """The start tag of the turn that was served last."""
        self._ends: LeastRecentlyUsed[str, float] = LeastRecentlyUsed(TAKERS)
        """By taker, where its last request ends, in the bytes of the tags."""

    async def take(self, call: Call, size: int) -> None:
        """Wait until ``size`` bytes may leave for ``call``. Raises `Busy` if that would take too long."""
        loop = asyncio.get_running_loop()
        turn = self._queue(share_of(call.sender, call.host), size, loop.time())
        try:
            await turn.is_next.wait()
            turn.is_paid = True
            if delay := self._bucket.take(size, loop.time()):
                await asyncio.sleep(delay)
        except asyncio.CancelledError:
            self._refund(turn.taker, size, is_paid=turn.is_paid)
            raise
        finally:
            self._waiting.remove(turn)
            self._call_next()

    def give_back(self, call: Call, size: int) -> None:
        """Of the bytes that ``call`` has taken, ``size`` could not be sent: its connection has ended."""
        self._refund(share_of(call.sender, call.host), size, is_paid=True)

    def _queue(self, taker: str, size: int, now: float) -> _Turn:
        tag = max(self._tag, self._ends.get(taker, 0.0))
        is_full = len(self._waiting) >= self._serving.parallel
        before = sum(turn.size for turn in self._waiting if turn.tag <= tag and not turn.is_paid)
        wait = self._bucket.wait(size, now) + before / self._serving.rate
        if wait > self._serving.patience or (is_full and any(turn.taker == taker for turn in self._waiting)):
            raise Busy("other newcomers are being served; come again")

        turn = _Turn(taker, size, tag)
        self._ends[taker] = tag + size
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            self._call_next()
        return turn

    def _call_next(self) -> None:
        """Let the turn with the smallest tag be paid, if none is being paid now."""
        if any(turn.is_next.is_set() for turn in self._waiting):
            return
        if self._waiting:
            turn = min(self._waiting, key=lambda turn: turn.tag)
            self._tag = max(self._tag, turn.tag)
            turn.is_next.set()

    def _refund(self, taker: str, size: int, *, is_paid: bool) -> None:
        if is_paid:
            self._bucket.give_back(size)
        if taker in self._ends:
            self._ends[taker] -= size
