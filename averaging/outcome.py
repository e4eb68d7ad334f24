"""What a peer's averaging of one round can come to. Exactly one of these types, to be matched exhaustively.

    Decided       the group decided, with this peer in it
    Followed      others decided without this peer; it has taken over their record
    ── no average for this peer (`Missed`) ─────────────────────────────────────────────────────────────
    Declined      a leader turned this peer away: there is a group, and its result is worth waiting for
    TooFew        no group was formed, and this peer has voted for none
    Alone         nobody else came, though other peers are present
    Unanswered    this peer voted for a group, and too few others did
    Undecided     the group stood and came to no decision; others may have one
    Void          the group stood and came to no decision, and no member can have one
    NotMerged     the level-1 group decided, but nothing came of the level-2 group

What a peer does next after each of them is one table: `peer.rounds.next_step`.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from swarm.identity import PeerId

from .certificate import Origin
from .groups import Group
from .record import Record


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decided:
    """The group of this peer has decided.

    ``average_P`` is scratch memory of the averager: it stays valid until the next round is averaged.
    """

    average_P: Tensor
    group: Group
    """Our group; of a large population our level-1 group."""
    missing: tuple[PeerId, ...] = ()
    """Members of which nothing was applied."""
    tokens: int
    """Behind the updates that were applied, as their senders claim."""
    population: int
    """Peers that were ready for this round. All who hold the resulting model know the same number."""
    seconds: float = 0.0
    """From the standing group to the average."""
    origin: Origin
    """The group that has decided about the run's state; of a large population the level-2 group."""
    record: Record | None = None
    """What was decided, for peers that were not in the group; None where this peer was alone."""
    is_counted: bool = True
    """Whether our representative was in the level-2 group; else that group has decided without us."""

    @property
    def present(self) -> tuple[PeerId, ...]:
        """The members of which something was applied."""
        return tuple(peer for peer in self.group.members if peer not in self.missing)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Followed:
    """Others have decided without this peer, and it takes the same step by their ``record``."""

    average_P: Tensor
    record: Record
    origin: Origin
    """The group that has decided."""
    seconds: float
    reason: str
    """Why this peer was not in the group, or has not heard its decision."""


@dataclass(frozen=True, slots=True)
class Declined:
    """A group was formed without this peer.

    ``round`` is where the run is, according to the peer that declined.
    """

    reason: str
    round: int
    by: PeerId | None = None
    """The peer that turned us away; None where we found out ourselves."""


@dataclass(frozen=True, slots=True)
class TooFew:
    """No group was formed. ``round`` is where the run is, as far as anybody told us."""

    reason: str
    round: int


@dataclass(frozen=True, slots=True)
class Alone:
    """This peer was the only one that came, while others are present elsewhere."""

    reason: str
    round: int


@dataclass(frozen=True, slots=True)
class Unanswered:
    """This peer voted for a group that did not get enough votes."""

    reason: str
    round: int


@dataclass(frozen=True, slots=True)
class Undecided:
    """The group stood, but this peer knows of no decision in time. Other members may know of one."""

    reason: str
    group: Group
    missing: tuple[PeerId, ...]
    """Members that have not even committed."""
    seconds: float = 0.0
    """From the standing group until it was given up."""


@dataclass(frozen=True, slots=True)
class Void:
    """The group stood, and as far as this peer can tell no member can have a decision."""

    reason: str
    group: Group
    missing: tuple[PeerId, ...]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class NotMerged:
    """The level-1 group decided, but its average did not become part of the run's next state, as far as this
    peer knows.

    The average rides with the next updates of all its members. ``cause`` is what became of the level-2 group;
    for a member that has not heard of it, `Undecided` with our level-1 group.
    """

    cause: Declined | TooFew | Unanswered | Undecided | Void

    @property
    def reason(self) -> str:
        """For people."""
        return self.cause.reason


NoGroup = Declined | TooFew | Unanswered
"""What forming a group can come to, besides a `Group`."""
NoDecision = Undecided | Void
"""What the round of a group can come to, besides an average."""
Missed = Declined | TooFew | Alone | Unanswered | Undecided | Void | NotMerged
"""No average for this peer."""
Outcome = Decided | Followed | Missed


def cause_of(outcome: Outcome) -> Outcome:
    """The outcome in the last group that this peer tried: for `NotMerged`, that of the level-2 group."""
    return outcome.cause if isinstance(outcome, NotMerged) else outcome
