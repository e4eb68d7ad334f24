"""What members say to each other in a round. Bulk bytes travel beside these messages; their hashes stand in them.

Ready, Proposal, Vote, Decline      who averages together        (`assembly`)
Commit, Holdings, Ballot            what the average is          (`round`)
Receipt, Takeover                   who has reduced what         (`butterfly`)
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from swarm.manifest import Codec
from swarm.wire import Kind, Message, finite, sized

MAX_PARTS = 64
MAX_MEMBERS = 256
MAX_POPULATION = 1 << 20
"""Peers that anybody may claim to have seen."""
MAX_UP = 10**8
"""Kilobytes per second: what a peer may claim of its line."""
MAX_WEIGHT = 1 << 50
"""Tokens behind one update: below this."""


class Ready(Message, frozen=True):
    """I have an update for the stamp's round, made from the model whose root is ``state_root``; and this is my line.

    All members see the same signed claims, in the proposal, so all cut the vector alike (`groups.shares`).
    """

    kind: ClassVar[Kind] = Kind.READY

    state_root: bytes
    up: int = 0
    """Kilobytes per second that I can send, as far as I have measured; 0 where I have not."""
    dialable: bool = True
    """Whether others can open connections to me: whoever owns a part must hear from all."""
    peers: int = 1
    """How many peers I speak for: 1, or the population of my cell where I am its delegate (`hierarchy`)."""
    is_participant: bool = True
    """Whether I was in the run's last average, or there has been none."""

    def __post_init__(self) -> None:
        sized("state_root", self.state_root, 32)
        if not (0 <= self.up <= MAX_UP and 1 <= self.peers <= MAX_POPULATION):
            raise ValueError("ready: out of range")


class Proposal(Message, frozen=True):
    """A leader's list of members, as their own signed `Ready` frames: nobody can be listed who did not come."""

    kind: ClassVar[Kind] = Kind.PROPOSAL

    ready: tuple[bytes, ...]
    unseated: int = 0
    """How many more were ready, for whom there was no seat."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.ready) <= MAX_MEMBERS:
            raise ValueError(f"a group has 1 to {MAX_MEMBERS} members")
        if not 0 <= self.unseated <= MAX_POPULATION:
            raise ValueError("proposal: out of range")


class Vote(Message, frozen=True):
    """I take part in the group that the stamp names. A peer signs at most one per round, so it is never in two groups."""

    kind: ClassVar[Kind] = Kind.VOTE


class DeclineReason(IntEnum):
    """Why there is no place in a group."""

    FORMED = 0
    """It has been formed: its result is worth waiting for."""
    TOO_FEW = 1
    """Too few came to form one."""
    ABSENT = 2
    """We do not come ourselves."""


class Decline(Message, frozen=True):
    """You are not in the group of the stamp's round, and why; ``round`` is where the run stands."""

    kind: ClassVar[Kind] = Kind.DECLINE

    round: int
    reason: str
    because: DeclineReason = DeclineReason.FORMED

    def __post_init__(self) -> None:
        if not 0 <= self.round < 1 << 32 or len(self.reason) > 200:
            raise ValueError("decline: out of range")


class Commit(Message, frozen=True):
    """Hash and L2 norm of every part of my encoded update, and its weight, before any of it is sent. In a gather it is one part.

    ``seed`` names the data it was computed from, so that the work can be done again by an auditor.
    """

    kind: ClassVar[Kind] = Kind.COMMIT

    hashes: tuple[bytes, ...]
    norms: tuple[float, ...]
    weight: int
    """Tokens behind the update."""
    seed: bytes
    state_root: bytes
    codec: Codec
    """How it is encoded: as the manifest says, or smaller (`strength`)."""

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
    """An owner's, or a spare's, signature under its result of ``part``: the hash of who is in it and of the encoded numbers."""

    kind: ClassVar[Kind] = Kind.RECEIPT

    part: int
    hash: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.part < MAX_PARTS:
            raise ValueError("receipt: out of range")
        sized("hash", self.hash, 32)


class Takeover(Message, frozen=True):
    """I, a spare of ``part``, cannot reach its owner: send me yours, or the result if you have it."""

    kind: ClassVar[Kind] = Kind.TAKEOVER

    part: int

    def __post_init__(self) -> None:
        if not 0 <= self.part < MAX_PARTS:
            raise ValueError("takeover: out of range")


class _Items(Message, frozen=True):
    """One entry per item (a part's result; in a gather a member's update): its hash, or nothing."""

    hashes: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.hashes) <= MAX_MEMBERS or any(
            len(hash_) not in (0, 32) for hash_ in self.hashes
        ):
            raise ValueError("items: out of range")


class Holdings(_Items, frozen=True):
    """The items that I hold and have verified. One per member and round."""

    kind: ClassVar[Kind] = Kind.HOLDINGS


class Ballot(_Items, frozen=True):
    """The items to apply, by what I know of everybody's holdings. One per member and round: two decisions cannot both win 2/3."""

    kind: ClassVar[Kind] = Kind.BALLOT


def flag_bytes(count: int) -> int:
    """The bytes of ``count`` flags: whole words, so that what follows them lies where a float32 may lie."""
    return -(-count // 32) * 4


def bits(flags: list[bool]) -> bytes:
    """``flags`` as little-endian bits, in `flag_bytes` bytes."""
    return sum(1 << i for i, flag in enumerate(flags) if flag).to_bytes(flag_bytes(len(flags)), "little")


def flags_of(packed: bytes, count: int) -> list[bool]:
    """The first ``count`` flags of ``packed``; missing ones are False."""
    number = int.from_bytes(packed, "little")
    return [bool(number >> i & 1) for i in range(count)]
