"""What peers say when a newcomer asks where the run stands, and how a newcomer decides whom to believe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from averaging.messages import MAX_POPULATION
from swarm.identity import PeerId
from swarm.wire import Kind, Message, Signed, finite, sized

ENOUGH = 5
"""Answers from which on two thirds must agree; a young run has fewer, and the largest camp is believed."""

CLEARLY = 1.5
"""How many times larger a camp must be to count as larger: some of it may be in flight, between two rounds or not yet heard of."""


class Head(Message, frozen=True):
    """A peer's signed word: at the start of the stamp's round, the model has this root. ``index`` names its chunks' hash list."""

    kind: ClassVar[Kind] = Kind.HEAD

    state_root: bytes
    tokens: int
    """Tokens of the whole run, by the donor's own count: for people and for the end of a run by tokens."""
    seconds_left: float
    """Until the donor stops training in this round: all of it while it waits for the round to begin, 0 while it averages."""
    population: int = 1
    """Peers that were ready for the round before: all who have the model know the same number."""
    is_participant: bool = True
    """Whether the donor had a part in the average that led to this state; else it only says again what it was told."""

    def __post_init__(self) -> None:
        sized("state_root", self.state_root, 32)
        finite("seconds_left", self.seconds_left, 0, 1e6)
        if not 0 <= self.tokens < 1 << 62:
            raise ValueError("offer: tokens out of range")
        if not 1 <= self.population <= MAX_POPULATION:
            raise ValueError("offer: population out of range")


@dataclass(frozen=True, slots=True)
class ChosenHead:
    """Where the run stands by the offers: ``donors`` all have the state that is believed."""

    round: int
    state_root: bytes
    tokens: int
    seconds_left: float
    donors: tuple[PeerId, ...]
    population: int = 1


def voices(offers: Sequence[Signed[Head]]) -> Sequence[Signed[Head]]:
    """Whose word counts: those who had a part in what they stand on, where there are any. The others are echoes.

    Newcomers that have come one by one to a founder which has gone on since would be the larger camp, and it would go back to them.
    """
    return [signed for signed in offers if signed.message.is_participant] or offers


def fork_choice(offers: Sequence[Signed[Head]], organiser: PeerId) -> ChosenHead | None:
    """The state to fetch, or None where the answers do not allow to believe one (ask again: a round may just have ended).

    The largest camp of the `voices` wins, of equal ones the further. Of `ENOUGH` or more it must have two thirds; where it has not,
    the organiser's word decides, if it is among the answers.
    """
    if not offers:
        return None
    heard = voices(offers)
    (round_, root), votes = _largest_camp(heard)
    if len(heard) >= ENOUGH and 3 * votes < 2 * len(heard):
        own = [signed for signed in offers if signed.signer == organiser]
        if not own:
            return None
        round_, root = own[0].stamp.round, own[0].message.state_root
    return _standing(offers, round_, root)


def other_side(
    heard: Sequence[Signed[Head]],
    around: int,
    mine: Signed[Head],
    companions: Collection[PeerId],
    organiser: PeerId,
) -> ChosenHead | None:
    """Where to go instead of staying with ``companions`` (us among them); None where our camp is the one to stay in.

    ``heard`` is what some of the ``around`` peers say that train without us; the others are taken to be spread like them. Two camps
    that have lost sight of each other: the one that is `CLEARLY` smaller goes, else the one without the organiser, else the one
    without the lowest id. Who is in a camp does not change while its rounds go by, so both sides find the same whenever they look.
    """
    elsewhere = [signed for signed in heard if signed.message.state_root != mine.message.state_root]
    if not elsewhere:
        return None
    (round_, root), votes = _largest_camp(elsewhere)
    camp, each = _standing(elsewhere, round_, root), max(around, len(heard)) / len(heard)
    theirs, ours = votes * each, len(companions) + (len(heard) - len(elsewhere)) * each
    if max(theirs, ours) >= CLEARLY * min(theirs, ours):
        return camp if theirs > ours else None
    return camp if _rank(camp.donors, organiser) < _rank(companions, organiser) else None


def _rank(camp: Collection[PeerId], organiser: PeerId) -> tuple[bool, PeerId]:
    """Of two camps of about one size the one with the lower rank stays."""
    return organiser not in camp, min(camp)


def _largest_camp(offers: Sequence[Signed[Head]]) -> tuple[tuple[int, bytes], int]:
    """((round, root), votes) of the largest camp, of equal ones the further."""
    camps = Counter((signed.stamp.round, signed.message.state_root) for signed in offers)
    return max(camps.items(), key=lambda camp: (camp[1], camp[0]))


def _standing(offers: Sequence[Signed[Head]], round_: int, root: bytes) -> ChosenHead:
    """What the camp of ``round_`` and ``root`` says."""
    camp = [signed for signed in offers if (signed.stamp.round, signed.message.state_root) == (round_, root)]
    seconds = sorted(signed.message.seconds_left for signed in camp)[len(camp) // 2]
    tokens = sorted(signed.message.tokens for signed in camp)[len(camp) // 2]
    population = sorted(signed.message.population for signed in camp)[len(camp) // 2]
    return ChosenHead(
        round_, root, tokens, seconds, tuple(sorted(signed.signer for signed in camp)), population
    )
