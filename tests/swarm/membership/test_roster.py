"""The roster: which peers are present, and which of them a round expects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import swarm.membership.roster as module
from swarm.identity import PeerId
from swarm.membership.progress import Phase, Progress
from swarm.membership.roster import Roster
from swarm.wire import Signed, Stamp, open_frame, seal
from tests.swarm.memory import RUN, key, progress


def heard(
    peer: int, round_: int = 5, seq: int = 0, phase: Phase = Phase.TRAINING, name: str = "anna"
) -> Signed[Progress]:
    return open_frame(seal(key(peer), progress(name, phase), Stamp(RUN, round_, seq=seq)), Progress, run=RUN)


def ids(*numbers: int) -> list[PeerId]:
    return sorted(key(number).peer_id for number in numbers)


CASES = {
    "in the round": (5, Phase.TRAINING, True),
    "in the round, averaging": (5, Phase.AVERAGING, True),
    "in the round, waiting": (5, Phase.WAITING, True),
    "in the round, leaving": (5, Phase.LEAVING, False),
    "in the round, still fetching its model": (5, Phase.SYNCING, False),
    "one behind, averaging": (4, Phase.AVERAGING, True),
    "in the round, following": (5, Phase.FOLLOWING, False),
    "one behind, following": (4, Phase.FOLLOWING, True),
    "one behind, training": (4, Phase.TRAINING, False),
    "two behind, averaging": (3, Phase.AVERAGING, False),
    "one ahead": (6, Phase.TRAINING, False),
    "far ahead": ((1 << 32) - 1, Phase.AVERAGING, False),
}


@pytest.mark.parametrize(("round_", "phase", "expected"), CASES.values(), ids=CASES)
def test_round_5_expects_a_peer_that_is(round_: int, phase: Phase, expected: bool) -> None:
    roster = Roster()
    roster.hear(heard(1, round_, phase=phase), 0.0)
    assert roster.at_round(5, 1.0) == (ids(1) if expected else [])


def test_round_0_expects_those_in_it() -> None:
    roster = Roster()
    roster.hear(heard(1, 0), 0.0)
    assert roster.at_round(0, 0.0) == ids(1)


def test_a_peer_is_present_until_patience_ends() -> None:
    roster = Roster(patience=10)
    roster.hear(heard(1), 100.0)
    assert [roster.peers(now) for now in (100.0, 110.0, 110.1)] == [ids(1), ids(1), []]
    assert key(1).peer_id in roster, "absent is not forgotten"


def test_the_cached_list_of_present_peers_is_never_out_of_date() -> None:
    roster = Roster(patience=10)
    roster.hear(heard(1), 100.0)
    assert roster.peers(101.0) == ids(1)
    roster.hear(heard(2), 102.0)
    assert roster.peers(103.0) == ids(1, 2), "a peer has come"
    roster.peers(103.0).clear()
    assert roster.peers(103.0) == ids(1, 2), "the caller may change its list"
    roster.hear(heard(2, seq=1, phase=Phase.LEAVING), 104.0)
    assert roster.peers(104.0) == ids(1), "a peer leaves"
    roster.patience = 3
    assert roster.peers(104.0) == [], "the patience is shorter now"
    roster.patience = 10
    assert roster.peers(104.0) == ids(1)
    roster.mark_lost(key(1).peer_id, 105.0)
    assert roster.peers(105.0) == [], "a peer cannot be reached"
    roster.hear(heard(1, seq=2), 106.0)
    assert roster.peers(106.0) == ids(1), "it is back"
    roster.forget_older_than(107.0)
    assert roster.peers(107.0) == []


@pytest.mark.parametrize(("round_", "phase", "has_begun"), [
    (0, Phase.WAITING, False), (0, Phase.SYNCING, False), (0, Phase.TRAINING, True),
    (0, Phase.AVERAGING, True), (1, Phase.SYNCING, True),
])  # fmt: skip
def test_a_run_has_begun_when_somebody_trains_or_is_in_a_later_round(
    round_: int, phase: Phase, has_begun: bool
) -> None:
    roster = Roster()
    roster.hear(heard(1, round_, phase=phase), 0.0)
    assert roster.has_begun == has_begun


def test_a_record_heard_again_prolongs_nothing() -> None:
    roster = Roster(patience=10)
    assert roster.hear(heard(1), 0.0)
    assert not roster.hear(heard(1), 9.0)
    assert roster.peers(11.0) == []


@given(st.permutations([(4, 9), (5, 0), (5, 1), (5, 2)]))
def test_the_newest_record_stands_whatever_the_order(order: list[tuple[int, int]]) -> None:
    roster = Roster()
    for round_, seq in order:
        roster.hear(heard(1, round_, seq), 0.0)
    assert [row.version for row in roster.snapshot()] == [(5, 2)]


def test_a_lost_peer_is_back_with_a_newer_record_only() -> None:
    roster = Roster()
    roster.hear(heard(1, seq=3), 0.0)
    roster.mark_lost(key(1).peer_id, 1.0)
    assert roster.peers(1.0) == roster.at_round(5, 1.0) == []
    for seq in (2, 3):
        assert not roster.hear(heard(1, seq=seq), 2.0)
    assert not roster.is_present(key(1).peer_id, 2.0)
    assert roster.hear(heard(1, seq=4), 3.0)
    assert roster.is_present(key(1).peer_id, 3.0)


def test_news_of_a_loss_that_comes_late_does_not_count_against_a_newer_record() -> None:
    roster = Roster()
    roster.hear(heard(1), 5.0)
    roster.mark_lost(key(1).peer_id, 4.0)
    assert roster.peers(5.0) == ids(1)


def test_losing_an_unknown_peer_changes_nothing() -> None:
    roster = Roster()
    roster.mark_lost(key(1).peer_id, 0.0)
    assert len(roster) == 0
    assert not roster.is_present(key(1).peer_id, 0.0)


def test_forgetting_drops_those_heard_before() -> None:
    roster = Roster()
    for peer, time in ((1, 1.0), (2, 2.0), (3, 3.0)):
        roster.hear(heard(peer), time)
    roster.forget_older_than(2.0)
    assert [row.peer for row in roster.snapshot()] == ids(2, 3)


def test_a_snapshot_keeps_what_it_showed() -> None:
    roster = Roster()
    roster.hear(heard(1), 7.0)
    (before,) = roster.snapshot()
    roster.mark_lost(key(1).peer_id, 8.0)
    (after,) = roster.snapshot()
    assert (before.is_lost, after.is_lost) == (False, True)
    assert (after.peer, after.round, after.heard, after.progress.name) == (key(1).peer_id, 5, 7.0, "anna")


def test_in_a_full_roster_a_new_peer_replaces_an_absent_one_but_no_present_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ROSTER_LIMIT", 3)
    roster = Roster(patience=10)
    for peer in (1, 2, 3):
        roster.hear(heard(peer), float(peer))
    assert not roster.hear(heard(4), 5.0), "all are present"
    assert roster.hear(heard(1, seq=1), 5.0), "a known peer is heard"
    roster.mark_lost(key(3).peer_id, 6.0)
    assert roster.hear(heard(4), 6.0)
    assert roster.hear(heard(5), 12.5), "2 was heard too long ago"
    assert roster.peers(12.5) == ids(1, 4, 5)


@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    round_=st.integers(0, (1 << 32) - 1),
    seq=st.integers(0, (1 << 64) - 1),
)
def test_any_valid_record_is_noted(name: str, round_: int, seq: int) -> None:
    roster = Roster()
    assert roster.hear(heard(1, round_, seq, name=name), 0.0)
    assert roster.at_round(round_, 0.0) == roster.peers(0.0) == ids(1)
    assert roster.at_round(round_ + 1, 0.0) == []


def test_news_counts_the_records_that_were_new() -> None:
    roster = Roster()
    roster.hear(heard(1), now=0)
    first = roster.changes
    roster.hear(heard(1), now=1)
    assert roster.changes == first
    roster.hear(heard(1, seq=1), now=2)
    roster.hear(heard(2), now=2)
    assert roster.changes == first + 2
