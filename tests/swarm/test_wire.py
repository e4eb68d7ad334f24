"""Frames: the bytes, and all that `open_frame` refuses."""

from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import BadSignature, Malformed, Oversized, TheirFault, WrongRun
from swarm.identity import KeyPair
from swarm.wire import (
    CONTROL_LIMIT,
    LEVEL_2,
    NO_GROUP,
    Kind,
    Message,
    Stamp,
    body_of,
    finite,
    frame_from,
    level_of,
    open_frame,
    pack,
    seal,
    seal_body,
    signature_of,
    sized,
    unpack,
)


class Note(Message, frozen=True):
    kind: ClassVar[Kind] = Kind.READY

    text: str
    size: float
    blob: bytes = b""

    def __post_init__(self) -> None:
        finite("size", self.size, 0, 10)
        if len(self.blob) not in (0, 4):
            sized("blob", self.blob, 4)


class Other(Message, frozen=True):
    kind: ClassVar[Kind] = Kind.VOTE

    number: int


RUN = bytes(range(32))
GROUP = bytes(range(16))
KEY = KeyPair.from_seed(bytes(32))
STAMP = Stamp(RUN, round=7, group=GROUP, seq=9)
NOTE = Note("hello", 1.5, b"1234")
FRAME = seal(KEY, NOTE, STAMP)


def test_a_frame_brings_the_message_its_signer_and_its_stamp() -> None:
    signed = open_frame(FRAME, Other, Note, run=RUN)
    assert signed.message == NOTE
    assert (signed.signer, signed.public) == (KEY.peer_id, KEY.public)
    assert signed.stamp == STAMP
    assert signed.raw == FRAME
    assert unpack(body_of(FRAME), Note) == NOTE


def test_the_form_of_a_frame_never_changes() -> None:
    magic = "53574d31"
    kind = "0a"
    run = RUN.hex()
    round_ = "07000000"
    group = GROUP.hex()
    seq = "0900000000000000"
    signature = (
        "c7e7e7db69ee04478b3453441a10587e298e5edab0fc535d41c34f9c0afd3593"
        "fb0a129a3d57a15a852478bf80551256d2c8150824c724e6ee57167343c94b0f"
    )
    body = "93a568656c6c6fcb3ff8000000000000c40431323334"
    assert FRAME.hex() == magic + kind + run + round_ + group + seq + KEY.public.hex() + signature + body


def test_a_frame_follows_from_its_message_its_stamp_its_key_and_its_signature() -> None:
    """So a list of signatures under one message needs the message only once."""
    assert frame_from(NOTE, STAMP, KEY.public, signature_of(FRAME)) == FRAME
    other = frame_from(Note("other", 1.5), STAMP, KEY.public, signature_of(FRAME))
    with pytest.raises(BadSignature):
        open_frame(other, Note, run=RUN)


def test_the_first_bit_of_a_groups_id_tells_its_level() -> None:
    assert level_of(NO_GROUP) == level_of(bytes([127]) * 16) == NO_GROUP
    assert level_of(LEVEL_2) == level_of(bytes([128, *range(15)])) == LEVEL_2


def test_sealing_is_deterministic_and_a_stamp_has_defaults() -> None:
    assert seal_body(KEY, Kind.READY, pack(NOTE), STAMP) == FRAME
    assert open_frame(seal(KEY, NOTE, Stamp(RUN)), Note, run=RUN).stamp == Stamp(RUN, 0, NO_GROUP, 0)


@given(st.integers(0, len(FRAME) * 8 - 1))
def test_one_flipped_bit_anywhere_is_refused(bit: int) -> None:
    raw = bytearray(FRAME)
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TheirFault):
        open_frame(bytes(raw), Note, Other, run=RUN)


@given(st.integers(0, len(FRAME) - 1))
def test_a_frame_that_was_cut_short_is_refused(length: int) -> None:
    with pytest.raises((Malformed, BadSignature)):
        open_frame(FRAME[:length], Note, run=RUN)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(TheirFault):
        open_frame(raw, Note, run=RUN)


@settings(max_examples=300)
@given(st.binary(max_size=120))
def test_a_key_holder_who_signs_garbage_is_refused_too(body: bytes) -> None:
    """The decoder meets only bytes that somebody has signed; it must bear those as well."""
    raw = seal_body(KEY, Kind.READY, body, STAMP)
    try:
        message = open_frame(raw, Note, run=RUN).message
    except Malformed:
        return
    assert isinstance(message, Note)
    assert 0 <= message.size <= 10


@given(st.integers(0, len(pack(NOTE)) * 8 - 1))
def test_a_signed_body_with_a_flipped_bit_is_a_valid_message_or_malformed(bit: int) -> None:
    body = bytearray(pack(NOTE))
    body[bit // 8] ^= 1 << bit % 8
    try:
        message = open_frame(seal_body(KEY, Kind.READY, bytes(body), STAMP), Note, run=RUN).message
    except Malformed:
        return
    assert message != NOTE


def test_nesting_without_end_is_malformed() -> None:
    with pytest.raises(Malformed):
        open_frame(seal_body(KEY, Kind.READY, b"\x91" * 60_000, STAMP), Note, run=RUN)


@pytest.mark.parametrize(
    "body",
    [
        pack(["hello", float("nan")]),
        pack(["hello", float("inf")]),
        pack(["hello", -0.5]),
        pack(["hello", 11.0]),
        pack(["hello", 1.5, b"123"]),
        pack(["hello", 1.5, b"1234", "a field too many"]),
        pack(["hello"]),
        pack({"text": "hello", "size": 1.5}),
        pack([5, 1.5]),
        pack(NOTE) + b"\x00",
    ],
)
def test_values_out_of_range_and_unknown_fields_are_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        open_frame(seal_body(KEY, Kind.READY, body, STAMP), Note, run=RUN)


def test_size_is_checked_before_anything_else() -> None:
    with pytest.raises(Oversized):
        open_frame(bytes(CONTROL_LIMIT + 1), Note, run=RUN)
    with pytest.raises(Oversized):
        open_frame(FRAME, Note, run=RUN, limit=len(FRAME) - 1)
    assert open_frame(FRAME, Note, run=RUN, limit=len(FRAME)).message == NOTE


def test_another_kind_is_malformed_even_with_a_good_signature() -> None:
    with pytest.raises(Malformed, match="not accepted"):
        open_frame(FRAME, Other, run=RUN)


def test_the_signature_of_another_key_is_refused() -> None:
    other = KeyPair.generate()
    with pytest.raises(BadSignature):
        open_frame(FRAME.replace(KEY.public, other.public), Note, run=RUN)


def test_a_frame_of_another_run_is_refused() -> None:
    with pytest.raises(WrongRun):
        open_frame(FRAME, Note, run=bytes(32))


def test_the_stamp_is_signed_too() -> None:
    moved = FRAME[:37] + (8).to_bytes(4, "little") + FRAME[41:]
    assert moved != FRAME
    with pytest.raises(BadSignature):
        open_frame(moved, Note, run=RUN)
