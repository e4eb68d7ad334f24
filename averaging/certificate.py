"""Certificates: what a group is, and what it has decided, as signatures that any peer can check for itself.

    group certificate     the members' own `Ready` frames  +  the votes of more than two thirds of them
    decision certificate  the group certificate            +  equal ballots of more than two thirds of them

A claim without a certificate ("the group is formed", "this is the round's record") is weather: a peer may
wait because of it, and believes nothing. With one it is a fact, whoever passes it on.

Rule 1: a certificate proves that its signers exist and agree, not that they are the run. So a peer that knows
        the state before the round also counts how many of the signers were in the group that led to that
        state (`Electorate`).
Rule 2: every `Ready` frame names that earlier group (its ``parent``). So certificates form a chain, and who
        took part in the last average follows from a certificate, never from a claim.
Rule 3: signatures under one message are kept as (seat, sequence number, signature): 64 members fit in 22 kB.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from swarm.errors import Malformed
from swarm.identity import PeerId
from swarm.wire import LEVEL_2, Message, Signed, Stamp, frame_from, level_of, open_frame, pack, unpack
from swarm.wire import signature_of as frame_signature

from . import groups
from .groups import Group
from .hierarchy import Hierarchy
from .messages import MAX_MEMBERS, MAX_PARTS, Ballot, Ready, Vote

M = TypeVar("M", bound=Message)

READY_LIMIT = 1024
"""Bytes of the largest `Ready` frame."""


class SeatSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One member's signature under a message that a certificate has only once."""

    seat: int
    """The member's place in the order of ids."""
    seq: int
    """The sequence number in the stamp of the signed frame."""
    signature: bytes

    def __post_init__(self) -> None:
        if not (0 <= self.seat < MAX_MEMBERS and 0 <= self.seq < 1 << 64 and len(self.signature) == 64):
            raise ValueError("seat signature: out of range")


class GroupCertificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """That a group stands: its members' `Ready` frames, and their votes."""

    ready: tuple[bytes, ...]
    """In the order of the members' ids."""
    unseated: tuple[bytes, ...]
    level1_groups: int
    """For a level-2 group: how many representatives could have come. Else 0."""
    votes: tuple[SeatSignature, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.ready) + len(self.unseated) <= MAX_MEMBERS or not self.ready:
            raise ValueError("group certificate: too many or no members")
        if len(self.votes) > len(self.ready) or not 0 <= self.level1_groups <= MAX_MEMBERS:
            raise ValueError("group certificate: out of range")


class DecisionCertificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What a group has decided: the hashes of the applied items, and the ballots that name exactly these.

    A group of one decides by its vote, and has neither.
    """

    group: GroupCertificate
    hashes: tuple[bytes, ...] = ()
    ballots: tuple[SeatSignature, ...] = ()

    def __post_init__(self) -> None:
        if len(self.hashes) > max(MAX_MEMBERS, MAX_PARTS) or len(self.ballots) > len(self.group.ready):
            raise ValueError("decision certificate: out of range")


@dataclass(frozen=True, slots=True)
class Seated:
    """A group as somebody proposes it: checked `Ready` frames, and the group that follows from them."""

    group: Group
    ready: tuple[Signed[Ready], ...]
    unseated: tuple[Signed[Ready], ...] = ()
    level1_groups: int = 0

    @property
    def parent(self) -> bytes:
        """The id of the group that led to the members' state."""
        return self.ready[0].message.parent

    def certificate(self, votes: Iterable[Signed[Vote]]) -> GroupCertificate:
        """The certificate of this group by ``votes`` of its members."""
        return GroupCertificate(
            tuple(signed.raw for signed in self.ready),
            tuple(signed.raw for signed in self.unseated),
            self.level1_groups,
            by_seat(self.group.members, votes),
        )


@dataclass(frozen=True, slots=True)
class CertifiedGroup:
    """A group certificate whose frames and signatures have been checked."""

    seated: Seated
    voters: frozenset[PeerId]
    """More than two thirds of the members."""
    certificate: GroupCertificate

    @property
    def group(self) -> Group:
        """The group that stands."""
        return self.seated.group


@dataclass(frozen=True, slots=True)
class CertifiedDecision:
    """A decision certificate whose frames and signatures have been checked."""

    formed: CertifiedGroup
    hashes: tuple[bytes, ...]
    """By item: the hash of what was applied, empty if nothing was."""
    certificate: DecisionCertificate

    @property
    def group(self) -> Group:
        """The group that has decided."""
        return self.formed.group

    @property
    def parent(self) -> bytes:
        """The id of the group that led to the state from which this one has trained."""
        return self.formed.seated.parent

    @property
    def origin(self) -> Origin:
        """What led to the state after this decision."""
        return origin_of(self.group, self.certificate)


@dataclass(frozen=True, slots=True)
class Origin:
    """What led to a state: the last group that has decided something on the way to it, and the proof."""

    group_id: bytes
    round: int
    """The round that the group has averaged. Rounds without a decision may have come after it."""
    members: tuple[PeerId, ...]
    certificate: bytes
    """A `DecisionCertificate`, packed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Electorate:
    """Whose votes decide about a peer's next group: those who were in the group that led to its state.

    ``members`` is None where nobody knows all of them, in a large population. Then all voters count; in a
    level-2 group (of a ``hierarchy``) one for each level-1 group.
    """

    members: frozenset[PeerId] | None = None
    needed: int = 0
    """So many of them must vote for a group."""
    floor: int = 0
    """So many of them must have voted for a group that is shown to a peer outside it.

    ``needed`` falls with every attempt that fails. If this fell as well, a liar that spoils a few attempts
    could then show a certificate of itself alone.
    """
    hierarchy: Hierarchy | None = None
    casting: PeerId | None = None
    """The member whose vote counts twice: the organiser, which is trusted, where the members can be two
    halves."""

    @property
    def level1_groups(self) -> int:
        """How many representatives could come to a level-2 group; 0 for any other group."""
        return self.hierarchy.count if self.hierarchy else 0

    def elects(self, voters: Iterable[PeerId]) -> bool:
        """Whether the ``voters`` are enough to go on from the state."""
        voting = set(voters)
        return self._counted(voting) + (self.casting in voting) >= self.needed

    def believes(self, voters: Iterable[PeerId]) -> bool:
        """Whether a group of these ``voters`` is the one that goes on from the state."""
        return self._counted(voters) >= max(self.needed, self.floor)

    def _counted(self, voters: Iterable[PeerId]) -> int:
        if self.hierarchy:
            return len({self.hierarchy.group_index(voter) for voter in voters})
        return len(set(voters) if self.members is None else self.members.intersection(voters))


EVERYBODY = Electorate()
"""Any voters are enough."""


def by_seat(members: Sequence[PeerId], signed: Iterable[Signed[Message]]) -> tuple[SeatSignature, ...]:
    """The signatures of those frames that are of ``members``, in the order of their seats; one per member."""
    frames = {frame.signer: frame for frame in signed}
    return tuple(
        SeatSignature(seat, frames[member].stamp.seq, frame_signature(frames[member].raw))
        for seat, member in enumerate(members)
        if member in frames
    )


def seated_by(
    ready: Sequence[bytes], unseated: Sequence[bytes], run: bytes, level1_groups: int = 0
) -> Seated:
    """The group that a list of `Ready` frames makes. Raises `TheirFault` for a list that makes none.

    All frames must be genuine, of one round and level, of different peers, and from one state and parent.
    """
    frames = [open_frame(raw, Ready, run=run, limit=READY_LIMIT) for raw in (*ready, *unseated)]
    if not ready:
        raise Malformed("a group without members")
    first = frames[0]
    for signed in frames:
        is_alike = (signed.stamp.round, signed.stamp.group) == (first.stamp.round, first.stamp.group)
        is_one_state = (signed.message.state_root, signed.message.parent) == (
            first.message.state_root,
            first.message.parent,
        )
        if not is_alike or not is_one_state:
            raise Malformed("the members of a group are not ready for the same round from the same state")
    if len({signed.signer for signed in frames}) < len(frames):
        raise Malformed("a group lists a peer twice")
    is_level2 = level_of(first.stamp.group) == LEVEL_2
    if is_level2 != bool(level1_groups) or (is_level2 and len(ready) > level1_groups):
        raise Malformed("a level-2 group has one member for each level-1 group at most")
    members = tuple(sorted(frames[: len(ready)], key=lambda signed: signed.signer))
    others = tuple(frames[len(ready) :])
    group = groups.formed(run, members, len(others), level1_groups)
    return Seated(group, members, others, level1_groups)


def open_group(certificate: GroupCertificate, run: bytes) -> CertifiedGroup:
    """Check a stranger's group certificate. Raises `TheirFault` if it does not hold."""
    seated = seated_by(certificate.ready, certificate.unseated, run, certificate.level1_groups)
    voters = _signers(Vote(), certificate.votes, seated, run)
    if len(voters) < seated.group.quorum:
        raise Malformed(f"{len(voters)} votes are no group of {len(seated.group.members)}")
    return CertifiedGroup(seated, voters, certificate)


def open_decision(certificate: DecisionCertificate, run: bytes) -> CertifiedDecision:
    """Check a stranger's decision certificate. Raises `TheirFault` if it does not hold."""
    formed = open_group(certificate.group, run)
    if len(formed.group.members) > 1:
        try:
            ballot = Ballot(certificate.hashes)
        except ValueError as error:
            raise Malformed("not the items of a round") from error
        voters = _signers(ballot, certificate.ballots, formed.seated, run)
        if len(voters) < formed.group.quorum:
            raise Malformed(f"{len(voters)} ballots decide nothing in a group of {len(formed.group.members)}")
    elif certificate.hashes or certificate.ballots:
        raise Malformed("a group of one casts no ballots")
    return CertifiedDecision(formed, certificate.hashes, certificate)


def origin_of(group: Group, certificate: DecisionCertificate) -> Origin:
    """What led to the state after a decision of ``group``."""
    return Origin(group.id, group.round, group.members, packed(certificate))


def packed(certificate: GroupCertificate | DecisionCertificate) -> bytes:
    """``certificate`` as bytes that travel."""
    return pack(certificate)


def unpacked_group(raw: bytes, run: bytes) -> CertifiedGroup:
    """The checked group certificate in ``raw``. Raises `TheirFault` if there is none."""
    return open_group(unpack(raw, GroupCertificate), run)


def unpacked_decision(raw: bytes, run: bytes) -> CertifiedDecision:
    """The checked decision certificate in ``raw``. Raises `TheirFault` if there is none."""
    return open_decision(unpack(raw, DecisionCertificate), run)


def vote_frames(certificate: GroupCertificate, run: bytes) -> list[Signed[Vote]]:
    """The votes of a stranger's certificate as their senders signed them. Raises `TheirFault` for a false
    one."""
    seated = seated_by(certificate.ready, certificate.unseated, run, certificate.level1_groups)
    return _frames(Vote(), certificate.votes, seated, run)


def _signers(
    message: Message, signatures: Sequence[SeatSignature], seated: Seated, run: bytes
) -> frozenset[PeerId]:
    """The members whose signatures under ``message`` hold. Raises `TheirFault` for one that does not."""
    return frozenset(signed.signer for signed in _frames(message, signatures, seated, run))


def _frames(message: M, signatures: Sequence[SeatSignature], seated: Seated, run: bytes) -> list[Signed[M]]:
    """The frames that belong to ``signatures`` under ``message``. Raises `TheirFault` for a false one."""
    stamp = seated.ready[0].stamp
    frames = []
    for each in signatures:
        if each.seat >= len(seated.ready):
            raise Malformed("a signature of nobody in the group")
        member = seated.ready[each.seat]
        its_stamp = Stamp(run, stamp.round, seated.group.id, each.seq)
        frame = frame_from(message, its_stamp, member.public, each.signature)
        frames.append(open_frame(frame, type(message), run=run))
    return frames
