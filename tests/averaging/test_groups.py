"""What every member computes for itself: the same leader, seats and owners."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction

import pytest

from averaging import groups
from averaging.messages import Ready
from swarm.wire import LEVEL_2, NO_GROUP
from tests.averaging.members import ROOT, RUN, group_of, peer, signed

PEERS = [peer(number) for number in range(20)]


def ready(number: int, root: bytes = ROOT, round_: int = 1):  # type: ignore[no-untyped-def]
    return signed(peer(number), Ready(root), round_)


def test_the_order_in_which_peers_are_named_changes_nothing() -> None:
    mixed = random.Random(1).sample(PEERS, len(PEERS))
    assert groups.form(RUN, 3, mixed, ROOT) == groups.form(RUN, 3, [*PEERS, PEERS[0]], ROOT)
    assert groups.leaders(RUN, 3, ROOT, mixed) == groups.leaders(RUN, 3, ROOT, PEERS)
    forwards = [ready(number) for number in range(20)]
    backwards = [ready(number) for number in reversed(range(20))]
    assert groups.seats(RUN, forwards, 7) == groups.seats(RUN, backwards, 7)


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
def test_two_quorums_share_more_than_a_third_of_the_members(count: int) -> None:
    quorum = groups.quorum(count)
    assert quorum <= count
    assert 3 * (2 * quorum - count) > count
    assert group_of(min(count, 5)).quorum == groups.quorum(min(count, 5))


def test_every_peer_leads_and_owns_a_part_now_and_then() -> None:
    led = Counter(groups.leaders(RUN, round_, ROOT, PEERS)[0] for round_ in range(600))
    assert set(led) == set(PEERS)
    assert max(led.values()) < 3 * 600 / 20
    owned = {
        owner
        for round_ in range(60)
        for owner in groups.owners(RUN, groups.form(RUN, round_, PEERS, ROOT), 4)
    }
    assert owned == set(PEERS)


def test_owners_are_members_once_each_and_no_more_than_wanted() -> None:
    group = group_of(5)
    assert len(groups.owners(RUN, group, 3)) == 3
    assert sorted(groups.owners(RUN, group, 16)) == list(group.members)


def test_no_claim_and_no_word_of_a_leader_changes_who_owns_a_part() -> None:
    """Else a leader tries words, and a member claims, until its friends own most of the parts."""
    drawn = groups.owners(RUN, groups.form(RUN, 1, PEERS, ROOT), 4)
    for number in range(50):
        claims = groups.Claims({PEERS[0]: groups.LinkClaim(uplink=number)}, {PEERS[1]: 1 + number})
        assert groups.owners(RUN, groups.form(RUN, 1, PEERS, ROOT, claims, unseated=number), 4) == drawn


def test_a_member_that_is_left_out_changes_only_its_own_place_among_the_owners() -> None:
    drawn = groups.owners(RUN, groups.form(RUN, 1, PEERS, ROOT), 20)
    for gone in PEERS:
        rest = groups.form(RUN, 1, [peer for peer in PEERS if peer != gone], ROOT)
        assert groups.owners(RUN, rest, 20) == tuple(owner for owner in drawn if owner != gone)


def test_who_leads_sits_and_owns_in_a_round_is_unknown_until_its_model_is_known() -> None:
    roots = [bytes([n]) * 32 for n in range(60)]
    assert {groups.leaders(RUN, 1, root, PEERS)[0] for root in roots} == set(PEERS)
    seated = [groups.seats(RUN, [ready(n, root) for n in range(20)], 4) for root in roots]
    assert {said.signer for seats in seated for said in seats} == set(PEERS)
    owned = [groups.owners(RUN, groups.form(RUN, 1, PEERS, root), 4) for root in roots]
    assert {owner for owners in owned for owner in owners} == set(PEERS)


def test_if_more_come_than_there_are_seats_each_peer_is_seated_once_and_others_in_other_rounds() -> None:
    seated = [
        {said.signer for said in groups.seats(RUN, [ready(n, round_=r) for n in range(20)] * 2, 7)}
        for r in range(40)
    ]
    assert all(len(members) == 7 for members in seated)
    assert set().union(*seated) == set(PEERS)
    assert [said.signer for said in groups.seats(RUN, [ready(n) for n in range(3)], 7)] == sorted(PEERS[:3])


def test_the_model_of_the_majority_counts_and_ours_in_a_tie() -> None:
    other = bytes([9]) * 32
    mine = Ready(ROOT)
    ours = (ROOT, NO_GROUP)
    theirs = (other, NO_GROUP)
    assert groups.majority_lineage([ready(0), ready(1, other), ready(2, other)], mine) == theirs
    assert groups.majority_lineage([ready(0), ready(1, other)], mine) == ours
    assert groups.majority_lineage([ready(0), ready(1, other)], Ready(other)) == theirs
    assert groups.majority_lineage([], mine) == ours


def counted(*claims: int) -> list[int]:
    """The tokens that count for each member of a group whose members claim these."""
    tokens = {peer(number): claim for number, claim in enumerate(claims)}
    group = groups.form(RUN, 1, tokens, ROOT, groups.Claims(tokens=tokens))
    return [group.tokens_of([member]) for member in tokens]


def test_nobody_counts_for_more_than_twice_the_lower_median_of_all_claims() -> None:
    assert counted(100, 120, 2**50 - 1) == [100, 120, 240]
    assert counted(100, 2**50 - 1) == [100, 200], "of two the smaller one is the median"
    assert counted(7) == [7]


def test_the_tokens_of_a_round_are_those_of_the_members_that_count() -> None:
    tokens = {peer(0): 5, peer(1): 7, peer(2): 9}
    group = groups.form(RUN, 1, tokens, ROOT, groups.Claims(tokens=tokens))
    assert group.tokens_of([peer(0), peer(2), peer(9)]) == 14


def test_a_representative_stands_for_at_most_twice_as_many_peers_as_the_median() -> None:
    links = {peer(number): groups.LinkClaim(peers=peers) for number, peers in enumerate((16, 14, 1 << 20))}
    group = groups.form(RUN, 1, links, ROOT, groups.Claims(links))
    assert group.population == 16 + 14 + 32


def test_absent_level1_groups_are_taken_to_have_the_mean_size_of_those_present() -> None:
    present = [signed(peer(number), Ready(ROOT, peers=16), group=LEVEL_2) for number in range(3)]
    assert groups.formed(RUN, present, level1_groups=4).population == 64
    assert groups.formed(RUN, present, level1_groups=3).population == 48


def group_with(links: dict[int, groups.LinkClaim]) -> groups.Group:
    """A group whose members make these claims about their links, by the members' numbers."""
    claims = [signed(peer(number), Ready(ROOT, link.uplink, link.dialable)) for number, link in links.items()]
    return groups.formed(RUN, claims)


def share_of(group: groups.Group, number: int) -> Fraction:
    return groups.shares(group, group.members)[group.members.index(peer(number))]


def test_the_id_of_a_group_commits_to_its_members_claims_about_their_links() -> None:
    links = [groups.LinkClaim(), groups.LinkClaim(uplink=1), groups.LinkClaim(dialable=False)]
    assert len({group_with({0: link, 1: groups.LinkClaim()}).id for link in links}) == 3
    tokens = [groups.form(RUN, 1, [peer(0)], ROOT, groups.Claims(tokens={peer(0): n})).id for n in (1, 2)]
    assert tokens[0] != tokens[1]
    assert group_with({0: groups.LinkClaim(), 1: groups.LinkClaim()}) == groups.form(
        RUN, 1, [peer(1), peer(0)], ROOT
    )


def test_owners_are_members_that_all_others_can_dial() -> None:
    group = group_with({number: groups.LinkClaim(dialable=number % 3 == 0) for number in range(9)})
    assert set(groups.owners(RUN, group, 16)) == {peer(0), peer(3), peer(6)}
    assert len(groups.owners(RUN, group, 2)) == 2


def test_if_nobody_can_be_dialled_every_member_may_own_a_part() -> None:
    group = group_with({number: groups.LinkClaim(dialable=False) for number in range(3)})
    assert set(groups.owners(RUN, group, 16)) == set(group.members)


def test_before_any_member_has_measured_its_uplink_shares_are_equal() -> None:
    assert set(groups.shares(group_of(5), group_of(5).members)) == {Fraction(1, 5)}


def test_a_fast_uplink_reduces_more_and_an_unknown_one_as_much_as_the_median() -> None:
    group = group_with(
        {
            0: groups.LinkClaim(1000),
            1: groups.LinkClaim(2000),
            2: groups.LinkClaim(3000),
            3: groups.LinkClaim(0),
            4: groups.LinkClaim(2000),
        }
    )
    assert share_of(group, 0) < share_of(group, 1) == share_of(group, 3) < share_of(group, 2)
    assert sum(groups.shares(group, group.members)) == 1


@pytest.mark.parametrize("count", [3, 4, 8, 16])
def test_a_huge_claim_is_worth_a_bounded_share(count: int) -> None:
    def share(claim: int) -> Fraction:
        return share_of(
            group_with(
                {0: groups.LinkClaim(claim)} | {number: groups.LinkClaim(1000) for number in range(1, count)}
            ),
            0,
        )

    assert share(10**8) == share(4000)
    assert share(10**8) <= min(1, Fraction(2 * groups.CLAIM_CAP - 1, count - 2))


def test_the_only_member_that_claims_an_uplink_gains_nothing_by_it() -> None:
    group = group_with({0: groups.LinkClaim(10**8)} | {number: groups.LinkClaim() for number in range(1, 6)})
    assert share_of(group, 0) == Fraction(1, 6)


def test_shares_are_of_the_owners_alone() -> None:
    group = group_with({number: groups.LinkClaim(1000 + number) for number in range(20)})
    owners = groups.owners(RUN, group, 4)
    assert sum(groups.shares(group, owners)) == 1
