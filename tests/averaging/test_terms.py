"""What a peer expects of one group, of its level-1 group and of the level-2 group, by what it knows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from averaging.certificate import EVERYBODY, Electorate
from averaging.hierarchy import LEVEL1_SIZE, Hierarchy
from averaging.terms import DESPERATE_AFTER, LOST_AFTER, Attendance
from swarm.identity import KeyPair, PeerId

RUN = bytes(range(32))
PEERS = [KeyPair.from_seed(bytes([number, 3]) * 16).peer_id for number in range(80)]
HIERARCHY = Hierarchy.of(RUN, 0, len(PEERS), 64)
GROUP = [peer for peer in PEERS if HIERARCHY.group_index(peer) == HIERARCHY.group_index(PEERS[0])]
"""A level-1 group."""
REPRESENTATIVE = HIERARCHY.representative(GROUP)
MEMBER = next(peer for peer in GROUP if peer != REPRESENTATIVE)
OTHERS = [peer for peer in HIERARCHY.representatives(PEERS) if peer != REPRESENTATIVE]
"""The representatives of the other level-1 groups."""
ABSENT = KeyPair.from_seed(bytes(32)).peer_id
"""Was in the last average, and is not among the present peers."""
ORGANISER = PEERS[9]
CLOSE = 100.0
PATIENCE = 4.0
AVERAGE_SECONDS = 20.0
ATTENDANCE = Attendance(
    near=(),
    at_round=(),
    present=[peer for peer in PEERS if peer != MEMBER],
    close_at=CLOSE,
    patience=PATIENCE,
    population=80,
    first_leader=ORGANISER,
)


# --- one group ----------------------------------------------------------------------------------------------


def test_one_group_expects_the_near_peers_and_those_that_say_they_come() -> None:
    attendance = replace(ATTENDANCE, near={ABSENT, PEERS[0], MEMBER}, at_round=PEERS[3:], population=12)
    terms = attendance.one_group(MEMBER)
    assert terms.expected == sorted({*PEERS[3:], PEERS[0], ABSENT} - {MEMBER})
    assert terms.close_at == CLOSE
    assert terms.least == 1, "newcomers may be any number"


def test_before_there_is_a_population_the_organiser_leads_and_the_group_takes_more_time() -> None:
    first = replace(ATTENDANCE, population=1).one_group(MEMBER)
    assert (first.leader, first.close_at) == (ORGANISER, CLOSE + PATIENCE)
    later = replace(ATTENDANCE, population=2).one_group(MEMBER)
    assert (later.leader, later.close_at) == (None, CLOSE)
    without = replace(ATTENDANCE, population=1, first_leader=None).one_group(MEMBER)
    assert without.leader is None


@pytest.mark.parametrize("others", [[ABSENT], []])
def test_a_peer_may_average_alone_only_if_no_others_are_present(others: list[PeerId]) -> None:
    assert replace(ATTENDANCE, others=others).one_group(MEMBER).alone_is_fine == (not others)


def test_nobody_waits_for_a_peer_that_has_let_us_down() -> None:
    attendance = replace(ATTENDANCE, near=[ABSENT], at_round=[PEERS[0]], present=[ABSENT, PEERS[0]])
    without = attendance.without(MEMBER, frozenset({ABSENT}))
    assert (without.near, without.at_round) == ([], [PEERS[0]])


def test_only_the_last_one_left_of_the_last_average_goes_on_alone_beside_such_a_peer() -> None:
    """Any other would split the run."""
    alone = replace(ATTENDANCE, others=[ABSENT], participants=[MEMBER])
    assert alone.without(MEMBER, frozenset({ABSENT})).others == []
    not_alone = replace(alone, participants=[MEMBER, REPRESENTATIVE])
    assert not_alone.without(MEMBER, frozenset({ABSENT})).others == [ABSENT]


@pytest.mark.parametrize(
    ("participants", "missed", "needed"),
    [
        (12, 0, 9),
        (12, 1, 7),
        (12, DESPERATE_AFTER - 1, 7),
        (40, 0, 27),
        (40, 1, 21),
        (40, DESPERATE_AFTER, 0),
        (2, 0, 2),
        (3, 0, 3),
        (4, 0, 3),
        (5, 2, 3),
    ],
)
def test_more_than_two_thirds_of_the_last_average_must_vote_then_more_than_half_and_then_any(
    participants: int, missed: int, needed: int
) -> None:
    attendance = replace(ATTENDANCE, participants=PEERS[:participants], missed=missed)
    terms = attendance.one_group(MEMBER)
    assert terms.electorate.members == frozenset(PEERS[:participants])
    assert terms.electorate.needed == needed
    assert terms.electorate.floor == participants // 2 + 1, "and a certificate never needs fewer than half"
    assert terms.is_lowered == (missed > 0)


def test_after_a_failed_attempt_only_the_participants_that_are_present_count() -> None:
    """A liar that makes attempts fail must not bring about two small groups; crashes must stop nobody."""
    attendance = replace(ATTENDANCE, participants=PEERS[:12], present=PEERS[1:4], missed=1)
    assert attendance.one_group(PEERS[0]).electorate.needed == 6, "half of all, as usual"
    assert replace(attendance, missed=2).one_group(PEERS[0]).electorate.needed == 3
    assert replace(attendance, missed=3).one_group(PEERS[0]).electorate.needed == 3, "more than half of four"


def test_participants_for_which_nobody_waits_are_present_all_the_same() -> None:
    """Else a liar that makes honest peers look slow could bring about two small groups."""
    attendance = replace(ATTENDANCE, participants=PEERS[:5], present=PEERS[1:5], missed=2)
    without = attendance.without(PEERS[0], frozenset(PEERS[3:5]))
    assert without.one_group(PEERS[0]).electorate.needed == 3


@pytest.mark.parametrize(("size", "is_enough"), [(12, True), (11, False), (9, False)])
def test_of_two_halves_the_one_with_the_organiser_goes_on(size: int, is_enough: bool) -> None:
    """Of an odd number there is no half; and without the organiser among them nobody decides."""
    attendance = replace(ATTENDANCE, participants=PEERS[:size], missed=1)
    electorate = attendance.one_group(MEMBER).electorate
    half = [ORGANISER, *(peer for peer in PEERS if peer != ORGANISER)][: size // 2]
    assert electorate.elects(half) == is_enough
    others = [peer for peer in PEERS[:size] if peer != ORGANISER][: size // 2]
    assert not electorate.elects(others)
    assert not electorate.believes(half), "peers outside still want more than half"


def test_where_nobody_knows_who_was_in_the_last_average_any_voters_are_enough() -> None:
    assert ATTENDANCE.one_group(MEMBER).electorate == EVERYBODY


# --- two levels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("population", "count"), [(12, 1), (48, 1), (80, 4)])
def test_the_population_decides_how_many_groups_there_are(population: int, count: int) -> None:
    attendance = replace(ATTENDANCE, population=population)
    assert attendance.hierarchy(RUN, 0, 64) == Hierarchy.of(RUN, 0, population, 64)
    assert attendance.hierarchy(RUN, 0, 64).count == count


def test_a_peer_that_misses_round_after_round_looks_for_one_group_of_all() -> None:
    """If most of the population is gone, every level-1 group may have one member, which is not enough."""
    counts = [replace(ATTENDANCE, missed=missed).hierarchy(RUN, 0, 64).count for missed in range(6)]
    assert counts == [4] * LOST_AFTER + [1] * (6 - LOST_AFTER)
    lost = replace(ATTENDANCE, at_round=PEERS, missed=LOST_AFTER).one_group(MEMBER)
    assert len(lost.expected) == len(PEERS) - 1


def test_a_level1_group_expects_its_members() -> None:
    terms = ATTENDANCE.level1(MEMBER, HIERARCHY)
    assert list(terms.expected) == sorted(set(GROUP) - {MEMBER})
    assert terms.close_at == CLOSE
    assert not terms.alone_is_fine
    assert terms.leader is None
    assert terms.level1 == HIERARCHY


def test_a_near_peer_is_expected_in_its_level1_group_even_if_it_is_not_present() -> None:
    absent = next(peer for peer in GROUP if peer != MEMBER)
    attendance = replace(ATTENDANCE, near=[absent], present=[])
    assert attendance.level1(MEMBER, HIERARCHY).expected == [absent]


@pytest.mark.parametrize(
    ("population", "missed", "least"), [(80, 0, 8), (80, 1, 4), (80, 2, 2), (80, 9, 1), (40, 0, 5), (4, 0, 1)]
)
def test_half_of_a_level1_group_is_enough_and_half_as_many_after_each_missed_round(
    population: int, missed: int, least: int
) -> None:
    attendance = replace(ATTENDANCE, population=population, missed=missed)
    assert attendance.level1(MEMBER, HIERARCHY).least == least
    assert LEVEL1_SIZE // 2 == 8


def test_the_level2_group_expects_the_representatives_of_the_other_groups() -> None:
    terms = ATTENDANCE.level2(REPRESENTATIVE, HIERARCHY, AVERAGE_SECONDS)
    assert set(terms.expected) == set(OTHERS)
    assert ATTENDANCE.other_representatives(MEMBER, HIERARCHY) == sorted(OTHERS), (
        "as every member of the group knows"
    )
    assert not terms.alone_is_fine
    assert terms.electorate == Electorate(needed=3, floor=3, hierarchy=HIERARCHY)
    assert terms.level1 is None


def test_the_level2_group_waits_for_groups_that_take_all_the_time_they_may() -> None:
    level1 = ATTENDANCE.level1(MEMBER, HIERARCHY)
    level2 = ATTENDANCE.level2(MEMBER, HIERARCHY, AVERAGE_SECONDS)
    assert level2.close_at == level1.close_at + PATIENCE + AVERAGE_SECONDS


@pytest.mark.parametrize(("missed", "least"), [(0, 3), (1, 3), (2, 2), (3, 2), (9, 2)])
def test_a_single_failure_does_not_make_two_level2_groups_possible(missed: int, least: int) -> None:
    """Of four level-1 groups; one alone is no level-2 group."""
    assert HIERARCHY.count == 4
    assert replace(ATTENDANCE, missed=missed).level2(MEMBER, HIERARCHY, AVERAGE_SECONDS).least == least
