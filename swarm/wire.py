"""The frame around every control message, and `open_frame`, the only function that reads a stranger's frame.

    frame     = header ‖ signature 64 ‖ body (MessagePack)
    header    = magic 4 ‖ kind 1 ‖ run 32 ‖ round u32 ‖ group 16 ‖ seq u64 ‖ public key 32
    signature = Ed25519( domain ‖ header ‖ sha256(body) )

Rule 1: `open_frame` checks every frame in this order: size, form, signature, run, body.
Rule 2: the signature covers the bytes as received; nothing is serialised again to check it.
Rule 3: choices are enums, unknown fields are refused, floats are finite.
Rule 4: of two messages of a peer the one with the higher (round, seq) is newer; no clock is compared.
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

PROTOCOL = 2
"""Version of the whole protocol. The manifest carries it, so that a peer with another version is told so
instead of failing to decode a message."""

CONTROL_LIMIT = 64 * 1024
"""Bytes of the largest control frame."""

NO_GROUP = bytes(16)
"""The group in the stamp of messages that form a level-1 group: it has no id yet."""

LEVEL_2 = b"\x80" + bytes(15)
"""The group in the stamp of messages that form a level-2 group.

A large population averages in level-1 groups, whose representatives then form one level-2 group. The first
bit of a group's id tells its level: 0 for level 1, 1 for level 2.
"""

_MAGIC = b"SWM1"
_DOMAIN = b"swarm-frame-v1\0"
_HEADER = struct.Struct("<4sB32sI16sQ32s")
_BODY_START = _HEADER.size + 64
_CACHED_BYTES = 2048
"""Bytes of the longest frame that `_opened_cached` keeps, so that its 2,048 entries take at most 4 MiB."""


def level_of(group: bytes) -> bytes:
    """`LEVEL_2` for the id of a level-2 group, `NO_GROUP` for that of a level-1 group."""
    return LEVEL_2 if group[0] & LEVEL_2[0] else NO_GROUP


class Kind(IntEnum):
    """The type of the message in a frame. Each number is part of the wire format: never use one again.

    4 is reserved: an older version gave it to a message that no longer exists.
    """

    MANIFEST = 1
    CONTACT = 2
    PROGRESS = 3
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
    """Base of all messages in frames. Subclasses set ``kind`` and check ranges in ``__post_init__``."""

    kind: ClassVar[Kind]


M = TypeVar("M", bound=Message)
M_co = TypeVar("M_co", bound=Message, covariant=True)
S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Stamp:
    """Where a message belongs. It is signed, so a frame cannot be replayed in another run, round or group.

    ``run`` is the run id (32 bytes), ``group`` a group id (16 bytes), ``seq`` the sender's own counter.
    """

    run: bytes
    round: int = 0
    group: bytes = NO_GROUP
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Signed(Generic[M_co]):
    """A message whose form, signature and run have been checked.

    ``public`` is the signer's key (32 bytes). ``raw`` is the frame as received; it can be passed on as
    evidence.
    """

    message: M_co
    signer: PeerId
    public: bytes
    stamp: Stamp
    raw: bytes


def pack(value: object) -> bytes:
    """MessagePack of a plain value or a `Message`; `unpack` reads it."""
    return msgspec.msgpack.encode(value)


def unpack(raw: bytes | bytearray | memoryview, form: type[S]) -> S:
    """Decode ``raw`` as ``form``. Raises `Malformed` for unknown fields, wrong types and bad values."""
    try:
        return msgspec.msgpack.decode(raw, type=form)
    except (msgspec.DecodeError, ValueError, RecursionError, OverflowError) as error:
        raise Malformed(f"not a {form.__name__}: {error}") from error


def finite(name: str, value: float, low: float, high: float) -> None:
    """Raise `ValueError` for a float that is NaN, infinite or outside [low, high]. For ``__post_init__``."""
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} must lie in [{low}, {high}]")


def sized(name: str, value: bytes, length: int) -> None:
    """Raise `ValueError` for bytes that are not exactly ``length`` long. For ``__post_init__``."""
    if len(value) != length:
        raise ValueError(f"{name} must have {length} bytes, has {len(value)}")


def seal(key: KeyPair, message: Message, stamp: Stamp) -> bytes:
    """The frame that carries ``message``, signed by ``key``."""
    return seal_body(key, message.kind, pack(message), stamp)


def seal_body(key: KeyPair, kind: Kind, body: bytes, stamp: Stamp) -> bytes:
    """Like `seal`, for a body that is already bytes.

    A manifest needs this: its signature must cover exactly the bytes whose hash is the run id.
    """
    header = _HEADER.pack(_MAGIC, kind, stamp.run, stamp.round, stamp.group, stamp.seq, key.public)
    signature = key.sign(_signed_bytes(header, body))
    return header + signature + body


def open_frame(raw: bytes, *expected: type[M], run: bytes, limit: int = CONTROL_LIMIT) -> Signed[M]:
    """Read a frame from a stranger: the checked message, which is of one of the ``expected`` types.

    Raises `Oversized` (more than ``limit`` bytes), `Malformed`, `BadSignature` or `WrongRun`. The body is
    decoded only after its signature has been verified, so each body that reaches the decoder can be blamed on
    a key.
    """
    if len(raw) > limit:
        raise Oversized(f"{len(raw)} bytes, at most {limit} are allowed here")
    opened = _opened_cached if len(raw) <= _CACHED_BYTES else _opened
    return cast("Signed[M]", opened(bytes(raw), expected, run))


def _opened(raw: bytes, expected: tuple[type[Message], ...], run: bytes) -> Signed[Message]:
    if len(raw) < _BODY_START:
        raise Malformed(f"a frame has at least {_BODY_START} bytes, this one has {len(raw)}")
    header = raw[: _HEADER.size]
    signature = raw[_HEADER.size : _BODY_START]
    body = raw[_BODY_START:]

    magic, kind, frame_run, round_, group, seq, public = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise Malformed("not a frame of this protocol")
    form = next((form for form in expected if form.kind == kind), None)
    if form is None:
        raise Malformed(f"kind {kind} is not accepted here")
    if not verify(public, signature, _signed_bytes(header, body)):
        raise BadSignature(f"the signature of a {form.__name__} does not hold")
    if frame_run != run:
        raise WrongRun(f"a {form.__name__} of another run ({frame_run.hex()[:12]})")

    stamp = Stamp(frame_run, round_, group, seq)
    return Signed(unpack(body, form), peer_id_of(public), public, stamp, raw)


_opened_cached = lru_cache(maxsize=1 << 11)(_opened)
"""A broadcast comes several times: by itself, in lists, and to all simulated peers of one process."""


def _signed_bytes(header: bytes, body: bytes) -> bytes:
    """The bytes that the signature of a frame covers."""
    return _DOMAIN + header + hashlib.sha256(body).digest()


def body_of(raw: bytes) -> bytes:
    """The body bytes of a frame that `open_frame` has accepted."""
    return raw[_BODY_START:]


def signature_of(raw: bytes) -> bytes:
    """The signature (64 bytes) of a frame that `open_frame` has accepted."""
    return raw[_HEADER.size : _BODY_START]


def frame_from(message: Message, stamp: Stamp, public: bytes, signature: bytes) -> bytes:
    """The frame that ``signature`` (64 bytes) by the key ``public`` (32 bytes) belongs to.

    A list of signatures under one message needs the message only once. The result is a stranger's frame:
    `open_frame` checks it.
    """
    header = _HEADER.pack(_MAGIC, message.kind, stamp.run, stamp.round, stamp.group, stamp.seq, public)
    return header + signature + pack(message)
