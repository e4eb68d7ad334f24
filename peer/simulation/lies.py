"""The grammar of lies: well-formed messages and bytes that are not true, drawn with a seed.

    heard messages ──► `Hearsay`: frames by kind, values by the name of their field, bytes by their length
    a true message ──► `Grammar.varied`: one or two of its fields are changed, or its stamp
    nothing        ──► `Grammar.invented`: a whole message out of hearsay and chance

The grammar knows no single message. It goes through the fields of any `msgspec.Struct`, and what it does with
a value follows from its type: bytes are replaced by others of the same field or length, frames by other
frames of their kind, numbers by their neighbours or by the largest that are allowed, lists by lists with
members left out, doubled, exchanged or in another order. What the message's own checks refuse is drawn again.
So a new kind of message, or a new field, is lied about without a line of code here.
"""

from __future__ import annotations

import math
import random
import types
import typing
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeVar

import msgspec

from averaging.messages import MESSAGES
from swarm.errors import TheirFault
from swarm.manifest import RunManifest
from swarm.membership.contacts import Contact
from swarm.membership.progress import Progress
from swarm.transport import Payload, Request
from swarm.wire import LEVEL_2, NO_GROUP, Message, Signed, Stamp, open_frame

from ..sync.head import Head

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")

FORMS: tuple[type[Message], ...] = (*MESSAGES, Head, Progress, Contact, RunManifest)
"""The messages that the grammar can open, in whatever frame it finds them."""
KEPT = 24
"""So much is remembered of each kind of hearsay."""
ATTEMPTS = 12
"""So often a lie is drawn again that the message's own checks refuse."""
LARGEST = ((1 << 62) - 1, (1 << 50) - 1, (1 << 32) - 1, 10**8, 1 << 20, 256, 63)
"""The largest numbers that some field allows, in the order in which a boaster tries them."""
FRAME_MAGIC = b"SWM1"
"""Bytes that begin like this are a frame."""
LENGTHS = (32, 16, 0, 64)
"""Lengths of invented bytes: of hashes, of groups, of nothing, of signatures."""
FRAME_LIMIT = 1 << 18
"""Bytes of the largest frame that the grammar looks into."""


@dataclass(slots=True)
class Hearsay:
    """What a liar has heard and said: the words of its lies. It keeps the newest of everything."""

    run: bytes
    frames: dict[int, deque[bytes]] = field(default_factory=dict)
    """By kind of message."""
    values: dict[str, deque[bytes]] = field(default_factory=dict)
    """Bytes by the name of the field that they were in; groups of stamps under ``group``."""
    payloads: dict[int, deque[Payload]] = field(default_factory=dict)
    """Bulk bytes by their length."""
    requests: dict[str, deque[Request]] = field(default_factory=dict)
    """What the liar has sent with a body, by route."""
    replies: dict[str, deque[Payload]] = field(default_factory=dict)
    """What the liar has answered, by route."""
    round: int = 0
    """The highest round near by, of which a message was heard."""

    def hear(self, raw: bytes) -> Signed[Message] | None:
        """Remember a frame and everything in it; None if it is not one that can be opened."""
        signed = opened(raw, self.run)
        if signed is None:
            return None
        _remember(self.frames, int(signed.message.kind), raw)
        _remember(self.values, "group", signed.stamp.group)
        self.round = max(self.round, min(signed.stamp.round, self.round + 1))
        self.note(signed.message)
        return signed

    def note(self, struct: msgspec.Struct) -> None:
        """Remember the values in the fields of ``struct``."""
        for name in struct.__struct_fields__:
            self._note_value(name, getattr(struct, name))

    def _note_value(self, name: str, value: object) -> None:
        if isinstance(value, bytes) and value.startswith(FRAME_MAGIC):
            _remember(self.frames, value[len(FRAME_MAGIC)], value)
        elif isinstance(value, bytes) and value:
            _remember(self.values, name, value)
        elif isinstance(value, tuple):
            for element in value:
                self._note_value(name, element)

    def note_bytes(self, raw: Payload) -> Signed[Message] | None:
        """Remember the body of a call or a reply: a frame, which is returned opened, or bulk bytes."""
        if bytes(raw[: len(FRAME_MAGIC)]) == FRAME_MAGIC:
            return self.hear(bytes(raw))
        if raw:
            _remember(self.payloads, len(raw), raw)
        return None

    def note_request(self, request: Request) -> None:
        """Remember what the liar has sent."""
        _remember(self.requests, request.route, request)

    def note_reply(self, route: str, reply: Payload) -> None:
        """Remember what the liar has answered."""
        if reply:
            _remember(self.replies, route, reply)


def _remember(kept: dict[Any, deque[T]], key: object, value: T) -> None:
    """Keep ``value``, and of all that have this key the newest few."""
    entries = kept.setdefault(key, deque(maxlen=KEPT))
    if value not in entries:
        entries.append(value)


def opened(raw: bytes, run: bytes) -> Signed[Message] | None:
    """The message in ``raw``; None if it is no frame of this run that the grammar knows."""
    try:
        return open_frame(bytes(raw), *FORMS, run=run, limit=FRAME_LIMIT)
    except TheirFault:
        return None


class Grammar:
    """Draws lies out of ``hearsay``. The same ``chance`` draws the same lies."""

    def __init__(self, chance: random.Random, hearsay: Hearsay) -> None:
        self.chance = chance
        self._hearsay = hearsay

    # --- messages -------------------------------------------------------------------------------------------

    def varied(self, struct: S) -> S:
        """``struct`` with one or two fields changed, so that it still passes its own checks."""
        names = struct.__struct_fields__
        if not names:
            return struct
        for _ in range(ATTEMPTS):
            changed = self.chance.sample(names, min(len(names), self.chance.choice((1, 1, 2))))
            lie = _rebuilt(struct, {name: self._other(name, getattr(struct, name)) for name in changed})
            if lie is not None and lie != struct:
                return lie
        return struct

    def boasted(self, struct: S) -> S:
        """``struct`` with every number as large as its own checks allow."""
        for name in struct.__struct_fields__:
            value = getattr(struct, name)
            if isinstance(value, bool | Enum) or not isinstance(value, int | float):
                continue
            larger = (_rebuilt(struct, {name: type(value)(number)}) for number in LARGEST if number > value)
            struct = next((lie for lie in larger if lie is not None), struct)
        return struct

    def completed(self, struct: S) -> S:
        """``struct`` with everything that it leaves empty, as far as hearsay has it: others' proofs."""
        for name in struct.__struct_fields__:
            heard = self._hearsay.values.get(name)
            if getattr(struct, name) == b"" and heard:
                struct = _rebuilt(struct, {name: self.chance.choice(heard)}) or struct
        return struct

    def invented(self, form: type[S]) -> S | None:
        """A message of ``form`` out of hearsay and chance; None if its checks refuse all that was drawn."""
        drawn = (self._drawn(form) for _ in range(8 * ATTEMPTS))
        return next((lie for lie in drawn if lie is not None), None)

    def _drawn(self, form: type[S]) -> S | None:
        """One attempt to make a message of ``form``."""
        length = self.chance.choice(LENGTHS)
        count = self.chance.randint(1, 4)
        fields = msgspec.structs.fields(form)
        return _built(form, {each.name: self._fresh(each.name, each.type, length, count) for each in fields})

    def stamped(self, stamp: Stamp) -> Stamp:
        """``stamp`` with another round near by, or another group."""
        near = (stamp.round, stamp.round + 1, stamp.round - 1, stamp.round + self.chance.randint(2, 40), 0)
        groups = (*self._hearsay.values.get("group", ()), NO_GROUP, LEVEL_2, self.chance.randbytes(16))
        if self.chance.random() < 0.5:
            return replace(stamp, round=max(0, self.chance.choice(near)))
        return replace(stamp, group=self.chance.choice(groups))

    # --- bytes ----------------------------------------------------------------------------------------------

    def twisted(self, raw: Payload) -> bytes:
        """Other bytes of the same length: some changed, a stretch of zeros, or others' bytes."""
        if not raw:
            return bytes(raw)
        lie = bytearray(raw)
        match self.chance.choice(("byte", "byte", "stretch", "zeros", "all", "others")):
            case "byte":
                lie[self.chance.randrange(len(lie))] ^= 1 << self.chance.randrange(8)
            case "stretch":
                start = self.chance.randrange(len(lie))
                lie[start:] = self.chance.randbytes(len(lie) - start)
            case "zeros":
                start = self.chance.randrange(len(lie))
                lie[start:] = bytes(len(lie) - start)
            case "all":
                lie = bytearray(self.chance.randbytes(len(lie)))
            case _:
                others = self._hearsay.payloads.get(len(raw))
                lie = bytearray(self.chance.choice(others)) if others else lie[::-1]
        return bytes(lie)

    def repacked(self, raw: Payload) -> bytes | None:
        """A packed value of an unknown form with one element changed; None if ``raw`` is not one."""
        try:
            value = msgspec.msgpack.decode(raw)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None
        if not isinstance(value, list) or not value:
            return None
        return msgspec.msgpack.encode(self._other("", value))

    def resized(self, raw: Payload) -> bytes:
        """``raw`` cut short, or with more at its end."""
        if raw and self.chance.random() < 0.5:
            return bytes(raw[: self.chance.randrange(len(raw))])
        return bytes(raw) + self.chance.randbytes(self.chance.randint(1, 64))

    # --- values ---------------------------------------------------------------------------------------------

    def _other(self, name: str, value: object) -> object:
        """Another value for the field ``name``, by the type of the one that is there."""
        match value:
            case bool():
                return not value
            case Enum():
                return self.chance.choice([each for each in type(value) if each is not value] or [value])
            case int():
                return self._other_number(value)
            case float():
                return self._other_float(value)
            case bytes():
                return self._other_bytes(name, value)
            case str():
                return self.chance.choice(("", "x" * self.chance.randint(1, 250), value[::-1], "\x1b[2J"))
            case tuple() | list():
                return self._other_tuple(name, value)
            case msgspec.Struct():
                return self.varied(value)
        return value

    def _other_number(self, value: int) -> int:
        near = (value + 1, value - 1, value + self.chance.randint(2, 9), 2 * value, value // 2, 0, 1)
        return self.chance.choice((*near, self.chance.choice(LARGEST)))

    def _other_float(self, value: float) -> float:
        edges = (0.0, 1e-12, 1e6, 1e29, math.inf, math.nan)
        return self.chance.choice((2 * value, value / 2, -value, value + 1, *edges))

    def _other_bytes(self, name: str, value: bytes) -> bytes:
        if value.startswith(FRAME_MAGIC):
            frames = self._hearsay.frames.get(value[len(FRAME_MAGIC)])
            if frames:
                return self.chance.choice(frames)
        heard = list(self._hearsay.values.get(name, ()))
        anywhere = [other for others in self._hearsay.values.values() for other in others]
        alike = [other for other in anywhere if len(other) == len(value)]
        drawn = [self.chance.randbytes(len(value)), self.twisted(value), bytes(len(value)), b""]
        pools = [pool for pool in (heard, heard, alike, drawn) if pool]
        return self.chance.choice(self.chance.choice(pools))

    def _other_tuple(self, name: str, value: Sequence[Any]) -> tuple[Any, ...]:
        elements = list(value)
        if not elements:
            return (self._word(name, self.chance.choice(LENGTHS)),)
        place = self.chance.randrange(len(elements))
        match self.chance.choice(("other", "other", "leave out", "double", "shuffle", "half", "none")):
            case "other":
                elements[place] = self._other(name, elements[place])
            case "leave out":
                del elements[place]
            case "double":
                elements.insert(place, self._other(name, elements[place]))
            case "shuffle":
                self.chance.shuffle(elements)
            case "half":
                elements = [element for element in elements if self.chance.random() < 0.5]
            case _:
                elements = [b"" if isinstance(element, bytes) else element for element in elements]
        return tuple(elements)

    def _fresh(self, name: str, kind: Any, length: int, count: int) -> object:
        """A value of the type ``kind``; bytes have ``length``, lists ``count`` elements."""
        origin = typing.get_origin(kind)
        if origin is tuple:
            first, *rest = typing.get_args(kind)
            kinds = [first] * count if rest == [...] else [first, *rest]
            return tuple(self._fresh(name, each, length, count) for each in kinds)
        if origin in (typing.Union, types.UnionType):
            return self._fresh(name, typing.get_args(kind)[0], length, count)
        makers: Mapping[Any, Callable[[], object]] = {
            bool: lambda: self.chance.random() < 0.5,
            int: self._small_number,
            float: lambda: self.chance.choice((0.0, self.chance.random(), 100 * self.chance.random())),
            bytes: lambda: self._word(name, length),
            str: lambda: "x" * self.chance.randint(0, 20),
        }
        if kind in makers:
            return makers[kind]()
        if isinstance(kind, type) and issubclass(kind, Enum):
            return self.chance.choice(list(kind))
        return self._drawn(kind) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None

    def _small_number(self) -> int:
        """A number near the round that is under way, or a small one."""
        return max(0, self.chance.choice((self._hearsay.round, self._hearsay.round + 1, 0, 1, 2, 3, 900)))

    def _word(self, name: str, length: int) -> bytes:
        """Bytes for the field ``name``: heard ones, or ``length`` random ones."""
        heard: Sequence[bytes] = self._hearsay.values.get(name, ())
        if name in LISTS_OF_FRAMES:
            heard = self._hearsay.frames.get(LISTS_OF_FRAMES[name], ())
        if heard and self.chance.random() < 0.8:
            return self.chance.choice(heard)
        return self.chance.randbytes(length)


LISTS_OF_FRAMES: Mapping[str, int] = {
    "ready": int(next(form.kind for form in MESSAGES if form.__name__ == "Ready")),
    "unseated": int(next(form.kind for form in MESSAGES if form.__name__ == "Ready")),
    "contacts": int(Contact.kind),
    "contact": int(Contact.kind),
    "progress": int(Progress.kind),
}
"""Fields of frames, and the kind of these frames: for messages that are made out of nothing."""


def _rebuilt(struct: S, changes: Mapping[str, object]) -> S | None:
    """``struct`` with ``changes``; None if its own checks, or the reader's, refuse it."""
    values = {name: getattr(struct, name) for name in struct.__struct_fields__}
    return _built(type(struct), {**values, **changes})


def _built(form: type[S], values: Mapping[str, object]) -> S | None:
    """A message as its receiver will read it; None if that would refuse it."""
    try:
        return msgspec.msgpack.decode(msgspec.msgpack.encode(form(**values)), type=form)
    except (ValueError, TypeError, OverflowError, msgspec.MsgspecError):
        return None
