"""What must not happen to honest peers has a name, a fact for people, and never stops a sweep."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peer.simulation import verdict
from peer.simulation.result import Notebook, RehearsalResult, Stand, silent
from peer.simulation.scenario import Scenario
from peer.simulation.verdict import Violation, judge, violations
from swarm.errors import NobodyThere

SCENARIO = Scenario(peers=2, rounds=2)


def standing(*contents: str, is_decided: bool = True) -> Notebook:
    """A peer that came to these states, the first one fresh and each of the others by an average."""
    stands = [
        Stand(float(n), n, f"{n}{content}", content.encode(), is_decided and n > 0)
        for n, content in enumerate(contents)
    ]
    return Notebook(silent, stands=stands)


def result_of(**notebooks: Notebook) -> RehearsalResult:
    return RehearsalResult(
        notebooks=notebooks,
        transcript="",
        parameters=0,
        messages=0,
        sent={},
        looked={},
        crashes=0,
        virtual_seconds=60.0,
    )


GOOD = result_of(p0=standing("a", "b", "c"), p1=standing("a", "b", "c"))


def found(result: RehearsalResult) -> dict[str, str]:
    return {violation.code: violation.fact for violation in violations(SCENARIO, result)}


def test_a_rehearsal_in_which_all_agree_is_fine() -> None:
    assert found(GOOD) == {}


def test_a_fork_names_the_round_and_the_sides() -> None:
    facts = found(result_of(p0=standing("a", "b", "c"), p1=standing("a", "x", "c")))
    assert facts == {"fork": "after round 0: p0 at 1b, p1 at 1x"}


def test_a_state_that_a_liar_made_names_the_peer_that_took_it() -> None:
    forged = Notebook(silent, stands=[*standing("a").stands, Stand(7.0, 3, "3x", b"x")])
    facts = found(result_of(p0=standing("a", "b", "c"), p1=forged))
    assert facts == {"uncertified": "at 7.0 s p1 takes a state of round 3 that a liar made"}


def test_a_run_without_averages_is_stuck() -> None:
    assert found(result_of(p0=standing("a", "a", "a", is_decided=False))) == {
        "stuck": "only 0 of 2 rounds were decided"
    }


def test_a_peer_that_stays_where_it_is_is_behind() -> None:
    assert found(result_of(p0=standing("a", "b", "c"), p1=standing("a"))) == {
        "behind": "p1 has come to round 0 of 2"
    }


def test_tasks_that_are_left_or_too_many_are_told() -> None:
    assert list(found(replace(GOOD, leftovers=("a task",)))) == ["leftovers"]
    assert list(found(replace(GOOD, most_tasks=1000))) == ["leftovers"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeoutError(), "hang"),
        (ExceptionGroup("several", [NobodyThere("nobody is there")]), "gave-up"),
        (ExceptionGroup("several", [ExceptionGroup("more", [ZeroDivisionError("by zero")])]), "fault"),
    ],
)
def test_an_error_of_a_rehearsal_is_a_verdict(
    error: Exception, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> RehearsalResult:
        raise error

    monkeypatch.setattr(verdict, "rehearse", fail)
    result, wrong = judge(SCENARIO)
    assert result is None
    assert [violation.code for violation in wrong] == [code]


def test_a_fault_says_where_it_was_raised_and_who_was_doing_what(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> RehearsalResult:
        error = ZeroDivisionError("by zero")
        error.add_note("while p1 ran")
        raise error

    monkeypatch.setattr(verdict, "rehearse", fail)
    ((_, wrong),) = [judge(SCENARIO)]
    (violation,) = wrong
    assert isinstance(violation, Violation)
    assert violation.fact.startswith("ZeroDivisionError: by zero, at simulation/test_verdict.py:")
    assert violation.fact.endswith(", while p1 ran")
