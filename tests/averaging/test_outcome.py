"""The outcomes of a round: each is exactly one of the types that its callers match."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest
import torch

from averaging.certificate import Origin
from averaging.outcome import (
    Alone,
    Decided,
    Declined,
    Followed,
    Missed,
    NoDecision,
    NoGroup,
    NotMerged,
    Outcome,
    TooFew,
    Unanswered,
    Undecided,
    Void,
)
from averaging.record import Record
from tests.averaging.members import group_of

GROUP = group_of(3)
A, B, C = GROUP.members
ORIGIN = Origin(GROUP.id, GROUP.round, GROUP.members, b"")
AVERAGE_P = torch.zeros(4)
UNDECIDED = Undecided("too few ballots", GROUP, (B,))
MISSED: list[Missed] = [
    Declined("the group is formed", 7, A),
    TooFew("only 1 came", 7),
    Alone("nobody else came", 7),
    Unanswered("too few answered", 7),
    UNDECIDED,
    Void("too few are left", GROUP, (B, C)),
    NotMerged(UNDECIDED),
]
OUTCOMES: list[Outcome] = [
    Decided(average_P=AVERAGE_P, group=GROUP, tokens=10, population=3, origin=ORIGIN),
    Followed(average_P=AVERAGE_P, record=Record(0), origin=ORIGIN, seconds=1.0, reason="declined"),
    *MISSED,
]


def kind(outcome: Outcome) -> str:
    """A match over all outcomes; ``mypy`` finds a type that is missing here."""
    match outcome:
        case Decided():
            return "average"
        case Followed():
            return "average of others"
        case Declined() | TooFew() | Alone() | Unanswered():
            return "no group"
        case Undecided() | Void():
            return "no decision"
        case NotMerged():
            return "no level-2 average"


def test_the_outcomes_are_those_that_are_listed() -> None:
    assert {type(outcome) for outcome in OUTCOMES} == set(get_args(Outcome))
    assert {type(outcome) for outcome in MISSED} == set(get_args(Missed))
    assert set(get_args(Outcome)) - set(get_args(Missed)) == {Decided, Followed}
    assert set(get_args(NoGroup)) == {Declined, TooFew, Unanswered}
    assert set(get_args(NoDecision)) == {Undecided, Void}
    causes = next(field.type for field in fields(NotMerged) if field.name == "cause")
    assert {name.strip() for name in str(causes).split("|")} == {
        form.__name__ for form in (*get_args(NoGroup), *get_args(NoDecision))
    }


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_only_a_decision_has_an_average_and_every_other_outcome_has_a_reason(outcome: Outcome) -> None:
    assert hasattr(outcome, "average_P") == isinstance(outcome, Decided | Followed)
    assert isinstance(outcome, Decided) or outcome.reason
    assert kind(outcome)


def test_present_are_the_members_of_which_something_was_applied() -> None:
    averaged = Decided(average_P=AVERAGE_P, group=GROUP, missing=(B,), tokens=10, population=3, origin=ORIGIN)
    assert averaged.present == (A, C)


def test_a_level1_average_that_was_not_merged_has_the_reason_of_its_cause() -> None:
    assert NotMerged(UNDECIDED).reason == "too few ballots"
