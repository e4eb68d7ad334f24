"""What every member recomputes: the same leader, the same seats, the same owners, whatever order the names came in."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from averaging import groups
from averaging.messages import Ready

from .members import ROOT, RUN, group_of, peer, signed

PEERS = [peer(number) for number in range(20)]


def ready(number: int, root: bytes = ROOT, round_: int = 1):  # type: ignore[no-untyped-def]
    return signed(peer(number), Ready(root), round_)


def test_the_order_in_which_names_come_changes_nothing() -> None:
    mixed = random.Random(1).sample(PEERS, len(PEERS))
    assert groups.form(RUN, 3, mixed, ROOT) == groups.form(RUN, 3, [*PEERS, PEERS[0]], ROOT)
    assert groups.leaders(RUN, 3, mixed) == groups.leaders(RUN, 3, PEERS)
    there, back = [ready(n) for n in range(20)], [ready(n) for n in reversed(range(20))]
    assert groups.seats(RUN, there, 7) == groups.seats(RUN, back, 7)


def test_the_id_of_a_group_commits_to_run_round_model_and_everybody_in_it() -> None:
    ids = {
        groups.form(RUN, 3, PEERS, ROOT).id,
        groups.form(bytes([1]) * 32, 3, PEERS, ROOT).id,
        groups.form(RUN, 4, PEERS, ROOT).id,
        groups.form(RUN, 3, PEERS, bytes(32)).id,
        groups.form(RUN, 3, PEERS[1:], ROOT).id,
    }
    assert len(ids) == 5
    assert all(len(id_) == 16 for id_ in ids)


@pytest.mark.parametrize("count", range(1, 60))
def test_two_quorums_share_a_third_of_the_members(count: int) -> None:
    quorum = groups.quorum(count)
    assert quorum <= count
    assert 3 * (2 * quorum - count) >= count
    assert group_of(min(count, 5)).quorum == groups.quorum(min(count, 5))


def test_everybody_leads_and_everybody_owns_now_and_then() -> None:
    led = Counter(groups.leaders(RUN, round_, PEERS)[0] for round_ in range(600))
    assert set(led) == set(PEERS)
    assert max(led.values()) < 3 * 600 / 20
    owned = {owner for round_ in range(60) for owner in groups.owners(RUN, groups.form(RUN, round_, PEERS, ROOT), 4)}
    assert owned == set(PEERS)


def test_owners_are_members_once_each_and_no_more_than_wanted() -> None:
    group = group_of(5)
    assert len(groups.owners(RUN, group, 3)) == 3
    assert sorted(groups.owners(RUN, group, 16)) == list(group.members)


def test_where_more_come_than_there_are_seats_each_peer_is_seated_once_and_others_in_other_rounds() -> None:
    seated = [{said.signer for said in groups.seats(RUN, [ready(n, round_=r) for n in range(20)] * 2, 7)} for r in range(40)]
    assert all(len(members) == 7 for members in seated)
    assert set().union(*seated) == set(PEERS)
    assert [said.signer for said in groups.seats(RUN, [ready(n) for n in range(3)], 7)] == sorted(PEERS[:3])


def test_the_model_that_most_have_counts_and_ours_where_it_ties() -> None:
    other = bytes([9]) * 32
    assert groups.majority_root([ready(0), ready(1, other), ready(2, other)], ROOT) == other
    assert groups.majority_root([ready(0), ready(1, other)], ROOT) == ROOT
    assert groups.majority_root([ready(0), ready(1, other)], other) == other
    assert groups.majority_root([], ROOT) == ROOT
