"""Plays of forming a group. A leads, then B and C; that order is drawn, and not the order of ids."""

from __future__ import annotations

from dataclasses import replace

import pytest

from averaging import groups
from averaging.assembly import Assembly
from averaging.certificate import Electorate, packed
from averaging.messages import Decline, DeclineReason, Proposal, Ready, Vote
from averaging.outcome import TooFew, Unanswered
from swarm.identity import PeerId
from swarm.machine import Event, Finish, Received, Send, Unreached, WakeAt, Woken
from swarm.wire import Stamp, seal
from tests.averaging.assemblies import (
    CLOSE,
    END,
    KEYS,
    OTHER,
    PATIENCE,
    ROOT,
    ROUND,
    RUN,
    A,
    B,
    C,
    D,
    E,
    F,
    assembly,
    certificate,
    comes,
    group,
    listed,
    others,
    plan_for,
    proposed,
    ready,
    sent,
    standing,
    terms_for,
    vote_of,
    voters,
    votes,
)
from tests.playbook import play

LATE = "the group of this round is formed; come with the next"
NO_VOTES = Unanswered("too few of the group answered", ROUND)


# --- the usual way ------------------------------------------------------------------------------------------


def test_the_leader_waits_for_all_that_are_expected_and_then_proposes() -> None:
    (finish,) = play(
        assembly(A),
        (0, None, [Send((B, C, D), Ready(ROOT)), WakeAt(0)]),
        (0, Woken(), [WakeAt(CLOSE)]),
        (1, comes(B), [WakeAt(CLOSE)]),
        (1, comes(C), [WakeAt(CLOSE)]),
        (
            1.5,
            comes(D),
            [Send(others(A, B, C, D), proposed(A, B, C, D)), vote_of(A, A, B, C, D), WakeAt(END)],
        ),
        (2, votes(B, A, B, C, D), [WakeAt(END)]),
        (2, votes(C, A, B, C, D), [Finish]),
    )
    assert standing(finish).members == group(A, B, C, D).members
    assert voters(finish) == {A, B, C}


def test_a_follower_tells_the_leaders_only_and_votes_for_the_proposal_it_is_in() -> None:
    (finish,) = play(
        assembly(D),
        (0, None, [Send((A, B, C), Ready(ROOT)), WakeAt(0)]),
        (0, Woken(), [WakeAt(CLOSE)]),
        (1, sent(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), WakeAt(CLOSE)]),
        (1, votes(A, A, B, C, D), [WakeAt(CLOSE)]),
        (1, votes(C, A, B, C, D), [Finish]),
    )
    assert standing(finish).id == group(A, B, C, D).id


def test_a_peer_without_others_is_a_group() -> None:
    (finish,) = play(assembly(A, ()), (0, None, [WakeAt(0)]), (0, Woken(), [Finish]))
    assert standing(finish).members == (A,)


def test_messages_that_came_before_it_began_are_heard_before_anything_is_decided() -> None:
    """Else a leader that expects nobody would be a group by itself, although newcomers have come."""
    (_, _, wake) = play(
        assembly(A, ()),
        (0, None, [WakeAt(0)]),
        (0, comes(B), [Send((B,), Ready(ROOT))]),
        (0, comes(C), [Send((C,), Ready(ROOT))]),
        (0, Woken(), [Send(others(A, B, C), proposed(A, B, C)), vote_of(A, A, B, C), WakeAt]),
    )
    assert wake == WakeAt(END)


def test_a_vote_that_comes_before_the_proposal_counts() -> None:
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, votes(A, A, B, C, D), [Send((A,), Ready(ROOT)), WakeAt]),
        (1, votes(B, A, B, C, D), [Send((B,), Ready(ROOT)), WakeAt]),
        (1, sent(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), Finish]),
    )


# --- absent peers -------------------------------------------------------------------------------------------


def test_nobody_waits_for_a_peer_that_cannot_be_reached() -> None:
    play(
        assembly(A),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt(CLOSE)]),
        (0.1, Unreached(C), [WakeAt]),
        (1, comes(B), [WakeAt]),
        (1, comes(D), [Send(others(A, B, D), proposed(A, B, D)), vote_of(A, A, B, D), WakeAt(END)]),
    )


def test_a_peer_that_came_and_is_gone_again_is_not_listed_unless_it_comes_back() -> None:
    come_and_gone = [
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(C), [WakeAt]),
        (1, Unreached(C), [WakeAt]),
    ]
    play(
        assembly(A, (A, C, D)),
        *come_and_gone,
        (1, comes(D), [Send((D,), proposed(A, D)), vote_of(A, A, D), WakeAt(END)]),
    )
    play(
        assembly(A, (A, C, D)),
        *come_and_gone,
        (1, comes(C), [Send((C,), Ready(ROOT)), WakeAt]),
        (1, comes(D), [Send(others(A, C, D), proposed(A, C, D)), vote_of(A, A, C, D), WakeAt(END)]),
    )


def test_the_leader_asks_the_missing_for_signs_of_life_soon_and_then_ever_more_seldom() -> None:
    ask = Send((D,), Ready(ROOT))
    play(
        assembly(A, first_look=1),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt(1)]),
        (0, comes(B), [WakeAt(1)]),
        (0, comes(C), [WakeAt(1)]),
        (1, Woken(), [ask, WakeAt(3)]),
        (2, Woken(), [WakeAt(3)]),
        (3, Woken(), [ask, WakeAt(7)]),
        (7, Woken(), [ask, WakeAt(CLOSE)]),
        (CLOSE, Woken(), [Send(others(A, B, C), proposed(A, B, C)), vote_of(A, A, B, C), WakeAt(END)]),
    )


def test_a_deputy_finds_out_that_the_leader_died_after_all_had_told_it_that_they_are_ready() -> None:
    play(
        assembly(B, (A, C), first_look=0.5),
        (0, None, [Send, WakeAt]),
        (0, comes(A), []),
        (0, comes(C), []),
        (0, Woken(), [WakeAt(0.5)]),
        (0.5, Woken(), [Send((A,), Ready(ROOT)), WakeAt(PATIENCE / 4)]),
        (0.6, Unreached(A), [Send((C,), proposed(B, C)), vote_of(B, B, C), WakeAt(END)]),
    )


def test_a_deputy_that_waits_for_a_peer_asks_the_leader_for_a_sign_of_life_as_well() -> None:
    """The leader may have died while both waited: then nobody would ask the missing peer."""
    play(
        assembly(B, first_look=0.5),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt(0.5)]),
        (0.1, comes(C), [WakeAt(0.5)]),
        (0.5, Woken(), [Send((A,), Ready(ROOT)), WakeAt(1.5)]),
        (0.6, Unreached(A), [WakeAt(1.5)]),
        (1.5, Woken(), [Send((D,), Ready(ROOT)), WakeAt(3.5)]),
        (1.6, Unreached(D), [Send((C,), proposed(B, C)), vote_of(B, B, C), WakeAt(END)]),
    )


def test_an_unexpected_peer_that_may_lead_is_told_that_we_are_ready() -> None:
    """A newcomer tells the leaders among the peers that it knows; it may not know the real leader."""
    play(
        assembly(D, (B, C)),
        (0, None, [Send((B, C), Ready(ROOT)), WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(A), [Send((A,), Ready(ROOT)), WakeAt]),
        (1, comes(A), [WakeAt]),
        (1, sent(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), WakeAt]),
    )


def test_a_peer_that_is_ready_for_a_group_which_it_has_made_up_is_not_listed() -> None:
    """A group with it would have a certificate that no other peer believes."""
    stray = sent(C, Ready(ROOT), group=bytes([7]) * 16)
    play(
        assembly(A, (B,)),
        (0, None, [Send((B,), Ready(ROOT)), WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, stray, [WakeAt]),
        (1, comes(B), [Send((B,), proposed(A, B)), vote_of(A, A, B), WakeAt]),
    )


def test_a_peer_with_another_model_never_leads_however_it_is_drawn() -> None:
    play(
        assembly(D, (B, C)),
        (0, None, [Send((B, C), Ready(ROOT)), WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(A, OTHER), [WakeAt]),
        (1, sent(B, proposed(B, C, D)), [vote_of(D, B, C, D), WakeAt]),
    )


def test_deputies_replace_a_silent_leader_in_their_order() -> None:
    for rank, me in enumerate([B, C], 1):
        machine = assembly(me, (A, B, C))
        play(machine, (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]))
        for peer in {A, B, C} - {me}:
            commands = list(machine.handle(comes(peer), 1))
        assert commands == [WakeAt(1 + rank * PATIENCE / 4)]
        now = 1 + rank * PATIENCE / 4
        assert next(iter(machine.handle(Woken(), now))) == Send(others(me, A, B, C), proposed(A, B, C))


def test_if_the_leader_is_gone_the_first_deputy_does_not_wait_and_the_next_in_order_is_told() -> None:
    play(
        assembly(B),
        (0, None, [Send((A, C, D), Ready(ROOT)), WakeAt]),
        (0, Woken(), [WakeAt]),
        (0, comes(C), [WakeAt]),
        (0, comes(D), [WakeAt]),
        (1, Unreached(A), [Send(others(B, C, D), proposed(B, C, D)), vote_of(B, B, C, D), WakeAt]),
    )
    play(
        assembly(E, (A, B, C, D)),
        (0, None, [Send((A, B, C), Ready(ROOT)), WakeAt]),
        (1, Unreached(B), [Send((D,), Ready(ROOT))]),
    )


def test_a_deputy_does_not_hurry_if_only_some_before_it_are_gone() -> None:
    """The one before it may not know: two proposals at once would split the votes."""
    play(
        assembly(C),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(B), [WakeAt]),
        (1, comes(D), [WakeAt]),
        (1, Unreached(A), [WakeAt(1 + 2 * PATIENCE / 4)]),
        (1 + PATIENCE / 4, Woken(), [WakeAt(1 + 2 * PATIENCE / 4)]),
        (1 + PATIENCE / 4, sent(B, proposed(B, C, D)), [vote_of(C, B, C, D), WakeAt]),
    )


def test_a_peer_that_is_not_among_the_first_never_proposes() -> None:
    machine = assembly(D)
    play(
        machine,
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(A), [WakeAt]),
        (1, comes(B), [WakeAt]),
    )
    assert list(machine.handle(comes(C), 1)) == [WakeAt(1 + 3 * PATIENCE / 4)]
    assert list(machine.handle(Woken(), 1 + 3 * PATIENCE / 4)) == [WakeAt(END)]


# --- votes --------------------------------------------------------------------------------------------------


def test_a_peer_votes_once_per_round() -> None:
    play(
        assembly(D, (A, B)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(A, proposed(A, B, D)), [vote_of(D, A, B, D), WakeAt]),
        (1, sent(B, proposed(B, C, D)), [Send((B,), Vote(), group(A, B, D).id), WakeAt]),
        (2, votes(C, B, C, D), [WakeAt]),
        (2, votes(B, B, C, D), [Finish(NO_VOTES)]),
    )


@pytest.mark.parametrize(
    "event", [votes(C, C, D), sent(C, Decline(ROUND, "no")), Unreached(C)], ids=["voted", "over", "gone"]
)
def test_a_group_that_cannot_stand_any_more_is_not_waited_for(event: Event) -> None:
    (finish,) = play(
        assembly(B, (A, B, C)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(A, proposed(A, B, C)), [vote_of(B, A, B, C), WakeAt]),
        (1, votes(A, A, B, C), [WakeAt]),
        (2, event, [Finish]),
    )
    assert finish == Finish(NO_VOTES)


def test_a_peer_that_came_too_late_for_the_list_gets_a_proof_from_all_that_it_told() -> None:
    played = play(
        assembly(B, (A, B, C)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(A, proposed(A, B, C)), [vote_of(B, A, B, C), WakeAt]),
        (1, comes(D), [WakeAt]),
        (2, votes(A, A, B, C), [WakeAt]),
        (2, votes(C, A, B, C), [Send, Finish]),
    )
    answer = Decline(ROUND, LATE, DeclineReason.FORMED, packed(certificate(A, B, C)))
    assert played[0] == Send((D,), answer)


def test_of_two_votes_of_one_peer_the_first_counts() -> None:
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, votes(A, B, C, D), [Send((A,), Ready(ROOT)), WakeAt]),
        (1, votes(A, A, B, C, D), [WakeAt]),
        (1, Unreached(A), [WakeAt]),
        (1, sent(B, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), WakeAt]),
        (2, votes(B, A, B, C, D), [WakeAt]),
        (2, votes(C, A, B, C, D), [Finish]),
    )


def test_a_member_that_has_not_heard_of_our_group_gets_its_list_once() -> None:
    """Its proposer may have told only some."""
    play(
        assembly(B, (A, B, C)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(A, proposed(A, B, C)), [vote_of(B, A, B, C), WakeAt]),
        (2, comes(C), [Send((C,), proposed(A, B, C)), WakeAt]),
        (2, comes(C), [WakeAt]),
    )


# --- whose turn it is, and who is left out ------------------------------------------------------------------


def test_a_list_out_of_turn_gets_our_vote_a_quarter_of_the_patience_later() -> None:
    play(
        assembly(D, (A, B, C)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(B, proposed(A, B, C, D)), [Send((A,), Ready(ROOT)), WakeAt(1 + PATIENCE / 4)]),
        (1 + PATIENCE / 4, Woken(), [vote_of(D, A, B, C, D), WakeAt]),
    )


def test_a_list_out_of_turn_gets_it_at_once_if_those_before_it_are_gone() -> None:
    play(
        assembly(D, (A, B, C)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(B, proposed(B, C, D)), [Send((A,), Ready(ROOT)), WakeAt]),
        (1.1, Unreached(A), [vote_of(D, B, C, D), WakeAt]),
    )


def test_a_list_that_lacks_a_peer_which_we_expect_waits_for_it_until_close_at() -> None:
    """A leader that lists only its friends gains nothing by being early."""
    begin = [(0, None, [Send, WakeAt]), (0, Woken(), [WakeAt])]
    early = (1, sent(A, proposed(A, B, D)), [Send((C,), Ready(ROOT)), WakeAt(CLOSE)])
    last = Electorate(members=frozenset({A, B, C, D}), needed=2)
    due = (CLOSE, Woken(), [vote_of(D, A, B, D), WakeAt])
    play(assembly(D, (A, B, C), electorate=last), *begin, early, due)
    gone = (2, Unreached(C), [vote_of(D, A, B, D), WakeAt])
    play(assembly(D, (A, B, C), electorate=last), *begin, early, gone)
    newcomer = Electorate(members=frozenset({A, B, D}), needed=2)
    at_once = (1, sent(A, proposed(A, B, D)), [vote_of(D, A, B, D), WakeAt])
    play(assembly(D, (A, B, C), electorate=newcomer), *begin, at_once)


def test_a_list_that_more_than_a_third_besides_its_proposer_have_voted_for_gets_our_vote() -> None:
    last = Electorate(members=frozenset(KEYS), needed=2)
    play(
        assembly(D, (A, B, C), electorate=last),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(A, proposed(A, B, D)), [Send((C,), Ready(ROOT)), WakeAt]),
        (1, votes(A, A, B, D), [WakeAt]),
        (2, votes(B, A, B, D), [WakeAt]),
    )
    play(
        assembly(E, (A, B, C, D), electorate=last),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(A, proposed(A, B, C, E)), [Send((D,), Ready(ROOT)), WakeAt]),
        (2, votes(B, A, B, C, E), [WakeAt]),
        (2, votes(C, A, B, C, E), [vote_of(E, A, B, C, E), Finish]),
    )


def test_a_deputy_whose_turn_has_come_votes_for_an_offer_rather_than_propose_beside_it() -> None:
    """Two lists would split the votes."""
    play(
        assembly(B, (A, C, D)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(C, proposed(B, C, D)), [Send((A,), Ready(ROOT)), WakeAt]),
        (1, comes(C), [WakeAt]),
        (1, comes(D), [WakeAt]),
        (1.5, Unreached(A), [vote_of(B, B, C, D), WakeAt]),
    )


def test_after_a_failed_attempt_a_list_without_somebody_that_has_come_never_gets_our_vote() -> None:
    electorate = Electorate(members=frozenset({A, B, C}), needed=2)
    terms = replace(terms_for((A, C)), electorate=electorate, is_lowered=True)
    play(
        Assembly(plan_for(B, terms)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(C), [WakeAt]),
        (1, sent(A, proposed(A, B)), [Send((C,), Ready(ROOT)), WakeAt]),
        (CLOSE, Woken(), [WakeAt]),
        (CLOSE + PATIENCE / 4, Woken(), [Send((C,), proposed(B, C)), vote_of(B, B, C), WakeAt]),
    )


def test_votes_of_strangers_and_for_another_group_do_not_count() -> None:
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), WakeAt]),
        (1, votes(E, A, B, C, D), [WakeAt]),
        (1, votes(F, A, B, C, D), [WakeAt]),
        (1, votes(B, B, C, D), [WakeAt]),
        (1, votes(A, A, B, C, D), [WakeAt]),
        (END, Woken(), [Finish(NO_VOTES)]),
    )


def test_if_the_votes_are_split_nobody_waits_for_the_end() -> None:
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), WakeAt]),
        (1, votes(B, B, C, D), [WakeAt]),
        (1, votes(C, B, C, D), [Finish(NO_VOTES)]),
    )


def forged() -> Proposal:
    """D's `Ready` with a wrong signature."""
    frame = bytearray(ready(D).raw)
    frame[-1] ^= 1
    return Proposal((ready(A).raw, bytes(frame)))


@pytest.mark.parametrize(
    "proposal",
    [
        proposed(A, B, C),
        forged(),
        Proposal((ready(A).raw, ready(B, round_=ROUND - 1).raw, ready(D).raw)),
        Proposal((ready(A).raw, ready(B, OTHER).raw, ready(D).raw)),
        Proposal((ready(A).raw, ready(A).raw, ready(D).raw)),
        Proposal((seal(KEYS[A], Vote(), Stamp(RUN, ROUND)), ready(D).raw)),
        Proposal((b"noise", ready(D).raw)),
        proposed(A, B, C, D, E),
    ],
    ids=[
        "without us",
        "forged",
        "foreign round",
        "other model",
        "one twice",
        "no ready",
        "noise",
        "too many",
    ],
)
def test_a_proposal_that_does_not_hold_is_not_signed(proposal: Proposal) -> None:
    machine = assembly(D, size=4)
    play(machine, (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]), (1, sent(A, proposal), [WakeAt]))
    assert next(iter(machine.handle(sent(A, proposed(A, B, C, D)), 2))) == vote_of(D, A, B, C, D)


def test_the_group_knows_what_each_member_claims_about_its_link() -> None:
    slow = sent(B, Ready(ROOT, 250, False)).signed
    mine = Ready(ROOT, 9000)
    own = sent(A, mine).signed
    machine = Assembly(plan_for(A, terms_for((A, B)), own=own))  # type: ignore[arg-type]
    links = {A: groups.LinkClaim(9000), B: groups.LinkClaim(250, dialable=False)}
    formed = groups.form(RUN, ROUND, (A, B), ROOT, groups.Claims(links))
    proposal = listed(own, slow)  # type: ignore[arg-type]
    (finish,) = play(
        machine,
        (0, None, [Send((B,), mine), WakeAt(0)]),
        (0, Woken(), [WakeAt(CLOSE)]),
        (1, Received(slow), [Send((B,), proposal), Send((B,), Vote(), formed.id), WakeAt(END)]),
        (2, sent(B, Vote(), group=formed.id), [Finish]),
    )
    assert dict(zip(standing(finish).members, standing(finish).links, strict=True)) == links
    assert groups.owners(RUN, standing(finish), 16) == (A,)


def test_two_claims_about_one_link_make_two_groups_and_votes_for_one_do_not_count_for_the_other() -> None:
    other = sent(A, Ready(ROOT, 77)).signed
    (finish,) = play(
        assembly(B, (A, C)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(A, Proposal((other.raw, *(ready(peer).raw for peer in (B, C))))), [Send, WakeAt]),
        (2, votes(A, A, B, C), [Finish]),
    )
    assert finish == Finish(NO_VOTES)


def test_a_peer_that_was_absent_and_is_listed_all_the_same_has_come() -> None:
    """It was still catching up when we asked; its vote is waited for like everybody's."""
    absent = Decline(ROUND, "still catching up", DeclineReason.ABSENT)
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(B, absent), [WakeAt]),
        (1, Unreached(C), [WakeAt]),
        (2, sent(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), WakeAt]),
        (2, Unreached(C), [WakeAt]),
        (2, Unreached(B), [Finish(NO_VOTES)]),
    )


def test_a_peer_whose_group_cannot_stand_joins_another_group_that_does() -> None:
    """A and B led at once: B's list has only the vote of D, because the others follow A."""
    both = proposed(A, B, C, D)
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, Unreached(A), [WakeAt]),
        (1, Unreached(C), [WakeAt]),
        (1, sent(B, proposed(B, D)), [vote_of(D, B, D), WakeAt]),
        (1, sent(A, both), [Send((A,), Vote(), group(B, D).id), WakeAt]),
        (1, votes(A, A, B, C, D), [WakeAt]),
        (1, votes(C, A, B, C, D), [WakeAt]),
        (1, votes(B, A, B, C, D), [Finish]),
    )


# --- the end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("me", [A, B, C, D, E])
def test_deadlines_always_end_it(me: PeerId) -> None:
    """Nobody ever answers, and nobody is reported as unreachable."""
    machine = assembly(me, (A, B, C, D, E))
    now = 0.0
    commands = list(machine.start(now))
    for _ in range(60):
        if isinstance(commands[-1], Finish):
            break
        wake = commands[-1]
        assert isinstance(wake, WakeAt)
        now = max(now, wake.time)
        commands = list(machine.handle(Woken(), now))
    assert isinstance(commands[-1], Finish)
    assert now <= END


def test_if_no_leader_proposes_that_is_the_reason() -> None:
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (END, Woken(), [Finish(TooFew("no leader proposed a group", ROUND))]),
    )
