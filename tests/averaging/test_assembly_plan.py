"""Decisions of an assembly that need no events: which groups it may sign, who leads, what it believes."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from averaging.assembly_plan import AssemblyPlan
from averaging.certificate import Electorate, GroupCertificate, Seated, packed, seated_by
from averaging.hierarchy import Hierarchy
from averaging.messages import Decline, DeclineReason, Ready
from swarm.identity import PeerId
from swarm.wire import LEVEL_2, Signed
from tests.averaging.assemblies import (
    END,
    KEYS,
    OTHER,
    ROOT,
    ROUND,
    RUN,
    A,
    B,
    C,
    D,
    E,
    certificate,
    listed,
    plan_for,
    proposed,
    ready,
    sent,
    terms_for,
)


def seated(*members: PeerId) -> Seated:
    return seated_by(proposed(*members).ready, (), RUN)


def claiming(peer: PeerId, **claims: int) -> Signed[Ready]:
    return cast("Signed[Ready]", sent(peer, Ready(ROOT, **claims)).signed)


@pytest.mark.parametrize(
    ("least", "needed", "is_enough"), [(3, 0, True), (4, 0, False), (1, 2, True), (1, 3, False)]
)
def test_members_and_those_of_the_last_average_are_counted_separately(
    least: int, needed: int, is_enough: bool
) -> None:
    electorate = Electorate(members=frozenset({A, B, E}), needed=needed)
    plan = plan_for(A, replace(terms_for(), least=least, electorate=electorate))
    assert plan.suffices([A, B, C]) == is_enough


def test_a_group_stands_by_two_thirds_of_its_own_votes_and_by_those_of_the_last_average() -> None:
    electorate = Electorate(members=frozenset({A, B, C, D}), needed=3)
    plan = plan_for(A, replace(terms_for(), electorate=electorate))
    group = seated(A, B, C, E).group
    assert plan.stands(group, {A, B, C})
    assert not plan.stands(group, {A, B, E}), "E is a newcomer"
    assert not plan.stands(seated(A, B, C, D).group, {A, B})


def test_a_group_has_at_most_as_many_members_as_the_run_allows() -> None:
    plan = replace(plan_for(A), group_size=3)
    assert plan.fits(seated(A, B, C))
    assert not plan.fits(seated(A, B, C, D))


def test_nobody_claims_more_tokens_than_a_peer_can_train_on_nor_to_stand_for_others() -> None:
    plan = plan_for(A)
    for claims, fits in (({"tokens": 1000}, True), ({"tokens": 1001}, False), ({"peers": 2}, False)):
        proposal = listed(ready(A), claiming(B, **claims))
        assert plan.fits(seated_by(proposal.ready, (), RUN)) == fits


def test_the_leader_of_the_terms_leads_if_it_comes_and_else_the_drawn_order_holds() -> None:
    plan = plan_for(A, replace(terms_for(), leader=D))
    assert plan.ordered([A, B, C, D]) == [D, A, B, C]
    assert plan.ordered([C, B, A]) == [A, B, C]


def test_a_proposal_is_read_only_if_we_are_in_it_with_our_model() -> None:
    plan = plan_for(D)
    found = plan.seated_by(proposed(A, D))
    assert found is not None
    assert set(found.group.members) == {A, D}
    assert plan.seated_by(proposed(A, B)) is None
    assert plan.seated_by(listed(ready(A, OTHER), ready(D, OTHER))) is None


def test_a_peer_whose_state_has_another_parent_has_another_model() -> None:
    """The same numbers, and another group that is said to have led to them."""
    plan = plan_for(D)
    assert plan.has_our_model(Ready(ROOT))
    assert not plan.has_our_model(Ready(ROOT, parent=bytes([1]) * 16))


def believed(plan: AssemblyPlan, proof: GroupCertificate) -> bool:
    return plan.certified(packed(proof)) is not None


def test_a_certificate_is_believed_if_enough_of_the_last_average_have_voted() -> None:
    electorate = Electorate(members=frozenset({A, B, C, D}), needed=1, floor=3)
    plan = plan_for(E, replace(terms_for(), electorate=electorate))
    assert believed(plan, certificate(A, B, C))
    assert believed(plan, certificate(A, B, C, root=OTHER)), "the others train from another model"
    assert not believed(plan, certificate(A)), "a liar that shows a group of itself"
    assert not believed(plan, certificate(A, B, E)), "only two of them"
    assert not believed(plan, certificate(A, B, C, D, voters=(A, B)))
    assert plan.certified(b"noise") is None


def test_the_certificate_of_another_level1_group_turns_nobody_away() -> None:
    """It is genuine, and everybody that was in that group can show it to everybody else."""
    hierarchy = Hierarchy(RUN, 4, 2)
    ours = [peer for peer in KEYS if hierarchy.group_index(peer) == hierarchy.group_index(A)]
    theirs = [peer for peer in KEYS if peer not in ours]
    assert (len(ours), len(theirs)) == (3, 3)
    plan = plan_for(A, replace(terms_for(), level1=hierarchy))
    assert not believed(plan, certificate(*theirs))
    assert not believed(plan, certificate(A, theirs[0])), "as many of one as of the other"
    assert believed(plan, certificate(*ours[1:]))
    assert believed(plan, certificate(*ours, theirs[0])), "a lost peer may be in any group"


def test_after_a_failed_attempt_a_list_must_have_everybody_of_the_last_average_that_has_come() -> None:
    electorate = Electorate(members=frozenset({A, B, C}), needed=2)
    came = [ready(A), ready(B, OTHER), ready(C), ready(E)]
    usual = plan_for(D, replace(terms_for(), electorate=electorate))
    assert usual.must_list(came) == set()
    lowered = plan_for(D, replace(terms_for(), electorate=electorate, is_lowered=True))
    assert lowered.must_list(came) == {A, C}
    without = replace(lowered, terms=replace(lowered.terms, unawaited=frozenset({C})))
    assert without.must_list(came) == {A}


def test_a_level2_group_has_one_representative_of_each_level1_group() -> None:
    hierarchy = Hierarchy(RUN, 0, 2)
    peers = [A, B, C, D, E]
    first = [peer for peer in peers if hierarchy.group_index(peer) == hierarchy.group_index(A)]
    other = next(peer for peer in peers if peer not in first)

    def level2(*members: PeerId) -> tuple[bytes, ...]:
        frames = [sent(peer, Ready(ROOT, peers=16), group=LEVEL_2).signed.raw for peer in sorted(members)]
        return tuple(frames)

    own = cast("Signed[Ready]", sent(A, Ready(ROOT), group=LEVEL_2).signed)
    plan = replace(plan_for(A, own=own), hierarchy=hierarchy)
    assert plan.fits(seated_by(level2(A, other), (), RUN, 2))
    assert not plan.fits(seated_by(level2(A, first[1]), (), RUN, 2))


def test_the_answer_to_a_late_peer_proves_that_the_group_stands() -> None:
    plan = plan_for(A)
    late = "the group of this round is formed; come with the next"
    assert plan.too_late(ready(E).message, b"proof") == Decline(ROUND, late, DeclineReason.FORMED, b"proof")
    other = "your model differs from the majority's; fetch theirs"
    assert plan.too_late(ready(E, OTHER).message, b"").reason == other
    assert plan.give_up_at == END
