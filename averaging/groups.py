"""Who leads, who gets a seat, who owns which part: drawn by hashes that every member recomputes."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType

from swarm.identity import PeerId, digest_of
from swarm.seeds import shuffled
from swarm.wire import LEVEL_2, NO_GROUP, Signed, level_of

from .hierarchy import Hierarchy
from .messages import MAX_POPULATION, Ready, Vote
from .partition import water_filled

CLAIM_CAP = 4
"""Times the median: the most that a claimed bandwidth counts."""


@dataclass(frozen=True, slots=True)
class LinkClaim:
    """A peer's own word about its line: ``up`` in kilobytes per second (0: not measured yet), whether others can dial it, and how
    many ``peers`` it speaks for."""

    up: int = 0
    dialable: bool = True
    peers: int = 1


NO_CLAIMS: Mapping[PeerId, LinkClaim] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Group:
    """The peers that average together in one round. ``members`` in the order of their ids: the order of every reduction."""

    id: bytes
    round: int
    members: tuple[PeerId, ...]
    state_root: bytes
    votes: tuple[Signed[Vote], ...] = ()
    """The signatures under the roster: at least two thirds of the members."""
    lines: tuple[LinkClaim, ...] = ()
    """What the members said of their lines, in their order; empty where nobody was asked."""
    unseated: int = 0
    """How many more were ready, by the leader's word."""

    @property
    def population(self) -> int:
        """How many peers were ready for this round, those included for whom the members speak."""
        return min(
            MAX_POPULATION, self.unseated + (sum(line.peers for line in self.lines) or len(self.members))
        )

    @property
    def dialable(self) -> tuple[PeerId, ...]:
        """The members that all others can reach; everybody where nobody says so."""
        reached = tuple(
            member for member, line in zip(self.members, self.lines, strict=False) if line.dialable
        )
        return reached or self.members

    @property
    def quorum(self) -> int:
        """How many members decide."""
        return quorum(len(self.members))


def quorum(members: int) -> int:
    """Two thirds, rounded up: any two such sets share a member that would have had to sign twice."""
    return -(-2 * members // 3)


def form(
    run: bytes,
    round_: int,
    members: Iterable[PeerId],
    state_root: bytes,
    lines: Mapping[PeerId, LinkClaim] = NO_CLAIMS,
    unseated: int = 0,
) -> Group:
    """The group of ``members``; its id (16 bytes) commits to run, round, model, everybody in it, and their ``lines``: who says one
    thing to a leader and another to its deputy makes two groups, not one that cuts the vector in two ways."""
    ordered = tuple(sorted(set(members)))
    said = tuple(lines.get(member, LinkClaim()) for member in ordered)
    digest = hashlib.sha256(b"swarm-group-v3" + run + struct.pack("<II", round_, unseated) + state_root)
    for member, line in zip(ordered, said, strict=True):
        digest.update(digest_of(member) + struct.pack("<I?I", line.up, line.dialable, line.peers))
    return Group(
        _at_level(digest.digest(), NO_GROUP), round_, ordered, state_root, lines=said, unseated=unseated
    )


def formed(run: bytes, ready: Sequence[Signed[Ready]], unseated: int = 0) -> Group:
    """The group of those who said that they are ``ready``, at least one, all for one round, one model and one hall."""
    said = ((signed.signer, signed.message) for signed in ready)
    lines = {signer: LinkClaim(word.up, word.dialable, word.peers) for signer, word in said}
    stamp, root = ready[0].stamp, ready[0].message.state_root
    group = form(run, stamp.round, lines, root, lines, unseated)
    return replace(group, id=_at_level(group.id, level_of(stamp.group)))


def _at_level(digest: bytes, level: bytes) -> bytes:
    """16 bytes of ``digest`` that belong to ``level``."""
    return bytes([digest[0] & ~LEVEL_2[0] | level[0]]) + digest[1:16]


def leaders(run: bytes, round_: int, candidates: Iterable[PeerId]) -> list[PeerId]:
    """Who proposes the group of a round: the first one; the next ones replace it where it fails."""
    return [PeerId(peer) for peer in shuffled(run, candidates, "leader", round_)]


def seats(
    run: bytes, ready: Sequence[Signed[Ready]], size: int, leader: PeerId | None = None
) -> list[Signed[Ready]]:
    """Up to ``size`` of those who came, drawn by hash where there are more, ``leader`` always among them: the others ask it what
    came of the round. Those without a seat keep their update."""
    by_peer = {signed.signer: signed for signed in ready}
    if len(by_peer) <= size:
        return [by_peer[peer] for peer in sorted(by_peer)]
    round_ = ready[0].stamp.round
    drawn = shuffled(run, by_peer, "seat", round_)
    first = [leader] if leader in by_peer else []
    return [by_peer[PeerId(peer)] for peer in sorted([*dict.fromkeys([*first, *drawn])][:size])]


def speakers(hierarchy: Hierarchy, ready: Iterable[Signed[Ready]]) -> list[Signed[Ready]]:
    """Of those who came to a council one for each cell, in the order of their ids."""
    by_cell: dict[int, dict[PeerId, Signed[Ready]]] = {}
    for signed in ready:
        by_cell.setdefault(hierarchy.group_index(signed.signer), {})[signed.signer] = signed
    chosen = [came[hierarchy.representative(came)] for came in by_cell.values()]
    return sorted(chosen, key=lambda signed: signed.signer)


def owners(run: bytes, group: Group, at_most: int) -> tuple[PeerId, ...]:
    """The members that own a part in this round, in the order of the parts; drawn from those that everybody can reach."""
    return tuple(PeerId(peer) for peer in shuffled(run, group.dialable, "owner", group.id)[:at_most])


def shares(group: Group, owners: Sequence[PeerId]) -> tuple[Fraction, ...]:
    """How much of the vector each of ``owners`` reduces, so that all lines are done at about the same time.

    Who has not measured its line counts like the median of those who have, and nobody for more than `CLAIM_CAP` medians: claims are
    not believed, they are only worth a bounded share. Equal shares where nobody has measured.
    """
    known = sorted(line.up for line in group.lines if line.up)
    if not known:
        return (Fraction(1, len(owners)),) * len(owners)
    median, said = known[(len(known) - 1) // 2], dict(zip(group.members, group.lines, strict=True))
    return water_filled(
        [min(said[owner].up or median, CLAIM_CAP * median) for owner in owners], len(group.members)
    )


def majority_root(ready: Iterable[Signed[Ready]], mine: bytes) -> bytes:
    """The model that most of those who came have; ``mine`` where it ties."""
    counts: dict[bytes, int] = {}
    for signed in ready:
        counts[signed.message.state_root] = counts.get(signed.message.state_root, 0) + 1
    return max(counts, key=lambda root: (counts[root], root == mine, root), default=mine)
