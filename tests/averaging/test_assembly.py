"""Plays of who averages together. The first of the order leads; A is in the order of leaders, not of ids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from averaging import groups
from averaging.assembly import YOUNG, Assembly, Call, LeftOut
from averaging.groups import Group
from averaging.messages import Decline, DeclineReason, Proposal, Ready, Vote
from swarm.identity import KeyPair, PeerId
from swarm.machine import Event, Finish, Received, Send, Unreached, WakeAt, Woken
from swarm.wire import Message, Signed, Stamp, open_frame, seal
from tests.playbook import play

RUN, ROOT, OTHER = bytes(32), bytes([7]) * 32, bytes([8]) * 32
ROUND, CLOSE, PATIENCE = 5, 10.0, 4.0
END = CLOSE + 2 * PATIENCE
KEYS = {key.peer_id: key for key in (KeyPair.from_seed(bytes([n]) * 32) for n in range(6))}
A, B, C, D, E, F = groups.leaders(RUN, ROUND, KEYS)
LATE = "the group of this round is formed; come with the next"


def said(
    who: PeerId, message: Message, *, group: bytes = bytes(16), round_: int = ROUND, seq: int = 1
) -> Received:
    return Received(
        open_frame(seal(KEYS[who], message, Stamp(RUN, round_, group, seq)), type(message), run=RUN)
    )


def ready(who: PeerId, root: bytes = ROOT, *, round_: int = ROUND) -> Signed[Ready]:
    return said(who, Ready(root), round_=round_).signed  # type: ignore[return-value]


def comes(who: PeerId, root: bytes = ROOT) -> Received:
    return Received(ready(who, root))


def proposed(*members: PeerId, unseated: int = 0) -> Proposal:
    return Proposal(tuple(ready(who).raw for who in sorted(members)), unseated)


def group(*members: PeerId, unseated: int = 0) -> Group:
    return groups.form(RUN, ROUND, members, ROOT, unseated=unseated)


def votes(who: PeerId, *members: PeerId) -> Received:
    return said(who, Vote(), group=group(*members).id)


def assembly(
    me: PeerId,
    expected: Sequence[PeerId] = (A, B, C, D),
    *,
    size: int = 16,
    root: bytes = ROOT,
    least: int = 1,
    first_look: float = math.inf,
) -> Assembly:
    call = assembly_call(me, expected, root=root)
    return Assembly(replace(call, group_size=size, least=least, first_look=first_look))


def assembly_call(me: PeerId, expected: Sequence[PeerId] = (A, B, C, D), *, root: bytes = ROOT) -> Call:
    times = {"close_at": CLOSE, "patience": PATIENCE, "first_look": math.inf}
    return Call(run=RUN, me=ready(me, root), expected=tuple(expected), group_size=16, **times)


def turned_away(why: str = "come with the next", *, by: PeerId) -> LeftOut:
    return LeftOut(why, 9, declined=True, by=by)


def others(me: PeerId, *members: PeerId) -> tuple[PeerId, ...]:
    return tuple(sorted(set(members) - {me}))


def vote_of(me: PeerId, *members: PeerId) -> Send:
    return Send(others(me, *members), Vote(), group(*members).id)


def standing(finish: object) -> Group:
    assert isinstance(finish, Finish)
    assert isinstance(finish.outcome, Group)
    return finish.outcome


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
    assert {vote.signer for vote in standing(finish).votes} == {B, C}


def test_a_follower_tells_the_leaders_only_and_votes_for_the_proposal_it_is_in() -> None:
    (finish,) = play(
        assembly(D),
        (0, None, [Send((A, B, C), Ready(ROOT)), WakeAt(0)]),
        (0, Woken(), [WakeAt(CLOSE)]),
        (1, said(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), WakeAt(CLOSE)]),
        (1, votes(A, A, B, C, D), [WakeAt(CLOSE)]),
        (1, votes(C, A, B, C, D), [Finish]),
    )
    assert standing(finish).id == group(A, B, C, D).id


def test_a_peer_without_others_is_a_group() -> None:
    (finish,) = play(assembly(A, ()), (0, None, [WakeAt(0)]), (0, Woken(), [Finish]))
    assert standing(finish).members == (A,)


def test_what_came_before_it_began_is_heard_before_anything_is_decided() -> None:
    """Else a leader that knows nobody would be its own group, with a newcomer's word in its hands."""
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
        (1, votes(A, A, B, C, D), [WakeAt]),
        (1, votes(B, A, B, C, D), [WakeAt]),
        (1, said(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), Finish]),
    )


# --- those who are not there --------------------------------------------------------------------------------


def test_nobody_waits_for_the_unreachable() -> None:
    play(
        assembly(A),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt(CLOSE)]),
        (0.1, Unreached(C), [WakeAt]),
        (1, comes(B), [WakeAt]),
        (1, comes(D), [Send(others(A, B, D), proposed(A, B, D)), vote_of(A, A, B, D), WakeAt(END)]),
    )


def test_who_came_and_is_gone_again_is_not_listed_unless_it_comes_back() -> None:
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


def test_the_leader_asks_after_the_missing_soon_and_then_ever_more_seldom_until_it_is_time() -> None:
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


def test_a_leader_that_dies_with_everybodys_word_is_found_out_by_its_deputy() -> None:
    play(
        assembly(B, (A, C), first_look=0.5),
        (0, None, [Send, WakeAt]),
        (0, comes(A), []),
        (0, comes(C), []),
        (0, Woken(), [WakeAt(0.5)]),
        (0.5, Woken(), [Send((A,), Ready(ROOT)), WakeAt(PATIENCE / 4)]),
        (0.6, Unreached(A), [Send((C,), proposed(B, C)), vote_of(B, B, C), WakeAt(END)]),
    )


def test_a_deputy_that_waits_for_somebody_asks_for_the_leader_as_well() -> None:
    """The leader may have died while both waited: then nobody would ask for anybody."""
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


def test_who_comes_unexpected_and_may_lead_hears_of_us() -> None:
    """A newcomer knows some of the others, and tells those of them that lead; one whom it does not know asks it."""
    play(
        assembly(D, (B, C)),
        (0, None, [Send((B, C), Ready(ROOT)), WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(A), [Send((A,), Ready(ROOT)), WakeAt]),
        (1, comes(A), [WakeAt]),
        (1, said(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), WakeAt]),
    )


def test_one_of_another_model_never_leads_however_it_is_drawn() -> None:
    play(
        assembly(D, (B, C)),
        (0, None, [Send((B, C), Ready(ROOT)), WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(A, OTHER), [WakeAt]),
        (1, said(B, proposed(B, C, D)), [vote_of(D, B, C, D), WakeAt]),
    )


def test_deputies_replace_a_silent_leader_in_their_order() -> None:
    for rank, me in enumerate([B, C], 1):
        machine = assembly(me, (A, B, C))
        play(machine, (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]))
        for who in {A, B, C} - {me}:
            play_on = list(machine.handle(comes(who), 1))
        assert play_on == [WakeAt(1 + rank * PATIENCE / 4)]
        now = 1 + rank * PATIENCE / 4
        assert next(iter(machine.handle(Woken(), now))) == Send(others(me, A, B, C), proposed(A, B, C))


def test_where_the_leader_is_gone_the_first_deputy_does_not_wait_and_the_next_in_the_order_hears_of_us() -> (
    None
):
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


def test_a_deputy_does_not_hurry_where_only_some_before_it_are_gone() -> None:
    """The one before it may not know: two proposals at once would split the votes."""
    play(
        assembly(C),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(B), [WakeAt]),
        (1, comes(D), [WakeAt]),
        (1, Unreached(A), [WakeAt(1 + 2 * PATIENCE / 4)]),
        (1 + PATIENCE / 4, Woken(), [WakeAt(1 + 2 * PATIENCE / 4)]),
        (1 + PATIENCE / 4, said(B, proposed(B, C, D)), [vote_of(C, B, C, D), WakeAt]),
    )


def test_who_is_not_among_the_first_never_proposes() -> None:
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
        assembly(D),
        (0, None, [Send, WakeAt]),
        (1, said(A, proposed(A, B, D)), [vote_of(D, A, B, D)]),
        (1, said(B, proposed(B, C, D)), [Send((B,), Vote(), group(A, B, D).id)]),
        (2, votes(B, B, C, D), []),
        (2, votes(C, B, C, D), []),
        (2, Woken(), [WakeAt]),
    )


@pytest.mark.parametrize(
    "word", [votes(C, C, D), said(C, Decline(ROUND, LATE)), Unreached(C)], ids=["voted", "over", "gone"]
)
def test_a_group_that_cannot_stand_any_more_is_not_waited_for(word: Event) -> None:
    (finish,) = play(
        assembly(B, (A, B, C)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, said(A, proposed(A, B, C)), [vote_of(B, A, B, C), WakeAt]),
        (1, Unreached(A), [WakeAt]),
        (2, word, [Finish]),
    )
    assert isinstance(finish, Finish)
    assert isinstance(finish.outcome, LeftOut)


def test_who_came_too_late_for_the_list_hears_it_from_all_whom_it_told() -> None:
    play(
        assembly(B, (A, B, C)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, said(A, proposed(A, B, C)), [vote_of(B, A, B, C), WakeAt]),
        (1, comes(D), [WakeAt]),
        (2, votes(A, A, B, C), [Send((D,), Decline(ROUND, LATE)), Finish]),
    )


def test_whoever_votes_twice_is_heard_once() -> None:
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, votes(A, B, C, D), [WakeAt]),
        (1, votes(A, A, B, C, D), [WakeAt]),
        (1, said(B, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), WakeAt]),
        (2, votes(B, A, B, C, D), [WakeAt]),
        (2, votes(C, A, B, C, D), [Finish]),
    )


def test_votes_of_strangers_and_for_another_group_do_not_count() -> None:
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, said(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), WakeAt]),
        (1, votes(E, A, B, C, D), [WakeAt]),
        (1, votes(F, A, B, C, D), [WakeAt]),
        (1, votes(B, B, C, D), [WakeAt]),
        (1, votes(A, A, B, C, D), [WakeAt]),
        (END, Woken(), [Finish(LeftOut("too few of the group answered", ROUND, signed=True))]),
    )


def test_where_the_votes_are_split_nobody_waits_for_the_end() -> None:
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, said(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), WakeAt]),
        (1, votes(B, B, C, D), [WakeAt]),
        (1, votes(C, B, C, D), [Finish(LeftOut("too few of the group answered", ROUND, signed=True))]),
    )


def forged() -> Proposal:
    """D's word with A's key under it."""
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
    play(machine, (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]), (1, said(A, proposal), [WakeAt]))
    assert next(iter(machine.handle(said(A, proposed(A, B, C, D)), 2))) == vote_of(D, A, B, C, D)


def test_who_comes_with_another_model_when_the_list_is_made_hears_only_that_we_do_not_come() -> None:
    """It may lead a camp of its own, and must not leave that on the word of ours."""
    play(
        assembly(A, (A, B)),
        (0, None, [Send((B,), Ready(ROOT)), WakeAt(0)]),
        (0, Woken(), [WakeAt(CLOSE)]),
        (1, comes(B), [Send((B,), proposed(A, B)), vote_of(A, A, B), WakeAt(END)]),
        (
            1,
            comes(C, OTHER),
            [Send((C,), Decline(ROUND, "we train from another model", DeclineReason.ABSENT)), WakeAt(END)],
        ),
    )


# --- those who are turned away ------------------------------------------------------------------------------


def test_the_group_knows_what_each_member_says_of_its_line() -> None:
    slow = said(B, Ready(ROOT, 250, False)).signed
    mine = Ready(ROOT, 9000)
    machine = Assembly(
        Call(
            run=RUN,
            me=said(A, mine).signed,  # type: ignore[arg-type]
            expected=(A, B),
            close_at=CLOSE,
            patience=PATIENCE,
            first_look=math.inf,
            group_size=16,
        )
    )
    lines = {A: groups.LinkClaim(9000), B: groups.LinkClaim(250, dialable=False)}
    formed = groups.form(RUN, ROUND, (A, B), ROOT, lines)
    proposal = Proposal(
        tuple(frame.raw for frame in sorted((said(A, mine).signed, slow), key=lambda frame: frame.signer))
    )
    (finish,) = play(
        machine,
        (0, None, [Send((B,), mine), WakeAt(0)]),
        (0, Woken(), [WakeAt(CLOSE)]),
        (1, Received(slow), [Send((B,), proposal), Send((B,), Vote(), formed.id), WakeAt(END)]),
        (2, said(B, Vote(), group=formed.id), [Finish]),
    )
    assert dict(zip(standing(finish).members, standing(finish).lines, strict=True)) == lines
    assert groups.owners(RUN, standing(finish), 16) == (A,)


def test_who_says_two_things_of_its_line_makes_two_groups_and_neither_stands_by_the_other_s_votes() -> None:
    other = said(A, Ready(ROOT, 77)).signed
    (finish,) = play(
        assembly(B),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, said(A, Proposal((other.raw, *(ready(who).raw for who in (B, C))))), [Send, WakeAt]),
        (2, votes(A, A, B, C), [WakeAt]),
        (2, votes(C, A, B, C), [Finish]),
    )
    assert isinstance(finish, Finish)
    assert isinstance(finish.outcome, LeftOut)


def test_who_comes_late_gets_a_reason() -> None:
    play(
        assembly(A, (A, B)),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(B), [Send, Send, WakeAt]),
        (2, comes(C), [Send((C,), Decline(ROUND, LATE)), WakeAt]),
    )


def test_who_has_another_model_gets_a_reason_also_where_it_leads() -> None:
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
    assert finish == Finish(LeftOut("our model differs from the majority's", ROUND, declined=True))


def test_where_more_come_than_there_are_seats_a_hash_draws_and_the_rest_are_told() -> None:
    machine = assembly(A, (A, B, C, D, E, F), size=4)
    play(machine, (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]))
    for who in (B, C, D, E):
        list(machine.handle(comes(who), 1))
    commands = list(machine.handle(comes(F), 1))
    seated = [said.signer for said in groups.seats(RUN, [ready(who) for who in KEYS], 4, A)]
    assert A in seated
    declined = [
        command.to
        for command in commands
        if isinstance(command, Send) and isinstance(command.message, Decline)
    ]
    assert declined == [(who,) for who in sorted(set(KEYS) - set(seated) - {A})]
    assert commands[0] == Send(others(A, *seated), proposed(*seated, unseated=2))


def test_a_refusal_counts_where_it_comes_from_one_that_we_follow() -> None:
    refusal = Decline(9, "come with the next")
    play(assembly(D), (0, None, [Send, WakeAt]), (1, said(C, refusal), [Finish(turned_away(by=C))]))
    play(assembly(B), (0, None, [Send, WakeAt]), (1, said(A, refusal), [Finish(turned_away(by=A))]))


def test_two_that_may_lead_are_believed_whomever_we_follow() -> None:
    """Who leads comes late itself: the others have long had a group under its deputies."""
    play(
        assembly(A),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, said(B, Decline(9, "come with the next")), [WakeAt]),
        (1, said(D, Decline(9, "come with the next")), [WakeAt]),
        (1, said(C, Decline(9, "come with the next")), [Finish(turned_away(by=C))]),
    )


def test_who_does_not_come_is_not_waited_for_and_turns_nobody_away() -> None:
    absent = Decline(ROUND, "still catching up", DeclineReason.ABSENT)
    play(
        assembly(E, (A, B, C, D, E)),
        (0, None, [Send((A, B, C), Ready(ROOT)), WakeAt(0)]),
        (0, Woken(), [WakeAt]),
        (1, said(A, absent), [Send((D,), Ready(ROOT)), WakeAt]),
        (1, said(B, absent), [WakeAt]),
    )
    machine = assembly(A, (A, B))
    play(machine, (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]))
    (finish,) = machine.handle(said(B, absent), 1)
    assert isinstance(finish, Finish)
    assert finish.outcome.members == (A,), "where nobody comes we are alone, not turned away"


def test_a_leader_that_comes_after_all_hears_again_who_is_ready() -> None:
    """What it was told while it was still catching up is lost to it: it would wait for everybody, and everybody for it."""
    absent, again = (
        said(A, Decline(ROUND, "still catching up", DeclineReason.ABSENT)),
        Send((A,), Ready(ROOT)),
    )
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


def test_who_was_absent_and_is_listed_all_the_same_has_come() -> None:
    """It was still catching up when we asked; its vote is waited for like everybody's."""
    absent = Decline(ROUND, "still catching up", DeclineReason.ABSENT)
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, said(B, absent), [WakeAt]),
        (1, Unreached(C), [WakeAt]),
        (2, said(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D), WakeAt]),
        (2, Unreached(C), [WakeAt]),
        (2, Unreached(B), [Finish(LeftOut("too few of the group answered", ROUND, signed=True))]),
    )


def test_who_has_voted_for_a_group_that_cannot_stand_joins_the_one_that_does() -> None:
    """Two that led at once: B's list has the vote of D alone, as A leads the others."""
    both = proposed(A, B, C, D)
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, said(B, proposed(B, D)), [vote_of(D, B, D), WakeAt]),
        (1, said(A, both), [Send((A,), Vote(), group(B, D).id), WakeAt]),
        (1, votes(A, A, B, C, D), [WakeAt]),
        (1, votes(C, A, B, C, D), [WakeAt]),
        (1, votes(B, A, B, C, D), [Finish]),
    )


def test_a_leader_to_whom_too_few_have_come_tells_them_and_nobody_goes_on() -> None:
    """A few who have lost sight of the others must not make a model of their own beside theirs."""
    why = "only 2 came, 3 are needed"
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
            [Send((B,), Decline(ROUND, why, DeclineReason.TOO_FEW)), Finish(LeftOut(why, ROUND))],
        ),
    )
    assert played
    follower = assembly(B, (A, B, C, D), least=3)
    left = LeftOut(why, ROUND, declined=False, by=A)
    play(
        follower,
        (0, None, [Send, WakeAt]),
        (3, said(A, Decline(ROUND, why, DeclineReason.TOO_FEW)), [Finish(left)]),
    )


def test_newcomers_to_whom_somebody_says_that_the_round_is_over_do_not_wait_for_more() -> None:
    """They have the model of a round that the others have left meanwhile; all of them hear it from the leader."""
    over = Decline(9, "round 5 is over, the run is at 9")
    played = play(
        assembly(A, (A, B, C, E), least=4),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, comes(B), [WakeAt]),
        (1, comes(C), [WakeAt]),
        (
            1,
            said(E, over),
            [
                Send(tuple(sorted((B, C))), over),
                Finish(turned_away("round 5 is over, the run is at 9", by=E)),
            ],
        ),
    )
    assert played


def test_newcomers_are_no_group_beside_those_who_go_on() -> None:
    """However many they are: of those who were in the last average more than half must be there."""
    fresh = [said(who, Ready(ROOT, is_participant=False)).signed for who in (B, C, D)]
    call = Call(
        run=RUN,
        me=fresh[2],
        expected=(B, C),
        close_at=CLOSE,
        patience=PATIENCE,
        first_look=math.inf,
        group_size=16,
        elders=1,  # type: ignore[arg-type]
    )
    proposal = Proposal(tuple(frame.raw for frame in sorted(fresh, key=lambda frame: frame.signer)))
    play(Assembly(call), (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]), (1, said(B, proposal), [WakeAt]))
    elder = ready(B)
    proposal = Proposal(
        tuple(frame.raw for frame in sorted((elder, *fresh[1:]), key=lambda frame: frame.signer))
    )
    play(
        Assembly(call),
        (0, None, [Send, WakeAt]),
        (0, Woken(), [WakeAt]),
        (1, said(B, proposal), [Send, WakeAt]),
    )


def test_nobody_votes_for_a_group_of_too_few_nor_for_a_crowd_that_nobody_sees() -> None:
    for proposal in (proposed(A, D), proposed(A, B, D, unseated=10_000)):
        play(assembly(D, least=3), (0, None, [Send, WakeAt]), (1, said(A, proposal), []))


@pytest.mark.parametrize(
    ("population", "around", "believed"),
    [(1, 1, 2 * YOUNG), (2 * YOUNG, 1, 4 * YOUNG), (1, 2 * YOUNG, 4 * YOUNG)],
    ids=["young", "a population of which we know few", "many who have just come"],
)
def test_a_crowd_is_believed_that_is_not_much_larger_than_what_we_know(
    population: int, around: int, believed: int
) -> None:
    call = replace(assembly_call(D), population=population, around=around)
    seated = [ready(who) for who in (A, D)]
    assert [call.fits(seated, unseated - 2) for unseated in (believed, believed + 1)] == [True, False]


def test_a_leader_names_no_more_than_whoever_has_the_model_believes() -> None:
    """However few of them it has heard of."""
    call, seated = replace(assembly_call(A), around=100_000), [ready(who) for who in (A, B)]
    assert [call.claimed(seated, unseated) for unseated in (0, 7, 100_000)] == [0, 7, 2 * YOUNG - 2]
    newcomer = assembly_call(D)
    assert newcomer.fits([ready(who) for who in (A, D)], call.claimed(seated, 100_000))


def test_nobody_else_can_turn_us_away_unless_nobody_is_left() -> None:
    refusal = Decline(9, "come with the next")
    play(assembly(D), (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]), (1, said(F, refusal), [WakeAt]))
    machine = assembly(A, (A, B, C))
    play(machine, (0, None, [Send, WakeAt]), (0, Woken(), [WakeAt]), (1, said(B, refusal), [WakeAt]))
    assert next(iter(machine.handle(said(C, refusal), 1))) == Finish(turned_away(by=C))


def test_a_refusal_after_our_vote_changes_nothing() -> None:
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (1, said(A, proposed(A, B, C, D)), [vote_of(D, A, B, C, D)]),
        (1, said(B, Decline(9, "no")), []),
    )


# --- the end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("me", [A, B, C, D, E])
def test_deadlines_always_end_it(me: PeerId) -> None:
    """Nobody ever answers, and nobody can be said to be gone."""
    machine, now = assembly(me, (A, B, C, D, E)), 0.0
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


def test_where_no_leader_proposes_that_is_the_reason() -> None:
    play(
        assembly(D),
        (0, None, [Send, WakeAt]),
        (END, Woken(), [Finish(LeftOut("no leader proposed a group", ROUND))]),
    )
