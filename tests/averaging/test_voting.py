"""Which group a peer is in, by its own vote and those of the others."""

from __future__ import annotations

from typing import cast

import pytest

from averaging.certificate import Seated, seated_by
from averaging.messages import Vote
from averaging.voting import OFFERS, RIVALS, Voting
from swarm.identity import PeerId
from swarm.wire import Signed
from tests.averaging.assemblies import KEYS, RUN, A, B, C, D, E, F, plan_for, proposed, votes


def seated(*members: PeerId, unseated: tuple[PeerId, ...] = ()) -> Seated:
    proposal = proposed(*members, unseated=unseated)
    return seated_by(proposal.ready, proposal.unseated, RUN)


def vote(voting: Voting, peer: PeerId, *members: PeerId) -> None:
    voting.votes[peer] = cast("Signed[Vote]", votes(peer, *members).signed)


def test_our_own_vote_counts_for_the_group_that_has_it_and_for_no_other() -> None:
    voting = Voting(plan_for(D))
    ours = seated(A, B, C, D)
    voting.vote(ours)
    rival = seated(A, B, D)
    voting.offer(B, rival, 0.0)
    for peer in (A, B):
        vote(voting, peer, A, B, C, D)
    assert voting.has_quorum(ours)
    assert not voting.has_quorum(rival)


def test_a_peer_that_has_voted_before_stands_by_the_votes_of_the_others() -> None:
    """It was in this round before, from another state."""
    plan = plan_for(D)
    voting = Voting(
        type(plan)(**{name: getattr(plan, name) for name in plan.__slots__} | {"sign_vote": lambda _: None})
    )
    ours = seated(A, B, C, D)
    assert not voting.vote(ours)
    for peer in (A, B):
        vote(voting, peer, A, B, C, D)
    assert not voting.has_quorum(ours)
    vote(voting, C, A, B, C, D)
    assert voting.has_quorum(ours)


def test_the_group_with_our_vote_is_left_only_when_it_cannot_stand_any_more() -> None:
    voting = Voting(plan_for(D))
    assert voting.possible(set()) is None, "we have not voted"
    ours = seated(B, C, D, E)
    rival = seated(A, B, C, D)
    voting.vote(ours)
    voting.offer(A, rival, 0.0)
    assert voting.possible({A}) is ours
    vote(voting, C, A, B, C, D)
    assert voting.possible(set()) is ours, "B, D and E are three of four"
    vote(voting, B, A, B, C, D)
    assert voting.possible(set()) is rival, "A, B and C are three of four without us"
    assert voting.possible({A}) is None


def test_a_peer_that_has_declined_since_we_voted_counts_as_lost_unless_its_vote_is_here() -> None:
    voting = Voting(plan_for(A))
    ours = seated(A, B, C, D)
    voting.vote(ours)
    voting.withdrawn |= {B, C}
    assert voting.possible(set()) is None
    vote(voting, B, A, B, C, D)
    assert voting.possible(set()) is ours


@pytest.mark.parametrize(("kept", "is_remembered"), [(RIVALS - 1, True), (RIVALS, False)])
def test_only_so_many_rivals_are_kept(kept: int, is_remembered: bool) -> None:
    """Else a peer that leads again and again could fill our memory."""
    voting = Voting(plan_for(A))
    voting.vote(seated(A, B))
    others = [(C,), (C, D), (C, E), (C, F)]
    for members in others[:kept]:
        voting.offer(C, seated(A, B, *members), 0.0)
    last = seated(A, D, E, F)
    voting.offer(D, last, 0.0)
    assert voting.possible({B, C}) == (last if is_remembered else None)


def test_of_every_proposer_one_offer_is_kept_and_only_so_many_in_all() -> None:
    voting = Voting(plan_for(D))
    first = seated(A, B, D)
    voting.offer(A, first, 1.0)
    voting.offer(A, seated(A, D), 2.0)
    assert voting.offers[A].seated == first
    for number in range(OFFERS + 3):
        voting.offer(PeerId(f"peer {number}"), first, 3.0)
    assert len(voting.offers) == OFFERS


def test_a_group_is_supported_if_more_than_a_third_besides_its_proposer_have_voted_for_it() -> None:
    """Then not only liars have, if they are fewer than a third."""
    voting = Voting(plan_for(D))
    five = seated(A, B, C, D, E)
    for voter, is_supported in ((A, False), (B, False), (C, True)):
        vote(voting, voter, A, B, C, D, E)
        assert voting.is_supported(A, five.group) == is_supported


def test_the_first_that_vote_for_a_group_that_nobody_has_proposed_to_us_are_asked_about_it() -> None:
    voting = Voting(plan_for(D))
    signed = cast("Signed[Vote]", votes(B, A, B, C).signed)
    assert voting.is_worth_asking(signed)
    for voter in (A, C):
        vote(voting, voter, A, B, C)
    assert not voting.is_worth_asking(signed), "two were asked"
    voting.votes.clear()
    voting.offer(A, seated(A, B, C), 0.0)
    assert not voting.is_worth_asking(signed)
    voting.vote(seated(A, D))
    assert len(KEYS) == 6
    assert not voting.is_worth_asking(signed)
