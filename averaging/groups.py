"""Who leads, who gets a seat, who owns which part: drawn by hashes that every member computes for itself.

Each draw is over the run, the round and the root of the model from which the round starts, and each peer's
place in it depends on no other peer. So nobody knows a draw before the round before it is decided, and no
leader and no claim can try for a better one.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from swarm.identity import PeerId, digest_of
from swarm.seeds import shuffled
from swarm.wire import LEVEL_2, NO_GROUP, Signed, level_of

from .hierarchy import Hierarchy
from .messages import MAX_POPULATION, MAX_WEIGHT, Ready
from .partition import water_filled

CLAIM_CAP = 4
"""A claimed uplink counts for at most this many times the median."""
COUNT_CAP = 2
"""Claimed tokens, and the peers that a representative claims to stand for, count for at most this many times
the lower median of the group."""


@dataclass(frozen=True, slots=True)
class LinkClaim:
    """What a peer claims about its own link.

    ``uplink`` is in kilobytes per second, 0 if not measured yet. ``dialable``: whether others can open
    connections to it. ``peers`` is how many peers it represents.
    """

    uplink: int = 0
    dialable: bool = True
    peers: int = 1


@dataclass(frozen=True, slots=True)
class Claims:
    """What peers claim of themselves: about their links, and the tokens behind their updates.

    A peer of which nothing is known claims a usual link, and one token.
    """

    links: Mapping[PeerId, LinkClaim] = field(default_factory=dict)
    tokens: Mapping[PeerId, int] = field(default_factory=dict)


NO_CLAIMS = Claims()


@dataclass(frozen=True, slots=True)
class Group:
    """The peers that average together in one round.

    ``members`` are in the order of their ids, which is the order of every reduction. Everything here follows
    from the members' own signed `Ready` frames, so no leader can change it.
    """

    id: bytes
    round: int
    members: tuple[PeerId, ...]
    state_root: bytes
    links: tuple[LinkClaim, ...] = ()
    """The members' claims about their links, in the order of ``members``; empty if nobody was asked."""
    tokens: tuple[int, ...] = ()
    """The tokens behind the members' updates, as they claim, in the order of ``members``."""
    unseated: int = 0
    """How many more peers were ready; in a level-2 group an estimate for the absent level-1 groups."""

    @property
    def population(self) -> int:
        """How many peers were ready for this round, including those that the members represent."""
        return min(MAX_POPULATION, self.unseated + self.represented)

    @property
    def represented(self) -> int:
        """How many peers the members stand for.

        None counts for more than `COUNT_CAP` times the median.
        """
        return sum(_capped([link.peers for link in self.links])) or len(self.members)

    def tokens_of(self, members: Iterable[PeerId]) -> int:
        """The tokens that count behind the updates of ``members``.

        None counts for more than `COUNT_CAP` times the median of the whole group, whatever it claims.
        """
        counted = dict(zip(self.members, _capped(self.tokens), strict=False))
        return min(MAX_WEIGHT, sum(counted.get(member, 0) for member in members))

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
    """More than two thirds: with fewer than a third of liars, any two such sets share an honest member, which
    signs only once."""
    return 2 * members // 3 + 1


def _capped(claims: Sequence[int]) -> list[int]:
    """``claims`` in their order, none above `COUNT_CAP` times their lower median."""
    if not claims:
        return []
    median = sorted(claims)[(len(claims) - 1) // 2]
    return [min(claim, COUNT_CAP * median) for claim in claims]


def form(
    run: bytes,
    round_: int,
    members: Iterable[PeerId],
    state_root: bytes,
    claims: Claims = NO_CLAIMS,
    unseated: int = 0,
) -> Group:
    """The group of ``members``.

    Its id (16 bytes) commits to the run, the round, the model, the members, and what they claim of
    themselves.

    So a peer that claims one thing to the leader and another to a deputy makes two groups, and not one group
    whose members cut the vector, or count the tokens, in two ways.
    """
    ordered = tuple(sorted(set(members)))
    links = tuple(claims.links.get(member, LinkClaim()) for member in ordered)
    weights = tuple(claims.tokens.get(member, 1) for member in ordered)
    digest = hashlib.sha256(b"swarm-group-v4" + run + struct.pack("<II", round_, unseated) + state_root)
    for member, link, weight in zip(ordered, links, weights, strict=True):
        claim = struct.pack("<I?IQ", link.uplink, link.dialable, link.peers, weight)
        digest.update(digest_of(member) + claim)
    group_id = _at_level(digest.digest(), NO_GROUP)
    return Group(group_id, round_, ordered, state_root, links, weights, unseated)


def formed(run: bytes, ready: Sequence[Signed[Ready]], unseated: int = 0, level1_groups: int = 0) -> Group:
    """The group of the peers that are ``ready``: one or more, all for the same round, model and level.

    ``unseated`` more peers were ready. For a level-2 group, ``level1_groups`` says how many representatives
    could have come. Assume that absent level-1 groups have the mean size of those present: most likely they
    are only late.
    """
    links = {
        signed.signer: LinkClaim(signed.message.uplink, signed.message.dialable, signed.message.peers)
        for signed in ready
    }
    claims = Claims(links, {signed.signer: signed.message.tokens for signed in ready})
    stamp = ready[0].stamp
    root = ready[0].message.state_root
    if level1_groups:
        present = form(run, stamp.round, links, root, claims)
        unseated = present.represented * max(0, level1_groups - len(ready)) // len(ready)
    group = form(run, stamp.round, links, root, claims, min(unseated, MAX_POPULATION))
    return replace(group, id=_at_level(group.id, level_of(stamp.group)))


def _at_level(digest: bytes, level: bytes) -> bytes:
    """16 bytes of ``digest``, the first bit of which tells the ``level``."""
    return bytes([digest[0] & ~LEVEL_2[0] | level[0]]) + digest[1:16]


def leaders(run: bytes, round_: int, state_root: bytes, candidates: Iterable[PeerId]) -> list[PeerId]:
    """The order in which ``candidates`` lead a round that starts from ``state_root``: the first proposes the
    group, and the next replace it where it fails."""
    return [PeerId(peer) for peer in shuffled(run, candidates, "leader", round_, state_root)]


def seats(
    run: bytes, ready: Sequence[Signed[Ready]], size: int, leader: PeerId | None = None
) -> list[Signed[Ready]]:
    """Up to ``size`` of the peers that are ``ready``, all with one model, drawn by hash if there are more.

    The others keep their updates.

    The ``leader`` always gets a seat, because the peers without one ask it what came of the round.
    """
    by_peer = {signed.signer: signed for signed in ready}
    if len(by_peer) <= size:
        return [by_peer[peer] for peer in sorted(by_peer)]
    first_ready = ready[0]
    drawn = shuffled(run, by_peer, "seat", first_ready.stamp.round, first_ready.message.state_root)
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
    can dial.

    The draw is not by the group's id: that follows from claims as well, and from whom a leader has left
    without a seat, so a leader could try until its friends own most of the parts.
    """
    drawn = shuffled(run, group.dialable, "owner", group.round, group.state_root)
    return tuple(PeerId(peer) for peer in drawn[:at_most])


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


def majority_lineage(ready: Iterable[Signed[Ready]], mine: Ready) -> tuple[bytes, bytes]:
    """The (state root, parent) that most of the peers that came have; those of ``mine`` in a tie."""
    counts: dict[tuple[bytes, bytes], int] = {}
    ours = (mine.state_root, mine.parent)
    for signed in ready:
        lineage = (signed.message.state_root, signed.message.parent)
        counts[lineage] = counts.get(lineage, 0) + 1
    return max(counts, key=lambda lineage: (counts[lineage], lineage == ours, lineage), default=ours)
