"""Mail between machines: owns every outgoing message, and hands every incoming one to the machine that is open for it.

    machine -> Send, Ship, Fetch -> Post -> transport            sends belong to the peer, not to the round that asked for them:
    machine <- Received, Delivered <- Inbox <- transport         a round may end while its last words are still on their way

Mail for a round that is not open yet waits in a bounded backlog: whoever finds no room in it comes again. Mail for a round that is
closed goes to ``stray``, and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from ..errors import Busy, Refused, SwarmError, TooLate, Weather
from ..identity import KeyPair, PeerId
from ..machine import Delivered, Event, Received, Unreached
from ..wire import Message, Signed, Stamp, level_of, open_frame, seal
from . import Allowance, Call, Payload, Request, Route, Transport

BACKLOG_BYTES = 8 << 20
"""Mail kept for machines that are not open yet, in all."""
BACKLOG_OF_ONE = 32
"""Messages of one sender among them. A round takes about ten."""
RETRY_SECONDS = (0.1, 2.0)
"""First and longest pause before a message is offered again; doubles each time."""
MAIL_SECONDS = 4.0
"""A control message that has not been answered so long is offered again: it may hang on a connection that is lost."""

LANES = 2
"""Control messages to one peer at a time: each more would open a connection, which costs more bytes than ten messages. Two, so that
one that hangs delays nothing."""

Topic = tuple[int, bytes]
"""(round, group); messages that form a group live under (round, the hall where it is formed)."""
Expect = Callable[[PeerId, str], int]
"""(sender, item) -> exact bytes that this item must have; raises a `TheirFault` or `Weather` to refuse it."""


@dataclass(slots=True)
class Inbox:
    """What one machine hears. ``expect`` says which bulk items it accepts; None: none."""

    expect: Expect | None = None
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)


class Post:
    """The edge between machines and the transport. Tasks belong to ``tasks``, the peer's own group."""

    def __init__(
        self,
        transport: Transport,
        key: KeyPair,
        run: bytes,
        tasks: asyncio.TaskGroup,
        forms: dict[type[Message], bool],
    ) -> None:
        """``forms``: the messages that may come in; True for those that form a group and so live under (round, hall)."""
        self._transport, self._key, self._run, self._tasks = transport, key, run, tasks
        self._forms = forms
        self._open: dict[Topic, Inbox] = {}
        self._backlog: list[tuple[Topic, Received]] = []
        self._waiting: Counter[PeerId] = Counter()
        self._waiting_bytes = 0
        self._closed: deque[Topic] = deque(maxlen=64)
        self._floor = 0
        self._seq = 0
        self._under_way: Counter[PeerId] = Counter()
        self._queues: dict[PeerId, deque[asyncio.Future[None]]] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self.shelf: dict[str, Payload] = {}
        """Bulk items that anybody in the run may fetch, by name."""
        self.stray: Callable[[Signed[Message]], None] = lambda signed: None
        """Called with every message for a round that is over."""
        transport.serve(Route("mail", self._on_mail))
        transport.serve(Route("bulk", self._on_bulk, self._admit_bulk))
        transport.serve(Route("item", self._on_item))

    # --- in -------------------------------------------------------------------------------------------------------

    def open(self, topic: Topic, expect: Expect | None = None) -> Inbox:
        """An inbox for ``topic``, with what has already come for it."""
        inbox = self._open[topic] = Inbox(expect)
        self._floor = max(self._floor, topic[0])
        for its_topic, event in self._backlog:
            if its_topic == topic:
                inbox.events.put_nowait(event)
        self._backlog = [kept for kept in self._backlog if kept[0] != topic and kept[0][0] >= self._floor]
        self._waiting = Counter(event.sender for _, event in self._backlog)
        self._waiting_bytes = sum(len(event.signed.raw) for _, event in self._backlog)
        return inbox

    def close(self, topic: Topic) -> None:
        """Drop the inbox. What nobody has read in it, and what still comes for it, is stray."""
        inbox = self._open.pop(topic, None)
        self._closed.append(topic)
        while inbox and not inbox.events.empty():
            event = inbox.events.get_nowait()
            if isinstance(event, Received):
                self.stray(event.signed)

    def reopen(self, round_: int) -> None:
        """Mail for ``round_`` and the one after it is not stray (any more): we may have gone back to an earlier round."""
        self._floor = round_
        self._closed = deque(
            (topic for topic in self._closed if topic[0] < round_), maxlen=self._closed.maxlen
        )

    async def _on_mail(self, call: Call) -> Payload:
        signed = open_frame(bytes(call.body), *self._forms, run=self._run)
        if signed.signer != call.sender:
            raise Refused("mail is accepted from its signer only")
        group = level_of(signed.stamp.group) if self._forms[type(signed.message)] else signed.stamp.group
        topic, event = (signed.stamp.round, group), Received(signed)
        inbox = self._open.get(topic)
        if inbox:
            inbox.events.put_nowait(event)
        elif self._floor <= signed.stamp.round <= self._floor + 1 and topic not in self._closed:
            self._keep(topic, event)
        else:
            self.stray(signed)
        return b""

    def _keep(self, topic: Topic, event: Received) -> None:
        size = len(event.signed.raw)
        if self._waiting[event.sender] >= BACKLOG_OF_ONE or self._waiting_bytes + size > BACKLOG_BYTES:
            raise Busy("no room for more mail for rounds to come")
        self._backlog.append((topic, event))
        self._waiting[event.sender] += 1
        self._waiting_bytes += size

    def _admit_bulk(self, sender: PeerId, argument: str) -> Allowance:
        inbox, item = self._inbox_of(argument)
        if inbox is None or inbox.expect is None:
            raise Busy("no round of this group is open here")
        return Allowance(exact=inbox.expect(sender, item), seconds=3600)

    async def _on_bulk(self, call: Call) -> Payload:
        inbox, item = self._inbox_of(call.argument)
        if inbox:
            inbox.events.put_nowait(Delivered(call.sender, item, call.body))
        return b""

    def _inbox_of(self, argument: str) -> tuple[Inbox | None, str]:
        group, _, item = argument.partition(".")
        found = next(
            (inbox for (_, its_group), inbox in self._open.items() if its_group.hex() == group), None
        )
        return found, item

    async def _on_item(self, call: Call) -> Payload:
        if call.argument not in self.shelf:
            raise Refused("that item is not here (any more)")
        return self.shelf[call.argument]

    # --- out ------------------------------------------------------------------------------------------------------

    def send(
        self, to: tuple[PeerId, ...], message: Message, stamp: Stamp, *, deadline: float, failures: Inbox
    ) -> None:
        """Sign once and send to all of ``to``; who cannot be reached at once comes back as `Unreached`, and is tried again."""
        self._seq += 1
        frame = seal(self._key, message, Stamp(stamp.run, stamp.round, stamp.group, self._seq))
        for peer in to:
            self._spawn(self._offer(peer, "mail", "", frame, deadline, failures, ""))

    def ship(
        self, to: PeerId, group: bytes, item: str, payload: Payload, *, deadline: float, failures: Inbox
    ) -> None:
        """Send bulk bytes under ``item``; a failure comes back as `Unreached` with the item's name."""
        self._spawn(self._offer(to, "bulk", f"{group.hex()}.{item}", payload, deadline, failures, item))

    def fetch(
        self, source: PeerId, item: str, name: str, length: int, *, deadline: float, inbox: Inbox
    ) -> None:
        """Ask ``source`` for ``name`` on its shelf; the answer comes as `Delivered` or `Unreached` with ``item``."""
        self._spawn(self._fetch(source, item, name, length, deadline, inbox))

    def _spawn(self, sending: Coroutine[Any, Any, None]) -> None:
        """Send in the background. What a peer that has left is still asked to say stays unsaid."""
        try:
            task = self._tasks.create_task(sending)
        except RuntimeError:  # the group takes no tasks any more; the transport may answer a little longer
            sending.close()
        else:
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def rest(self, seconds: float) -> None:
        """Wait until all that is on its way has been answered, ``seconds`` at most: who leaves may owe the others its last word."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=seconds)

    async def _offer(
        self,
        peer: PeerId,
        route: str,
        argument: str,
        body: Payload,
        deadline: float,
        failures: Inbox,
        item: str,
    ) -> None:
        """Offer a message until it is taken, refused, or too late. The first failure is told at once, so that nobody waits for a
        peer that may be gone; but the connection may have been at fault, and then the message still comes."""
        loop, (pause, longest), told = asyncio.get_running_loop(), RETRY_SECONDS, False
        while True:
            try:
                await (
                    self._mail(peer, body, deadline)
                    if route == "mail"
                    else self._bulk(peer, argument, body, deadline)
                )
                return
            except SwarmError as error:
                is_over = not isinstance(error, Weather) or loop.time() + pause >= deadline
                if not told and (is_over or not isinstance(error, Busy)):
                    told = True
                    failures.events.put_nowait(Unreached(peer, item))
            if is_over:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _mail(self, peer: PeerId, frame: Payload, deadline: float) -> None:
        if self._under_way[peer] >= LANES:
            await self._turn(peer, deadline)
        self._under_way[peer] += 1
        try:
            patience = min(deadline, asyncio.get_running_loop().time() + MAIL_SECONDS)
            await self._transport.request(peer, Request("mail", frame, limit=0), deadline=patience)
        finally:
            self._next(peer)

    async def _turn(self, peer: PeerId, deadline: float) -> None:
        """Wait until one of the messages to ``peer`` before ours has been answered. Raises `TooLate` at ``deadline``."""
        mine = asyncio.get_running_loop().create_future()
        waiting = self._queues.setdefault(peer, deque())
        waiting.append(mine)
        try:
            async with asyncio.timeout_at(deadline):
                await mine
        except BaseException as error:
            if mine in waiting:
                waiting.remove(mine)
            elif mine.done() and not mine.cancelled():
                self._next(peer, owed=0)  # it was our turn, and we do not take it
            if isinstance(error, TimeoutError):
                raise TooLate("no answer to the messages before this one") from error
            raise

    def _next(self, peer: PeerId, owed: int = 1) -> None:
        """A message to ``peer`` is over: the next one may go."""
        self._under_way[peer] -= owed
        waiting = self._queues.get(peer)
        while waiting and self._under_way[peer] < LANES:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                break
        if not waiting:
            self._queues.pop(peer, None)
        if not self._under_way[peer]:
            del self._under_way[peer]

    async def _bulk(self, peer: PeerId, argument: str, body: Payload, deadline: float) -> None:
        await self._transport.request(
            peer, Request("bulk", body, argument=argument, limit=0), deadline=deadline
        )

    async def _fetch(
        self, source: PeerId, item: str, name: str, length: int, deadline: float, inbox: Inbox
    ) -> None:
        try:
            payload = await self._transport.request(
                source, Request("item", argument=name, limit=length), deadline=deadline
            )
        except SwarmError:
            inbox.events.put_nowait(Unreached(source, item))
            return
        if len(payload) == length:
            inbox.events.put_nowait(Delivered(source, item, payload))
        else:
            inbox.events.put_nowait(Unreached(source, item))
