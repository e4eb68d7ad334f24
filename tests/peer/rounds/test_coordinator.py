"""What a peer knows of the others when it averages, which rounds are missed, and when the first begins."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from averaging.certificate import Origin
from averaging.groups import Group
from averaging.hierarchy import Hierarchy
from averaging.outcome import (
    Alone,
    Decided,
    Declined,
    Followed,
    NotMerged,
    Outcome,
    TooFew,
    Unanswered,
    Undecided,
    Void,
)
from averaging.record import Record
from averaging.terms import Attendance
from averaging.update import Update
from peer.rounds.coordinator import START_PATIENCE, Coordinator
from peer.sync.position import Position
from swarm.identity import PeerId
from swarm.manifest import RunManifest
from swarm.membership.progress import Phase, Progress
from swarm.membership.roster import Roster
from swarm.simulation.clock import simulate
from swarm.wire import open_frame
from tests.peer.company import MANIFEST, RUN, key, progress_of, soon

PEERS = [key(number).peer_id for number in range(80)]
ME = PEERS[1]
GONE = PEERS[2]
"""On the roster, and not present any more."""
HERE = PEERS[3]
STRANGER = key(99).peer_id
"""Was in the last round, and is not on the roster."""
LIAR = PEERS[70]
"""Has been shown to lie."""
CLOSE_AT = 20.0
"""When local training ends."""

UPDATE = Update(round=0, vector_P=torch.zeros(4), tokens=100, seed=bytes(32), state_root=bytes(32))
GROUP = Group(bytes(32), 0, (PEERS[1], PEERS[3]), bytes(32))
ORIGIN = Origin(GROUP.id, 0, GROUP.members, b"")
DECIDED = Decided(average_P=torch.zeros(4), group=GROUP, tokens=200, population=2, origin=ORIGIN)
FOLLOWED = Followed(
    average_P=torch.zeros(4), record=Record(0), origin=ORIGIN, seconds=1.0, reason="turned away"
)
DECLINED = Declined("the group is formed", 0, PEERS[3])
TOO_FEW = TooFew("too few came", 0)
UNANSWERED = Unanswered("too few voted", 0)
UNDECIDED = Undecided("too few of the group answered", GROUP, ())
VOID = Void("the group has split", GROUP, ())


class EverybodyTrains:
    """A roster of `PEERS`. All but `GONE` are present; the first three are not yet in the round."""

    def __contains__(self, peer: PeerId) -> bool:
        return peer in PEERS

    def is_present(self, peer: PeerId, now: float) -> bool:
        """All but one."""
        return peer in PEERS and peer != GONE

    def peers(self, now: float) -> list[PeerId]:
        """All."""
        return PEERS

    in_training = peers

    def is_banned(self, peer: PeerId) -> bool:
        """Only one."""
        return peer == LIAR

    def round_of(self, peer: PeerId) -> int:
        """All are in the first round."""
        return 0

    def at_round(self, round_: int, now: float) -> list[PeerId]:
        """Those that take part in the round."""
        return PEERS[3:]


@dataclass(eq=False)
class Around:
    """Everything around a coordinator; what it hands to the averager is noted."""

    population: int = 80
    companions: tuple[PeerId, ...] = (*PEERS[:3], STRANGER)
    same_head: tuple[PeerId, ...] = ()
    is_participant: bool = True
    outcome: Outcome = DECIDED
    roster: Any = field(default_factory=EverybodyTrains)
    attendances: list[Attendance] = field(default_factory=list)

    def coordinator(self, manifest: RunManifest = MANIFEST) -> Coordinator:
        """The coordinator of `ME`."""
        position: Any = SimpleNamespace(
            now=Position(population=self.population, is_participant=self.is_participant),
            companions=self.companions,
            participants=(*self.companions, LIAR),
            same_head=self.same_head,
            hierarchy=Hierarchy.of(RUN, 0, self.population, MANIFEST.round.group_size),
        )
        membership: Any = SimpleNamespace(me=ME, roster=self.roster)
        activity: Any = SimpleNamespace(train_until=CLOSE_AT, spec=MANIFEST.round)
        averager: Any = self
        elsewhere: Any = self
        return Coordinator(manifest, membership, averager, elsewhere, position, activity)

    async def average(self, update: Update, attendance: Attendance, elsewhere: Any) -> Outcome:
        """The averager's one call."""
        assert elsewhere is self
        self.attendances.append(attendance)
        return self.outcome

    def attendance(self, update: Update = UPDATE) -> Attendance:
        """What the coordinator tells the averager of the others."""
        assert simulate(self.coordinator().average(update)) is self.outcome
        return self.attendances[-1]

    def missed_after(self, *outcomes: Outcome, they_went_on: bool = False) -> list[int]:
        """How many rounds count as missed at the beginning, and after each of ``outcomes``."""

        async def rounds() -> None:
            coordinator = self.coordinator()
            for outcome in (*outcomes, DECIDED):
                self.outcome = outcome
                await coordinator.average(UPDATE)
                if they_went_on:
                    coordinator.others_went_on()

        simulate(rounds())
        return [attendance.missed for attendance in self.attendances]


# --- attendance ---------------------------------------------------------------------------------------------


def test_companions_are_expected_unless_they_have_left_and_so_are_peers_with_our_head() -> None:
    attendance = Around(population=12, same_head=(PEERS[40], LIAR)).attendance()
    assert set(attendance.near) == {PEERS[0], ME, STRANGER, PEERS[40]}
    assert set(attendance.participants) == {PEERS[0], ME, STRANGER}, "without the one that is gone"
    assert attendance.population == 12
    assert list(attendance.at_round) == PEERS[3:]
    assert list(attendance.present) == PEERS


def test_a_few_form_one_group_of_all_that_should_come() -> None:
    terms = Around(population=12).attendance().one_group(ME)
    assert set(terms.expected) == {*PEERS, STRANGER} - {GONE, ME}
    assert (terms.electorate.needed, terms.leader) == (3, None), "of three that may still be there"


def test_the_leader_waits_for_a_while_after_local_training() -> None:
    attendance = Around(population=12).attendance()
    patience = MANIFEST.round.assemble_seconds
    assert attendance.close_at == CLOSE_AT + patience
    assert attendance.patience == patience


def test_before_there_is_a_population_the_organiser_leads() -> None:
    attendance = Around(population=1, companions=()).attendance()
    assert attendance.one_group(ME).leader == MANIFEST.organiser_id


@pytest.mark.parametrize(
    ("round_", "is_participant", "others", "is_fine"),
    [
        pytest.param(1, True, (), True, id="the others are behind"),
        pytest.param(0, True, (), False, id="the others are where we are"),
        pytest.param(1, False, (), False, id="we have downloaded what another peer began with"),
        pytest.param(1, True, (GONE,), True, id="the only other member of the last average has gone"),
        pytest.param(1, True, (HERE,), False, id="it is here: we are not more than half"),
    ],
)
def test_a_peer_that_is_the_majority_by_itself_waits_for_no_peers_behind_it(
    round_: int, is_participant: bool, others: Sequence[PeerId], is_fine: bool
) -> None:
    """All others are in round 0."""
    around = Around(population=1 + len(others), companions=tuple(others), is_participant=is_participant)
    attendance = around.attendance(replace(UPDATE, round=round_))
    assert (not attendance.others) == is_fine
    assert attendance.one_group(ME).alone_is_fine == is_fine


def test_a_peer_without_others_may_average_alone() -> None:
    around = Around(population=1, companions=(), roster=Roster(math.inf))
    assert around.attendance().one_group(ME).alone_is_fine


# --- missed rounds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "is_missed"),
    [
        (DECIDED, False),
        (FOLLOWED, False),
        (DECLINED, False),
        (TOO_FEW, True),
        (Alone("nobody else came", 0), True),
        (UNANSWERED, True),
        (UNDECIDED, True),
        (VOID, True),
        (NotMerged(DECLINED), False),
        (NotMerged(TOO_FEW), True),
        (NotMerged(UNANSWERED), True),
        (NotMerged(UNDECIDED), True),
        (NotMerged(VOID), True),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, bool) else None,
)
def test_a_round_is_missed_if_there_was_no_group_with_a_result(outcome: Outcome, is_missed: bool) -> None:
    assert Around().missed_after(UNDECIDED, outcome) == [0, 1, 2 if is_missed else 0]


def test_after_a_missed_round_more_than_half_of_those_present_are_enough() -> None:
    around = Around(population=40, companions=tuple(PEERS[3:43]))
    assert around.missed_after(UNDECIDED, UNDECIDED, UNDECIDED, DECIDED) == [0, 1, 2, 3, 0]
    assert [least_members(attendance) for attendance in around.attendances] == [27, 21, 21, 21, 27]


@pytest.mark.parametrize(
    ("population", "missed", "enough"),
    [(80, [0, 0, 0, 0], [3, 3, 3, 3]), (40, [0, 1, 2, 3], [27, 21, 21, 21])],
)
def test_in_a_large_population_rounds_that_only_we_have_missed_do_not_count(
    population: int, missed: list[int], enough: list[int]
) -> None:
    """Of a few peers all have missed as many. A level-2 group must not become smaller because we have."""
    around = Around(population=population, companions=tuple(PEERS[3:43]))
    assert around.missed_after(UNDECIDED, UNDECIDED, UNDECIDED, they_went_on=True) == missed
    assert [least_members(attendance) for attendance in around.attendances] == enough


def least_members(attendance: Attendance) -> int:
    """The fewest votes for the group that decides: the level-2 group, if there are two levels."""
    spec = MANIFEST.round
    hierarchy = attendance.hierarchy(RUN, 0, spec.group_size)
    if hierarchy.count == 1:
        return attendance.one_group(ME).electorate.needed
    return attendance.level2(ME, hierarchy, spec.average_seconds).least


# --- the first round ----------------------------------------------------------------------------------------


def hears(roster: Roster, number: int, phase: Phase, seq: int = 1) -> None:
    """The roster hears that peer ``number`` is in ``phase``."""
    now = asyncio.get_running_loop().time()
    roster.hear(open_frame(progress_of(number, seq=seq, phase=phase), Progress, run=RUN), now)


def waits_for_start(before: Callable[[Roster], Coroutine[Any, Any, None]]) -> float:
    """Seconds until a run that starts with four peers begins, of which the roster hears ``before``."""

    async def main() -> float:
        around = Around(population=1, roster=Roster(math.inf))
        manifest = msgspec.structs.replace(MANIFEST, start_with=4)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(before(around.roster))
            await asyncio.sleep(0)
            await around.coordinator(manifest).wait_for_start()
            return soon(0)

    return simulate(main())


@pytest.mark.parametrize(
    ("phases", "seconds"),
    [
        ([Phase.SYNCING] * 3, START_PATIENCE),
        ([Phase.WAITING, Phase.WAITING, Phase.SYNCING], START_PATIENCE),
        ([Phase.WAITING] * 3, 0.0),
        ([Phase.SYNCING, Phase.TRAINING, Phase.SYNCING], 0.0),
        ([Phase.AVERAGING], 0.0),
    ],
)
def test_the_first_round_waits_until_enough_peers_are_ready_or_one_has_begun(
    phases: list[Phase], seconds: float
) -> None:
    """The organiser is not among them."""

    async def before(roster: Roster) -> None:
        for number, phase in enumerate(phases, 1):
            hears(roster, number, phase)

    assert waits_for_start(before) == pytest.approx(seconds, abs=1.0)


def test_the_first_round_begins_when_the_last_of_them_is_ready() -> None:
    async def before(roster: Roster) -> None:
        for number in (1, 2):
            hears(roster, number, Phase.WAITING)
        await asyncio.sleep(20)
        hears(roster, 3, Phase.WAITING)

    assert waits_for_start(before) == pytest.approx(20, abs=1.0)


def test_while_the_organiser_is_here_the_first_round_begins_with_it() -> None:
    assert key(0).peer_id == MANIFEST.organiser_id

    async def before(roster: Roster) -> None:
        for number in range(4):
            hears(roster, number, Phase.WAITING)
        await asyncio.sleep(30)
        hears(roster, 0, Phase.TRAINING, seq=2)

    assert waits_for_start(before) == pytest.approx(30, abs=1.0)
