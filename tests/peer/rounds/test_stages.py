"""The stages of a round, and what each outcome of averaging leads to. The test plays all that is around."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, TypeVar

import msgspec
import pytest
import torch
from torch import Tensor

from averaging.certificate import Origin
from averaging.groups import Group
from averaging.outcome import (
    Alone,
    Decided,
    Declined,
    Followed,
    Missed,
    NotMerged,
    Outcome,
    TooFew,
    Unanswered,
    Undecided,
    Void,
    cause_of,
)
from averaging.record import Record
from averaging.update import Update
from peer.observe.events import RoundSummary
from peer.rounds.coordinator import START_PATIENCE
from peer.rounds.next_step import next_step
from peer.rounds.stages import Local, RoundStages, Shared
from peer.sync.activity import Activity
from peer.sync.catch_up import Announce, Found, Waiting
from peer.sync.head import ChosenHead
from peer.sync.position import Position, PositionTracker
from peer.training.compute import Inline
from peer.training.inner import Trained
from peer.training.jobs import Budget, LocalCompute, StepAhead
from peer.training.learner import LocalUpdate
from peer.training.state import SharedState, state_root
from swarm.identity import PeerId, digest_of
from swarm.manifest import RunManifest
from swarm.membership.progress import Phase
from swarm.simulation.clock import simulate
from tests.peer.company import MANIFEST, key, soon

T = TypeVar("T")

ME = key(1).peer_id
FRIEND = key(2).peer_id
MISSING = key(3).peer_id
SPEC = MANIFEST.round
AVERAGE_P = torch.full((4,), 2.0)
START = SharedState(7, torch.zeros(4))
ROOT = state_root(START)
AFTER = SharedState(8, torch.ones(4))
SAME_MODEL = SharedState(8, torch.zeros(4))
UPDATE = Update(round=7, vector_P=torch.zeros(4), tokens=100, seed=bytes(32), state_root=ROOT)
WORK = LocalUpdate(Trained(tokens=100, steps=3, loss=2.5), UPDATE.vector_P)

GROUP = Group(bytes(32), 7, (ME, FRIEND, MISSING), ROOT)
RECORD = Record(7, (digest_of(FRIEND), digest_of(key(99).peer_id)), 9, 800, (4,), (b"something",))
ORIGIN = Origin(GROUP.id, 7, GROUP.members, b"ours")
THEIRS = Origin(bytes([5]) * 16, 7, (FRIEND, key(99).peer_id), b"theirs")
DECIDED = Decided(
    average_P=AVERAGE_P,
    group=GROUP,
    missing=(MISSING,),
    tokens=200,
    population=5,
    record=RECORD,
    origin=ORIGIN,
)
FOLLOWED = Followed(average_P=AVERAGE_P, record=RECORD, origin=THEIRS, seconds=1.0, reason="turned away")
DECLINED = Declined("the group is formed", 7, FRIEND)
UNDECIDED = Undecided("too few of the group answered", GROUP, (MISSING,))
STAY: list[Missed] = [DECLINED, TooFew("too few came", 7), Alone("nobody else came", 7)]
"""After these a peer that finds nothing stays in the round ..."""
SKIP: list[Missed] = [
    Unanswered("too few voted", 7),
    UNDECIDED,
    Void("the group has split", GROUP, ()),
    NotMerged(UNDECIDED),
    NotMerged(DECLINED),
]
"""... and after these it skips it."""


@dataclass(eq=False)
class Around:
    """Everything around the stages. ``calls`` has the names of what they have called, in order."""

    manifest: RunManifest = MANIFEST
    found: Found = Found.NOBODY
    """What a peer finds that waits for the others."""
    outcome: Outcome = DECIDED
    averaging_seconds: float = 0.0
    is_resumed: bool = False
    is_late: bool = False
    changes_sides: bool = False
    work: LocalUpdate | None = WORK
    began_at: int = 7
    """The round whose state the peer finds when it joins."""
    calls: list[str] = field(default_factory=list)
    waitings: list[Waiting] = field(default_factory=list)
    kept: list[tuple[bytes, Record]] = field(default_factory=list)
    warnings: list[tuple[str, str, int]] = field(default_factory=list)
    rounds: list[tuple[RoundSummary, Outcome]] = field(default_factory=list)
    compared: list[Group] = field(default_factory=list)
    """The groups of which the members compare what they have heard."""
    saved: list[bool] = field(default_factory=list)
    alone_is_fine: bool | None = None
    is_stopping: bool = False
    given_rounds: int = 0
    began: float = 0.0
    is_quick: bool = True
    state: SharedState = START

    def stages(self) -> RoundStages:
        """The stages of a peer at `START`, in which it had a part."""
        everything: Any = self
        self.position = PositionTracker(self.manifest)
        self.position.take_own(self.state)
        clock = asyncio.get_running_loop().time
        self.activity = Activity(self.manifest.round, clock, lambda phase, ends_at: None)
        arithmetic = Inline(lambda job: 1.0 if isinstance(job, StepAhead) else 0.0)
        compute = LocalCompute(arithmetic, lambda seconds: Budget(1000, lambda: False))
        metrics: Any = SimpleNamespace(training=self)
        local = Local(everything, compute, everything, everything, everything, metrics, everything)
        announcer: Any = SimpleNamespace(
            announce_round=self._called("announcer.announce_round"),
            follow=self._called("announcer.follow"),
            train=self._called("announcer.train"),
            compare_notes=self.compared.append,
        )
        membership: Any = SimpleNamespace(roster={ME, FRIEND, MISSING}, me=ME)
        shared = Shared(membership, everything, everything, announcer, everything, everything, everything)
        return RoundStages(self.manifest, local, shared, self.position, self.activity)

    def _called(self, name: str) -> Callable[[], None]:
        return lambda: self.calls.append(name)

    # --- the learner ----------------------------------------------------------------------------------------

    def conclude(self, average_N: Tensor | None) -> SharedState:
        """The outer step."""
        assert average_N is None or average_N is AVERAGE_P
        self.calls.append("learner.conclude")
        self.state = SAME_MODEL if average_N is None else AFTER
        return self.state

    def step_ahead(self) -> None:
        """One local step while the average is under way."""
        self.calls.append("learner.step_ahead")

    def carry_over(self) -> None:
        """Keep those steps."""
        self.calls.append("learner.carry_over")

    # --- training, checkpoints, evaluation, events ----------------------------------------------------------

    async def learn(self, members: tuple[PeerId, ...]) -> Update:
        """Local training."""
        assert members == self.position.companions
        return UPDATE

    async def restore(self, learner: Any, averager: Any) -> Position | None:
        """Where the peer stood when it wrote its checkpoint, if there is one."""
        return Position(is_participant=True) if self.is_resumed else None

    async def save_if_due(self, learner: Any, averager: Any, *, now: bool) -> None:
        """A checkpoint."""
        self.saved.append(now)

    async def score_if_due(self, learner: Any, root: bytes, *, now: bool) -> float:
        """The score of the shared model."""
        assert root == self.position.now.state_root
        self.calls.append("evaluator.score_if_due")
        return 1.5

    def warn(self, code: str, fact: str, **fields: int) -> None:
        """A warning for people."""
        self.warnings.append((code, fact, fields["round"]))

    def members(self, decided: Decided) -> None:
        """Tell which peers have come and gone."""
        self.calls.append("events.members")

    def round_finished(self, summary: RoundSummary, outcome: Outcome) -> None:
        """The line of a round."""
        self.calls.append("events.round_finished")
        self.rounds.append((summary, outcome))

    # --- the other peers ------------------------------------------------------------------------------------

    async def average(self, update: Update) -> Outcome:
        """The average with the peers that are present."""
        assert update is UPDATE
        await asyncio.sleep(self.averaging_seconds)
        return self.outcome

    async def wait_for_start(self) -> None:
        """Wait for the first round."""
        assert self.activity.phase is Phase.WAITING
        self.calls.append("coordinator.wait_for_start")

    def others_went_on(self) -> None:
        """The others are further."""
        self.calls.append("coordinator.others_went_on")

    async def join(self, *, alone_is_fine: bool) -> None:
        """Find the run."""
        self.alone_is_fine = alone_is_fine
        state = SharedState(self.began_at, torch.ones(4))
        self.position.adopt(state, ChosenHead(self.began_at, state_root(state), 0, 0.0, (FRIEND,)))

    async def wait_for_result(self, waiting: Waiting, announce: Callable[[], None]) -> Found:
        """Wait for the others."""
        self.calls.append("catch_up.wait_for_result")
        self.waitings.append(waiting)
        if waiting.announce is Announce.NOW:
            announce()
        return self.found

    async def change_sides(self, catch_up: Any) -> bool:
        """Change to the other side of a partition."""
        assert catch_up is self
        self.calls.append("watch.change_sides")
        return self.changes_sides

    def keep(self, root: bytes, record: Record) -> None:
        """Keep a record."""
        self.kept.append((root, record))

    # --- what the tests call --------------------------------------------------------------------------------

    def acted(self, act: Callable[[RoundStages], Awaitable[T]]) -> T:
        """The result of ``act`` in virtual time."""

        async def main() -> T:
            return await act(self.stages())

        return simulate(main())

    def conclude_with(self, outcome: Outcome) -> None:
        """One round comes to ``outcome``."""
        self.acted(lambda stages: stages.conclude(UPDATE, outcome))


# --- concluding with an average -----------------------------------------------------------------------------


def test_an_average_of_our_group_is_the_next_step() -> None:
    around = Around()
    around.conclude_with(DECIDED)
    assert around.calls == [
        "learner.conclude",
        "events.members",
        "evaluator.score_if_due",
        "events.round_finished",
        "watch.change_sides",
    ]
    position = around.position
    assert (position.now.round, position.now.state_root) == (8, state_root(AFTER))
    assert (position.now.tokens, position.now.population) == (200, 5)
    assert position.now.is_participant
    assert position.companions == (ME, FRIEND), "and not the member of which nothing was applied"
    assert list(position.passed_roots) == [ROOT]
    assert around.kept == [(ROOT, RECORD)]
    assert (around.given_rounds, around.warnings, around.waitings) == (1, [], [])


def test_a_peer_whose_group_has_decided_without_its_hearing_it_is_a_participant() -> None:
    around = Around()
    around.conclude_with(replace(FOLLOWED, origin=ORIGIN))
    assert around.position.now.is_participant


def test_every_round_of_ours_is_told() -> None:
    around = Around()
    around.conclude_with(DECIDED)
    ((summary, outcome),) = around.rounds
    assert outcome is DECIDED
    assert summary == RoundSummary(
        round=7, state_root=state_root(AFTER), loss=2.5, steps=3, seconds=0.0, bits_per_byte=1.5
    )


def test_a_round_without_a_record_leaves_nothing_to_keep() -> None:
    around = Around()
    around.conclude_with(replace(DECIDED, record=None))
    assert around.kept == []
    assert around.position.now.round == 8


def test_if_our_group_had_no_part_in_the_average_we_are_no_participants() -> None:
    around = Around()
    around.conclude_with(replace(DECIDED, is_counted=False))
    assert not around.position.now.is_participant
    assert around.given_rounds == 1


def test_after_a_change_of_sides_the_others_are_told_where_we_are() -> None:
    around = Around(changes_sides=True)
    around.conclude_with(DECIDED)
    assert around.calls[-2:] == ["watch.change_sides", "announcer.announce_round"]


def test_an_average_that_others_have_decided_without_us_is_the_same_step() -> None:
    around = Around()
    around.conclude_with(FOLLOWED)
    assert around.calls == ["learner.conclude", "catch_up.wait_for_result", "announcer.announce_round"]
    position = around.position
    assert (position.now.round, position.now.state_root) == (8, state_root(AFTER))
    assert (position.now.tokens, position.now.population) == (RECORD.tokens, RECORD.population)
    assert position.now.origin == THEIRS
    assert not position.now.is_participant
    assert position.same_head == (FRIEND,), "of the members of the record we know one"
    assert around.kept == [(ROOT, RECORD)]
    assert around.warnings == [("round-missed", "turned away", 7)]
    assert (around.given_rounds, around.rounds) == (0, [])
    assert around.waitings == [Waiting(0.0)], "one question"


def test_if_the_others_are_further_than_the_round_that_we_have_followed_we_take_their_state() -> None:
    around = Around(found=Found.OTHERS)
    around.conclude_with(FOLLOWED)
    assert around.calls == [
        "learner.conclude",
        "catch_up.wait_for_result",
        "coordinator.others_went_on",
        "announcer.announce_round",
    ]
    assert around.position.same_head == (), "whoever else is there has said so"


# --- concluding without one ---------------------------------------------------------------------------------


def name_of(outcome: Outcome) -> str:
    """For the names of the tests."""
    cause = f" {type(outcome.cause).__name__}" if isinstance(outcome, NotMerged) else ""
    return type(outcome).__name__ + cause


@pytest.mark.parametrize("outcome", [*STAY, *SKIP], ids=name_of)
def test_after_a_group_without_a_decision_its_members_compare_what_they_have_heard(outcome: Missed) -> None:
    around = Around()
    around.conclude_with(outcome)
    has_group = isinstance(cause_of(outcome), Undecided | Void)
    assert around.compared == ([GROUP] if has_group else [])


@pytest.mark.parametrize("outcome", [*STAY, *SKIP], ids=name_of)
def test_without_an_average_the_state_of_the_others_is_taken_if_they_have_one(outcome: Missed) -> None:
    around = Around(found=Found.OTHERS)
    around.conclude_with(outcome)
    calls = [call for call in around.calls if call != "announcer.follow"]
    assert calls == ["catch_up.wait_for_result", "coordinator.others_went_on", "announcer.announce_round"]
    assert (around.kept, around.rounds, around.given_rounds) == ([], [], 0)
    assert around.warnings == [("round-missed", outcome.reason, 7)]


@pytest.mark.parametrize("found", [Found.SAME, Found.NOBODY])
@pytest.mark.parametrize("outcome", STAY, ids=name_of)
def test_a_peer_that_has_voted_for_no_group_stays_in_the_round(outcome: Missed, found: Found) -> None:
    around = Around(found=found)
    around.conclude_with(outcome)
    calls = [call for call in around.calls if call != "announcer.follow"]
    assert calls == ["catch_up.wait_for_result", "announcer.announce_round"]
    assert around.position.now.state_root == ROOT
    assert (around.kept, around.rounds, around.given_rounds) == ([], [], 0)
    assert around.warnings == [("round-missed", outcome.reason, 7)]


@pytest.mark.parametrize("found", [Found.SAME, Found.NOBODY])
@pytest.mark.parametrize("outcome", SKIP, ids=name_of)
def test_a_peer_whose_group_came_to_nothing_skips_the_round(outcome: Missed, found: Found) -> None:
    around = Around(found=found)
    around.conclude_with(outcome)
    calls = [call for call in around.calls if call != "announcer.follow"]
    assert calls == [
        "catch_up.wait_for_result",
        "learner.conclude",
        "evaluator.score_if_due",
        "events.round_finished",
        "announcer.announce_round",
    ]
    position = around.position
    assert (position.now.round, position.now.state_root) == (8, state_root(SAME_MODEL))
    assert position.now.is_participant, "as before"
    assert list(position.passed_roots) == []
    assert around.kept == [(ROOT, Record(7, population=1))], "the record of a void round"
    assert around.rounds[0][1] is outcome
    assert around.given_rounds == 0
    assert around.warnings == [("round-missed", outcome.reason, 7)]


@pytest.mark.parametrize("outcome", [*STAY, *SKIP], ids=name_of)
def test_how_long_the_others_are_awaited_is_said_by_the_table(outcome: Missed) -> None:
    around = Around()
    around.conclude_with(outcome)
    (waiting,) = around.waitings
    assert waiting == next_step(outcome, around.position.now, SPEC).waiting
    assert ("announcer.follow" in around.calls) == (waiting.announce is Announce.NOW)


# --- joining ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("is_founder", "is_resumed", "alone_is_fine"),
    [(False, False, False), (True, False, True), (False, True, True)],
)
def test_only_a_founder_or_a_peer_with_a_checkpoint_may_begin_alone(
    is_founder: bool, is_resumed: bool, alone_is_fine: bool
) -> None:
    around = Around(is_resumed=is_resumed)
    around.acted(lambda stages: stages.catch_up(is_founder=is_founder))
    assert around.alone_is_fine == alone_is_fine
    assert around.calls == ["announcer.announce_round"]


def test_a_checkpoint_is_a_state_in_which_we_had_a_part() -> None:
    for is_resumed in (True, False):
        around = Around(is_resumed=is_resumed)
        told: list[int] = []

        async def act(stages: RoundStages, around: Around = around, told: list[int] = told) -> None:
            around.position.subscribe(lambda position, state: told.append(position.round))
            await stages.catch_up(is_founder=False)

        around.acted(act)
        assert len(told) == (2 if is_resumed else 1), "first the checkpoint, then the state of the others"


def test_before_the_first_round_a_peer_waits_for_the_others() -> None:
    around = Around(began_at=0)
    around.acted(lambda stages: stages.catch_up(is_founder=False))
    assert around.calls == ["announcer.announce_round", "coordinator.wait_for_start", "announcer.train"]
    assert START_PATIENCE > 0


def test_a_newcomer_that_comes_while_the_others_average_waits_for_their_result() -> None:
    around = Around(is_late=True)
    around.acted(lambda stages: stages.catch_up(is_founder=False))
    assert around.calls == ["catch_up.wait_for_result", "announcer.follow", "announcer.announce_round"]
    assert around.waitings == [Waiting(SPEC.average_seconds, Announce.NOW)]


# --- the other stages ---------------------------------------------------------------------------------------


def test_local_training_is_shared_with_the_members_of_the_last_average() -> None:
    around = Around()

    async def act(stages: RoundStages) -> Update:
        around.position.companions = (ME, FRIEND)
        return await stages.learn()

    assert around.acted(act) is UPDATE


def manifest_with(overlap: float, rounds: int = 100) -> RunManifest:
    """A run whose peers train on for that part of a round while they average."""
    return msgspec.structs.replace(
        MANIFEST, round=msgspec.structs.replace(SPEC, overlap=overlap), rounds=rounds
    )


@pytest.mark.parametrize(
    ("manifest", "work", "is_ahead"),
    [
        pytest.param(manifest_with(0.5), WORK, True, id="the run overlaps"),
        pytest.param(manifest_with(0.0), WORK, False, id="the run does not overlap"),
        pytest.param(manifest_with(0.5, rounds=8), WORK, False, id="no round follows"),
        pytest.param(manifest_with(0.5), replace(WORK, is_usable=False), False, id="training has diverged"),
        pytest.param(manifest_with(0.5), None, False, id="there was no training"),
    ],
)
def test_local_training_goes_on_during_the_average_if_that_is_of_use(
    manifest: RunManifest, work: LocalUpdate | None, is_ahead: bool
) -> None:
    around = Around(manifest=manifest, work=work, averaging_seconds=1.5)
    assert around.acted(lambda stages: stages.average(UPDATE)) is DECIDED
    assert around.activity.phase is Phase.AVERAGING
    assert ("learner.step_ahead" in around.calls) == is_ahead
    assert ("learner.carry_over" in around.calls) == is_ahead


def test_a_checkpoint_is_written_now_and_then_and_in_any_case_at_the_end() -> None:
    around = Around()
    around.acted(lambda stages: stages.save_if_due())
    last = Around(state=SharedState(MANIFEST.rounds, torch.zeros(4)))
    last.acted(lambda stages: stages.save_if_due())
    assert (around.saved, last.saved) == ([False], [True])


def test_a_peer_that_leaves_writes_a_checkpoint_only_if_a_round_contains_its_work() -> None:
    async def contribute_and_leave(stages: RoundStages) -> None:
        await stages.conclude(UPDATE, DECIDED)
        await stages.save()

    contributor = Around()
    contributor.acted(contribute_and_leave)
    visitor = Around()
    visitor.acted(lambda stages: stages.save())
    assert (contributor.saved, visitor.saved) == ([True], [])


def test_the_run_is_finished_after_its_last_round() -> None:
    for round_, is_finished in ((MANIFEST.rounds - 1, False), (MANIFEST.rounds, True)):
        around = Around(state=SharedState(round_, torch.zeros(4)))

        async def act(stages: RoundStages) -> bool:
            return stages.is_finished

        assert around.acted(act) == is_finished


def test_a_peer_that_leaves_stops_its_training() -> None:
    around = Around()

    async def act(stages: RoundStages) -> None:
        stages.stop()
        assert soon(0) == 0

    around.acted(act)
    assert around.is_stopping
