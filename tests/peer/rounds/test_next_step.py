"""What a peer does after a round of which it has no average: every row of the table, both announcements."""

from __future__ import annotations

import pytest

from averaging.groups import Group
from averaging.outcome import Alone, Declined, Missed, NotMerged, TooFew, Unanswered, Undecided, Void
from peer.rounds.next_step import Action, NextStep, next_step
from peer.sync.catch_up import Announce, Waiting
from peer.sync.position import Position
from swarm.manifest import RoundSpec
from tests.peer.company import key

HERE = Position(round=7)
SPEC = RoundSpec(average_seconds=30.0, assemble_seconds=5.0)
ASSEMBLE = SPEC.assemble_seconds
AVERAGE = SPEC.average_seconds
GROUP = Group(bytes(32), 7, (key(1).peer_id, key(2).peer_id), bytes(32))

DECLINED = Declined("the group is formed", 7, key(2).peer_id)
DECLINED_EARLIER = Declined("the group is formed", 6)
DECLINED_LATER = Declined("round 7 is over, the run is at 9", 9)
TOO_FEW = TooFew("too few came", 7)
UNANSWERED = Unanswered("too few voted", 7)
UNDECIDED = Undecided("too few of the group answered", GROUP, ())
VOID = Void("the group has split", GROUP, ())


@pytest.mark.parametrize(
    ("outcome", "action", "seconds", "announce"),
    [
        (DECLINED, Action.STAY, AVERAGE, Announce.NOW),
        (DECLINED_EARLIER, Action.STAY, AVERAGE, Announce.NOW),
        (DECLINED_LATER, Action.STAY, AVERAGE, Announce.IF_LATE),
        (TOO_FEW, Action.STAY, ASSEMBLE, Announce.NEVER),
        (Alone("nobody else came", 7), Action.STAY, 0.0, Announce.NEVER),
        (UNANSWERED, Action.SKIP, ASSEMBLE, Announce.NEVER),
        (UNDECIDED, Action.SKIP, ASSEMBLE, Announce.NEVER),
        (VOID, Action.SKIP, 0.0, Announce.NEVER),
        (NotMerged(DECLINED), Action.SKIP, AVERAGE, Announce.NOW),
        (NotMerged(DECLINED_LATER), Action.SKIP, AVERAGE, Announce.IF_LATE),
        (NotMerged(TOO_FEW), Action.SKIP, ASSEMBLE, Announce.NEVER),
        (NotMerged(UNANSWERED), Action.SKIP, ASSEMBLE, Announce.NEVER),
        (NotMerged(UNDECIDED), Action.SKIP, ASSEMBLE, Announce.NEVER),
        (NotMerged(VOID), Action.SKIP, 0.0, Announce.NEVER),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Missed) else None,
)
def test_the_table(outcome: Missed, action: Action, seconds: float, announce: Announce) -> None:
    step = next_step(outcome, HERE, SPEC)
    assert step == NextStep(action, Waiting(seconds, announce), outcome.reason)
    assert step.reason
