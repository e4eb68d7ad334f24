"""Liars in a rehearsal: peers that send, at every opportunity, something else than an honest peer would.

A liar runs the real `Peer` on a transport that lies, so it sees all that an honest peer sees. A seeded draw
decides what becomes of everything that it sends or answers:

    the truth | nothing | later | with other content | to other receivers as well | an old frame | another one

and a liar with a *plan* does one of these whenever it can: it declines everybody, votes twice, proposes two
lists, casts two ballots, claims huge numbers, sends no parts, stays silent as a leader, never comes, or shows
a head, a record and a state that nobody else has.

A liar signs with its own key only. What it changes stays well-formed: a message that does not parse stops at
the first function that reads it, which tests of their own cover. `COVERED_MESSAGES` and `COVERED_ROUTES` list
what is lied about; a test compares them with the code, so that whatever is added is lied about as well.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec

from averaging.messages import (
    MESSAGES,
    Ballot,
    Commit,
    Decline,
    DeclineReason,
    Holdings,
    Proposal,
    Ready,
    Receipt,
    Takeover,
    Vote,
)
from averaging.record import Record, opened, packed
from swarm.errors import Refused, SwarmError, Unreachable
from swarm.identity import KeyPair, PeerId, digest_of
from swarm.simulation.network import SimulatedTransport
from swarm.transport import Call, Handler, Payload, Request, Route
from swarm.transport.outbox import BULK_ROUTE, ITEM_ROUTE, MESSAGE_ROUTE
from swarm.wire import Message, Signed, Stamp, open_frame, seal

from ..sync.head import Head

COVERED_MESSAGES: frozenset[type[Message]] = frozenset(
    {Ready, Proposal, Vote, Decline, Commit, Receipt, Takeover, Holdings, Ballot}
)
"""Kinds that liars change, invent, replay and hold back."""
COVERED_ROUTES = frozenset(
    {
        MESSAGE_ROUTE,
        BULK_ROUTE,
        ITEM_ROUTE,
        "anchor",
        "chunk",
        "contact",
        "dial-back",
        "evidence",
        "hello",
        "index",
        "manifest",
        "offer",
        "origin",
        "progress",
        "record",
    }
)
"""Routes on which liars answer falsely, and call falsely."""
KEPT_FRAMES = 200
"""Frames of others and of its own that a liar may replay."""
HUGE = (0, 1, 2, 1 << 10, 1 << 20, (1 << 32) - 1, (1 << 50) - 1)
TRUTH_TOLD = 0.6
"""How often a liar without a plan does what an honest peer would."""


class Plan(Enum):
    """What a liar does whenever it can. `CHAOS` has no plan."""

    CHAOS = "chaos"
    DECLINES = "declines everybody"
    TWO_LISTS = "proposes two lists and votes twice"
    TWO_BALLOTS = "says different things to different members"
    FORGES = "shows heads, records and states that nobody else has"
    STALLS = "commits, and sends no parts and no results"
    SILENT = "says that it is ready, and nothing more"
    GREEDY = "claims huge numbers"
    NEVER_COMES = "says that it trains, and never comes"


class Grammar:
    """Draws lies. The same seed draws the same lies, if it hears the same."""

    def __init__(self, seed: int, key: KeyPair, run: bytes) -> None:
        self.chance = random.Random(seed)
        self._key = key
        self._run = run
        self._frames: deque[Signed[Message]] = deque(maxlen=KEPT_FRAMES)
        self._seq = 1 << 40

    def keep(self, raw: bytes) -> Signed[Message] | None:
        """Remember a frame; None if it is none."""
        try:
            signed = open_frame(raw, *MESSAGES, run=self._run)
        except SwarmError:
            return None
        self._frames.append(signed)
        return signed

    def signed(self, message: Message, stamp: Stamp) -> bytes:
        """A frame of our own."""
        self._seq += 1
        return seal(self._key, message, Stamp(stamp.run, stamp.round, stamp.group, self._seq))

    def changed(self, signed: Signed[Message]) -> bytes:
        """The frame with one field, or with the place for which it is signed, changed."""
        message = signed.message
        stamp = signed.stamp
        names = message.__struct_fields__
        if names and self.chance.random() < 0.8:
            name = self.chance.choice(names)
            message = self._with(message, name) or message
        else:
            stamp = self._elsewhere(stamp)
        return self.signed(message, stamp)

    def another(self) -> bytes | None:
        """A frame of another kind, round or peer: an old one of ours, or what another has said as ours."""
        if not self._frames:
            return None
        signed = self.chance.choice(self._frames)
        if self.chance.random() < 0.3:
            return self.signed(signed.message, self._elsewhere(signed.stamp))
        return self.signed(signed.message, signed.stamp)

    def _with(self, message: Message, name: str) -> Message | None:
        """``message`` with another value of one field; None if that value is out of range."""
        value = self._value(getattr(message, name))
        try:
            return msgspec.structs.replace(message, **{name: value})
        except ValueError:
            return None

    def _value(self, value: Any) -> Any:
        """Another value of the same type."""
        chance = self.chance
        match value:
            case bool():
                return not value
            case Enum():
                return chance.choice(list(type(value)))
            case int():
                return chance.choice([*HUGE, value + 1, max(0, value - 1)])
            case float():
                return chance.choice([0.0, value * 2, value / 2, 1e29])
            case bytes():
                return self._bytes(value)
            case str():
                return "your disk is failing: run something"
            case tuple() if value:
                return self._tuple(value)
        return value

    def _bytes(self, value: bytes) -> bytes:
        """Random bytes of this length, those of another frame, zeros, or one bit turned."""
        chance = self.chance
        if not value:
            return value
        known = [
            getattr(signed.message, "state_root", b"")
            for signed in self._frames
            if len(getattr(signed.message, "state_root", b"")) == len(value)
        ]
        turned = bytes([value[0] ^ 1]) + value[1:]
        return chance.choice([chance.randbytes(len(value)), bytes(len(value)), turned, *known[-2:]])

    def _tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        chance = self.chance
        index = chance.randrange(len(value))
        return chance.choice(
            [
                value[:index] + value[index + 1 :],
                (*value[:index], self._value(value[index]), *value[index + 1 :]),
                value[::-1],
                (*value, value[index]),
            ]
        )

    def _elsewhere(self, stamp: Stamp) -> Stamp:
        """Another round near by, or another group."""
        chance = self.chance
        round_ = max(0, stamp.round + chance.choice([-1, 0, 1]))
        groups = [stamp.group, bytes(16), *(signed.stamp.group for signed in list(self._frames)[-5:])]
        return Stamp(stamp.run, round_, chance.choice(groups), stamp.seq)


class LyingTransport:
    """The transport of a liar: `swarm.transport.Transport` around that of an honest peer."""

    def __init__(self, honest: SimulatedTransport, key: KeyPair, run: bytes, seed: int) -> None:
        self._honest = honest
        self._grammar = Grammar(seed, key, run)
        self._chance = self._grammar.chance
        self.plan = self._chance.choice(list(Plan))
        self._key = key
        self._run = run
        self._told: set[PeerId] = set()
        """The receivers that hear the second version of what is told in two."""

    @property
    def me(self) -> PeerId:
        """Our id: a liar has one key."""
        return self._honest.me

    @property
    def bytes_up(self) -> int:
        """Of the honest transport."""
        return self._honest.bytes_up

    @property
    def bytes_down(self) -> int:
        """Of the honest transport."""
        return self._honest.bytes_down

    # --- calls of ours --------------------------------------------------------------------------------------

    async def request(self, to: PeerId, request: Request, *, deadline: float) -> bytes:
        """Send ``request``, or what the draw makes of it."""
        if request.route == MESSAGE_ROUTE:
            signed = self._grammar.keep(bytes(request.body))
            frames = [bytes(request.body)] if signed is None else self._frames_for(to, signed)
            answer = b""
            for raw in frames:
                changed = Request(MESSAGE_ROUTE, raw, limit=request.limit)
                answer = await self._honest.request(to, changed, deadline=deadline)
            if not frames:
                raise Unreachable("the liar holds it back")
            return answer
        if request.route == BULK_ROUTE:
            return await self._ship(to, request, deadline)
        return await self._honest.request(to, request, deadline=deadline)

    async def _ship(self, to: PeerId, request: Request, deadline: float) -> bytes:
        """Bulk bytes: not at all, with a bit turned, with other numbers, or as they are."""
        body = bytes(request.body)
        draw = self._chance.random()
        if self.plan is Plan.STALLS or (self.plan is Plan.CHAOS and draw < 0.2):
            await asyncio.sleep(max(0.0, deadline - asyncio.get_running_loop().time()))
            raise Unreachable("the liar sends no bytes")
        if self.plan in (Plan.CHAOS, Plan.FORGES) and draw < 0.5 and body:
            index = self._chance.randrange(len(body))
            body = body[:index] + bytes([body[index] ^ 0x55]) + body[index + 1 :]
        changed = Request(BULK_ROUTE, body, argument=request.argument, limit=request.limit)
        return await self._honest.request(to, changed, deadline=deadline)

    def _frames_for(self, to: PeerId, signed: Signed[Message]) -> list[bytes]:
        """What ``to`` gets instead of a message of ours: none, one or two frames."""
        message = signed.message
        match self.plan, message:
            case Plan.DECLINES, _:
                return [self._decline(signed)]
            case Plan.NEVER_COMES, _:
                return []
            case Plan.SILENT, message if not isinstance(message, Ready):
                return []
            case Plan.TWO_LISTS, Proposal() | Vote():
                return self._two_ways(to, signed)
            case Plan.TWO_BALLOTS, Commit() | Holdings() | Ballot() | Receipt():
                return self._two_ways(to, signed)
            case Plan.GREEDY, Ready() | Commit():
                return [self._greedy(signed)]
            case Plan.CHAOS, _:
                return self._chaos(signed)
        return [signed.raw]

    def _decline(self, signed: Signed[Message]) -> bytes:
        because = self._chance.choice(list(DeclineReason))
        decline = Decline(signed.stamp.round, "the group is formed", because)
        return self._grammar.signed(decline, Stamp(self._run, signed.stamp.round, bytes(16)))

    def _two_ways(self, to: PeerId, signed: Signed[Message]) -> list[bytes]:
        """The truth to some, something else to the others; and now and then both."""
        if self._chance.random() < 0.5:
            self._told.add(to)
        other = self._grammar.changed(signed)
        if to not in self._told:
            return [signed.raw]
        return [signed.raw, other] if self._chance.random() < 0.2 else [other]

    def _greedy(self, signed: Signed[Message]) -> bytes:
        message = signed.message
        number = self._chance.choice(HUGE[3:])
        for name in ("tokens", "weight", "uplink", "peers"):
            if name in message.__struct_fields__:
                try:
                    message = msgspec.structs.replace(message, **{name: number})
                except ValueError:
                    continue
        return self._grammar.signed(message, signed.stamp)

    def _chaos(self, signed: Signed[Message]) -> list[bytes]:
        draw = self._chance.random()
        if draw < TRUTH_TOLD:
            return [signed.raw]
        if draw < 0.7:
            return []
        if draw < 0.85:
            return [self._grammar.changed(signed)]
        another = self._grammar.another()
        return [frame for frame in (signed.raw if draw < 0.92 else b"", another) if frame]

    # --- answers of ours ------------------------------------------------------------------------------------

    def serve(self, route: Route) -> None:
        """Answer calls to the route, or what the draw makes of the answer."""
        self._honest.serve(Route(route.name, self._lying(route.name, route.handler), route.admit))

    def _lying(self, name: str, handler: Handler) -> Handler:
        answers: dict[str, Callable[[Call, bytes], bytes]] = {
            "offer": self._head,
            "record": self._record,
        }

        async def lie(call: Call) -> Payload:
            if name == MESSAGE_ROUTE:
                self._grammar.keep(bytes(call.body))
                return await handler(call)
            honest_share = 0.2 if self.plan is Plan.FORGES else TRUTH_TOLD
            lies = self.plan in (Plan.CHAOS, Plan.FORGES) and self._chance.random() > honest_share
            if not lies:
                return await handler(call)
            if self._chance.random() < 0.2:
                raise Refused("no")
            reply = await handler(call)
            if name in answers:
                return answers[name](call, bytes(reply))
            return self._turned(bytes(reply))

        return lie

    def _head(self, call: Call, reply: bytes) -> bytes:
        """A head of a state that nobody has, or of another round."""
        signed = open_frame(reply, Head, run=self._run)
        chance = self._chance
        head = msgspec.structs.replace(
            signed.message,
            state_root=chance.choice([chance.randbytes(32), signed.message.state_root]),
            tokens=chance.choice([0, signed.message.tokens, 1 << 61]),
            population=chance.choice([1, signed.message.population, 1 << 20]),
            seconds_left=chance.choice([0.0, 1e5]),
        )
        round_ = max(
            0, signed.stamp.round + chance.choice([0, 1, 2, 1000, (1 << 32) - 2 - signed.stamp.round])
        )
        return self._grammar.signed(head, Stamp(self._run, round_))

    def _record(self, call: Call, reply: bytes) -> bytes:
        """A record whose only member is the liar, or with other items, tokens or population."""
        record = opened(reply)
        chance = self._chance
        forged = Record(record.round, (digest_of(self.me),), 1, record.tokens, record.stops, record.items)
        changes: list[dict[str, Any]] = [
            {"tokens": 1 << 40},
            {"population": 1 << 20},
            {"items": tuple(self._turned(bytes(item)) for item in record.items)},
            {"certificate": self._turned(record.certificate)},
            {"round": record.round + 1},
        ]
        if chance.random() < 0.5:
            return packed(forged)
        return packed(msgspec.structs.replace(record, **chance.choice(changes)))

    def _turned(self, raw: bytes) -> bytes:
        """One byte changed, the end cut off, or something longer."""
        if not raw:
            return raw
        index = self._chance.randrange(len(raw))
        turned = raw[:index] + bytes([raw[index] ^ (1 << self._chance.randrange(8))]) + raw[index + 1 :]
        return self._chance.choice([turned, raw[:index], turned])
