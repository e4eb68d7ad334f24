"""Plays of peers that get no place in a group, and of groups that do not form: what they are told."""

from __future__ import annotations

from dataclasses import replace

from averaging import groups
from averaging.assembly import Assembly
from averaging.messages import Decline, DeclineReason, Ready
from averaging.outcome import Declined, TooFew
from swarm.identity import PeerId
from swarm.machine import Finish, Received, Send, Unreached, WakeAt, Woken
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
    comes,
    listed,
    others,
    plan_for,
    proposed,
    ready,
    sent,
    terms_for,
    vote_of,
)
from tests.playbook import play

LATE = "the group of this round is formed; come with the next"


def declined(reason: str = "come with the next", *, by: PeerId) -> Declined:
    return Declined(reason, 9, by)


def test_a_peer_that_comes_late_gets_a_reason() -> None:
    play(
        assembly(A, (A, B)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(B), [Send, Send, WakeAt]),
        (2, comes(C), [Send((C,), Decline(ROUND, LATE)), WakeAt]),
    )


def test_a_peer_with_another_model_gets_a_reason_even_if_it_leads() -> None:
    play(
        assembly(A, (A, B, C)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(B), [WakeAt]),
        (
            1,
            comes(C, OTHER),
            [
                Send((B,), proposed(A, B)),
                Send((C,), Decline(ROUND, "your model differs from the majority's; fetch theirs")),
                vote_of(A, A, B),
                WakeAt,
            ],
        ),
    )
    proposal, finish = play(
        assembly(A, (A, B, C), root=OTHER),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(B), [WakeAt]),
        (1, comes(C), [Send, Finish]),
    )
    assert proposal == Send(others(A, B, C), proposed(B, C))
    assert finish == Finish(Declined("our model differs from the majority's", ROUND))


def test_if_more_come_than_there_are_seats_a_hash_draws_and_the_rest_are_told() -> None:
    machine = assembly(A, (A, B, C, D, E, F), size=4)
    play(machine, (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]))
    for peer in (B, C, D, E):
        list(machine.handle(comes(peer), 1))
    commands = list(machine.handle(comes(F), 1))
    seated = [signed.signer for signed in groups.seats(RUN, [ready(peer) for peer in KEYS], 4, A)]
    assert A in seated
    told = [
        command.to
        for command in commands
        if isinstance(command, Send) and isinstance(command.message, Decline)
    ]
    assert told == [(peer,) for peer in sorted(set(KEYS) - set(seated) - {A})]
    assert commands[0] == Send(others(A, *seated), proposed(*seated, unseated=2))


def test_a_refusal_counts_if_it_comes_from_a_peer_that_we_follow() -> None:
    refusal = Decline(9, "come with the next")
    play(assembly(D), (0, None, [Send, WakeAt]), (1, sent(C, refusal), [Finish(declined(by=C))]))
    play(assembly(B), (0, None, [Send, WakeAt]), (1, sent(A, refusal), [Finish(declined(by=A))]))


def test_two_peers_that_may_lead_are_believed_whomever_we_follow() -> None:
    """We would lead but come late: the others have long had a group under our deputies."""
    play(
        assembly(A),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(B, Decline(9, "come with the next")), [WakeAt]),
        (1, sent(D, Decline(9, "come with the next")), [WakeAt]),
        (1, sent(C, Decline(9, "come with the next")), [Finish(declined(by=C))]),
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
    assert isinstance(finish, Finish)
    assert finish.outcome.members == (A,), "if nobody comes we are alone, not turned away"


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
    follower = assembly(B, (A, B, C, D), least=3)
    play(
        follower,
        (0, None, [Send, WakeAt]),
        (3, sent(A, Decline(ROUND, reason, DeclineReason.TOO_FEW)), [Finish(TooFew(reason, ROUND))]),
    )


def test_newcomers_that_hear_that_the_round_is_over_do_not_wait_for_more() -> None:
    """They have the model of a round that is over meanwhile; the leader tells all of them."""
    over = Decline(9, "round 5 is over, the run is at 9")
    played = play(
        assembly(A, (A, B, C, E), least=4),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(B), [WakeAt]),
        (1, comes(C), [WakeAt]),
        (
            1,
            sent(E, over),
            [
                Send(tuple(sorted((B, C))), over),
                Finish(declined("round 5 is over, the run is at 9", by=E)),
            ],
        ),
    )
    assert played


def test_newcomers_form_no_group_beside_the_peers_that_go_on() -> None:
    """However many they are: more than half of the last average's members must be there."""
    newcomers = [ready(peer, is_participant=False) for peer in (B, C, D)]
    terms = replace(terms_for((B, C)), least_participants=1)
    plan = plan_for(D, terms, own=newcomers[2])
    proposal = listed(*newcomers)
    play(Assembly(plan), (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]), (1, sent(B, proposal), [WakeAt]))
    with_participant = listed(ready(B), *newcomers[1:])
    play(
        Assembly(plan),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, sent(B, with_participant), [Send, WakeAt]),
    )


def test_newcomers_that_are_too_few_to_go_on_say_so() -> None:
    newcomers = {peer: ready(peer, is_participant=False) for peer in (A, B)}
    plan = plan_for(A, replace(terms_for((B,)), least_participants=2), own=newcomers[A])
    reason = "only 0 came of those who were in the last average, 2 are needed"
    play(
        Assembly(plan),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt(CLOSE)]),
        (1, Received(newcomers[B]), [WakeAt(CLOSE)]),
        (
            CLOSE,
            Woken(),
            [Send((B,), Decline(ROUND, reason, DeclineReason.TOO_FEW)), Finish(TooFew(reason, ROUND))],
        ),
    )


def test_nobody_votes_for_a_group_of_too_few_nor_for_an_implausible_population() -> None:
    for proposal in (proposed(A, D), proposed(A, B, D, unseated=10_000)):
        play(assembly(D, least=3), (0, None, [Send, WakeAt]), (1, sent(A, proposal), []))


def test_nobody_else_can_turn_us_away_unless_nobody_is_left() -> None:
    refusal = Decline(9, "come with the next")
    play(assembly(D), (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]), (1, sent(F, refusal), [WakeAt]))
    machine = assembly(A, (A, B, C))
    play(machine, (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]), (1, sent(B, refusal), [WakeAt]))
    assert next(iter(machine.handle(sent(C, refusal), 1))) == Finish(declined(by=C))


def test_a_refusal_after_our_vote_changes_nothing() -> None:
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (1, sent(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D)]),
        (1, sent(B, Decline(9, "no")), []),
    )
