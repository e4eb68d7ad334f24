"""Who leads, who gets a seat, who owns which part: drawn by hashes that every member recomputes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from swarm.identity import PeerId, digest_of
from swarm.seeds import shuffled
from swarm.wire import Signed

from .messages import Ready, Vote
from .partition import water_filled

CLAIM_CAP = 4
"""Times the median: the most that a claimed bandwidth counts."""


@dataclass(frozen=True, slots=True)
class Line:
    """A peer's own word about its line: ``up`` in kilobytes per second (0: not measured yet), and whether others can dial it."""

    up: int = 0
    dialable: bool = True


NO_WORDS: Mapping[PeerId, Line] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Group:
    """The peers that average together in one round. ``members`` in the order of their ids: the order of every reduction."""

    id: bytes
    round: int
    members: tuple[PeerId, ...]
    state_root: bytes
    votes: tuple[Signed[Vote], ...] = ()
    """The signatures under the roster: at least two thirds of the members."""
    lines: tuple[Line, ...] = ()
    """What the members said of their lines, in their order; empty where nobody was asked."""

    @property
    def dialable(self) -> tuple[PeerId, ...]:
        """The members that all others can reach; everybody where nobody says so."""
        reached = tuple(member for member, line in zip(self.members, self.lines, strict=False) if line.dialable)
        return reached or self.members

    @property
    def quorum(self) -> int:
        """How many members decide."""
        return quorum(len(self.members))


def quorum(members: int) -> int:
    """Two thirds, rounded up: any two such sets share a member that would have had to sign twice."""
    return -(-2 * members // 3)


def form(run: bytes, round_: int, members: Iterable[PeerId], state_root: bytes, lines: Mapping[PeerId, Line] = NO_WORDS) -> Group:
    """The group of ``members``; its id (16 bytes) commits to run, round, model, everybody in it, and their ``lines``: who says one
    thing to a leader and another to its deputy makes two groups, not one that cuts the vector in two ways."""
    ordered = tuple(sorted(set(members)))
    said = tuple(lines.get(member, Line()) for member in ordered)
    digest = hashlib.sha256(b"swarm-group-v2" + run + round_.to_bytes(4, "little") + state_root)
    for member, line in zip(ordered, said, strict=True):
        digest.update(digest_of(member) + line.up.to_bytes(4, "little") + bytes([line.dialable]))
    return Group(digest.digest()[:16], round_, ordered, state_root, lines=said)


def formed(run: bytes, ready: Sequence[Signed[Ready]]) -> Group:
    """The group of those who said that they are ``ready``, at least one, all for one round and one model."""
    lines = {signed.signer: Line(signed.message.up, signed.message.dialable) for signed in ready}
    return form(run, ready[0].stamp.round, lines, ready[0].message.state_root, lines)


def leaders(run: bytes, round_: int, candidates: Iterable[PeerId]) -> list[PeerId]:
    """Who proposes the group of a round: the first one; the next ones replace it where it fails."""
    return [PeerId(peer) for peer in shuffled(run, candidates, "leader", round_)]


def seats(run: bytes, ready: Sequence[Signed[Ready]], size: int) -> list[Signed[Ready]]:
    """Up to ``size`` of those who came, drawn by hash where there are more. Those without a seat keep their update."""
    by_peer = {signed.signer: signed for signed in ready}
    if len(by_peer) <= size:
        return [by_peer[peer] for peer in sorted(by_peer)]
    round_ = ready[0].stamp.round
    return [by_peer[PeerId(peer)] for peer in sorted(shuffled(run, by_peer, "seat", round_)[:size])]


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
    return water_filled([min(said[owner].up or median, CLAIM_CAP * median) for owner in owners], len(group.members))


def majority_root(ready: Iterable[Signed[Ready]], mine: bytes) -> bytes:
    """The model that most of those who came have; ``mine`` where it ties."""
    counts: dict[bytes, int] = {}
    for signed in ready:
        counts[signed.message.state_root] = counts.get(signed.message.state_root, 0) + 1
    return max(counts, key=lambda root: (counts[root], root == mine, root), default=mine)
