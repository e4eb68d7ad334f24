"""Heads: what peers claim the newest state of the run to be.

And fork choice: which of several heads a peer takes for the run's.

Rule 1: no peer is believed alone while others are present: the head with the most claims is taken.
Rule 2: claims of peers that merely downloaded their state do not count as votes, if there are claims of
        participants.
Rule 3: of two sides of a partition the clearly smaller one gives up; of two about equal ones the one without
        the organiser.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from averaging.messages import MAX_POPULATION
from swarm.identity import PeerId
from swarm.wire import Kind, Message, Signed, finite, sized

ENOUGH = 5
"""From so many votes on two thirds must agree.

A young run has fewer peers; then the head with the most claims is believed.
"""

CLEARLY = 1.5
"""A side must be so many times larger to count as larger: some of its peers may be between two rounds, or not
yet heard of."""


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
    is_participant: bool = True
    """Whether the sender had a part in the average that led to this state; else it only repeats what it was
    told."""

    def __post_init__(self) -> None:
        sized("state_root", self.state_root, 32)
        finite("seconds_left", self.seconds_left, 0, 1e6)
        if not 0 <= self.tokens < 1 << 62:
            raise ValueError("head: tokens out of range")
        if not 1 <= self.population <= MAX_POPULATION:
            raise ValueError("head: population out of range")


@dataclass(frozen=True, slots=True)
class ChosenHead:
    """The head that fork choice has picked. ``donors`` all claim to have its state."""

    round: int
    state_root: bytes
    tokens: int
    seconds_left: float
    donors: tuple[PeerId, ...]
    population: int = 1


def counting(heads: Sequence[Signed[Head]]) -> Sequence[Signed[Head]]:
    """The claims that count as votes: those of participants, if there are any, else all.

    Otherwise newcomers that joined a founder one by one, while it has gone on since, would outvote it, and it
    would go back to them.
    """
    return [signed for signed in heads if signed.message.is_participant] or heads


def fork_choice(heads: Sequence[Signed[Head]], organiser: PeerId) -> ChosenHead | None:
    """The head to fetch, or None if the claims do not allow to choose one (ask again: a round may just have
    ended).

    The head with the most votes wins, of equal ones the later one. Of `ENOUGH` or more votes it must have two
    thirds. If it has not, the organiser's claim decides, if it is among the answers.
    """
    if not heads:
        return None
    votes = counting(heads)
    (round_, root), count = _most_claimed(votes)
    if len(votes) >= ENOUGH and 3 * count < 2 * len(votes):
        own = [signed for signed in heads if signed.signer == organiser]
        if not own:
            return None
        round_ = own[0].stamp.round
        root = own[0].message.state_root
    return _chosen(heads, round_, root)


def other_side(
    heads: Sequence[Signed[Head]],
    present: int,
    mine: Signed[Head],
    companions: Collection[PeerId],
    organiser: PeerId,
) -> ChosenHead | None:
    """The head of the other side of a partition, if we should change sides; None if our side is the one to
    stay on.

    ``companions`` are the peers on our side, us among them. ``heads`` are the claims of some of the
    ``present`` peers that train without us; assume that the rest of them is spread in the same way. Who is on
    which side does not change from round to round, so both sides come to the same conclusion whenever they
    look.
    """
    elsewhere = [signed for signed in heads if signed.message.state_root != mine.message.state_root]
    if not elsewhere:
        return None
    (round_, root), count = _most_claimed(elsewhere)
    side = _chosen(elsewhere, round_, root)
    weight = max(present, len(heads)) / len(heads)
    theirs = count * weight
    ours = len(companions) + (len(heads) - len(elsewhere)) * weight
    if max(theirs, ours) >= CLEARLY * min(theirs, ours):
        return side if theirs > ours else None
    return side if _rank(side.donors, organiser) < _rank(companions, organiser) else None


def _rank(side: Collection[PeerId], organiser: PeerId) -> tuple[bool, PeerId]:
    """Of two sides of about equal size the one with the lower rank stays: the organiser's, else that of the
    lowest id."""
    return organiser not in side, min(side)


def _most_claimed(heads: Sequence[Signed[Head]]) -> tuple[tuple[int, bytes], int]:
    """((round, root), count) of the head with the most claims, of equal ones the later."""
    claims = Counter((signed.stamp.round, signed.message.state_root) for signed in heads)
    return max(claims.items(), key=lambda claim: (claim[1], claim[0]))


def _chosen(heads: Sequence[Signed[Head]], round_: int, root: bytes) -> ChosenHead:
    """The head of ``round_`` and ``root``, with the medians of what its claims say besides."""
    claims = [signed for signed in heads if (signed.stamp.round, signed.message.state_root) == (round_, root)]
    middle = len(claims) // 2
    seconds = sorted(signed.message.seconds_left for signed in claims)[middle]
    tokens = sorted(signed.message.tokens for signed in claims)[middle]
    population = sorted(signed.message.population for signed in claims)[middle]
    donors = tuple(sorted(signed.signer for signed in claims))
    return ChosenHead(round_, root, tokens, seconds, donors, population)
