"""Plays of every rule of a round, as one member of four sees it. Its arithmetic is real, and done at once."""

# Axes: P parameters of the whole model, N numbers of one part

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import msgspec
import pytest
import torch

from averaging.codecs import codec_of
from averaging.messages import Ballot, Commit, Holdings, Receipt, bits
from averaging.outcome import NoDecision, Undecided, Void
from averaging.partition import plan
from averaging.reduce import CheckPart, EncodedPart, EncodeParts, ReducePart, digest, weighted_sum
from averaging.robust import Claim, coefficients
from averaging.round import Round
from averaging.round_plan import Applied, RoundPlan, Schedule
from swarm.identity import PeerId
from swarm.machine import (
    Command,
    Compute,
    Computed,
    Delivered,
    Event,
    Fetch,
    Finish,
    Report,
    Send,
    Ship,
    Unreached,
    WakeAt,
    Woken,
)
from swarm.manifest import Codec
from swarm.wire import Message, pack
from tests.averaging.members import ROOT, applied_items, group_of, heard, update_of

A, B, C, D = group_of(4).members
WEIGHTS = {A: 100, B: 200, C: 300, D: 100}
GROUP = group_of(4, WEIGHTS)
PARTS = plan(1024, GROUP.members)
"""Part i belongs to member i and has 256 numbers."""
AT = Schedule(
    commits=1.0, parts=2.0, takeover=2.2, spares=2.6, results=3.0, holdings=4.0, fetched=5.0, patience=10.0
)
PLAN = RoundPlan(group=GROUP, parts=PARTS, codec=Codec.INT8, schedule=AT)
VECTORS = {
    member: torch.randn(1024, generator=torch.Generator().manual_seed(seat))
    for seat, member in enumerate(GROUP.members)
}
NONE = b""


def encoded(member: PeerId) -> tuple[EncodedPart, ...]:
    return EncodeParts(VECTORS[member], PARTS, Codec.INT8).run()


def commit(member: PeerId, **changes: object) -> Commit:
    parts = encoded(member)
    honest = Commit(
        hashes=tuple(part.hash for part in parts),
        norms=tuple(part.norm for part in parts),
        weight=WEIGHTS[member],
        seed=bytes(32),
        state_root=ROOT,
        codec=Codec.INT8,
    )
    return msgspec.structs.replace(honest, **changes)


def commits(*members: PeerId) -> list[Event]:
    return [heard(member, commit(member)) for member in members]


def part_of(member: PeerId, owner: PeerId = A) -> Delivered:
    index = GROUP.members.index(owner)
    return Delivered(member, f"part.{index}.2", encoded(member)[index].payload)


def result(owner: PeerId, *included: PeerId) -> bytes:
    """The result of the part of ``owner`` with the updates of ``included``, or of all members."""
    index = GROUP.members.index(owner)
    members = [member for member in GROUP.members if member in (included or GROUP.members)]
    codec = codec_of(Codec.INT8)
    decoded = (codec.decode(encoded(member)[index].payload, 256) for member in members)
    sum_N = weighted_sum(decoded, coefficients([claim(member, index) for member in members]))
    return header(members) + codec.encode(sum_N)


def header(included: list[PeerId]) -> bytes:
    """What stands in front of the numbers of a result of the updates of ``included``."""
    commits_ = b"".join(digest(pack(commit(member))) for member in included)
    return bits([member in included for member in GROUP.members]) + digest(commits_)


def claim(member: PeerId, index: int) -> Claim:
    """What ``member`` has committed to for part ``index``."""
    parts = encoded(member)
    whole = math.sqrt(math.fsum(part.norm**2 for part in parts))
    return Claim(float(WEIGHTS[member]), whole, parts[index].norm)


def publishes(owner: PeerId, payload: bytes = NONE) -> list[Event]:
    payload = payload or result(owner)
    index = GROUP.members.index(owner)
    return [heard(owner, Receipt(index, digest(payload))), Delivered(owner, f"result.{index}", payload)]


HASHES = tuple(digest(result(member)) for member in GROUP.members)
WITHOUT_D = (*HASHES[:3], NONE)


class Seat:
    """One member's machine.

    The jobs that it asks for are done at once; those of the ``slow`` kind wait in ``waiting``.
    """

    def __init__(self, me: PeerId = A, slow: type | None = None, machine: Round | None = None) -> None:
        self.machine = machine or Round(PLAN, me, update_of(VECTORS[me], WEIGHTS[me]))
        self.slow = slow
        self.waiting: list[Computed] = []
        self.wakes: list[float] = []
        self.began = self._through(self.machine.start(0.0), 0.0)

    def tell(self, *events: Event, now: float = 0.5) -> list[Command]:
        """The commands that follow from ``events``, without those for time and arithmetic."""
        return [
            command for event in events for command in self._through(self.machine.handle(event, now), now)
        ]

    def _through(self, commands: Iterable[Command], now: float) -> list[Command]:
        return list(self._act(commands, now))

    def _act(self, commands: Iterable[Command], now: float) -> Iterator[Command]:
        for command in list(commands):
            if isinstance(command, WakeAt):
                self.wakes.append(command.time)
            elif isinstance(command, Compute):
                done = Computed(command.job, command.job.run())
                if self.slow and isinstance(command.job, self.slow):
                    self.waiting.append(done)
                else:
                    yield from self._act(self.machine.handle(done, now), now)
            else:
                yield command


def messages(commands: list[Command], form: type[Message]) -> list[Message]:
    return [
        command.message
        for command in commands
        if isinstance(command, Send) and isinstance(command.message, form)
    ]


def applied(commands: list[Command]) -> Applied:
    """The end of a round with an average."""
    assert isinstance(commands[-1], Finish), commands
    assert isinstance(commands[-1].outcome, Applied)
    return commands[-1].outcome


def no_decision(commands: list[Command]) -> NoDecision:
    """The end of a round without an average."""
    assert isinstance(commands[-1], Finish), commands
    assert isinstance(commands[-1].outcome, NoDecision)
    return commands[-1].outcome


def after_exchange(*, without: tuple[PeerId, ...] = (), schedule: Schedule = AT) -> Seat:
    """A's machine when all results are here, except those of ``without``, and A has sent its holdings."""
    update = update_of(VECTORS[A], WEIGHTS[A])
    here = [member for member in (B, C, D) if member not in without]
    seat = Seat(machine=Round(replace(PLAN, schedule=schedule), A, update))
    seat.tell(*commits(B, C, D), *(part_of(member) for member in (B, C, D)))
    told = seat.tell(*(event for member in here for event in publishes(member)))
    told += seat.tell(Woken(), now=AT.results) if without else []
    assert messages(told, Holdings)
    return seat


def holdings(hashes: tuple[bytes, ...], *members: PeerId) -> list[Event]:
    return [heard(member, Holdings(hashes)) for member in members]


def ballots(hashes: tuple[bytes, ...], *members: PeerId) -> list[Event]:
    return [heard(member, Ballot(hashes)) for member in members]


# --- 1, 2: commit and exchange ------------------------------------------------------------------------------


def test_the_commit_comes_first_and_a_part_only_after_its_owners_commit() -> None:
    seat = Seat()
    assert seat.began == [Send((B, C, D), commit(A), GROUP.id)]
    assert seat.tell(*commits(C)) == [Ship(C, "part.2.2", encoded(A)[2].payload)]
    assert seat.tell(*commits(C)) == []
    assert seat.tell(*commits(B)) == [Ship(B, "part.1.2", encoded(A)[1].payload)]


def test_a_commit_to_another_model_is_no_commit() -> None:
    assert Seat().tell(heard(B, commit(B, state_root=bytes(32)))) == []


def test_messages_of_strangers_do_not_count() -> None:
    stranger = next(member for member in group_of(5).members if member not in GROUP.members)
    assert Seat().tell(heard(stranger, commit(B)), *commits()) == []


def test_a_part_that_comes_before_its_commit_is_kept_and_checked_after() -> None:
    seat = Seat()
    assert seat.tell(part_of(B), part_of(C), part_of(D)) == []
    assert messages(seat.tell(*commits(B, C, D)), Receipt) == [Receipt(0, HASHES[0])]


# --- 3: receipts --------------------------------------------------------------------------------------------


def test_an_owner_reduces_in_member_order_whatever_came_first() -> None:
    for order in ((B, C, D), (D, B, C)):
        seat = Seat()
        seat.tell(*commits(*order))
        told = seat.tell(*(part_of(member) for member in reversed(order)))
        assert told == [
            Send((B, C, D), Receipt(0, HASHES[0]), GROUP.id),
            *(Ship(member, "result.0", result(A)) for member in (B, C, D)),
        ]


def test_coefficients_come_from_the_commits_alone() -> None:
    seat = Seat(slow=ReducePart)
    seat.tell(*commits(B, C, D), part_of(B), part_of(C), part_of(D))
    (reduced,) = seat.waiting
    assert isinstance(reduced.job, ReducePart)
    claims = [claim(member, 0) for member in GROUP.members]
    assert tuple(share.coefficient for share in reduced.job.shares) == tuple(coefficients(claims))


def test_a_late_sender_is_left_out_when_the_time_for_parts_has_passed() -> None:
    seat = Seat()
    assert messages(seat.tell(*commits(B, C, D), part_of(B), part_of(C)), Receipt) == []
    assert seat.tell(Woken(), now=AT.commits) == []
    assert messages(seat.tell(Woken(), now=AT.parts), Receipt) == [Receipt(0, digest(result(A, A, B, C)))]
    assert messages(seat.tell(part_of(D), now=2.1), Receipt) == []


def test_a_member_that_has_not_committed_in_time_is_not_waited_for() -> None:
    seat = Seat()
    assert messages(seat.tell(*commits(B, C), part_of(B), part_of(C)), Receipt) == []
    assert messages(seat.tell(Woken(), now=AT.commits), Receipt) == [Receipt(0, digest(result(A, A, B, C)))]


def test_a_member_that_cannot_be_reached_is_not_waited_for_unless_it_is_heard_again() -> None:
    seat = Seat()
    seat.tell(*commits(B, C), part_of(B), part_of(C))
    assert messages(seat.tell(Unreached(D)), Receipt) == [Receipt(0, digest(result(A, A, B, C)))]
    seat = Seat()
    seat.tell(*commits(B), Unreached(C), Unreached(D), *commits(C, D))
    assert messages(seat.tell(part_of(B)), Receipt) == []


def test_a_job_that_has_begun_is_waited_for() -> None:
    seat = Seat(slow=CheckPart)
    assert messages(seat.tell(*commits(B), part_of(B), Unreached(C), Unreached(D)), Receipt) == []
    assert messages(seat.tell(seat.waiting[0]), Receipt)[0] == Receipt(0, digest(result(A, A, B)))


def nonsense() -> bytes:
    """A float16 NaN where a scale should be."""
    return b"\xff\x7f" + encoded(D)[0].payload[2:]


@pytest.mark.parametrize(
    ("said", "payload"),
    [
        (commit(D), encoded(C)[0].payload),
        (commit(D, norms=(9.0, *commit(D).norms[1:])), encoded(D)[0].payload),
        (commit(D, hashes=(digest(nonsense()), *commit(D).hashes[1:])), nonsense()),
    ],
    ids=["wrong hash", "wrong norm", "NaN"],
)
def test_a_liars_part_is_left_out_and_reported(said: Commit, payload: bytes) -> None:
    seat = Seat()
    seat.tell(*commits(B, C), part_of(B), part_of(C), heard(D, said))
    report, receipt, *_ = seat.tell(Delivered(D, "part.0.2", payload))
    assert isinstance(report, Report)
    assert (report.code, report.peer) == ("bad-part", D)
    assert isinstance(receipt, Send)
    assert receipt.message == Receipt(0, digest(result(A, A, B, C)))


def test_a_member_whose_part_was_refused_is_not_waited_for_though_it_is_heard_again() -> None:
    seat = Seat()
    seat.tell(*commits(B, C, D), part_of(B), Delivered(D, "part.0.2", nonsense()), *commits(D))
    told = seat.tell(part_of(C))
    assert messages(told, Receipt) == [Receipt(0, digest(result(A, A, B, C)))]


def test_two_owners_without_the_part_of_a_member_are_believed_that_it_was_late() -> None:
    seat = Seat()
    seat.tell(*commits(B, C, D), *(part_of(member) for member in (B, C, D)))
    seat.tell(*publishes(B, result(B, A, B, C)), now=AT.parts)
    assert D not in seat.machine.let_down, "one of them may lie"
    seat.tell(*publishes(C, result(C, A, B, C)), now=AT.parts)
    assert D in seat.machine.let_down
    assert seat.machine.let_down.isdisjoint({A, B, C})


def test_of_two_parts_of_one_sender_the_first_counts() -> None:
    seat = Seat()
    seat.tell(*commits(B, C, D), part_of(B), part_of(C), Delivered(B, "part.0.2", bytes(258)))
    assert messages(seat.tell(part_of(D)), Receipt) == [Receipt(0, HASHES[0])]


# --- 4: holdings and ballots --------------------------------------------------------------------------------


def test_holdings_are_sent_when_everything_that_can_come_is_here() -> None:
    seat = Seat()
    seat.tell(*commits(B, C, D), part_of(B), part_of(C), part_of(D), *publishes(B), *publishes(C))
    receipt, payload = publishes(D)
    assert seat.tell(payload) == []
    assert seat.tell(receipt) == [Send((B, C, D), Holdings(HASHES), GROUP.id)]


def test_holdings_are_sent_without_the_items_whose_time_has_passed() -> None:
    seat = Seat()
    seat.tell(*commits(B, C, D), part_of(B), part_of(C), part_of(D), *publishes(B), *publishes(C))
    assert seat.tell(Woken(), now=AT.parts) == []
    assert messages(seat.tell(Woken(), now=AT.results), Holdings) == [Holdings(WITHOUT_D)]
    assert messages(seat.tell(*publishes(D), now=3.1), Holdings) == []


def test_of_two_receipts_of_one_owner_the_first_counts() -> None:
    seat = Seat()
    seat.tell(*commits(B, C, D), part_of(B), part_of(C), part_of(D), *publishes(B), *publishes(C))
    first = result(D)
    other = result(D, A, B)
    assert seat.tell(heard(D, Receipt(3, digest(first))), heard(D, Receipt(3, digest(other)))) == []
    report, *_ = seat.tell(Delivered(D, "result.3", other))
    assert isinstance(report, Report)
    assert (report.code, report.peer) == ("bad-result", D)


def too_long(owner: PeerId, *included: PeerId) -> bytes:
    """A result of the part of ``owner`` in which all numbers are as large as int8 can say."""
    members = [member for member in GROUP.members if member in (included or GROUP.members)]
    return header(members) + codec_of(Codec.INT8).encode(torch.full((256,), 127 * 65504.0))


@pytest.mark.parametrize("included", [GROUP.members, (D,), (B, D)], ids=["all", "itself", "two"])
def test_a_result_that_is_longer_than_the_commits_allow_is_not_held(included: tuple[PeerId, ...]) -> None:
    """Whoever it claims to include, and however long an update its owner has committed to."""
    seat = Seat()
    huge = commit(D, norms=(*commit(D).norms[:3], 1e30))
    seat.tell(*commits(B, C), heard(D, huge), part_of(B), part_of(C), part_of(D))
    seat.tell(*publishes(B), *publishes(C))
    report, *told = seat.tell(*publishes(D, too_long(D, *included)))
    assert isinstance(report, Report)
    assert (report.code, report.peer) == ("bad-result", D)
    told += seat.tell(Woken(), now=AT.results)
    (said,) = messages(told, Holdings)
    assert isinstance(said, Holdings)
    assert digest(too_long(D, *included)) not in said.hashes


def test_a_result_that_includes_nobody_is_not_held() -> None:
    seat = Seat()
    seat.tell(*commits(B, C, D), part_of(B), part_of(C), part_of(D), *publishes(B), *publishes(C))
    report, *_ = seat.tell(*publishes(D, bytes(PLAN.header_bytes) + result(D)[PLAN.header_bytes :]))
    assert isinstance(report, Report)
    assert (report.code, report.peer) == ("bad-result", D)


def test_a_result_by_another_commit_than_ours_is_held_all_the_same() -> None:
    """A member that commits to different things costs nobody a result, and the owner no trust."""
    seat = Seat()
    seat.tell(*commits(B, D), heard(C, commit(C, seed=bytes([1]) * 32)))
    told = seat.tell(*(part_of(member) for member in (B, C, D)), *publishes(B), *publishes(C), *publishes(D))
    assert not [command for command in told if isinstance(command, Report)]
    (said,) = messages(told, Holdings)
    assert isinstance(said, Holdings)
    assert said.hashes[1:] == HASHES[1:]


def test_a_result_waits_until_more_than_half_of_the_members_have_committed() -> None:
    seat = Seat()
    seat.tell(*commits(B), *publishes(B), *publishes(D))
    assert not seat.machine._state.held
    seat.tell(*commits(C))
    assert set(seat.machine._state.held) == {1, 3}


def test_what_more_than_two_thirds_have_decided_is_fetched_and_not_judged_again() -> None:
    """All that hold it have judged it, by commits that may be others than ours."""
    seat = Seat()
    seat.tell(*commits(B, C, D), part_of(B), part_of(C), part_of(D), *publishes(B), *publishes(C))
    seat.tell(*publishes(D, too_long(D)), now=AT.results)
    hashes = (*HASHES[:3], digest(too_long(D)))
    told = seat.tell(*holdings(hashes, B, C, D), *ballots(hashes, B, C, D), now=3.1)
    fetch = next(command for command in told if isinstance(command, Fetch))
    end = applied(seat.tell(Delivered(fetch.source, fetch.item, too_long(D)), now=3.2))
    assert applied_items(end) == (True,) * 4


def test_a_ballot_is_cast_as_soon_as_nothing_can_change_it() -> None:
    seat = after_exchange()
    assert seat.tell(*holdings(HASHES, B)) == []
    assert seat.tell(*holdings(HASHES, C)) == [Send((B, C, D), Ballot(HASHES), GROUP.id)]


def test_a_ballot_waits_while_a_message_may_still_change_it_but_not_for_ever() -> None:
    seat = after_exchange()
    assert seat.tell(*holdings(WITHOUT_D, B), *holdings(HASHES, C)) == []
    assert messages(seat.tell(Woken(), now=AT.holdings), Ballot) == [Ballot(WITHOUT_D)]


def test_an_item_that_fewer_than_two_thirds_hold_is_not_applied() -> None:
    seat = after_exchange()
    assert messages(seat.tell(*holdings(WITHOUT_D, B, C)), Ballot) == [Ballot(WITHOUT_D)]
    end = applied(seat.tell(*ballots(WITHOUT_D, B, C)))
    assert applied_items(end) == (True, True, True, False)
    assert end.included == (True, True, True, False)
    assert not end.average_P[768:].any()
    assert end.average_P[:768].any()


def test_a_member_that_sees_the_decision_before_it_has_voted_votes_with_it() -> None:
    seat = after_exchange()
    told = seat.tell(*ballots(HASHES, B, C, D))
    assert told[0] == Send((B, C, D), Ballot(HASHES), GROUP.id)
    assert applied_items(applied(told)) == (True,) * 4


# --- 5: apply -----------------------------------------------------------------------------------------------


def test_the_average_is_that_of_the_decided_results() -> None:
    seat = after_exchange()
    end = applied(seat.tell(*holdings(HASHES, B, C, D), *ballots(HASHES, B, C)))
    codec = codec_of(Codec.INT8)
    numbers = [result(member)[PLAN.header_bytes :] for member in GROUP.members]
    whole_P = torch.cat([codec.decode(payload, 256) for payload in numbers])
    assert torch.equal(end.average_P, whole_P)
    assert [bytes(item) for item in end.items] == [result(member) for member in GROUP.members]
    assert end.encoded == tuple(part.payload for part in encoded(A))
    assert (end.missing, end.tokens) == ((), 600)


def test_the_members_that_a_result_includes_are_read_from_the_result_itself() -> None:
    seat = after_exchange(without=(D,))
    without_us = result(D, B, C)
    hashes = (*HASHES[:3], digest(without_us))
    (fetch,) = seat.tell(*holdings(hashes, B, C, D), *ballots(hashes, B, C, D), now=3.1)[1:]
    assert isinstance(fetch, Fetch)
    end = applied(seat.tell(Delivered(fetch.source, fetch.item, without_us), now=3.2))
    assert applied_items(end) == (True,) * 4
    assert end.included == (True, True, True, False)


def test_a_missing_item_is_fetched_from_one_holder_after_the_other() -> None:
    seat = after_exchange(without=(D,))
    item = f"item.3.{HASHES[3].hex()}"
    told = seat.tell(*holdings(HASHES, B, C, D), *ballots(HASHES, B, C, D), now=3.1)
    assert told == [Send((B, C, D), Ballot(HASHES), GROUP.id), Fetch(B, item, len(result(D)))]
    assert seat.tell(Unreached(B, item), now=3.2) == [Fetch(C, item, len(result(D)))]
    report, again = seat.tell(Delivered(C, item, result(D, A)), now=3.3)
    assert isinstance(report, Report)
    assert (report.code, report.peer) == ("bad-result", C)
    assert again == Fetch(D, item, len(result(D)))
    assert applied_items(applied(seat.tell(Delivered(D, item, result(D)), now=3.4))) == (True,) * 4


def test_nothing_is_fetched_while_the_owners_own_copy_may_be_on_its_way() -> None:
    seat = Seat()
    seat.tell(*commits(B, C, D), part_of(B), part_of(C), part_of(D), *publishes(B), *publishes(C))
    assert messages(seat.tell(*holdings(HASHES, B, C, D), *ballots(HASHES, B, C, D)), Ballot) == [
        Ballot(HASHES)
    ]
    assert seat.wakes[-1] == AT.results
    assert applied_items(applied(seat.tell(*publishes(D)))) == (True,) * 4


def test_an_item_that_its_owner_never_sends_is_fetched_after_some_patience() -> None:
    """The owner may be a liar that sends it to all others."""
    impatient = replace(PLAN, schedule=replace(AT, patience=0.4))
    seat = Seat(machine=Round(impatient, A, update_of(VECTORS[A], WEIGHTS[A])))
    seat.tell(*commits(B, C, D), part_of(B), part_of(C), part_of(D), *publishes(B), *publishes(C))
    told = seat.tell(*holdings(HASHES, B, C, D), *ballots(HASHES, B, C, D), now=0.6)
    assert not [command for command in told if isinstance(command, Fetch)]
    due = seat.wakes[-1]
    assert due < AT.results
    (fetch,) = [command for command in seat.tell(Woken(), now=due) if isinstance(command, Fetch)]
    assert fetch == Fetch(B, f"item.3.{HASHES[3].hex()}", len(result(D)))


def test_an_item_that_cannot_be_fetched_in_time_ends_the_round_for_us() -> None:
    seat = after_exchange(without=(D,))
    seat.tell(*holdings(HASHES, B, C, D), *ballots(HASHES, B, C, D), now=3.1)
    assert seat.wakes[-1] == AT.fetched
    end = no_decision(seat.tell(Woken(), now=AT.fetched))
    reason = "an item that the others have applied could not be fetched in time"
    assert end == Undecided(reason, GROUP, missing=())


def test_an_item_that_no_holder_gives_ends_the_round_for_us_long_before_its_time_is_over() -> None:
    """The others go on with it: their state has it."""
    at = replace(AT, patience=0.5)
    seat = after_exchange(without=(D,), schedule=at)
    item = f"item.3.{HASHES[3].hex()}"
    seat.tell(*holdings(HASHES, B, C, D), *ballots(HASHES, B, C, D), now=3.1)
    for holder, now in ((B, 3.2), (C, 3.3)):
        seat.tell(Unreached(holder, item), now=now)
        assert seat.wakes[-1] == at.fetched
    assert seat.tell(Unreached(D, item), now=3.4) == []
    assert seat.wakes[-1] == 3.9
    assert isinstance(no_decision(seat.tell(Woken(), now=3.9)), Undecided)


def test_split_ballots_end_the_round_as_soon_as_they_cannot_decide_any_more() -> None:
    seat = after_exchange()
    seat.tell(*holdings(HASHES, B, C, D))
    assert seat.tell(*ballots(WITHOUT_D, B)) == []
    end = no_decision(seat.tell(*ballots((NONE,) * 4, C)))
    assert end == Void("1 of 4 members agree on the round, 3 are needed", GROUP, missing=())


def test_of_two_ballots_of_one_member_the_first_counts() -> None:
    seat = after_exchange()
    seat.tell(*holdings(HASHES, B, C, D))
    assert seat.tell(*ballots(HASHES, B), *ballots(HASHES, B), *ballots(WITHOUT_D, B)) == []
    assert applied_items(applied(seat.tell(*ballots(HASHES, C)))) == (True,) * 4


def test_a_member_that_is_outvoted_applies_the_decision_and_says_that_its_ballot_is_another() -> None:
    """Its time for holdings was over before it had heard the others'."""
    seat = after_exchange()
    seat.tell(*holdings(HASHES, B))
    (cast,) = messages(seat.tell(Woken(), now=AT.holdings), Ballot)
    assert cast == Ballot((NONE,) * 4)
    outvoted = applied(seat.tell(*ballots(HASHES, B, C, D), now=4.1))
    assert outvoted.decision == HASHES
    assert not outvoted.is_our_vote
    assert {signed.signer for signed in outvoted.ballots} == {B, C, D}

    seat = after_exchange()
    assert applied(seat.tell(*holdings(HASHES, B, C, D), *ballots(HASHES, B, C))).is_our_vote


# --- the end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers", [[], [*commits(B, C, D)], [*commits(B, C), part_of(B)], [*publishes(B), *holdings(HASHES, B)]]
)
def test_deadlines_always_end_it(answers: list[Event]) -> None:
    """The others send these messages and no more, and nobody is reported as unreachable."""
    seat = Seat()
    told = seat.tell(*answers)
    for _ in range(8):
        if told and isinstance(told[-1], Finish):
            break
        told = seat.tell(Woken(), now=seat.wakes[-1])
    assert no_decision(told)
    assert seat.wakes[-1] <= AT.fetched


def test_a_round_whose_other_members_are_all_gone_ends_with_a_reason() -> None:
    seat = Seat()
    seat.tell(Unreached(B), Unreached(C), Unreached(D))
    end = no_decision(seat.tell(Woken(), now=AT.holdings) + seat.tell(Woken(), now=AT.fetched))
    reason = "1 of 4 members agree on the round, 3 are needed"
    assert end == Undecided(reason, GROUP, missing=(B, C, D)), "they may only be out of our reach"


LATER = 0.5 + AT.patience / 4


def test_a_round_with_too_few_members_left_is_given_up_once_the_others_were_asked_again() -> None:
    seat = Seat()
    seat.tell(Unreached(C), Unreached(D))
    again = Send((C, D), commit(A), GROUP.id)
    assert again not in seat.tell(Woken(), now=LATER - 0.1)
    assert LATER in seat.wakes
    assert again in seat.tell(Woken(), now=LATER)
    assert seat.tell(Unreached(C), now=LATER) == []
    end = no_decision(seat.tell(Unreached(D), now=LATER))
    reason = "0 of 4 members agree on the round, 3 are needed, and 2 cannot be reached"
    assert end == Void(reason, GROUP, missing=(B, C, D))


def test_a_member_that_is_heard_again_is_not_given_up() -> None:
    seat = Seat()
    seat.tell(Unreached(C), Unreached(D))
    seat.tell(Woken(), now=LATER)
    seat.tell(Unreached(C), *commits(C), now=LATER)
    assert not any(isinstance(command, Finish) for command in seat.tell(Unreached(D), now=LATER))
    assert seat.tell(Unreached(C), now=LATER) == [], "that is the first time since it was heard"


def test_the_ballots_of_dead_members_still_count() -> None:
    seat = after_exchange()
    told = seat.tell(*ballots(HASHES, C, D), Unreached(C), Unreached(D), now=3.1)
    assert applied_items(applied(told + seat.tell(*ballots(HASHES, B), now=3.1))) == (True,) * 4


def test_a_member_to_which_a_bulk_item_cannot_be_delivered_is_not_dead_for_that() -> None:
    seat = Seat()
    seat.tell(*commits(B, C, D), Unreached(C), Unreached(D))
    seat.tell(Woken(), now=LATER)
    again = seat.tell(Unreached(C, "part.2.2"), Unreached(D, "part.3.2"), now=LATER)
    assert not any(isinstance(command, Finish) for command in again)


def test_a_job_that_takes_longer_than_the_round_ends_it_at_once() -> None:
    seat = Seat(slow=EncodeParts)
    assert seat.tell(*commits(B, C, D), Woken(), now=AT.fetched) == []
    assert no_decision(seat.tell(seat.waiting[0], now=6.0))
