"""What a peer does after a round of which it has no average: one table, as one pure function.

    outcome      wait for the others' result    meanwhile                   if they have none
    -----------  -----------------------------  --------------------------  ----------------------------------
    Declined     ``average_seconds`` more       announce that we come next  stay: we have voted for no group
    TooFew       for ``assemble_seconds``       -                           stay
    Alone        one question                   -                           stay
    Unanswered   for ``assemble_seconds``       -                           skip: we have voted for its group
    Undecided    for ``assemble_seconds``       -                           skip
    Void         one question                   -                           skip
    NotMerged    as its cause says              as its cause says           skip: our level-1 group decided

To stay means to train on and try the same round again; to skip means to go on to the next round with the same
model, and with the update carried over. If the others do have the result, the peer takes their state instead,
whichever of the two it would have done.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import assert_never

from averaging.outcome import Alone, Declined, Missed, NotMerged, TooFew, Unanswered, Undecided, Void
from swarm.manifest import RoundSpec

from ..sync.catch_up import Announce, Waiting
from ..sync.position import Position


class Action(Enum):
    """What to do if the others do not have the round's result either."""

    STAY = auto()
    """Train on in the same round, and try it again."""
    SKIP = auto()
    """Go on to the next round with the same model."""


@dataclass(frozen=True, slots=True)
class NextStep:
    """How to wait for the others, what to do if they have nothing, and why."""

    action: Action
    waiting: Waiting
    reason: str


def next_step(outcome: Missed, position: Position, spec: RoundSpec) -> NextStep:
    """The table of the module; ``position`` is where the peer stands."""
    match outcome:
        case Declined(reason, round_):
            announce = Announce.NOW if round_ <= position.round else Announce.IF_LATE
            return NextStep(Action.STAY, Waiting(spec.average_seconds, announce), reason)
        case TooFew(reason):
            return NextStep(Action.STAY, Waiting(spec.assemble_seconds), reason)
        case Alone(reason):
            return NextStep(Action.STAY, Waiting(0.0), reason)
        case Unanswered(reason):
            return NextStep(Action.SKIP, Waiting(spec.assemble_seconds), reason)
        case Undecided(reason):
            return NextStep(Action.SKIP, Waiting(spec.assemble_seconds), reason)
        case Void(reason):
            return NextStep(Action.SKIP, Waiting(0.0), reason)
        case NotMerged(cause):
            return NextStep(Action.SKIP, next_step(cause, position, spec).waiting, cause.reason)
    assert_never(outcome)
