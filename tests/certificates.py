"""Real certificates of groups and decisions, signed by the keys of a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from averaging.certificate import (
    DecisionCertificate,
    GroupCertificate,
    Origin,
    Seated,
    by_seat,
    origin_of,
    packed,
    seated_by,
)
from averaging.messages import Ballot, Ready, Vote
from averaging.record import Record, UpdateShape, contributors, plan_parts
from swarm.hashing import digest
from swarm.identity import KeyPair, digest_of
from swarm.wire import LEVEL_2, NO_GROUP, Message, Signed, Stamp, open_frame, seal

M = TypeVar("M", bound=Message)

ROOT = bytes([7]) * 32


def signed(key: KeyPair, message: M, run: bytes, round_: int = 0, group: bytes = NO_GROUP) -> Signed[M]:
    """``message`` as ``key`` signs it."""
    frame = seal(key, message, Stamp(run, round_, group, seq=1))
    return cast("Signed[M]", open_frame(frame, type(message), run=run))


@dataclass(frozen=True, kw_only=True)
class Company:
    """Peers that form a group of ``round`` from the state ``root``, to which the group ``parent`` led."""

    run: bytes
    keys: Sequence[KeyPair]
    round: int = 0
    root: bytes = ROOT
    parent: bytes = NO_GROUP
    tokens: int = 1
    peers: int = 1
    """How many peers each of them stands for."""
    level1_groups: int = 0
    """For a level-2 group."""

    @property
    def seated(self) -> Seated:
        """The group."""
        level = LEVEL_2 if self.level1_groups else NO_GROUP
        ready = Ready(self.root, peers=self.peers, tokens=self.tokens, parent=self.parent)
        frames = [signed(key, ready, self.run, self.round, level).raw for key in self.keys]
        return seated_by(frames, (), self.run, self.level1_groups)

    def group_certificate(self, voters: Sequence[KeyPair] | None = None) -> GroupCertificate:
        """The certificate of the group by the votes of ``voters``, or of all."""
        seated = self.seated
        keys = self.keys if voters is None else voters
        votes = [signed(key, Vote(), self.run, self.round, seated.group.id) for key in keys]
        return seated.certificate(votes)

    def decision(
        self, hashes: tuple[bytes, ...] = (), voters: Sequence[KeyPair] | None = None
    ) -> DecisionCertificate:
        """The certificate that the group has decided on the items of these ``hashes``."""
        if len(self.keys) == 1:
            return DecisionCertificate(self.group_certificate())
        group = self.seated.group
        keys = self.keys if voters is None else voters
        ballot = Ballot(hashes or (bytes(32),))
        ballots = [signed(key, ballot, self.run, self.round, group.id) for key in keys]
        return DecisionCertificate(self.group_certificate(), ballot.hashes, by_seat(group.members, ballots))

    def origin(self) -> Origin:
        """What leads to the state after such a decision."""
        return origin_of(self.seated.group, self.decision())

    def record(self, shape: UpdateShape, items: tuple[bytes, ...]) -> Record:
        """The record of the group's decision on ``items``."""
        group = self.seated.group
        bare = Record(self.round, items=items)
        hashes = tuple(digest(item) if item else b"" for item in items)
        parts = plan_parts(self.run, shape.spec, group, shape.fragment(bare).tensors)
        return Record(
            round=self.round,
            members=tuple(digest_of(member) for member in group.members),
            population=group.population,
            tokens=group.tokens_of(contributors(bare, group, shape.spec)),
            stops=tuple(part.stop for part in parts),
            items=items,
            certificate=packed(self.decision(hashes)),
        )
