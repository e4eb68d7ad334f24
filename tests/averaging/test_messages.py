"""The messages of a round, and what no decoder accepts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.messages import (
    MAX_MEMBERS,
    MAX_PARTS,
    MAX_UPLINK,
    MESSAGES,
    Ballot,
    Commit,
    Decline,
    Holdings,
    Proposal,
    Ready,
    Receipt,
    Takeover,
    Vote,
    bits,
    flag_bytes,
    flags_of,
)
from swarm.errors import Malformed
from swarm.identity import KeyPair
from swarm.manifest import Codec
from swarm.wire import CONTROL_LIMIT, Message, Stamp, open_frame, pack, seal, unpack

HASH = bytes(range(32))
KEY = KeyPair.from_seed(bytes(32))
COMMIT = Commit((HASH, HASH), (1.0, 2.5), 640, HASH, HASH, Codec.INT4)
SAMPLES: list[Message] = [
    Ready(HASH, 12_500, False),
    Proposal((b"frame", b"another")),
    Vote(),
    Decline(7, "the group of this round is formed"),
    COMMIT,
    Receipt(3, HASH),
    Takeover(3),
    Holdings((HASH, b"")),
    Ballot((b"", HASH)),
]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_sealed_message_opens_to_an_equal_one(message: Message) -> None:
    assert open_frame(seal(KEY, message, Stamp(HASH)), type(message), run=HASH).message == message


def test_every_message_has_its_own_kind_and_all_are_accepted_in_a_round() -> None:
    assert {type(message) for message in SAMPLES} == set(MESSAGES)
    assert len({message.kind for message in SAMPLES}) == len(SAMPLES)


@pytest.mark.parametrize(
    ("form", "fields"),
    [
        (Ready, [HASH[:31]]),
        (Ready, [HASH, -1]),
        (Ready, [HASH, MAX_UPLINK + 1]),
        (Ready, [HASH, 1.5]),
        (Ready, [HASH, 1, 2]),
        (Proposal, [[]]),
        (Proposal, [[b"x"] * (MAX_MEMBERS + 1)]),
        (Decline, [-1, "why"]),
        (Decline, [1, "w" * 201]),
        (Commit, [[], [], 1, HASH, HASH, Codec.INT4]),
        (Commit, [[HASH], [1.0, 2.0], 1, HASH, HASH, Codec.INT4]),
        (Commit, [[HASH] * (MAX_PARTS + 1), [1.0] * (MAX_PARTS + 1), 1, HASH, HASH, Codec.INT4]),
        (Commit, [[HASH[1:]], [1.0], 1, HASH, HASH, Codec.INT4]),
        (Commit, [[HASH], [1.0], 0, HASH, HASH, Codec.INT4]),
        (Commit, [[HASH], [1.0], 1 << 50, HASH, HASH, Codec.INT4]),
        (Commit, [[HASH], [1.0], 1, b"", HASH, Codec.INT4]),
        (Commit, [[HASH], [1.0], 1, HASH, b"", Codec.INT4]),
        (Receipt, [MAX_PARTS, HASH]),
        (Receipt, [-1, HASH]),
        (Receipt, [0, HASH + b"0"]),
        (Holdings, [[]]),
        (Holdings, [[HASH[:16]]]),
        (Ballot, [[HASH] * (MAX_MEMBERS + 1)]),
        (Takeover, [MAX_PARTS]),
        (Takeover, [-1]),
        (Commit, [[HASH], [1.0], 1, HASH, HASH, max(Codec) + 1]),
        (Vote, ["more than a vote"]),
    ],
)
def test_what_is_out_of_range_is_malformed(form: type[Message], fields: list[object]) -> None:
    with pytest.raises(Malformed):
        unpack(pack(fields), form)


@pytest.mark.parametrize("norm", [math.nan, math.inf, -1.0, 1e31])
def test_a_norm_is_finite_and_not_negative(norm: float) -> None:
    with pytest.raises(Malformed):
        unpack(pack([[HASH], [norm], 1, HASH, HASH, Codec.INT4]), Commit)


def test_a_proposal_of_the_largest_group_fits_a_control_message() -> None:
    frame = seal(KEY, Ready(HASH), Stamp(HASH, 1 << 31, bytes(16), 1 << 63))
    assert len(seal(KEY, Proposal((frame,) * MAX_MEMBERS), Stamp(HASH))) <= CONTROL_LIMIT


@given(st.lists(st.booleans(), max_size=70))
def test_flags_come_back_from_their_bits(flags: list[bool]) -> None:
    assert flags_of(bits(flags), len(flags)) == flags
    assert len(bits(flags)) == flag_bytes(len(flags)) >= len(flags) / 8
    assert flag_bytes(len(flags)) % 4 == 0


def test_flags_that_are_missing_are_not_set() -> None:
    assert flags_of(b"\x01", 10) == [True] + [False] * 9
