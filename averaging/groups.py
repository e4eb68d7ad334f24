"""Who leads, who gets a seat, who owns which part: drawn by hashes that every member recomputes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swarm.identity import PeerId, digest_of
from swarm.seeds import shuffled
from swarm.wire import Signed

from .messages import Ready, Vote


@dataclass(frozen=True, slots=True)
class Group:
    """The peers that average together in one round. ``members`` in the order of their ids: the order of every reduction."""

    id: bytes
    round: int
    members: tuple[PeerId, ...]
    state_root: bytes
    votes: tuple[Signed[Vote], ...] = ()
    """The signatures under the roster: at least two thirds of the members."""

    @property
    def quorum(self) -> int:
        """How many members decide."""
        return quorum(len(self.members))


def quorum(members: int) -> int:
    """Two thirds, rounded up: any two such sets share a member that would have had to sign twice."""
    return -(-2 * members // 3)


def form(run: bytes, round_: int, members: Iterable[PeerId], state_root: bytes) -> Group:
    """The group of ``members``; its id (16 bytes) commits to run, round, model and everybody in it."""
    ordered = tuple(sorted(set(members)))
    digest = hashlib.sha256(b"swarm-group-v1" + run + round_.to_bytes(4, "little") + state_root)
    for member in ordered:
        digest.update(digest_of(member))
    return Group(digest.digest()[:16], round_, ordered, state_root)


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
    """The members that own a part in this round, in the order of the parts."""
    return tuple(PeerId(peer) for peer in shuffled(run, group.members, "owner", group.id)[:at_most])


def majority_root(ready: Iterable[Signed[Ready]], mine: bytes) -> bytes:
    """The model that most of those who came have; ``mine`` where it ties."""
    counts: dict[bytes, int] = {}
    for signed in ready:
        counts[signed.message.state_root] = counts.get(signed.message.state_root, 0) + 1
    return max(counts, key=lambda root: (counts[root], root == mine, root), default=mine)
