"""Messages and bulk items between machines: `Post` sends them, and routes what arrives to inboxes.

    machine ──► Send, Ship, Fetch ──► Post ──► Outbox ──► transport
    machine ◄── Received, Delivered ◄── Inbox ◄── Post ◄── transport

A message belongs to a topic: a round and a group. Post routes it by its topic:

    an inbox is open for it                              ──► the inbox
    none yet, and its round is the current or next one   ──► a bounded backlog (full: the sender tries again)
    its inbox was closed, or its round is another        ──► ``stray``
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ..errors import Busy, Refused
from ..identity import KeyPair, PeerId
from ..machine import Delivered, Event, Received
from ..wire import Message, Signed, Stamp, level_of, open_frame, seal
from . import Allowance, Call, Payload, Request, Route, Transport
from .outbox import BULK_ROUTE, ITEM_ROUTE, MESSAGE_ROUTE, Outbox, Transfer

BACKLOG_BYTES = 8 << 20
"""Bytes of all messages that wait for an inbox."""
BACKLOG_OF_ONE = 32
"""Messages of one sender among them. A round takes about ten."""
BULK_SECONDS = 3600.0
"""Patience with a bulk item of a planned length; the transport's minimum rate sets a shorter one."""

_CLOSED_TOPICS = 64
"""Topics whose end is remembered, so that what still comes for them is stray: those of several rounds."""

Topic = tuple[int, bytes]
"""(round, group). The id of a group exists only once the group has formed. Messages that form one therefore
belong to the topic of `NO_GROUP`, or of `LEVEL_2` for the level-2 group."""
Expect = Callable[[PeerId, str], int]
"""(sender, item) -> the exact bytes of a bulk item; raises a `TheirFault` or `Weather` to refuse it."""


@dataclass(slots=True)
class Inbox:
    """What one machine receives. ``expect`` says which bulk items it accepts, None that it accepts none."""

    expect: Expect | None = None
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)


class ItemAddress(NamedTuple):
    """The group (in hexadecimal) and the name of a bulk item: the argument of its call."""

    group: str
    item: str

    @classmethod
    def parse(cls, argument: str) -> ItemAddress:
        """Read ``<group>.<item>``. Any text is an address, though perhaps of no group."""
        group, _, item = argument.partition(".")
        return cls(group, item)

    def __str__(self) -> str:
        return f"{self.group}.{self.item}"


class Backlog:
    """Messages for topics that have no inbox yet."""

    def __init__(self) -> None:
        self._messages: list[tuple[Topic, Received]] = []
        self._count_of: Counter[PeerId] = Counter()
        self._bytes = 0

    def keep(self, topic: Topic, event: Received) -> None:
        """Keep a message for later. Raises `Busy` where its sender, or all together, have too many."""
        size = len(event.signed.raw)
        if self._count_of[event.sender] >= BACKLOG_OF_ONE or self._bytes + size > BACKLOG_BYTES:
            raise Busy("no room for more messages for rounds to come")
        self._messages.append((topic, event))
        self._count_of[event.sender] += 1
        self._bytes += size

    def take(self, topic: Topic, first_round: int) -> list[Received]:
        """Remove and return the messages for ``topic``. Drops those for rounds before ``first_round``."""
        taken = [event for its_topic, event in self._messages if its_topic == topic]
        self._messages = [kept for kept in self._messages if kept[0] != topic and kept[0][0] >= first_round]
        self._count_of = Counter(event.sender for _, event in self._messages)
        self._bytes = sum(len(event.signed.raw) for _, event in self._messages)
        return taken


class Witness(Protocol):
    """Compares what peers say, and knows who has been shown to lie."""

    def observe(self, signed: Signed[Message]) -> None:
        """A message is accepted."""

    def is_banned(self, peer: PeerId) -> bool:
        """Whether nothing more is accepted from ``peer``."""


class _Nobody:
    """The witness that sees nothing."""

    def observe(self, signed: Signed[Message]) -> None:
        """Ignore it."""

    def is_banned(self, peer: PeerId) -> bool:
        """Nobody is."""
        return False


class Post:
    """Connects the machines of one peer with its transport."""

    def __init__(
        self,
        transport: Transport,
        key: KeyPair,
        run: bytes,
        tasks: asyncio.TaskGroup,
        accepted: dict[type[Message], bool],
    ) -> None:
        """Serve the routes of ``transport``, and send through it.

        ``accepted`` lists the types of messages that may come in; any other type is refused. The value is
        True for messages that form a group (see `Topic`), False for those of a group that has formed.
        ``tasks`` owns what is sent in the background: the peer's own group.
        """
        self._key = key
        self._run = run
        self._accepted = accepted
        self._inboxes: dict[Topic, Inbox] = {}
        self._backlog = Backlog()
        self._closed: deque[Topic] = deque(maxlen=_CLOSED_TOPICS)
        self._round = 0
        self._seq = 0
        self._outbox = Outbox(transport, tasks)
        self.shelf: dict[str, Payload] = {}
        """Items that any peer of the run may fetch, by name."""
        self.stray: Callable[[Signed[Message]], None] = lambda signed: None
        """Called with every message for a topic that is closed, or for a round that is over or far ahead."""
        self.witness: Witness = _Nobody()
        """Sees all that is accepted, and says from whom nothing more is."""
        transport.serve(Route(MESSAGE_ROUTE, self._on_message))
        transport.serve(Route(BULK_ROUTE, self._on_bulk, self._admit_bulk))
        transport.serve(Route(ITEM_ROUTE, self._on_item))

    # --- incoming -------------------------------------------------------------------------------------------

    def open(self, topic: Topic, expect: Expect | None = None) -> Inbox:
        """Open an inbox for ``topic``, with the messages that have already come for it."""
        inbox = self._inboxes[topic] = Inbox(expect)
        self._round = max(self._round, topic[0])
        for event in self._backlog.take(topic, self._round):
            inbox.events.put_nowait(event)
        return inbox

    def close(self, topic: Topic) -> None:
        """Close the inbox of ``topic``.

        Messages in it that were not read, and later ones for it, are stray.
        """
        inbox = self._inboxes.pop(topic, None)
        self._closed.append(topic)
        while inbox and not inbox.events.empty():
            event = inbox.events.get_nowait()
            if isinstance(event, Received):
                self.stray(event.signed)

    def reopen(self, round_: int) -> None:
        """Accept messages for ``round_`` and the next round again: this peer may have gone back to it."""
        self._round = round_
        earlier = (topic for topic in self._closed if topic[0] < round_)
        self._closed = deque(earlier, maxlen=_CLOSED_TOPICS)

    async def _on_message(self, call: Call) -> Payload:
        signed = open_frame(bytes(call.body), *self._accepted, run=self._run)
        if signed.signer != call.sender:
            raise Refused("a message is accepted from its signer only")
        if self.witness.is_banned(call.sender):
            raise Refused("this peer has been shown to lie")
        self.witness.observe(signed)

        round_ = signed.stamp.round
        forms_group = self._accepted[type(signed.message)]
        group = level_of(signed.stamp.group) if forms_group else signed.stamp.group
        topic = (round_, group)
        inbox = self._inboxes.get(topic)
        if inbox:
            inbox.events.put_nowait(Received(signed))
        elif self._round <= round_ <= self._round + 1 and topic not in self._closed:
            self._backlog.keep(topic, Received(signed))
        else:
            self.stray(signed)
        return b""

    def _admit_bulk(self, sender: PeerId, argument: str) -> Allowance:
        address = ItemAddress.parse(argument)
        if self.witness.is_banned(sender):
            raise Refused("this peer has been shown to lie")
        inbox = self._inbox_of(address.group)
        if inbox is None or inbox.expect is None:
            raise Busy("no round of this group is open here")
        return Allowance(exact=inbox.expect(sender, address.item), seconds=BULK_SECONDS)

    async def _on_bulk(self, call: Call) -> Payload:
        address = ItemAddress.parse(call.argument)
        inbox = self._inbox_of(address.group)
        if inbox:
            inbox.events.put_nowait(Delivered(call.sender, address.item, call.body))
        return b""

    def _inbox_of(self, group: str) -> Inbox | None:
        for (_, its_group), inbox in self._inboxes.items():
            if its_group.hex() == group:
                return inbox
        return None

    async def _on_item(self, call: Call) -> Payload:
        if call.argument not in self.shelf:
            raise Refused("that item is not here (any more)")
        return self.shelf[call.argument]

    # --- outgoing -------------------------------------------------------------------------------------------

    def send(
        self, to: tuple[PeerId, ...], message: Message, stamp: Stamp, *, deadline: float, failures: Inbox
    ) -> None:
        """Sign ``message`` once and send it to all of ``to``, until ``deadline``.

        A peer that cannot be reached at once is reported to ``failures`` as `Unreached`, and tried again.
        """
        self._seq += 1
        frame = seal(self._key, message, Stamp(stamp.run, stamp.round, stamp.group, self._seq))
        request = Request(MESSAGE_ROUTE, frame, limit=0)
        for peer in to:
            self._outbox.send(Transfer(peer, request, deadline, failures.events))

    def ship(
        self, to: PeerId, group: bytes, item: str, payload: Payload, *, deadline: float, failures: Inbox
    ) -> None:
        """Send a bulk item to ``to``, for ``group``; a failure is reported as `Unreached` with ``item``."""
        address = ItemAddress(group.hex(), item)
        request = Request(BULK_ROUTE, payload, argument=str(address), limit=0)
        self._outbox.send(Transfer(to, request, deadline, failures.events, item))

    def fetch(
        self, source: PeerId, item: str, shelf_name: str, length: int, *, deadline: float, inbox: Inbox
    ) -> None:
        """Fetch ``shelf_name``, of ``length`` bytes, from the shelf of ``source``.

        The result comes as `Delivered`, or `Unreached`, with ``item``: the name that the machine has for it.
        """
        request = Request(ITEM_ROUTE, argument=shelf_name, limit=length)
        self._outbox.fetch(Transfer(source, request, deadline, inbox.events, item))

    async def flush(self, seconds: float) -> None:
        """Wait until all that was sent has been answered, at most ``seconds``. For a peer that leaves."""
        await self._outbox.flush(seconds)
