"""Plays of the spares: which one takes a part over, when, and what becomes of two results.

Then kills in every phase of whole rounds.

A and B are the spares of D's part; A comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from averaging.messages import Ballot, Commit, Holdings, Receipt, Takeover
from averaging.reduce import CheckPart, CheckResult, DecodeResults, EncodeParts, ReducePart, digest
from averaging.whole_update import CheckUpdate, CombineUpdates, EncodeUpdate
from swarm.errors import Busy, Refused
from swarm.identity import PeerId
from swarm.machine import Command, Compute, Delivered, Send, Ship, Unreached, Woken
from swarm.manifest import Codec, Exchange
from tests.averaging.members import PLAIN, Play, Stage, applied_items, heard
from tests.averaging.test_any_order import CALM, account, check, check_sum
from tests.averaging.test_round import (
    AT,
    GROUP,
    HASHES,
    A,
    B,
    C,
    D,
    Seat,
    applied,
    ballots,
    commits,
    encoded,
    holdings,
    messages,
    part_of,
    publishes,
    result,
)

OTHERS = {A: (B, C, D), B: (A, C, D), C: (A, B, D)}


def before_d_publishes(me: PeerId = A) -> Seat:
    """``me`` has everything except the result of D's part."""
    seat = Seat(me)
    others = [member for member in GROUP.members if member != me]
    seat.tell(*commits(*others), *(part_of(member, me) for member in others))
    seat.tell(*(event for member in others if member != D for event in publishes(member)))
    return seat


def test_the_first_spare_asks_for_the_part_of_an_owner_that_is_gone_reduces_and_publishes() -> None:
    seat = before_d_publishes()
    assert seat.tell(Unreached(D)) == [Send(OTHERS[A], Takeover(3), GROUP.id)]
    assert seat.tell(part_of(B, D)) == []
    told = seat.tell(part_of(C, D))
    taken = result(D, A, B, C)
    assert told[0] == Send(OTHERS[A], Receipt(3, digest(taken)), GROUP.id)
    assert told[1:4] == [Ship(member, "result.3", taken) for member in OTHERS[A]]
    hashes = (*HASHES[:3], digest(taken))
    assert messages(told, Holdings) == [Holdings(hashes)]
    end = applied(seat.tell(*holdings(hashes, B, C), *ballots(hashes, B, C)))
    assert applied_items(end) == end.included == (True,) * 4


def test_a_member_sends_its_part_to_the_spare_when_it_has_lost_the_owner_itself() -> None:
    seat = before_d_publishes(C)
    assert seat.tell(Unreached(D)) == [Ship(A, "part.3.2", encoded(C)[3].payload)]
    assert seat.tell(Unreached(A)) == [Ship(B, "part.3.2", encoded(C)[3].payload)]
    assert seat.tell(heard(A, Takeover(3))) == []


def test_a_member_sends_its_part_when_the_spare_asks_and_waits_for_it() -> None:
    seat = before_d_publishes(C)
    taken = result(D, A, B, C)
    assert seat.tell(heard(A, Takeover(3))) == [Ship(A, "part.3.2", encoded(C)[3].payload)]
    assert seat.tell(heard(A, Takeover(3)), Unreached(D)) == []
    (said,) = seat.tell(heard(A, Receipt(3, digest(taken))), Delivered(A, "result.3", taken))
    assert messages([said], Holdings) == [Holdings((*HASHES[:3], digest(taken)))]


def test_a_silent_owner_is_out_when_its_time_has_passed() -> None:
    assert messages(before_d_publishes().tell(Woken(), now=AT.takeover), Takeover) == [Takeover(3)]
    assert before_d_publishes(C).tell(Woken(), now=AT.takeover) == [
        Ship(A, "part.3.2", encoded(C)[3].payload)
    ]
    signed = before_d_publishes(C)
    signed.tell(heard(D, Receipt(3, HASHES[3])))
    assert signed.tell(Woken(), now=AT.takeover) == [], "its result is on the way"


def test_a_spare_does_not_wait_for_ever_nor_for_a_member_that_says_it_holds_nothing() -> None:
    seat = before_d_publishes()
    seat.tell(Unreached(D), part_of(B, D))
    assert messages(seat.tell(heard(C, Holdings((*HASHES[:3], b"")))), Receipt) == [
        Receipt(3, digest(result(D, A, B)))
    ]
    seat = before_d_publishes()
    seat.tell(Unreached(D), part_of(B, D))
    assert messages(seat.tell(Woken(), now=AT.takeover), Receipt) == []
    assert messages(seat.tell(Woken(), now=AT.spares), Receipt) == [Receipt(3, digest(result(D, A, B)))]


def test_an_owner_that_is_heard_again_is_the_owner_again() -> None:
    seat = before_d_publishes()
    seat.tell(Unreached(D), part_of(B, D))
    told = seat.tell(*publishes(D), part_of(C, D))
    assert messages(told, Holdings) == [Holdings(HASHES)]
    copies = [Ship(member, "result.3", result(D)) for member in (B, C)]
    assert [command for command in told if isinstance(command, Ship)] == copies
    assert messages(told, Receipt) == [Receipt(3, HASHES[3])]


def test_a_member_that_has_the_result_answers_with_a_copy_and_the_spare_passes_it_on() -> None:
    holder = before_d_publishes(C)
    holder.tell(*publishes(D))
    copy = f"copy.3.{HASHES[3].hex()}"
    assert holder.tell(heard(A, Takeover(3))) == [Ship(A, copy, result(D))]

    spare = before_d_publishes()
    receipt, _ = publishes(D)
    spare.tell(receipt, Unreached(D), part_of(B, D))
    told = spare.tell(Delivered(C, copy, result(D)))
    assert Ship(B, "result.3", result(D)) in told
    assert messages(told, Holdings) == [Holdings(HASHES)]


def test_a_spare_waits_for_copies_that_it_can_check_before_it_reduces() -> None:
    spare = before_d_publishes()
    receipt, _ = publishes(D)
    spare.tell(receipt, Unreached(D), part_of(B, D))
    assert spare.tell(*holdings(HASHES, C)) == []
    assert messages(spare.tell(Woken(), now=AT.spares), Receipt) == [Receipt(3, digest(result(D, A, B)))]


def test_a_result_whose_maker_crashed_before_its_receipt_came_is_checked_by_what_others_hold() -> None:
    spare = before_d_publishes()
    _, delivered = publishes(D)
    assert messages(spare.tell(delivered, *holdings(HASHES, C)), Holdings) == [], "its receipt may come"
    told = spare.tell(Unreached(D), part_of(B, D))
    assert Ship(B, "result.3", result(D)) in told
    assert messages(told, Holdings) == [Holdings(HASHES)]


def test_of_two_results_all_members_that_hold_both_name_the_owners() -> None:
    seat = before_d_publishes(B)
    taken = result(D, A, B, C)
    early = Seat(B)
    early.tell(*commits(A, C, D), *(part_of(member, B) for member in (A, C, D)), *publishes(A))
    early.tell(heard(A, Receipt(3, digest(taken))), Delivered(A, "result.3", taken), *publishes(D))
    assert messages(early.tell(*publishes(C)), Holdings) == [Holdings(HASHES)]
    told = seat.tell(heard(A, Receipt(3, digest(taken))), Delivered(A, "result.3", taken))
    assert messages(told, Holdings) == [Holdings((*HASHES[:3], digest(taken)))]


def test_nobody_waits_for_a_spare_once_the_others_hold_what_will_be_applied() -> None:
    seat = before_d_publishes()
    assert messages(seat.tell(*holdings(HASHES, B, D), Unreached(D)), Holdings) == []
    assert messages(seat.tell(*holdings(HASHES, C)), Holdings) == [Holdings((*HASHES[:3], b""))]


def test_an_item_that_has_no_place_is_refused_and_a_copy_waits_for_its_receipt() -> None:
    machine = before_d_publishes().machine
    size = len(encoded(B)[0].payload)
    assert machine.expect(B, "part.0.2") == machine.expect(B, "part.3.2") == size
    assert machine.expect(B, "part.0.3") < size, "int4 is smaller"
    assert machine.expect(D, "result.3") == machine.expect(A, "result.3") == len(result(D))
    stranger = PeerId("stranger")
    wrong = [
        (B, "part.1.2"),
        (B, "part.0.0"),
        (B, "part.9.2"),
        (C, "result.3"),
        (stranger, "part.0.2"),
        (B, "copy.0.x"),
    ]
    for sender, item in wrong:
        with pytest.raises(Refused):
            machine.expect(sender, item)
    with pytest.raises(Busy):
        machine.expect(B, f"copy.3.{HASHES[3].hex()}")
    machine.handle(heard(D, Receipt(3, HASHES[3])), 0.5)
    list(machine.handle(heard(D, Receipt(3, HASHES[3])), 0.5))
    assert machine.expect(B, f"copy.3.{HASHES[3].hex()}") == len(result(D))


# --- kills --------------------------------------------------------------------------------------------------


Phase = Callable[[Command], bool]


def job(form: Any) -> Phase:
    return lambda command: isinstance(command, Compute) and isinstance(command.job, form)


def message(form: Any) -> Phase:
    return lambda command: isinstance(command, Send) and isinstance(command.message, form)


def ship(kind: str) -> Phase:
    return lambda command: isinstance(command, Ship) and command.item.startswith(kind)


PHASES = {
    "encode": job(EncodeParts | EncodeUpdate),
    "commit": message(Commit),
    "exchange": lambda command: ship("part")(command) or ship("update")(command),
    "check": job(CheckPart | CheckUpdate),
    "reduce": job(ReducePart),
    "receipt": message(Receipt),
    "publish": ship("result"),
    "check result": job(CheckResult),
    "holdings": message(Holdings),
    "ballot": message(Ballot),
    "apply": job(DecodeResults | CombineUpdates),
}


def dies(victims: tuple[int, ...], phase: str) -> Play:
    """The owners of these parts die just before they first do what the phase is about."""

    def kill(stage: Stage, member: PeerId, command: Command) -> bool:
        owners = [part.owner for part in stage.parts]
        return member in {owners[seat] for seat in victims if seat < len(owners)} and PHASES[phase](command)

    return replace(PLAIN, kill=kill)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("victims", [(0,), (0, 1), (2, 5)], ids=["owner", "owner and spare", "two owners"])
def test_a_killed_owner_costs_no_part_of_the_average(victims: tuple[int, ...], phase: str) -> None:
    """Every part is applied with all survivors in it, well before the deadlines."""
    whole = 0
    rounds = 0
    for seed in range(12):
        stage = Stage(seed, 7, CALM, dies(victims, phase)).act()
        averaged = check(stage)
        assert len(averaged) == 7 - len(victims)
        for member in averaged:
            account(stage, member, PLAIN)
            assert member.ended_at < member.fetched / 2
        check_sum(stage, averaged)
        rounds += 1
        whole += all(
            all(applied_items(member.applied)) and all(member.applied.included) for member in averaged
        )
    assert whole == rounds


@pytest.mark.parametrize("phase", ["encode", "commit", "exchange", "holdings", "ballot", "apply"])
def test_a_killed_sender_that_owns_nothing_costs_its_own_update_at_most(phase: str) -> None:
    def kill(stage: Stage, member: PeerId, command: Command) -> bool:
        seats = {peer for part in stage.parts for peer in stage.chain(part)}
        return member == next(peer for peer in stage.group.members if peer not in seats) and PHASES[phase](
            command
        )

    for seed in range(12):
        stage = Stage(seed, 7, CALM, replace(PLAIN, owners=3, kill=kill)).act()
        averaged = check(stage)
        assert len(averaged) == 6
        for member in averaged:
            account(stage, member, PLAIN)
            assert all(applied_items(member.applied))
            assert all(member.applied.included)
            assert member.ended_at < member.fetched / 2
        check_sum(stage, averaged)


@pytest.mark.parametrize("phase", ["encode", "commit", "exchange", "check", "holdings", "ballot", "apply"])
def test_in_a_gather_a_killed_member_costs_its_own_update_at_most(phase: str) -> None:
    for seed in range(12):
        play = replace(dies((0,), phase), codec=Codec.SPARSE256, exchange=Exchange.GATHER)
        stage = Stage(seed, 7, CALM, play).act()
        averaged = check(stage)
        assert len(averaged) == 6
        for member in averaged:
            account(stage, member, play)
            assert all(member.applied.included)
            assert set(member.applied.missing) <= {stage.parts[0].owner}
            assert member.ended_at < member.fetched / 2
        check_sum(stage, averaged)
