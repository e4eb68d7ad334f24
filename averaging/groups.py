"""Who leads, who gets a seat, who owns which part: drawn by hashes that every member computes for itself."""

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
"""A claimed uplink counts for at most this many times the median."""


@dataclass(frozen=True, slots=True)
class LinkClaim:
    """What a peer claims about its own link.

    ``uplink`` is in kilobytes per second, 0 if not measured yet. ``dialable``: whether others can open
    connections to it. ``peers`` is how many peers it represents.
    """

    uplink: int = 0
    dialable: bool = True
    peers: int = 1


NO_CLAIMS: Mapping[PeerId, LinkClaim] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Group:
    """The peers that average together in one round.

    ``members`` are in the order of their ids, which is the order of every reduction.
    """

    id: bytes
    round: int
    members: tuple[PeerId, ...]
    state_root: bytes
    votes: tuple[Signed[Vote], ...] = ()
    """The members' signatures under this group: at least two thirds of them."""
    links: tuple[LinkClaim, ...] = ()
    """The members' claims about their links, in the order of ``members``; empty if nobody was asked."""
    unseated: int = 0
    """How many more peers were ready, as the leader claims."""

    @property
    def population(self) -> int:
        """How many peers were ready for this round, including those that the members represent."""
        represented = sum(link.peers for link in self.links) or len(self.members)
        return min(MAX_POPULATION, self.unseated + represented)

    @property
    def dialable(self) -> tuple[PeerId, ...]:
        """The members that all others can open connections to; all members if none claims that it can be
        dialled."""
        claims = zip(self.members, self.links, strict=False)
        return tuple(member for member, link in claims if link.dialable) or self.members

    @property
    def quorum(self) -> int:
        """How many members decide."""
        return quorum(len(self.members))


def quorum(members: int) -> int:
    """Two thirds, rounded up: any two such sets share a member, which would have had to sign twice."""
    return -(-2 * members // 3)


def form(
    run: bytes,
    round_: int,
    members: Iterable[PeerId],
    state_root: bytes,
    links: Mapping[PeerId, LinkClaim] = NO_CLAIMS,
    unseated: int = 0,
) -> Group:
    """The group of ``members``.

    Its id (16 bytes) commits to the run, the round, the model, the members, and their ``links``.

    So a peer that claims one thing to the leader and another to a deputy makes two groups, and not one group
    whose members cut the vector in two ways.
    """
    ordered = tuple(sorted(set(members)))
    claims = tuple(links.get(member, LinkClaim()) for member in ordered)
    digest = hashlib.sha256(b"swarm-group-v3" + run + struct.pack("<II", round_, unseated) + state_root)
    for member, link in zip(ordered, claims, strict=True):
        digest.update(digest_of(member) + struct.pack("<I?I", link.uplink, link.dialable, link.peers))
    group_id = _at_level(digest.digest(), NO_GROUP)
    return Group(group_id, round_, ordered, state_root, links=claims, unseated=unseated)


def formed(run: bytes, ready: Sequence[Signed[Ready]], unseated: int = 0) -> Group:
    """The group of the peers that are ``ready``: one or more, all for the same round, model and level."""
    links = {
        signed.signer: LinkClaim(signed.message.uplink, signed.message.dialable, signed.message.peers)
        for signed in ready
    }
    stamp = ready[0].stamp
    root = ready[0].message.state_root
    group = form(run, stamp.round, links, root, links, unseated)
    return replace(group, id=_at_level(group.id, level_of(stamp.group)))


def _at_level(digest: bytes, level: bytes) -> bytes:
    """16 bytes of ``digest``, the first bit of which tells the ``level``."""
    return bytes([digest[0] & ~LEVEL_2[0] | level[0]]) + digest[1:16]


def leaders(run: bytes, round_: int, candidates: Iterable[PeerId]) -> list[PeerId]:
    """The order in which ``candidates`` lead a round: the first proposes the group, and the next replace it
    where it fails."""
    return [PeerId(peer) for peer in shuffled(run, candidates, "leader", round_)]


def seats(
    run: bytes, ready: Sequence[Signed[Ready]], size: int, leader: PeerId | None = None
) -> list[Signed[Ready]]:
    """Up to ``size`` of the peers that are ``ready``, drawn by hash if there are more.

    The others keep their updates.

    The ``leader`` always gets a seat, because the peers without one ask it what came of the round.
    """
    by_peer = {signed.signer: signed for signed in ready}
    if len(by_peer) <= size:
        return [by_peer[peer] for peer in sorted(by_peer)]
    round_ = ready[0].stamp.round
    drawn = shuffled(run, by_peer, "seat", round_)
    first = [leader] if leader in by_peer else []
    seated = [*dict.fromkeys([*first, *drawn])][:size]
    return [by_peer[PeerId(peer)] for peer in sorted(seated)]


def one_per_level1_group(hierarchy: Hierarchy, ready: Iterable[Signed[Ready]]) -> list[Signed[Ready]]:
    """Of the peers that came to a level-2 group the representative of each level-1 group, in the order of
    their ids."""
    by_group: dict[int, dict[PeerId, Signed[Ready]]] = {}
    for signed in ready:
        by_group.setdefault(hierarchy.group_index(signed.signer), {})[signed.signer] = signed
    chosen = [came[hierarchy.representative(came)] for came in by_group.values()]
    return sorted(chosen, key=lambda signed: signed.signer)


def owners(run: bytes, group: Group, at_most: int) -> tuple[PeerId, ...]:
    """The members that own a part in this round, in the order of the parts: drawn from those that all others
    can dial."""
    return tuple(PeerId(peer) for peer in shuffled(run, group.dialable, "owner", group.id)[:at_most])


def shares(group: Group, owners: Sequence[PeerId]) -> tuple[Fraction, ...]:
    """How much of the vector each of ``owners`` reduces, so that all links are done at about the same time.

    A peer that has not measured its uplink counts like the median of those that have. Claims are not
    believed, only worth a bounded share: none counts for more than `CLAIM_CAP` medians. All shares are equal
    if nobody has measured.
    """
    known = sorted(link.uplink for link in group.links if link.uplink)
    if not known:
        return (Fraction(1, len(owners)),) * len(owners)
    median = known[(len(known) - 1) // 2]
    links = dict(zip(group.members, group.links, strict=True))
    counted = [min(links[owner].uplink or median, CLAIM_CAP * median) for owner in owners]
    return water_filled(counted, len(group.members))


def majority_root(ready: Iterable[Signed[Ready]], mine: bytes) -> bytes:
    """The state root that most of the peers that came have; ``mine`` in a tie."""
    counts: dict[bytes, int] = {}
    for signed in ready:
        counts[signed.message.state_root] = counts.get(signed.message.state_root, 0) + 1
    return max(counts, key=lambda root: (counts[root], root == mine, root), default=mine)
