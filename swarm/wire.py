"""What peers say to each other, and the one function that a stranger's bytes meet.

    frame = magic 4 ‖ kind 1 ‖ run 32 ‖ round u32 ‖ group 16 ‖ seq u64 ‖ public key 32 ‖ signature 64 ‖ body (MessagePack)

    Ed25519( domain ‖ every header byte before the signature ‖ sha256(body) )

Rule 1: size, then form, then signature, then meaning — in this order, in `open_frame`, for every frame.
Rule 2: the signature is over received bytes; nothing is ever serialised again to check it.
Rule 3: kinds are enums, unknown fields are refused, floats are finite. Freshness is (round, seq), never a clock.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import ClassVar, Generic, TypeVar, cast

import msgspec

from .errors import BadSignature, Malformed, Oversized, WrongRun
from .identity import KeyPair, PeerId, peer_id_of, verify

PROTOCOL = 1
"""Version of everything on the wire. Pinned by the manifest: another number means "upgrade", never a decode error."""

CONTROL_LIMIT = 64 * 1024
"""Bytes of the largest control frame."""

NO_GROUP = bytes(16)
"""Where messages belong that form a group: the hall of a round."""
LEVEL_2 = b"\x80" + bytes(15)
"""The other hall: where delegates form a group of theirs. The first bit of a group's id says in which hall it was formed."""

_MAGIC = b"SWM1"
_DOMAIN = b"swarm-frame-v1\0"
_SIGNED = struct.Struct("<4sB32sI16sQ32s")
_HEADER = _SIGNED.size + 64
_SHORT = 2048
"""Bytes of a frame that is remembered: so many of the longest would be a lot of memory."""


def level_of(group: bytes) -> bytes:
    """`NO_GROUP` or `LEVEL_2`: where ``group`` was formed."""
    return LEVEL_2 if group[0] & LEVEL_2[0] else NO_GROUP


class Kind(IntEnum):
    """What a frame's body is. The number is the wire format: never reuse one."""

    MANIFEST = 1
    CONTACT = 2
    PROGRESS = 3
    RECORD = 4
    READY = 10
    PROPOSAL = 11
    VOTE = 12
    DECLINE = 13
    COMMIT = 20
    RECEIPT = 21
    HOLDINGS = 22
    BALLOT = 23
    TAKEOVER = 24
    HEAD = 30


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Base of everything that travels in a frame. Subclasses set ``kind`` and check their ranges in ``__post_init__``."""

    kind: ClassVar[Kind]


M = TypeVar("M", bound=Message)
M_co = TypeVar("M_co", bound=Message, covariant=True)
S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a signature is tied to besides the body, so that no frame can be replayed elsewhere."""

    run: bytes
    round: int = 0
    group: bytes = NO_GROUP
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Signed(Generic[M_co]):
    """A message whose form, signature and run have been checked. ``raw`` is the frame as received, to pass on as evidence."""

    message: M_co
    signer: PeerId
    public: bytes
    stamp: Stamp
    raw: bytes


def pack(value: object) -> bytes:
    """MessagePack of a plain value or `Message`; what `unpack` reads."""
    return msgspec.msgpack.encode(value)


def unpack(raw: bytes | bytearray | memoryview, form: type[S]) -> S:
    """Decode a body strictly: unknown fields, wrong types and values out of range are `Malformed`."""
    try:
        return msgspec.msgpack.decode(raw, type=form)
    except (msgspec.DecodeError, ValueError, RecursionError, OverflowError) as error:
        raise Malformed(f"not a {form.__name__}: {error}") from error


def finite(name: str, value: float, low: float, high: float) -> None:
    """Refuse a float that is NaN, infinite or outside [low, high]. For ``__post_init__`` of messages."""
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} must lie in [{low}, {high}]")


def sized(name: str, value: bytes, length: int) -> None:
    """Refuse bytes that are not exactly ``length`` long. For ``__post_init__`` of messages."""
    if len(value) != length:
        raise ValueError(f"{name} must have {length} bytes, has {len(value)}")


def seal(key: KeyPair, message: Message, stamp: Stamp) -> bytes:
    """The signed frame that carries ``message``."""
    return seal_body(key, message.kind, pack(message), stamp)


def seal_body(key: KeyPair, kind: Kind, body: bytes, stamp: Stamp) -> bytes:
    """Like `seal`, for a body that is already bytes (a manifest must be signed over exactly the bytes whose hash names the run)."""
    head = _SIGNED.pack(_MAGIC, kind, stamp.run, stamp.round, stamp.group, stamp.seq, key.public)
    return head + key.sign(_DOMAIN + head + hashlib.sha256(body).digest()) + body


def open_frame(raw: bytes, *expected: type[M], run: bytes, limit: int = CONTROL_LIMIT) -> Signed[M]:
    """Turn a stranger's bytes into a `Signed` message of one of the ``expected`` types.

    Raises `Oversized`, `Malformed`, `BadSignature` or `WrongRun`; the body is decoded only after the signature holds, so that
    only a key holder can reach the decoder at all.
    """
    if len(raw) > limit:
        raise Oversized(f"{len(raw)} bytes, at most {limit} are allowed here")
    opened = _opened_before if len(raw) <= _SHORT else _opened
    return cast("Signed[M]", opened(bytes(raw), expected, run))


def _opened(raw: bytes, expected: tuple[type[Message], ...], run: bytes) -> Signed[Message]:
    if len(raw) < _HEADER:
        raise Malformed(f"a frame has at least {_HEADER} bytes, this one has {len(raw)}")
    magic, kind, its_run, round_, group, seq, public = _SIGNED.unpack_from(raw)
    if magic != _MAGIC:
        raise Malformed("not a frame of this protocol")
    form = next((form for form in expected if form.kind == kind), None)
    if form is None:
        raise Malformed(f"kind {kind} is not accepted here")
    signature, body = raw[_SIGNED.size : _HEADER], raw[_HEADER:]
    if not verify(public, signature, _DOMAIN + raw[: _SIGNED.size] + hashlib.sha256(body).digest()):
        raise BadSignature(f"the signature of a {form.__name__} does not hold")
    if its_run != run:
        raise WrongRun(f"a {form.__name__} of another run ({its_run.hex()[:12]})")
    stamp = Stamp(its_run, round_, group, seq)
    return Signed(unpack(body, form), peer_id_of(public), public, stamp, raw)


_opened_before = lru_cache(maxsize=1 << 11)(_opened)
"""The same broadcast comes by several ways, in a list and by itself, and to hundreds of rehearsed peers in one process."""


def body_of(raw: bytes) -> bytes:
    """The body bytes of a frame that `open_frame` has accepted."""
    return raw[_HEADER:]
