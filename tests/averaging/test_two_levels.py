"""One call in a large population: level-1 groups, representatives, and the level-2 group's record.

First from one peer's side, with groups that come to what the test says; then with twelve real averagers in
two level-1 groups.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from averaging.assembly import Assembled
from averaging.averager import NOT_HEARD, Averager
from averaging.certificate import Electorate, unpacked_group
from averaging.codecs import codec_of
from averaging.group_average import GroupResult
from averaging.hierarchy import Hierarchy
from averaging.messages import Decline, DeclineReason, Ready, bits
from averaging.outcome import (
    Alone,
    Decided,
    Declined,
    Followed,
    NoDecision,
    NoGroup,
    NotMerged,
    Outcome,
    TooFew,
    Unanswered,
    Undecided,
    Void,
)
from averaging.partition import plan, shaped
from averaging.record import (
    Judge,
    Record,
    RecordResidual,
    ReplayRecord,
    UpdateShape,
    VerifiedRecord,
)
from averaging.reliability import Reliability
from averaging.round_plan import Applied, RoundPlan, Schedule
from averaging.terms import GroupTerms
from averaging.update import Update
from swarm.hashing import digest
from swarm.identity import KeyPair, PeerId
from swarm.machine import Received
from swarm.manifest import Codec, Exchange
from swarm.simulation.network import SimulatedNetwork
from swarm.transport.post import Inbox
from swarm.wire import LEVEL_2, Stamp
from tests.averaging.averagers import (
    NUMBERS,
    ROOT,
    ROUND,
    Elsewhere,
    Peer,
    decided,
    drawn,
    manifest_with,
    stage,
    update_of,
)
from tests.averaging.test_record import record_of, shape_of
from tests.certificates import Company

MANIFEST = manifest_with(codec=Codec.FP32)
RUN = MANIFEST.run_id
KEYS = {key.peer_id: key for key in (KeyPair.from_seed(bytes([n, 3]) * 16) for n in range(80))}
PEERS = list(KEYS)
HIERARCHY = Hierarchy.of(RUN, 0, len(PEERS), MANIFEST.round.group_size)
MEMBERS = sorted(peer for peer in PEERS if HIERARCHY.group_index(peer) == HIERARCHY.group_index(PEERS[0]))
"""Of one level-1 group: ours."""
REPRESENTATIVE = HIERARCHY.representative(MEMBERS)
MEMBER = next(peer for peer in MEMBERS if peer != REPRESENTATIVE)
OTHERS = [peer for peer in HIERARCHY.representatives(PEERS) if peer != REPRESENTATIVE]
"""The representatives of the other level-1 groups."""
UPDATE_P = torch.full((4,), 5.0)
OURS_P = torch.full((4,), 2.0)
"""The average of our level-1 group."""
THEIRS_P = torch.full((4,), 3.0)
"""The average of the level-2 group."""
LEVEL1_COMPANY = Company(run=RUN, keys=[KEYS[peer] for peer in MEMBERS], tokens=100)
LEVEL1 = LEVEL1_COMPANY.seated.group


def level2_of(*members: PeerId) -> Company:
    """The representatives of level-1 groups of twenty peers each."""
    keys = [KEYS[peer] for peer in members]
    return Company(run=RUN, keys=keys, tokens=2000, peers=20, level1_groups=HIERARCHY.count)


LEVEL2_COMPANY = level2_of(REPRESENTATIVE, *OTHERS)
LEVEL2 = LEVEL2_COMPANY.seated.group
ITEM = bits([True] * len(LEVEL2.members)) + bytes(32) + bytes(codec_of(Codec.FP32).encode(THEIRS_P))
"""The result of the only part, with all members included."""
SHAPE = UpdateShape(spec=MANIFEST.round, tensors=(4,))
RECORD = LEVEL2_COMPANY.record(SHAPE, (ITEM,))
UNDECIDED = Undecided("too few ballots", LEVEL2, ())


def applied(average_P: Tensor, tokens: int, missing: tuple[PeerId, ...] = (), item: bytes = b"x") -> Applied:
    """The result of a round of one part, in which our own update was applied without loss."""
    payload = codec_of(Codec.FP32).encode(UPDATE_P)
    return Applied(
        average_P=average_P,
        included=(True,),
        encoded=(payload,),
        decoded=(UPDATE_P,),
        missing=missing,
        tokens=tokens,
        items=(item,),
    )


@dataclass(eq=False)
class Groups:
    """Takes the place of `GroupAverage`: groups come to what the test says. Keeps what it was asked for."""

    group: Assembled | NoGroup = field(
        default_factory=lambda: Assembled(LEVEL1, LEVEL1_COMPANY.group_certificate())
    )
    level2: Assembled | NoGroup = field(
        default_factory=lambda: Assembled(LEVEL2, LEVEL2_COMPANY.group_certificate())
    )
    result: Applied | NoDecision = field(default_factory=lambda: applied(OURS_P, 2000))
    level2_result: Applied | NoDecision = field(default_factory=lambda: applied(THEIRS_P, 8000, item=ITEM))
    terms: list[GroupTerms] = field(default_factory=list)
    brought: list[Update] = field(default_factory=list)
    """The updates of the level-2 groups."""
    seconds: float = 2.0
    reliability: Reliability = field(default_factory=Reliability)

    def recycle(self) -> None:
        """Nothing is used again."""

    async def begin(self, round_: int) -> bool:
        """This peer has signed nothing before."""
        return True

    async def assemble(
        self, update: Update, terms: GroupTerms, hierarchy: Hierarchy | None = None
    ) -> Assembled | NoGroup:
        """One of the two groups."""
        self.terms.append(terms)
        if hierarchy is None:
            return self.group
        assert hierarchy == HIERARCHY
        self.brought.append(update)
        return self.level2

    async def average(
        self,
        update: Update,
        assembled: Assembled,
        vector_P: Tensor,
        decoded_scratch_P: Tensor | None = None,
    ) -> GroupResult:
        """One of the two results."""
        group = assembled.group
        numbers = vector_P.numel()
        parts = shaped(plan(numbers, group.members[:1]), (numbers,))
        schedule = Schedule.within(0.0, ROUND.average_seconds)
        round_plan = RoundPlan(group=group, parts=parts, codec=Codec.FP32, schedule=schedule)
        is_level2 = assembled is self.level2
        result = self.level2_result if is_level2 else self.result
        company = LEVEL2_COMPANY if is_level2 else LEVEL1_COMPANY
        items = result.items if isinstance(result, Applied) else ()
        certificate = company.decision(tuple(digest(item) for item in items))
        return GroupResult(round_plan, result, self.seconds, certificate)


@dataclass(eq=False)
class Scene:
    """What one round of ours came to."""

    outcome: Outcome
    residual_P: Tensor
    elsewhere: Elsewhere
    groups: Groups
    level2_answers: list[Any]
    """What we have answered another peer that was ready for the level-2 group."""


def told(heard: Record | None = RECORD, shape: UpdateShape = SHAPE) -> Elsewhere:
    """What others have decided."""
    return Elsewhere(heard=heard, shape=shape)


def round_of(
    me: PeerId,
    groups_: Groups | None = None,
    elsewhere: Elsewhere | None = None,
    vector_P: Tensor = UPDATE_P,
) -> Scene:
    """One round of ``me`` in a population of 80."""
    groups_ = groups_ or Groups()
    elsewhere = elsewhere or told()
    found: list[Scene] = []
    stranger = next(peer for peer in OTHERS if peer != me)

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        ours, other = peers
        averager: Any = ours.averager
        averager._groups = groups_
        attendance = ours.attendance(
            near=(), present=[peer for peer in PEERS if peer != me], population=len(PEERS)
        )
        inbox = other.post.open((0, LEVEL_2))
        stamp = Stamp(RUN, 0, LEVEL_2)
        other.post.send((me,), Ready(ROOT, peers=20), stamp, deadline=60, failures=Inbox())
        outcome = await ours.averager.average(update_of(vector_P), attendance, elsewhere)
        await asyncio.sleep(1)
        events = [inbox.events.get_nowait() for _ in range(inbox.events.qsize())]
        answers = [event.signed.message for event in events if isinstance(event, Received)]
        found.append(Scene(outcome, ours.residual, elsewhere, groups_, answers))

    stage(scene, 2, MANIFEST, [KEYS[me], KEYS[stranger]])
    return found[0]


NO_REPRESENTATIVE = Decline(0, "we are no representative now", DeclineReason.ABSENT)


# --- the representative -------------------------------------------------------------------------------------


def test_the_representative_takes_the_average_of_its_group_to_the_level2_group() -> None:
    scene = round_of(REPRESENTATIVE)
    level1, level2 = scene.groups.terms
    assert set(level1.expected) == set(MEMBERS) - {REPRESENTATIVE}
    assert set(level2.expected) == set(OTHERS)
    (brought,) = scene.groups.brought
    assert brought.vector_P is OURS_P
    assert (brought.tokens, brought.link.peers, brought.codec) == (2000, len(MEMBERS), None)
    averaged = scene.outcome
    assert isinstance(averaged, Decided)
    assert torch.equal(averaged.average_P, THEIRS_P)
    assert (averaged.group, averaged.record, averaged.is_counted) == (LEVEL1, RECORD, True)
    assert (averaged.tokens, averaged.population, averaged.seconds) == (8000, 80, 2.0)
    assert not scene.residual_P.any()
    assert scene.elsewhere.asked == []
    assert scene.level2_answers == []


def test_what_the_level2_group_has_not_applied_of_our_average_is_carried_over() -> None:
    flags = [peer != REPRESENTATIVE for peer in LEVEL2.members]
    item = bytes(bits(flags)) + ITEM[4:]
    groups_ = Groups(level2_result=applied(THEIRS_P, 6000, missing=(REPRESENTATIVE,), item=item))
    scene = round_of(REPRESENTATIVE, groups_)
    assert isinstance(scene.outcome, Decided)
    assert torch.equal(scene.residual_P, OURS_P)


@pytest.mark.parametrize(
    "groups_",
    [
        Groups(level2=TooFew("only 1 came", 0)),
        Groups(level2=Unanswered("too few answered", 0)),
        Groups(level2=Declined("our model differs from the majority's", 0)),
        Groups(level2_result=UNDECIDED),
        Groups(level2_result=Void("too few are left", LEVEL2, ())),
    ],
    ids=["too few", "unanswered", "declined by nobody", "undecided", "void"],
)
def test_if_nothing_comes_of_the_level2_group_the_representative_carries_the_average_over(
    groups_: Groups,
) -> None:
    scene = round_of(REPRESENTATIVE, groups_)
    cause = groups_.level2_result if isinstance(groups_.level2, Assembled) else groups_.level2
    assert scene.outcome == NotMerged(cause)  # type: ignore[arg-type]
    assert torch.equal(scene.residual_P, OURS_P)


def test_a_representative_that_the_level2_group_turns_away_follows_it() -> None:
    turned_away = Declined("the group is formed", 0, OTHERS[1])
    scene = round_of(REPRESENTATIVE, Groups(level2=turned_away))
    followed = scene.outcome
    assert isinstance(followed, Followed)
    assert torch.equal(followed.average_P, THEIRS_P)
    assert (followed.record, followed.reason) == (RECORD, "the group is formed")
    assert [donors[0] for donors in scene.elsewhere.asked] == [OTHERS[1]]
    assert torch.equal(scene.residual_P, OURS_P), "no other group has applied our average"
    assert scene.elsewhere.announced == [], "leaders of a large population wait for nobody"


def test_a_representative_that_is_turned_away_and_hears_no_record_has_nothing_merged() -> None:
    turned_away = Declined("the group is formed", 0, OTHERS[1])
    scene = round_of(REPRESENTATIVE, Groups(level2=turned_away), told(None))
    assert scene.outcome == NotMerged(turned_away)
    assert torch.equal(scene.residual_P, OURS_P)


# --- the other members --------------------------------------------------------------------------------------


def test_a_member_takes_the_record_of_its_representative() -> None:
    scene = round_of(MEMBER)
    averaged = scene.outcome
    assert isinstance(averaged, Decided)
    assert torch.equal(averaged.average_P, THEIRS_P)
    assert (averaged.group, averaged.record, averaged.is_counted) == (LEVEL1, RECORD, True)
    assert (averaged.tokens, averaged.population) == (8000, 80)
    assert averaged.origin.members == LEVEL2.members, "it has decided about the run's state"
    assert averaged.seconds == pytest.approx(3.0, abs=0.1), "two in its group, one for the record"
    assert not scene.residual_P.any()
    assert scene.groups.brought == []
    assert scene.elsewhere.asked == [(REPRESENTATIVE, *sorted(OTHERS)[:2])]
    assert scene.elsewhere.roots == [ROOT]


def test_a_member_tells_peers_that_wait_for_it_in_the_level2_group_that_it_will_not_come() -> None:
    assert round_of(MEMBER).level2_answers == [NO_REPRESENTATIVE]


def test_a_member_waits_as_long_as_the_level2_group_may_take() -> None:
    scene = round_of(MEMBER)
    level1_closes = scene.groups.terms[0].close_at
    level2_closes = level1_closes + ROUND.assemble_seconds + ROUND.average_seconds
    assert scene.elsewhere.deadlines == [level2_closes + 2 * ROUND.assemble_seconds + ROUND.average_seconds]


@pytest.mark.parametrize("missing", [(), (REPRESENTATIVE,)])
def test_the_representative_of_a_group_is_a_member_of_which_something_was_applied(
    missing: tuple[PeerId, ...],
) -> None:
    scene = round_of(MEMBER, Groups(result=applied(OURS_P, 2000, missing)))
    first = HIERARCHY.representative([peer for peer in MEMBERS if peer not in missing])
    assert (first == REPRESENTATIVE) == (not missing)
    assert [donors[0] for donors in scene.elsewhere.asked] == ([] if first == MEMBER else [first])


@pytest.mark.parametrize("is_in_it", [True, False])
def test_a_group_whose_representative_was_not_in_the_level2_group_had_no_part_in_the_average(
    is_in_it: bool,
) -> None:
    """Else more peers would count as participants of the last average than there were."""
    company = level2_of(*[REPRESENTATIVE] * is_in_it, *OTHERS)
    item = bytes(bits([True] * len(company.keys))) + ITEM[4:]
    record = company.record(SHAPE, (item,))
    scene = round_of(MEMBER, elsewhere=told(record))
    averaged = scene.outcome
    assert isinstance(averaged, Decided)
    assert torch.equal(averaged.average_P, THEIRS_P)
    assert averaged.is_counted == is_in_it
    assert torch.equal(scene.residual_P, torch.zeros(4) if is_in_it else OURS_P)


@pytest.mark.parametrize(
    "heard",
    [
        None,
        Record(0, population=80),
        msgspec.structs.replace(RECORD, items=(ITEM, ITEM)),
        level2_of(*OTHERS[:2]).record(SHAPE, (bytes(bits([True, True])) + ITEM[4:],)),
        LEVEL1_COMPANY.record(SHAPE, (bytes(bits([True] * len(MEMBERS))) + ITEM[4:],)),
    ],
    ids=["not heard", "void", "other items", "too few level-1 groups", "of a level-1 group"],
)
def test_without_a_record_that_holds_all_members_carry_the_average_of_their_group_over(
    heard: Record | None,
) -> None:
    scene = round_of(MEMBER, elsewhere=told(heard))
    assert scene.outcome == NotMerged(Undecided(NOT_HEARD, LEVEL1, ()))
    assert torch.equal(scene.residual_P, OURS_P)


@pytest.mark.parametrize("exchange", list(Exchange))
def test_what_is_carried_over_of_the_level1_average_comes_on_top_of_the_residual(exchange: Exchange) -> None:
    """Our update was not applied in the level-1 group, and the level-2 codec lost some of its average."""
    ours_P = drawn(0)
    vector_P = drawn(6)
    shape = shape_of(exchange, Codec.INT8)
    manifest = manifest_with(exchange=exchange, codec=Codec.INT8)
    items = opened_items(exchange)
    record = LEVEL2_COMPANY.record(shape, items)
    result = replace(applied(ours_P, 2000), included=(False,), encoded=(b"",), decoded=(None,))

    merged = round_of(MEMBER, Groups(result=result), told(record, shape=shape), vector_P)
    assert manifest.round.exchange is exchange
    assert isinstance(merged.outcome, Decided)
    assert torch.equal(merged.outcome.average_P, ReplayRecord(record, shape).run())
    left_P = RecordResidual(record, shape, ours_P, REPRESENTATIVE).run()
    assert 0 < left_P.norm() < 0.02 * ours_P.norm()
    assert torch.equal(merged.residual_P, vector_P + left_P)

    broken = msgspec.structs.replace(record, items=record.items[1:])
    failed = round_of(MEMBER, Groups(result=result), told(broken, shape=shape), vector_P)
    assert isinstance(failed.outcome, NotMerged)
    assert torch.equal(failed.residual_P, vector_P + ours_P)


def opened_items(exchange: Exchange) -> tuple[bytes, ...]:
    """The items of a round of four members, as the members of the level-2 group would have decided them."""
    return tuple(bytes(item) for item in record_of(exchange, Codec.INT8).items)


# --- no level-1 average -------------------------------------------------------------------------------------


@pytest.mark.parametrize("me", [REPRESENTATIVE, MEMBER])
def test_a_level1_group_that_applied_nothing_has_no_representative(me: PeerId) -> None:
    nothing = applied(OURS_P, 0, missing=LEVEL1.members)
    scene = round_of(me, Groups(result=nothing))
    assert isinstance(scene.outcome, NotMerged)
    assert scene.outcome.reason == "nothing was applied in our level-1 group"
    assert (scene.groups.brought, scene.elsewhere.asked) == ([], [])
    assert scene.level2_answers == [NO_REPRESENTATIVE]


def alone(me: PeerId) -> Assembled:
    company = Company(run=RUN, keys=[KEYS[me]])
    return Assembled(company.seated.group, company.group_certificate())


@pytest.mark.parametrize("me", [REPRESENTATIVE, MEMBER])
def test_a_peer_without_a_level1_average_is_in_no_level2_group(me: PeerId) -> None:
    undecided = Undecided("too few ballots", LEVEL1, ())
    for groups_, outcome in [
        (Groups(group=TooFew("only 3 came", 0)), TooFew("only 3 came", 0)),
        (Groups(group=Unanswered("too few", 0)), Unanswered("too few", 0)),
        (Groups(result=undecided), replace(undecided, seconds=2.0)),
        (
            Groups(group=alone(me)),
            Alone("nobody else came, though others are here", 0),
        ),
    ]:
        scene = round_of(me, groups_)
        assert scene.outcome == outcome
        assert torch.equal(scene.residual_P, UPDATE_P)
        assert (scene.groups.brought, scene.elsewhere.asked) == ([], [])
        assert scene.level2_answers == [NO_REPRESENTATIVE]


def test_a_peer_that_its_level1_group_turns_away_follows_what_is_decided_without_it() -> None:
    scene = round_of(MEMBER, Groups(group=Declined("the group is formed", 0, MEMBERS[-1])))
    assert isinstance(scene.outcome, Followed)
    assert torch.equal(scene.outcome.average_P, THEIRS_P)
    assert torch.equal(scene.residual_P, UPDATE_P)
    assert scene.elsewhere.announced == []


# --- twelve averagers ---------------------------------------------------------------------------------------

SMALL = manifest_with(codec=Codec.FP32, group_size=9)
TWELVE = [KEYS[peer] for peer in PEERS[:12]]
IDS = [key.peer_id for key in TWELVE]
PAIR = Hierarchy.of(SMALL.run_id, 0, 12, 9)
"""Two level-1 groups."""


class Donors(Elsewhere):
    """The records that the peers of this test have decided, asked for again and again."""

    def __init__(self, records: dict[PeerId, Record]) -> None:
        super().__init__(shape=UpdateShape(spec=SMALL.round, tensors=(NUMBERS,)))
        self._records = records

    async def record(
        self, root: bytes, donors: Sequence[PeerId], judge: Judge, deadline: float
    ) -> VerifiedRecord | None:
        """The first that one of the ``donors`` has."""
        self.asked.append(tuple(donors))
        while asyncio.get_running_loop().time() < deadline:
            found = [self._records[donor] for donor in donors if donor in self._records]
            if found:
                return judge(found[0])
            await asyncio.sleep(0.1)
        return None


async def all_average(peers: list[Peer], round_: int, seeds: int) -> list[Outcome]:
    """A round of all peers; peer n has the update ``drawn(seeds + n)``."""
    records: dict[PeerId, Record] = {}
    close_at = asyncio.get_running_loop().time() + 5

    async def one(peer: Peer, seed: int) -> Outcome:
        attendance = replace(peer.attendance(close_at), population=len(peers))
        outcome = await peer.averager.average(update_of(drawn(seed), round_), attendance, Donors(records))
        if isinstance(outcome, Decided) and outcome.record:
            records[peer.id] = outcome.record
        return outcome

    return await asyncio.gather(*(one(peer, seeds + number) for number, peer in enumerate(peers)))


def mean(vectors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(vectors)).mean(0)


def likeness(one_P: Tensor, other_P: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one_P, other_P, dim=0))


def test_all_peers_of_a_large_population_get_the_same_bits() -> None:
    assert PAIR.count == 2

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        for round_ in range(2):
            averages = decided(await all_average(peers, round_, 20 * round_))
            assert {each.population for each in averages} == {12}
            assert all(each.is_counted for each in averages)
            assert len({each.group.id for each in averages}) == 2
            mean_P = mean([drawn(20 * round_ + number) for number in range(12)])
            assert likeness(averages[0].average_P, mean_P) > 0.9
            assert all(float(peer.residual.norm()) < 1e-4 for peer in peers), "fp32 loses nothing"

    stage(scene, 12, SMALL, TWELVE)


def test_after_the_round_a_representative_says_that_it_is_over_and_a_member_that_it_represents_nobody() -> (
    None
):
    over = Decline(0, "round 0 is over, the run is at 0")

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        decided(await all_average(peers, 0, 0))
        members = [peer for peer in peers if peer.id not in PAIR.representatives(IDS)]
        asker = members[0]
        for asked in peers:
            if asked is not asker:
                expected = NO_REPRESENTATIVE if asked in members else over
                answer = await answer_of(asker, asked)
                assert isinstance(answer, Decline)
                assert msgspec.structs.replace(answer, certificate=b"") == expected

    async def answer_of(asker: Peer, asked: Peer) -> object:
        inbox = asker.post.open((0, LEVEL_2))
        stamp = Stamp(SMALL.run_id, 0, LEVEL_2)
        asker.post.send((asked.id,), Ready(ROOT), stamp, deadline=1000, failures=Inbox())
        event = await inbox.events.get()
        assert isinstance(event, Received)
        return event.signed.message

    stage(scene, 12, SMALL, TWELVE)


def test_level1_averages_that_were_not_merged_are_in_the_next_average() -> None:
    one, other = PAIR.representatives(IDS)

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        network.cut(one, other)
        outcomes = await all_average(peers, 0, 0)
        assert all(isinstance(outcome, NotMerged) for outcome in outcomes)
        for index in range(2):
            members = [number for number, peer in enumerate(peers) if PAIR.group_index(peer.id) == index]
            residuals = [peers[number].residual for number in members]
            assert all(torch.equal(residual, residuals[0]) for residual in residuals)
            assert likeness(residuals[0], mean([drawn(number) for number in members])) > 0.9
        network.heal(one, other)
        averages = decided(await all_average(peers, 1, 20))
        mean_P = mean([drawn(number) + drawn(20 + number) for number in range(12)])
        assert likeness(averages[0].average_P, mean_P) > 0.9

    stage(scene, 12, SMALL, TWELVE)


def test_a_representative_that_comes_when_the_level2_group_stands_is_shown_a_proof_of_that_group() -> None:
    electorate = Electorate(needed=2, floor=2, hierarchy=PAIR)

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        decided(await all_average(peers, 0, 0))
        one, other = (next(each for each in peers if each.id == id_) for id_ in PAIR.representatives(IDS))
        inbox = one.post.open((0, LEVEL_2))
        stamp = Stamp(SMALL.run_id, 0, LEVEL_2)
        one.post.send((other.id,), Ready(ROOT, peers=6), stamp, deadline=1000, failures=Inbox())
        event = await inbox.events.get()
        assert isinstance(event, Received)
        assert isinstance(event.signed.message, Decline)
        formed = unpacked_group(event.signed.message.certificate, SMALL.run_id)
        assert set(formed.group.members) == {one.id, other.id}
        assert formed.seated.level1_groups == PAIR.count
        assert electorate.believes(formed.voters)

    stage(scene, 12, SMALL, TWELVE)


def test_a_population_is_one_group_if_there_is_nobody_to_ask_what_others_have_decided() -> None:
    """Without a record the members of a level-1 group could not take the step of the others."""

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        averager: Averager = peers[0].averager
        attendance = replace(peers[0].attendance(0.1), near=(), present=(), population=80, missed=9)
        outcome = await averager.average(update_of(drawn(0)), attendance)
        assert isinstance(outcome, Decided)
        assert outcome.group.members == (peers[0].id,)

    stage(scene, 1)
