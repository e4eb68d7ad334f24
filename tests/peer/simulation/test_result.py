"""A rehearsal's result compares what peers reported, and leaves out rounds that a peer says it missed."""

from __future__ import annotations

from dataclasses import replace

import torch

from peer.observe.reporter import RoundReport
from peer.simulation.result import Notebook, RehearsalResult, Stand, silent
from peer.sync.position import Position
from peer.training.state import SharedState, state_root
from swarm.simulation.clock import simulate


def notebook(*roots: str, missed: tuple[int, ...] = ()) -> Notebook:
    """The notebook of a peer that reported these state roots from round 0 on."""
    rounds = [
        RoundReport(round=round_, state_root=root, members=2, missing=0, loss=1.0)
        for round_, root in enumerate(roots)
    ]
    events = [("warning", {"code": "round-missed", "round": round_}) for round_ in missed]
    return Notebook(silent, rounds, events=list(events))


def result_of(**notebooks: Notebook) -> RehearsalResult:
    return RehearsalResult(
        notebooks=notebooks,
        transcript="",
        parameters=0,
        messages=0,
        sent={},
        looked={},
        crashes=0,
        virtual_seconds=0.0,
    )


def test_peers_agree_where_every_round_has_one_root() -> None:
    assert result_of(p0=notebook("a", "b"), p1=notebook("a", "b")).state_roots_equal
    assert not result_of(p0=notebook("a", "b"), p1=notebook("a", "c")).state_roots_equal


def test_a_missed_round_does_not_count() -> None:
    result = result_of(p0=notebook("a", "b"), p1=notebook("a", "a", missed=(1,)))
    assert result.roots(1) == {"b"}
    assert result.state_roots_equal


def test_without_any_round_nobody_has_agreed() -> None:
    assert not result_of(p0=notebook()).state_roots_equal


# --- states, forks, and states that a liar made -------------------------------------------------------------


def stand(time: float, round_: int, content: str, *, is_decided: bool = False) -> Stand:
    """A state at the start of ``round_``; its root follows from round and content, as in a run."""
    return Stand(time, round_, f"{round_} {content}", content.encode(), is_decided)


def standing(*stands: Stand, lies: tuple[str, ...] = ()) -> Notebook:
    """The notebook of a peer that came to these states, one after the other."""
    return Notebook(silent, stands=list(stands), lies=list(lies))


FRESH = stand(0, 0, "fresh")
DECIDED = stand(5, 1, "average", is_decided=True)


def test_two_honest_peers_with_different_averages_of_one_round_are_a_fork() -> None:
    other = stand(6, 1, "another", is_decided=True)
    result = result_of(p0=standing(FRESH, DECIDED), p1=standing(FRESH, other), p2=standing(FRESH, DECIDED))
    assert result.forks == 1
    assert {name for name, _ in result.forked} == {"p0", "p1", "p2"}


def test_each_pair_of_models_of_one_round_is_a_fork() -> None:
    notebooks = {f"p{n}": standing(FRESH, stand(5, 1, f"average {n}", is_decided=True)) for n in range(3)}
    assert result_of(**notebooks).forks == 3


def test_a_peer_that_goes_on_without_an_average_makes_no_fork() -> None:
    result = result_of(p0=standing(FRESH, DECIDED), p1=standing(FRESH, stand(9, 1, "fresh")))
    assert (result.forks, result.uncertified) == (0, [])


def test_a_state_that_an_honest_peer_has_decided_is_certified_for_all() -> None:
    downloaded = stand(7, 1, "average")
    assert result_of(p0=standing(FRESH, DECIDED), p1=standing(FRESH, downloaded)).uncertified == []


def test_a_certified_state_stays_certified_over_void_rounds() -> None:
    void = stand(9, 2, "average")
    assert result_of(p0=standing(FRESH, DECIDED, void), p1=standing(void)).uncertified == []


def test_a_state_that_nobody_honest_has_decided_was_made_by_a_liar() -> None:
    forged = stand(6, 1, "forged")
    result = result_of(
        p0=standing(FRESH, DECIDED), p1=standing(FRESH, stand(8, 1, "forged")), p2=standing(forged)
    )
    assert result.uncertified == [("p2", forged)]


def test_a_void_round_does_not_certify_what_a_liar_made() -> None:
    result = result_of(p0=standing(FRESH), p1=standing(FRESH, stand(6, 1, "forged"), stand(9, 2, "forged")))
    assert len(result.uncertified) == 1


def test_only_honest_peers_count() -> None:
    liar = standing(FRESH, stand(6, 1, "forged", is_decided=True), lies=("forger",))
    result = result_of(p0=standing(FRESH, DECIDED), p1=liar)
    assert list(result.honest) == ["p0"]
    assert (result.forks, result.uncertified, result.decided_rounds) == (0, [], {0})


def test_the_pace_is_decided_rounds_in_a_virtual_minute() -> None:
    result = replace(result_of(p0=standing(FRESH, DECIDED)), virtual_seconds=30.0)
    assert result.rounds_decided_per_minute == 2.0
    assert result_of(p0=standing()).rounds_decided_per_minute == 0.0


def state(round_: int, number: float) -> SharedState:
    return SharedState(round_, torch.full((4,), number))


def position(of: SharedState) -> Position:
    return Position(round=of.round, state_root=state_root(of))


def test_a_report_right_after_a_step_by_an_average_marks_it_as_decided() -> None:
    async def main() -> Notebook:
        notes = Notebook(silent)
        for step in (state(0, 0.0), state(1, 1.0), state(2, 1.0)):
            notes.stood(position(step), step)
            if step.round:
                report = RoundReport(round=step.round - 1, state_root="", members=2, missing=0, loss=1.0)
                notes.round_finished(report)
        return notes

    notes = simulate(main())
    assert [each.is_decided for each in notes.stands] == [False, True, False]
    assert notes.stands[1].content == notes.stands[2].content
    assert notes.stands[1].state_root != notes.stands[2].state_root
