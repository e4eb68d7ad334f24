"""What is being sent to others: offered again and again until it is taken, refused, or too late.

    message   ──► the queue of its peer ──► transport        taken, or refused: done
    bulk item ─────────────────────────────► transport        busy, unreachable or late: again after a pause
    fetch     ─────────────────────────────► transport        once

Sending belongs to the peer, not to the round that asked for it: a round may end while its last messages are
still on their way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from ..errors import Busy, SwarmError, TooLate, Weather
from ..identity import PeerId
from ..machine import Delivered, Event, Unreached
from . import Request, Transport

FIRST_PAUSE = 0.1
"""Seconds before a message is offered a second time; each further pause is twice as long."""
LONGEST_PAUSE = 2.0
"""Seconds of the longest of these pauses."""
ANSWER_SECONDS = 4.0
"""A message that has had no answer for so long is offered again: its connection may be lost."""
PARALLEL_MESSAGES = 2
"""Messages to one peer that are under way at a time. Each more would open a connection, which costs more
bytes than ten messages. Two, so that one without an answer does not delay the next."""

MESSAGE_ROUTE = "mail"
BULK_ROUTE = "bulk"
ITEM_ROUTE = "item"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request to one peer, which ends at ``deadline`` (seconds of ``loop.time()``).

    Its result is put into ``events``. ``item`` is the name of the bulk item there, empty for a message.
    """

    to: PeerId
    request: Request
    deadline: float
    events: asyncio.Queue[Event]
    item: str = ""


class SendQueue:
    """The messages to one peer: at most `PARALLEL_MESSAGES` are under way, the others wait in their order."""

    def __init__(self) -> None:
        self.users = 0
        """Messages that are under way or wait; at 0 the queue is not needed any more."""
        self._under_way = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether the next message must wait."""
        return self._under_way >= PARALLEL_MESSAGES

    async def wait(self, deadline: float) -> None:
        """Wait for the turn of a message. Raises `TooLate` at ``deadline``."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except BaseException as error:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn.done() and not turn.cancelled():
                self._wake_next()  # our turn has come, but we do not take it
            if isinstance(error, TimeoutError):
                raise TooLate("no answer to the messages before this one") from error
            raise

    def begin(self) -> None:
        """A message goes out."""
        self._under_way += 1

    def end(self) -> None:
        """A message has been answered, or given up: the next one may go."""
        self._under_way -= 1
        self._wake_next()

    def _wake_next(self) -> None:
        while self._waiting and not self.is_full:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                break


class Outbox:
    """Sends in the background, in tasks of ``tasks``, the peer's own group."""

    def __init__(self, transport: Transport, tasks: asyncio.TaskGroup) -> None:
        self._transport = transport
        self._tasks = tasks
        self._queues: dict[PeerId, SendQueue] = {}
        self._sending: set[asyncio.Task[None]] = set()

    def send(self, outgoing: Outgoing) -> None:
        """Send a message or a bulk item; puts `Unreached` at the first failure, and goes on trying."""
        self._spawn(self._offer(outgoing))

    def fetch(self, wanted: Outgoing) -> None:
        """Fetch an item of exactly ``wanted.request.limit`` bytes; puts `Delivered` or `Unreached`."""
        self._spawn(self._fetch(wanted))

    async def flush(self, seconds: float) -> None:
        """Wait until all that is being sent has been answered, at most ``seconds``."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=seconds)

    def _spawn(self, sending: Coroutine[Any, Any, None]) -> None:
        """Send in the background.

        Once the peer is leaving, nothing is sent, though it may still answer calls.
        """
        try:
            task = self._tasks.create_task(sending)
        except RuntimeError:  # the group takes no more tasks: the peer is leaving
            sending.close()
        else:
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _offer(self, outgoing: Outgoing) -> None:
        """Offer until it is taken, refused, or too late.

        The first failure is reported at once, so that no machine waits for a peer that may be gone. Offering
        goes on: perhaps only the connection was lost.
        """
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        is_reported = False
        while True:
            try:
                if outgoing.request.route == MESSAGE_ROUTE:
                    await self._send_message(outgoing)
                else:
                    await self._transport.request(outgoing.to, outgoing.request, deadline=outgoing.deadline)
                return
            except SwarmError as error:
                is_over = not isinstance(error, Weather) or loop.time() + pause >= outgoing.deadline
                if not is_reported and (is_over or not isinstance(error, Busy)):
                    is_reported = True
                    outgoing.events.put_nowait(Unreached(outgoing.to, outgoing.item))
            if is_over:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _send_message(self, outgoing: Outgoing) -> None:
        """Send once, in the turn of the message."""
        queue = self._queues.get(outgoing.to)
        if queue is None:
            queue = self._queues[outgoing.to] = SendQueue()
        queue.users += 1
        try:
            if queue.is_full:
                await queue.wait(outgoing.deadline)
            queue.begin()
            try:
                patience = min(outgoing.deadline, asyncio.get_running_loop().time() + ANSWER_SECONDS)
                await self._transport.request(outgoing.to, outgoing.request, deadline=patience)
            finally:
                queue.end()
        finally:
            queue.users -= 1
            if not queue.users:
                del self._queues[outgoing.to]

    async def _fetch(self, wanted: Outgoing) -> None:
        try:
            payload = await self._transport.request(wanted.to, wanted.request, deadline=wanted.deadline)
        except SwarmError:
            wanted.events.put_nowait(Unreached(wanted.to, wanted.item))
            return
        if len(payload) == wanted.request.limit:
            wanted.events.put_nowait(Delivered(wanted.to, wanted.item, payload))
        else:
            wanted.events.put_nowait(Unreached(wanted.to, wanted.item))
