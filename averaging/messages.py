"""The messages that members exchange in a round.

Bulk bytes travel beside them; the messages carry the hashes of those bytes.

Ready, Proposal, Vote, Decline      who averages together        (`assembly`)
Commit, Holdings, Ballot            what the average is          (`round`)
Receipt, Takeover                   who has reduced which part   (`butterfly`)

The order of the fields is the wire format: names may change, places may not.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from swarm.manifest import Codec
from swarm.wire import NO_GROUP, Kind, Message, finite, sized

MAX_PARTS = 64
MAX_MEMBERS = 256
MAX_POPULATION = 1 << 20
"""The most peers that a message may claim to have seen."""
MAX_UPLINK = 10**8
"""Kilobytes per second: the most that a peer may claim of its uplink."""
MAX_WEIGHT = 1 << 50
"""The tokens behind one update must be fewer than this."""


class Ready(Message, frozen=True):
    """The sender has an update for the stamp's round, made from the model with ``state_root``.

    Describes the sender's link and its update as well.

    The proposal hands these signed claims to all members, so all of them cut the vector in the same way
    (`groups.shares`), and count the same tokens for it.
    """

    kind: ClassVar[Kind] = Kind.READY

    state_root: bytes
    uplink: int = 0
    """Kilobytes per second that the sender has measured; 0 if it has not measured yet."""
    dialable: bool = True
    """Whether others can open connections to the sender: the owner of a part must hear from all members."""
    peers: int = 1
    """How many peers the sender represents: 1, or the population of its level-1 group (`hierarchy`)."""
    tokens: int = 1
    """Tokens behind the sender's update: its weight."""
    parent: bytes = NO_GROUP
    """The id of the group whose decision led to the state; all zero before the run's first average."""

    def __post_init__(self) -> None:
        sized("state_root", self.state_root, 32)
        sized("parent", self.parent, 16)
        if not (0 <= self.uplink <= MAX_UPLINK and 1 <= self.peers <= MAX_POPULATION):
            raise ValueError("ready: out of range")
        if not 0 < self.tokens < MAX_WEIGHT:
            raise ValueError("ready: tokens out of range")


class Proposal(Message, frozen=True):
    """A leader's list of members, as their own signed `Ready` frames: a peer that did not come cannot be
    listed."""

    kind: ClassVar[Kind] = Kind.PROPOSAL

    ready: tuple[bytes, ...]
    unseated: tuple[bytes, ...] = ()
    """The `Ready` frames of more peers that were ready and got no seat."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.ready) <= MAX_MEMBERS:
            raise ValueError(f"a group has 1 to {MAX_MEMBERS} members")
        if len(self.ready) + len(self.unseated) > MAX_MEMBERS:
            raise ValueError("proposal: too many peers without a seat")


class Vote(Message, frozen=True):
    """The sender takes part in the group named by the stamp.

    A peer signs at most one per round, so it is never in two groups.
    """

    kind: ClassVar[Kind] = Kind.VOTE


class DeclineReason(IntEnum):
    """Why a peer gets no place in a group."""

    FORMED = 0
    """The group is formed already: its result is worth waiting for."""
    TOO_FEW = 1
    """Too few peers came to form one."""
    ABSENT = 2
    """The sender itself will not take part; its round is not over because of that."""


class Decline(Message, frozen=True):
    """The receiver is not in the group of the stamp's round, and why.

    ``round`` is the newest round that the sender knows of. That a group is formed counts only with its
    ``certificate`` (`certificate.GroupCertificate`, packed); without one the message says only that its
    sender will not lead the receiver.
    """

    kind: ClassVar[Kind] = Kind.DECLINE

    round: int
    reason: str
    because: DeclineReason = DeclineReason.FORMED
    certificate: bytes = b""

    def __post_init__(self) -> None:
        if not 0 <= self.round < 1 << 32 or len(self.reason) > 200:
            raise ValueError("decline: out of range")


class Commit(Message, frozen=True):
    """Hash and L2 norm of every part of the sender's encoded update, and its weight, before any of it is
    sent.

    In a gather exchange the whole update is one part. ``seed`` names the data behind the update, so that an
    auditor can repeat the work.
    """

    kind: ClassVar[Kind] = Kind.COMMIT

    hashes: tuple[bytes, ...]
    norms: tuple[float, ...]
    weight: int
    """Tokens behind the update."""
    seed: bytes
    state_root: bytes
    codec: Codec
    """How the update is encoded: as the manifest says, or smaller (`codec_choice`)."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.hashes) == len(self.norms) <= MAX_PARTS or not 0 < self.weight < MAX_WEIGHT:
            raise ValueError("commit: out of range")
        for hash_ in self.hashes:
            sized("hash", hash_, 32)
        for norm in self.norms:
            finite("norm", norm, 0, 1e30)
        sized("seed", self.seed, 32)
        sized("state_root", self.state_root, 32)


class Receipt(Message, frozen=True):
    """The signature of an owner or a spare under its result of ``part``: a hash over the included members and
    the encoded numbers."""

    kind: ClassVar[Kind] = Kind.RECEIPT

    part: int
    hash: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.part < MAX_PARTS:
            raise ValueError("receipt: out of range")
        sized("hash", self.hash, 32)


class Takeover(Message, frozen=True):
    """The sender, a spare of ``part``, cannot reach its owner: please send it your part, or the result if you
    hold it."""

    kind: ClassVar[Kind] = Kind.TAKEOVER

    part: int

    def __post_init__(self) -> None:
        if not 0 <= self.part < MAX_PARTS:
            raise ValueError("takeover: out of range")


class _Items(Message, frozen=True):
    """One entry per item (a part's result; in a gather exchange a member's update): its hash, or empty."""

    hashes: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.hashes) <= MAX_MEMBERS or any(
            len(hash_) not in (0, 32) for hash_ in self.hashes
        ):
            raise ValueError("items: out of range")


class Holdings(_Items, frozen=True):
    """The items that the sender holds and has verified. One message per member and round."""

    kind: ClassVar[Kind] = Kind.HOLDINGS


class Ballot(_Items, frozen=True):
    """The items to apply, by all holdings that the sender has heard.

    One per member and round: two decisions cannot both get 2/3.
    """

    kind: ClassVar[Kind] = Kind.BALLOT


MESSAGES: dict[type[Message], bool] = {
    Ready: True,
    Proposal: True,
    Vote: True,
    Decline: True,
    Commit: False,
    Receipt: False,
    Takeover: False,
    Holdings: False,
    Ballot: False,
}
"""All messages of averaging; True for those that form a group."""


def flag_bytes(count: int) -> int:
    """The bytes of ``count`` flags: whole words, so that float32 numbers may follow them in memory."""
    return -(-count // 32) * 4


def header_bytes(members: int) -> int:
    """The bytes of a result in front of its numbers: a flag for each member, and a hash (`result_header`)."""
    return flag_bytes(members) + 32


def bits(flags: list[bool]) -> bytes:
    """``flags`` as little-endian bits, in `flag_bytes` bytes."""
    return sum(1 << i for i, flag in enumerate(flags) if flag).to_bytes(flag_bytes(len(flags)), "little")


def flags_of(packed: bytes, count: int) -> list[bool]:
    """The first ``count`` flags of ``packed``; missing ones are False."""
    number = int.from_bytes(packed, "little")
    return [bool(number >> i & 1) for i in range(count)]
