"""Decisions of an assembly that need no events: which groups are plausible, who leads, which votes count."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from averaging.assembly import DEPUTIES, GROWTH, RIVALS, YOUNG, Presence, SignsOfLife, Voting
from averaging.hierarchy import Hierarchy
from averaging.messages import Decline, DeclineReason
from swarm.wire import Signed
from tests.averaging.assemblies import (
    END,
    OTHER,
    ROUND,
    RUN,
    A,
    B,
    C,
    D,
    E,
    F,
    group,
    plan_for,
    proposed,
    ready,
    terms_for,
    votes,
)

# --- the plan -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("population", "present", "believed"),
    [(1, 1, 2 * YOUNG), (2 * YOUNG, 1, 4 * YOUNG), (1, 2 * YOUNG, 4 * YOUNG)],
    ids=["young run", "a population of which we know few", "many that have just come"],
)
def test_a_claimed_population_is_believed_if_it_is_not_much_larger_than_what_we_know(
    population: int, present: int, believed: int
) -> None:
    plan = plan_for(D, replace(terms_for(), population=population, present=present))
    seated = [ready(peer) for peer in (A, D)]
    assert [plan.fits(seated, unseated - 2) for unseated in (believed, believed + 1)] == [True, False]


def test_a_leader_claims_no_more_than_any_peer_with_the_model_believes() -> None:
    """However few peers that one has heard of."""
    plan = plan_for(A, replace(terms_for(), present=100_000))
    seated = [ready(peer) for peer in (A, B)]
    assert [plan.claimed(seated, unseated) for unseated in (0, 7, 100_000)] == [0, 7, GROWTH * YOUNG - 2]
    newcomer = plan_for(D)
    assert newcomer.fits([ready(peer) for peer in (A, D)], plan.claimed(seated, 100_000))


def test_absent_level1_groups_are_claimed_to_have_the_mean_size_of_those_present() -> None:
    hierarchy = Hierarchy(RUN, 0, 4)
    plan = replace(plan_for(A), hierarchy=hierarchy)
    seated = [ready(peer) for peer in (A, B)]
    assert plan.claimed(seated, 0) == 2
    assert plan.claimed(seated, 3) == 5


@pytest.mark.parametrize(
    ("least", "least_participants", "is_enough"),
    [(3, 0, True), (4, 0, False), (1, 2, True), (1, 3, False)],
)
def test_members_and_participants_are_counted_separately(
    least: int, least_participants: int, is_enough: bool
) -> None:
    plan = plan_for(A, replace(terms_for(), least=least, least_participants=least_participants))
    claims = [ready(A).message, ready(B).message, ready(C, is_participant=False).message]
    assert plan.suffices(claims) == is_enough


def test_a_group_has_at_most_as_many_members_as_the_run_allows() -> None:
    plan = replace(plan_for(A), group_size=3)
    seated = [ready(peer) for peer in (A, B, C, D)]
    assert plan.fits(seated[:3], 1)
    assert not plan.fits(seated, 0)


def test_the_leader_of_the_terms_leads_if_it_comes_and_else_the_drawn_order_holds() -> None:
    plan = plan_for(A, replace(terms_for(), leader=D))
    assert plan.ordered([A, B, C, D]) == [D, A, B, C]
    assert plan.ordered([C, B, A]) == [A, B, C]


def test_a_proposal_is_read_only_if_we_are_in_it() -> None:
    plan = plan_for(D)
    seated = plan.seated_by(proposed(A, D))
    assert seated is not None
    assert {signed.signer for signed in seated} == {A, D}
    assert plan.seated_by(proposed(A, B)) is None


def test_the_answer_to_a_late_peer_depends_on_its_model() -> None:
    plan = plan_for(A)
    late = "the group of this round is formed; come with the next"
    assert plan.too_late(ready(E).message) == Decline(ROUND, late)
    absent = Decline(ROUND, "we train from another model", DeclineReason.ABSENT)
    assert plan.too_late(ready(E, OTHER).message) == absent
    assert plan.give_up_at == END


# --- presence -----------------------------------------------------------------------------------------------


def test_a_peer_that_may_lead_tells_everybody_and_the_others_tell_the_leaders() -> None:
    everybody = [A, B, C, D, E]
    assert Presence(plan_for(B, terms_for(everybody))).audience() == [A, C, D, E]
    assert Presence(plan_for(E, terms_for(everybody))).audience() == [A, B, C]


def test_in_a_level2_group_everybody_tells_everybody() -> None:
    plan = replace(plan_for(E, terms_for([A, B, C, D])), hierarchy=Hierarchy(RUN, 0, 8))
    assert Presence(plan).audience() == [A, B, C, D]


def test_a_peer_that_is_gone_neither_leads_nor_counts_as_here_or_missing() -> None:
    peers = Presence(plan_for(D, terms_for([A, B, C, D, E])))
    peers.ready[B] = ready(B)
    peers.gone |= {A, B}
    assert peers.reachable == [C, D, E]
    assert peers.leading == [C, D, E]
    assert [signed.signer for signed in peers.here] == [D]
    assert peers.missing == {C, E}
    assert peers.before_us == {C}
    assert peers.others() == ()


def test_leaders_are_told_once() -> None:
    peers = Presence(plan_for(E, terms_for([A, B, C, D])))
    peers.audience()
    assert peers.untold_leaders() == ()
    peers.gone.add(A)
    assert peers.untold_leaders() == (D,)
    assert peers.untold_leaders() == ()


def test_an_unexpected_peer_is_noted_only_if_it_is_among_the_first() -> None:
    peers = Presence(plan_for(D, terms_for([B, C])))
    assert peers.add_if_leading(A)
    assert peers.order == [A, B, C, D]
    assert not peers.add_if_leading(F)
    assert peers.order == [A, B, C, D]
    assert len(peers.leading) == DEPUTIES


# --- votes --------------------------------------------------------------------------------------------------


def vote(voting: Voting, peer: str, *members: str) -> None:
    signed: Signed = votes(peer, *members).signed  # type: ignore[arg-type, type-arg]
    voting.votes[signed.signer] = signed


def test_our_own_vote_counts_for_the_group_that_has_it_and_for_no_other() -> None:
    voting = Voting(D)
    voting.group = group(A, B, C, D)
    rival = group(A, B, D)
    voting.add_rival(rival)
    for peer in (A, B):
        vote(voting, peer, A, B, C, D)
    assert voting.has_quorum(voting.group)
    assert not voting.has_quorum(rival)


def test_the_group_with_our_vote_is_left_only_when_it_cannot_stand_any_more() -> None:
    voting = Voting(D)
    assert voting.possible(set()) is None, "we have not voted"
    ours = group(B, C, D)
    rival = group(A, B, C, D)
    voting.group = ours
    voting.add_rival(rival)
    assert voting.possible({A}) is ours
    vote(voting, C, A, B, C, D)
    assert voting.possible(set()) is ours, "B and D are two of three"
    vote(voting, B, A, B, C, D)
    assert voting.possible(set()) is rival, "A, B and C are three of four without us"
    assert voting.possible({A}) is None


def test_a_peer_that_has_declined_since_we_voted_counts_as_lost_unless_its_vote_is_here() -> None:
    voting = Voting(A)
    voting.group = group(A, B, C)
    voting.withdrawn |= {B, C}
    assert voting.possible(set()) is None
    vote(voting, B, A, B, C)
    assert voting.possible(set()) is voting.group


@pytest.mark.parametrize(("kept", "is_remembered"), [(RIVALS - 1, True), (RIVALS, False)])
def test_only_so_many_rivals_are_kept(kept: int, is_remembered: bool) -> None:
    """Else a peer that leads again and again could fill our memory."""
    voting = Voting(A)
    voting.group = group(A, B)
    for unseated in range(kept):
        voting.add_rival(group(A, B, C, unseated=unseated))
    last = group(A, D, E, F)
    voting.add_rival(last)
    assert voting.possible({B, C}) == (last if is_remembered else None)


# --- signs of life ------------------------------------------------------------------------------------------


def test_each_pause_between_signs_of_life_is_twice_as_long() -> None:
    signs = SignsOfLife(pause=1.0)
    assert signs.due_at == math.inf
    signs.start(10.0)
    asked = [now for now in range(10, 30) if signs.is_due(now)]
    assert asked == [11, 13, 17, 25]
