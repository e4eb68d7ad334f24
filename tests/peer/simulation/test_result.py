"""A rehearsal's result compares what peers reported, and leaves out rounds that a peer says it missed."""

from __future__ import annotations

from peer.observe.reporter import RoundReport
from peer.simulation.result import Notebook, RehearsalResult, silent


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
