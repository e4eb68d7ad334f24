"""Heads: what peers claim the newest state of the run to be.

And fork choice: which of several heads a peer takes for the run's.

Rule 1: no peer is believed alone while others are present: the state with the most claims is taken.
Rule 2: a claim names the group that led to its state, and counts only if that group's certificate is there
        (`averaging.certificate`). A liar can make a certificate of a group of itself, and no larger one.
Rule 3: a state is old if those who led to it have decided something later since. Otherwise newcomers that
        joined a founder one by one, while it has gone on, would outvote it.
Rule 4: of two sides of a partition the clearly smaller one gives up; of two about equal ones the one without
        the organiser.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from averaging.certificate import CertifiedDecision, Origin
from averaging.hierarchy import majority
from averaging.messages import MAX_POPULATION
from swarm.errors import Malformed
from swarm.identity import PeerId
from swarm.manifest import RunManifest
from swarm.wire import NO_GROUP, Kind, Message, Signed, finite, open_frame, sized

ENOUGH = 5
"""From so many claims on two thirds must agree.

A young run has fewer peers; then the head with the most claims is believed.
"""

CLEARLY = 1.5
"""A side must be so many times larger to count as larger: some of its peers may be between two rounds, or not
yet heard of."""


LAST_ROUND = (1 << 32) - 2
"""The last round that a head may name: a frame has 32 bits for its round, and peers sign for the next one."""


class Head(Message, frozen=True):
    """A peer's signed claim: at the start of the stamp's round, the model has this root."""

    kind: ClassVar[Kind] = Kind.HEAD

    state_root: bytes
    tokens: int
    """Tokens of the whole run, by the sender's own count: for people, and for the end of a run by tokens."""
    seconds_left: float
    """Until the sender stops training in this round: all of it while it waits for the round to begin, 0 while
    it averages."""
    population: int = 1
    """Peers that were ready for the round before: all who have the model know the same number."""
    parent: bytes = NO_GROUP
    """The id of the group whose decision led to this state; all zero before the run's first average."""

    def __post_init__(self) -> None:
        sized("state_root", self.state_root, 32)
        sized("parent", self.parent, 16)
        finite("seconds_left", self.seconds_left, 0, 1e6)
        if not 0 <= self.tokens < 1 << 62:
            raise ValueError("head: tokens out of range")
        if not 1 <= self.population <= MAX_POPULATION:
            raise ValueError("head: population out of range")


def open_head(raw: bytes, manifest: RunManifest) -> Signed[Head]:
    """Read the head of another peer. Every head that comes from outside is opened here.

    Raises the errors of `open_frame`, and `Malformed` where its round is beyond the end of the run: whoever
    took that state would think that the run is over, or could sign nothing more.
    """
    signed = open_frame(raw, Head, run=manifest.run_id)
    last = min(manifest.rounds or LAST_ROUND, LAST_ROUND)
    if signed.stamp.round > last:
        raise Malformed(f"a head of round {signed.stamp.round}, where no round comes after {last}")
    return signed


@dataclass(frozen=True, slots=True)
class Claim:
    """A head, and the certified decision that led to its state, as far as we know it."""

    signed: Signed[Head]
    decision: CertifiedDecision | None = None

    @property
    def signer(self) -> PeerId:
        """The peer whose head it is."""
        return self.signed.signer

    @property
    def state(self) -> tuple[int, bytes, bytes]:
        """(round, state root, parent): what claims must agree on."""
        head = self.signed.message
        return self.signed.stamp.round, head.state_root, head.parent

    @property
    def is_valid(self) -> bool:
        """Whether the group that led to the state is known, and earlier than it. (At the start of a run there
        is none.)"""
        if self.signed.message.parent == NO_GROUP:
            return True
        return self.decision is not None and self.decision.group.round < self.signed.stamp.round

    @property
    def strength(self) -> int:
        """How many peers stand behind the decision: its voters.

        In a level-2 group each represents others as well. But how many, only it says: that proves nothing.
        """
        return len(self.decision.formed.voters) if self.decision else 0

    @property
    def population(self) -> int:
        """Peers that were ready for that group's round, by its certificate."""
        return self.decision.group.population if self.decision else 1

    def supersedes(self, other: Claim, organiser: PeerId) -> bool:
        """Whether those who led to the state of ``other`` have decided something later since: then that state
        is old, however many peers still have it."""
        if self.decision is None:
            return False
        voters = self.decision.formed.voters
        if other.decision is None:
            return organiser in voters
        before = other.decision.group
        if self.decision.group.round <= before.round:
            return False
        if other.decision.formed.seated.level1_groups:
            # Others may represent the same level-1 groups by now.
            return self.strength >= majority(len(before.members))
        return len(voters.intersection(before.members)) >= majority(len(before.members))


@dataclass(frozen=True, slots=True)
class ChosenHead:
    """The head that fork choice has picked. ``donors`` all claim to have its state."""

    round: int
    state_root: bytes
    tokens: int
    seconds_left: float
    donors: tuple[PeerId, ...]
    population: int = 1
    origin: Origin | None = None


def current(claims: Sequence[Claim], organiser: PeerId) -> list[Claim]:
    """The claims that count: valid ones whose state is not known to be old."""
    valid = [claim for claim in claims if claim.is_valid]
    return [claim for claim in valid if not any(other.supersedes(claim, organiser) for other in valid)]


def fork_choice(claims: Sequence[Claim], organiser: PeerId) -> ChosenHead | None:
    """The head to fetch, or None if the claims do not allow to choose one (ask again: a round may just have
    ended).

    Of the claims that count, the state with the most of them wins; of equal ones the one behind whose
    decision more peers stand, then the later one. Of `ENOUGH` or more claims it must have two thirds. If it
    has not, the organiser's claim decides, if it is among them.
    """
    counted = current(claims, organiser)
    if not counted:
        return None
    state, count = _most_claimed(counted)
    if len(counted) >= ENOUGH and 3 * count < 2 * len(counted):
        own = [claim for claim in counted if claim.signer == organiser]
        if not own:
            return None
        state = own[0].state
    return _chosen(counted, state)


def other_side(
    claims: Sequence[Claim],
    present: int,
    mine: Claim,
    companions: Collection[PeerId],
    organiser: PeerId,
) -> ChosenHead | None:
    """The head of the other side of a partition, if we should change sides; None if our side is the one to
    stay on.

    ``companions`` are the peers on our side, us among them. ``claims`` are those of some of the ``present``
    peers that train without us; assume that the rest of them is spread in the same way. But a side is never
    larger than its certificate proves. Who is on which side does not change from round to round, so both
    sides come to the same conclusion whenever they look.
    """
    elsewhere = [claim for claim in claims if claim.is_valid and claim.state != mine.state]
    if not elsewhere:
        return None
    state, count = _most_claimed(elsewhere)
    side = _chosen(elsewhere, state)
    weight = max(present, len(claims)) / len(claims)
    theirs = min(count * weight, side.population)
    ours = len(companions) + (len(claims) - len(elsewhere)) * weight
    if max(theirs, ours) >= CLEARLY * min(theirs, ours):
        return side if theirs > ours else None
    return side if _rank(side.donors, organiser) < _rank(companions, organiser) else None


def _rank(side: Collection[PeerId], organiser: PeerId) -> tuple[bool, PeerId]:
    """Of two sides of about equal size the one with the lower rank stays: the organiser's, else that of the
    lowest id."""
    return organiser not in side, min(side)


def _most_claimed(claims: Sequence[Claim]) -> tuple[tuple[int, bytes, bytes], int]:
    """(state, count) of the state with the most claims; see `fork_choice` for equal ones."""
    counts = Counter(claim.state for claim in claims)
    strengths = {claim.state: claim.strength for claim in claims}
    return max(counts.items(), key=lambda item: (item[1], strengths[item[0]], item[0]))


def _chosen(claims: Sequence[Claim], state: tuple[int, bytes, bytes]) -> ChosenHead:
    """The head of ``state``.

    Its tokens are those that most claims name; its seconds are the lower median of theirs.
    """
    chosen = [claim for claim in claims if claim.state == state]
    counts = Counter(claim.signed.message.tokens for claim in chosen)
    tokens = min(counts, key=lambda number: (-counts[number], number))
    seconds = sorted(claim.signed.message.seconds_left for claim in chosen)[(len(chosen) - 1) // 2]
    donors = tuple(sorted(claim.signer for claim in chosen))
    first = chosen[0]
    origin = first.decision.origin if first.decision else None
    return ChosenHead(state[0], state[1], tokens, seconds, donors, first.population, origin)
