"""Transfers to and from other peers: messages and bulk items that this peer sends, and items that it fetches.

    message   ──► the queue of its peer ──► transport   ┐ offered until it is taken or refused; where the
    bulk item ────────────────────────────► transport   ┘ receiver is busy, unreachable or late: after a pause
    fetch     ────────────────────────────► transport     tried once

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
class Transfer:
    """A message or a bulk item to one peer, or a fetch from it. It ends at ``deadline``, in ``loop.time()``.

    Its result is put into ``events``. ``item`` is the name of the bulk item there, empty for a message.
    """

    to: PeerId
    request: Request
    deadline: float
    events: asyncio.Queue[Event]
    item: str = ""


class SendQueue:
    """The messages to one peer: `PARALLEL_MESSAGES` are under way, the others wait in their order.

    A message whose turn has come begins when its task runs next. A new message may begin before that: it goes
    ahead, and for a while more than `PARALLEL_MESSAGES` are under way.
    """

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

    def send(self, transfer: Transfer) -> None:
        """Send a message or a bulk item; puts `Unreached` once where it fails, and goes on trying.

        See `_offer` for the failures that count.
        """
        self._spawn(self._offer(transfer))

    def fetch(self, transfer: Transfer) -> None:
        """Fetch an item of exactly ``transfer.request.limit`` bytes; puts `Delivered` or `Unreached`."""
        self._spawn(self._fetch(transfer))

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

    async def _offer(self, transfer: Transfer) -> None:
        """Offer until it is taken, refused, or too late.

        The first failure is reported at once, so that no machine waits for a peer that may be gone. Offering
        goes on: perhaps only the connection was lost. `Busy` is the answer of a living peer: it is reported
        only if nothing is offered after it.
        """
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        is_reported = False
        while True:
            try:
                if transfer.request.route == MESSAGE_ROUTE:
                    await self._send_message(transfer)
                else:
                    await self._transport.request(transfer.to, transfer.request, deadline=transfer.deadline)
                return
            except SwarmError as error:
                is_over = not isinstance(error, Weather) or loop.time() + pause >= transfer.deadline
                if not is_reported and (is_over or not isinstance(error, Busy)):
                    is_reported = True
                    transfer.events.put_nowait(Unreached(transfer.to, transfer.item))
            if is_over:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _send_message(self, transfer: Transfer) -> None:
        """Send once, in the turn of the message."""
        queue = self._queues.get(transfer.to)
        if queue is None:
            queue = self._queues[transfer.to] = SendQueue()
        queue.users += 1
        try:
            if queue.is_full:
                await queue.wait(transfer.deadline)
            queue.begin()
            try:
                patience = min(transfer.deadline, asyncio.get_running_loop().time() + ANSWER_SECONDS)
                await self._transport.request(transfer.to, transfer.request, deadline=patience)
            finally:
                queue.end()
        finally:
            queue.users -= 1
            if not queue.users:
                del self._queues[transfer.to]

    async def _fetch(self, transfer: Transfer) -> None:
        try:
            payload = await self._transport.request(transfer.to, transfer.request, deadline=transfer.deadline)
        except SwarmError:
            transfer.events.put_nowait(Unreached(transfer.to, transfer.item))
            return
        if len(payload) == transfer.request.limit:
            transfer.events.put_nowait(Delivered(transfer.to, transfer.item, payload))
        else:
            transfer.events.put_nowait(Unreached(transfer.to, transfer.item))
