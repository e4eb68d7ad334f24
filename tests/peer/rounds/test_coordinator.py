"""With whom a peer averages: in one group, or in its cell and by the council's word. Everybody around it is played by the test."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, TypeVar

import msgspec
import pytest
import torch
from torch import Tensor

from averaging.averager import Averaged, Company, Update
from averaging.hierarchy import CELL, Hierarchy
from averaging.record import Record, UpdateShape
from peer.rounds.coordinator import ASKED, COMPANY_PATIENCE, LOST, Coordinator
from peer.sync.head import Head
from peer.training.state import SharedState, state_root
from swarm.errors import Malformed
from swarm.identity import PeerId, digest_of
from swarm.manifest import RunManifest
from swarm.membership.progress import Phase, Progress
from swarm.membership.roster import Roster
from swarm.simulation.clock import simulate
from swarm.wire import Stamp, open_frame
from tests.peer.company import MANIFEST, RUN, key, progress_of, soon

T = TypeVar("T")

PEERS = [key(number).peer_id for number in range(80)]
CELLS = Hierarchy.of(RUN, 0, len(PEERS), MANIFEST.round.group_size)
CELL_MATES = [peer for peer in PEERS if CELLS.group_index(peer) == CELLS.group_index(PEERS[0])]
DELEGATE = CELLS.representative(CELL_MATES)
OTHER = next(peer for peer in CELL_MATES if peer != DELEGATE)
"""Of the delegate's cell."""
STRANGER = key(99).peer_id
"""Was in the last round, and is not on the roster."""
OUTSIDE = [peer for peer in CELLS.representatives(PEERS) if peer != DELEGATE]
STATE, AFTER = SharedState(0, torch.zeros(4)), SharedState(1, torch.ones(4))
UPDATE = Update(
    round=0, vector_P=torch.full((4,), 5.0), tokens=100, seed=bytes(32), state_root=state_root(STATE)
)
OURS, THEIRS = torch.full((4,), 2.0), torch.full((4,), 3.0)
"""The average of the cell, and that of the council."""
RECORD = Record(0, tuple(digest_of(peer) for peer in (DELEGATE, *OUTSIDE)), 80, 8000, (4,), (b"something",))
VOID = Record(0, population=80)
CELL_AVERAGE = Averaged(average_P=OURS, members=tuple(CELL_MATES), tokens=2000, population=len(CELL_MATES))
NOTHING = Averaged(average_P=None, reason="too few of the group answered")


class Everybody:
    """A roster of `PEERS`, all of whom train."""

    def __contains__(self, peer: PeerId) -> bool:
        return peer in PEERS

    def is_present(self, peer: PeerId, now: float) -> bool:
        """Whether it is here still."""
        return peer != PEERS[2]

    def peers(self, now: float) -> list[PeerId]:
        """All."""
        return PEERS

    in_training = peers

    def round_of(self, peer: PeerId) -> int:
        """Everybody is in the first."""
        return 0

    def at_round(self, round_: int, now: float) -> list[PeerId]:
        """Who is in the round."""
        return PEERS[3:]

    def snapshot(self) -> list[Any]:
        """What they have told."""
        return [SimpleNamespace(peer=peer, round=0) for peer in PEERS]


@dataclass(eq=False)
class Around:
    """All that a meeting knows: averager, records, neighbours and course in one; what it did with them is noted."""

    me: PeerId = OTHER
    population: int = 80
    first: Averaged = CELL_AVERAGE
    """What the cell, or the only group, comes to."""
    level2: Averaged = NOTHING
    heard: Record | None = RECORD
    """The record that others have."""
    stands: Sequence[SharedState] = (AFTER,)
    """Where those are who should have decided."""
    companies: list[Company] = field(default_factory=list)
    brought: list[Update] = field(default_factory=list)
    """To the council."""
    owed: list[Tensor] = field(default_factory=list)
    accepted: list[PeerId] = field(default_factory=list)
    """By whose word the cell's average was in the council."""
    abstained: list[int] = field(default_factory=list)
    donors: list[Sequence[PeerId]] = field(default_factory=list)
    waits: list[bool] = field(default_factory=list)
    is_participant: bool = True
    roster: Any = field(default_factory=Everybody)

    def meeting(self, manifest: RunManifest = MANIFEST) -> Coordinator:
        """Ours."""
        hierarchy = Hierarchy.of(RUN, 0, self.population, MANIFEST.round.group_size)
        course: Any = SimpleNamespace(
            companions=(),
            train_until=0.0,
            population=self.population,
            hierarchy=hierarchy,
            is_quick=True,
            run_tokens=1000,
            is_participant=self.is_participant,
        )
        membership: Any = SimpleNamespace(me=self.me, roster=self.roster, some=self.some, offers=self.offers)
        means: Any = SimpleNamespace(learner=SimpleNamespace(tensors=(4,), state=STATE), round_log=self)
        averager: Any = self
        return Coordinator(manifest, course, membership, averager, means, lambda: self.waits.append(True))

    # --- the averager ---------------------------------------------------------------------------------------

    async def average(self, what: Update | Record, company: Company | None = None) -> Any:
        """Of our update with the others; of a record, what it says."""
        if company is None:
            return THEIRS
        self.companies.append(company)
        return self.first

    async def confer(self, update: Update, hierarchy: Hierarchy, company: Company) -> Averaged:
        self.brought.append(update)
        self.companies.append(company)
        return self.level2

    async def accept(
        self, record: Record, frame: UpdateShape, brought_P: Tensor, representative: PeerId
    ) -> Tensor:
        assert brought_P is OURS
        self.accepted.append(representative)
        return THEIRS

    def owe(self, left_P: Tensor) -> None:
        self.owed.append(left_P)

    def abstain(self, round_: int) -> None:
        self.abstained.append(round_)

    # --- the records and the neighbours ---------------------------------------------------------------------

    async def record(
        self, root: bytes, donors: Sequence[PeerId], deadline: float
    ) -> tuple[Record, PeerId] | None:
        assert root == UPDATE.state_root
        self.donors.append(donors)
        await asyncio.sleep(1.0)
        return (self.heard, donors[0]) if self.heard else None

    async def following(self, state: SharedState, record: Record) -> SharedState:
        if record.items == (b"nonsense",):
            raise Malformed("the record has not one item for each part")
        return AFTER

    def some(self, count: int, among: Sequence[PeerId] = PEERS) -> tuple[PeerId, ...]:
        return tuple(among[:count])

    async def offers(self, deadline: float, asked: Sequence[PeerId]) -> list[Any]:
        await asyncio.sleep(0.1)
        offers = [
            (Stamp(RUN, state.round), Head(state_root(state), 9000, 0.0, RECORD.population))
            for state in self.stands
        ]
        return [SimpleNamespace(stamp=stamp, message=offer) for stamp, offer in offers]


def acted(scene: Coroutine[Any, Any, T]) -> T:
    """The result of a scene in virtual time."""
    return simulate(scene)


def meets(around: Around) -> Averaged:
    """One round of ours."""
    return acted(around.meeting().average(UPDATE, (*PEERS[:3], STRANGER)))


def test_a_few_average_in_one_group_and_nothing_else_happens() -> None:
    around = Around(population=12)
    assert meets(around) is around.first
    (company,) = around.companies
    assert set(company.expected) == {*PEERS, STRANGER} - {PEERS[2], around.me}, (
        "one of the last round's members has left"
    )
    assert (company.elders, company.population, company.leads) == (6, 12, None), (
        "of eleven who may still be there"
    )
    assert (around.brought, around.donors, around.abstained) == ([], [], [])


def test_before_there_is_a_crowd_the_organiser_leads() -> None:
    around = Around(population=1)
    meets(around)
    assert around.companies[0].leads == MANIFEST.organiser_id


GONE, THERE = PEERS[2], PEERS[3]


@pytest.mark.parametrize(
    ("round_", "is_participant", "others", "is_fine"),
    [
        pytest.param(1, True, (), True, id="the others are behind"),
        pytest.param(0, True, (), False, id="the others are where we are"),
        pytest.param(1, False, (), False, id="we have fetched what somebody else began with"),
        pytest.param(1, True, (GONE,), True, id="the only other one of the last average has gone"),
        pytest.param(1, True, (THERE,), False, id="it is here: we are not more than half"),
    ],
)
def test_who_alone_is_the_majority_waits_for_nobody_behind_it(
    round_: int, is_participant: bool, others: Sequence[PeerId], is_fine: bool
) -> None:
    """Everybody else is in round 0."""
    around = Around(population=1 + len(others), is_participant=is_participant)
    acted(around.meeting().average(replace(UPDATE, round=round_), others))
    assert around.companies[0].alone_is_fine == is_fine


@pytest.mark.parametrize(("phases", "seconds"), [
    ([Phase.SYNCING] * 3, COMPANY_PATIENCE), ([Phase.WAITING, Phase.WAITING, Phase.SYNCING], COMPANY_PATIENCE),
    ([Phase.WAITING] * 3, 0.0), ([Phase.SYNCING, Phase.TRAINING, Phase.SYNCING], 0.0), ([Phase.AVERAGING], 0.0),
])  # fmt: skip
def test_the_first_round_waits_until_enough_are_ready_for_it_or_somebody_has_begun(
    phases: list[Phase], seconds: float
) -> None:
    around = Around(population=1, roster=Roster(math.inf))
    for number, phase in enumerate(phases, 1):  # without the organiser
        around.roster.hear(open_frame(progress_of(number, phase=phase), Progress, run=RUN), 0.0)

    async def wait() -> None:
        await around.meeting(msgspec.structs.replace(MANIFEST, start_with=4)).company()
        assert soon(0) == pytest.approx(seconds, abs=1.0)

    acted(wait())


def test_while_the_organiser_is_here_the_first_round_begins_with_it() -> None:
    around = Around(population=1, roster=Roster(math.inf))
    for number in (1, 2, 3):
        around.roster.hear(open_frame(progress_of(number, phase=Phase.WAITING), Progress, run=RUN), 0.0)
    organiser = open_frame(progress_of(0, phase=Phase.WAITING), Progress, run=RUN)
    around.roster.hear(organiser, 0.0)

    async def wait() -> None:
        async def begin() -> None:
            await asyncio.sleep(30)
            begun = open_frame(progress_of(0, seq=2, phase=Phase.TRAINING), Progress, run=RUN)
            around.roster.hear(begun, 30.0)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(begin())
            await around.meeting(msgspec.structs.replace(MANIFEST, start_with=4)).company()
        assert soon(0) == pytest.approx(30, abs=1.0)

    assert organiser.signer == MANIFEST.organiser_id
    acted(wait())


def test_a_peer_that_is_alone_in_its_cell_looks_for_one_group_of_all_after_a_while() -> None:
    """Of a population that is gone every cell may have one peer, and none of them is enough for itself."""
    around = Around(first=NOTHING)

    async def rounds() -> None:
        meeting = around.meeting()
        for _ in range(LOST + 1):
            await meeting.average(UPDATE, ())

    acted(rounds())
    *in_cells, last = around.companies
    assert {len(company.expected) for company in in_cells} == {len(CELL_MATES) - 1}
    assert len(last.expected) > len(PEERS) / 2
    assert last.elders == 41 >> LOST


def test_the_delegate_takes_the_average_of_its_cell_to_the_council() -> None:
    around = Around(me=DELEGATE, level2=Averaged(average_P=THEIRS, record=RECORD))
    averaged = meets(around)
    cell, level2 = around.companies
    assert set(cell.expected) == set(CELL_MATES) - {DELEGATE}
    assert not cell.alone_is_fine
    assert cell.least == CELL // 4
    assert set(level2.expected) == set(OUTSIDE)
    (brought,) = around.brought
    assert brought.vector_P is OURS
    assert (brought.tokens, brought.line.peers) == (2000, len(CELL_MATES))
    assert (averaged.average_P, averaged.members, averaged.record) == (THEIRS, CELL_AVERAGE.members, RECORD)
    assert (averaged.tokens, averaged.population) == (8000, 80)
    assert (around.accepted, around.owed, around.abstained) == ([DELEGATE], [], [])


def test_the_council_waits_for_cells_that_take_all_the_time_they_may() -> None:
    around = Around(me=DELEGATE)
    meets(around)
    cell, level2 = around.companies
    assert level2.close_at == cell.close_at + MANIFEST.round.assemble_seconds + MANIFEST.round.average_seconds


def test_a_council_that_failed_once_for_bad_luck_makes_no_room_for_two() -> None:
    around = Around(me=DELEGATE)

    async def rounds() -> None:
        meeting = around.meeting()
        for _ in range(LOST):
            await meeting.average(UPDATE, ())

    acted(rounds())
    assert [company.least for company in around.companies[1::2]] == [3, 3, 2], (
        "of four cells; one is no council"
    )
    assert CELLS.count == 4


@pytest.mark.parametrize("is_in_council", [True, False])
def test_whose_delegate_was_not_in_the_council_had_no_part_in_what_it_decided(is_in_council: bool) -> None:
    """Else more would count as having been in the last average than were."""
    record = msgspec.structs.replace(
        RECORD, members=tuple(digest_of(peer) for peer in (*[DELEGATE] * is_in_council, *OUTSIDE))
    )
    averaged = meets(Around(heard=record))
    assert averaged.average_P is THEIRS
    assert averaged.counted == is_in_council


def test_where_the_council_comes_to_nothing_the_delegate_owes_the_average_of_its_cell() -> None:
    around = Around(me=DELEGATE)
    averaged = meets(around)
    assert (averaged.average_P, averaged.members, averaged.reason) == (None, (), NOTHING.reason)
    assert around.owed == [OURS]


def test_who_is_no_delegate_abstains_and_takes_the_record_of_its_delegate() -> None:
    around = Around()
    averaged = meets(around)
    assert around.abstained == [0]
    assert around.donors == [(DELEGATE, *OUTSIDE[:ASKED])]
    assert (averaged.average_P, averaged.members, averaged.record) == (THEIRS, CELL_AVERAGE.members, RECORD)
    assert (around.accepted, around.owed, around.brought) == ([DELEGATE], [], [])


@pytest.mark.parametrize("missing", [(), (DELEGATE,)])
def test_who_speaks_for_a_cell_was_heard_in_it(missing: tuple[PeerId, ...]) -> None:
    first = Averaged(average_P=OURS, members=CELL_AVERAGE.members, missing=missing)
    around = Around(first=first)
    meets(around)
    speaker = CELLS.representative([peer for peer in CELL_MATES if peer not in missing])
    assert (speaker == DELEGATE) == (not missing)
    assert [donors[0] for donors in around.donors] == ([] if speaker == OTHER else [speaker])


@pytest.mark.parametrize(
    "stands", [(STATE, SharedState(1, torch.zeros(4))), (AFTER, SharedState(1, torch.zeros(4)))]
)
def test_a_record_that_leads_elsewhere_than_the_others_are_is_not_taken(
    stands: Sequence[SharedState],
) -> None:
    """Who has not come so far says nothing; of those who have, more than half must be there."""
    around = Around(stands=stands)
    averaged = meets(around)
    assert (averaged.average_P, averaged.members) == (None, ())
    assert (averaged.reason, around.accepted) == ("the council of the cells was not heard", [])


def test_a_record_of_nonsense_is_not_taken() -> None:
    averaged = meets(Around(heard=Record(0, stops=(4,), items=(b"nonsense",))))
    assert averaged.average_P is None
    assert "not one item for each part" in averaged.reason


def test_who_was_turned_away_follows_whoever_did_it_and_keeps_its_update() -> None:
    first = Averaged(average_P=None, declined=True, by=PEERS[7], reason="the group is formed")
    around = Around(population=12, first=first)
    averaged = meets(around)
    assert around.waits == [True]
    assert around.donors == [(PEERS[7], *PEERS[:ASKED])]
    assert (averaged.average_P, averaged.members, averaged.record) == (THEIRS, (), RECORD)
    assert (around.accepted, around.owed) == ([], [])


def test_after_every_missed_round_half_as_many_are_enough() -> None:
    around = Around(population=40, first=NOTHING)

    async def rounds() -> None:
        meeting = around.meeting()
        for _ in range(3):
            await meeting.average(UPDATE, ())
        around.first = CELL_AVERAGE
        for _ in range(2):
            await meeting.average(UPDATE, ())

    acted(rounds())
    assert [company.elders for company in around.companies] == [21, 10, 5, 2, 21]


@pytest.mark.parametrize(("population", "needed"), [(80, [3, 3, 3, 3]), (40, [21, 10, 5, 2])])
def test_rounds_that_only_we_have_missed_make_no_council_smaller(population: int, needed: list[int]) -> None:
    """Of a few, those whom we find have missed as many."""
    around = Around(me=DELEGATE, population=population, first=CELL_AVERAGE if population > 48 else NOTHING)

    async def rounds() -> None:
        meeting = around.meeting()
        for _ in needed:
            await meeting.average(UPDATE, ())
            meeting.others_went_on()

    acted(rounds())
    asked = (
        [company.least for company in around.companies[1::2]]
        if population > 48
        else [company.elders for company in around.companies]
    )
    assert asked == needed


@pytest.mark.parametrize("heard", [None, VOID])
def test_where_the_council_is_not_heard_or_void_all_of_the_cell_owe_its_average(heard: Record | None) -> None:
    around = Around(heard=heard)
    averaged = meets(around)
    assert (averaged.average_P, averaged.members) == (None, ())
    assert around.owed == [OURS]
