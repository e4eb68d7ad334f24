"""The stages of a round as one peer really does them (`peer.loop` has their order)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from averaging.averager import Averager
from averaging.outcome import Decided, Declined, Followed, Missed, Outcome, Undecided, Void, cause_of
from averaging.record import Record
from averaging.update import Update
from swarm.manifest import RunManifest
from swarm.membership.progress import Phase

from ..network.membership import Membership
from ..observe.events import Events, RoundSummary
from ..observe.metrics import Metrics
from ..sync.activity import Activity
from ..sync.catch_up import CatchUp, Found, Waiting
from ..sync.partition_watch import PartitionWatch
from ..sync.position import PositionTracker, Step
from ..sync.round_log import RoundLog
from ..training.jobs import LocalCompute
from ..training.learner import Learner
from ..training.state import SharedState
from .announcer import Announcer
from .checkpointer import Checkpointer
from .coordinator import START_PATIENCE, Coordinator
from .evaluator import Evaluator
from .next_step import Action, next_step
from .overlap import meanwhile
from .round_follower import known_members
from .training_stage import TrainingStage


@dataclass(frozen=True, slots=True)
class Local:
    """What the stages do on this computer."""

    learner: Learner
    compute: LocalCompute
    training: TrainingStage
    checkpointer: Checkpointer
    evaluator: Evaluator
    metrics: Metrics
    events: Events


@dataclass(frozen=True, slots=True)
class Shared:
    """What the stages do together with the other peers."""

    membership: Membership
    averager: Averager
    coordinator: Coordinator
    announcer: Announcer
    catch_up: CatchUp
    watch: PartitionWatch
    round_log: RoundLog


class RoundStages:
    """See the module."""

    def __init__(
        self,
        manifest: RunManifest,
        local: Local,
        shared: Shared,
        position: PositionTracker,
        activity: Activity,
    ) -> None:
        self._manifest = manifest
        self._local = local
        self._shared = shared
        self._position = position
        self._activity = activity
        self._has_contributed = False
        """Whether our group has decided a round since this process began."""

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its end."""
        return self._position.is_finished

    async def catch_up(self, *, is_founder: bool) -> None:
        """Begin where the run is: with our checkpoint, the state of the others, or (for a founder alone) the
        fresh model."""
        local = self._local
        shared = self._shared
        self._activity.enter(Phase.SYNCING)
        before = await local.checkpointer.restore(local.learner, shared.averager)
        if before:
            self._position.take_own(local.learner.state, before)
        await shared.catch_up.join(alone_is_fine=before is not None or is_founder)
        if shared.catch_up.is_late:
            # The others are averaging the round whose state we have taken: wait as if turned away.
            await self._wait_for_others(Declined("", self._position.now.round))
        shared.announcer.announce_round()
        if self._position.now.round == 0:
            self._activity.enter(Phase.WAITING, START_PATIENCE)
            await shared.coordinator.wait_for_start()
            shared.announcer.train()

    async def learn(self) -> Update:
        """As many local steps as fit before the round's deadline."""
        return await self._local.training.learn(self._position.companions)

    async def average(self, update: Update) -> Outcome:
        """The average with the peers that are present; with ``overlap`` local training goes on meanwhile."""
        spec = self._manifest.round
        local = self._local
        self._activity.enter(Phase.AVERAGING, spec.average_seconds)
        averaging = self._shared.coordinator.average(update)
        is_last = self._position.would_finish(update.round + 1)
        is_usable = local.training.work is not None and local.training.work.is_usable
        if not spec.overlap or is_last or not is_usable:
            return await averaging
        return await meanwhile(averaging, local.learner, local.compute, spec)

    async def conclude(self, update: Update, outcome: Outcome) -> None:
        """The state of the next round: the outer step on the average; or, without one, what the others have
        now."""
        match outcome:
            case Decided():
                await self._apply(update, outcome)
            case Followed():
                self._local.events.warn("round-missed", outcome.reason, round=update.round)
                await self._apply_followed(update, outcome)
            case _:
                await self._go_on_without(update, outcome)

    async def save_if_due(self) -> None:
        """A checkpoint now and then, and always at the end."""
        local = self._local
        await local.checkpointer.save_if_due(local.learner, self._shared.averager, now=self.is_finished)

    def stop(self) -> None:
        """The peer leaves: the local step under way is the last."""
        self._local.training.is_stopping = True

    async def save(self) -> None:
        """A last checkpoint; none if we had no part in a round since we began: the others have all of it."""
        if not self._has_contributed:
            return
        local = self._local
        await local.checkpointer.save_if_due(local.learner, self._shared.averager, now=True)

    # --- concluding a round ---------------------------------------------------------------------------------

    async def _apply(self, update: Update, decided: Decided) -> None:
        """The outer step on an average that our group has decided.

        Then see whether we are on the wrong side of a partition.
        """
        shared = self._shared
        if decided.record:
            shared.round_log.keep(update.state_root, decided.record)
        state = await self._outer_step(decided)
        taken = Step(
            tokens=decided.tokens,
            population=decided.population,
            origin=decided.origin,
            is_participant=decided.is_counted,
        )
        self._position.step(state, taken)
        self._position.companions = decided.present
        self._local.events.members(decided)
        self._has_contributed = True
        self._local.metrics.training.given_rounds += 1
        await self._tell_round(update, decided)
        if await shared.watch.change_sides(shared.catch_up):
            shared.announcer.announce_round()

    async def _apply_followed(self, update: Update, followed: Followed) -> None:
        """The outer step on an average that others have decided without us.

        They are the peers to expect in the next round. But the round may be long over: then take the state
        that they have by now. Round by round, each with its training, we would never come up with them.
        """
        shared = self._shared
        shared.round_log.keep(update.state_root, followed.record)
        state = await self._outer_step(followed)
        record = followed.record
        taken = Step(
            tokens=record.tokens,
            population=record.population,
            origin=followed.origin,
            is_participant=shared.membership.me in followed.origin.members,
        )
        self._position.step(state, taken)
        found = await shared.catch_up.wait_for_result(Waiting(0.0), shared.announcer.follow)
        if found is Found.OTHERS:
            shared.coordinator.others_went_on()
        else:
            self._position.same_head = known_members(followed.record, shared.membership.roster)
        shared.announcer.announce_round()

    async def _outer_step(self, outcome: Decided | Followed) -> SharedState:
        local = self._local
        return await local.compute.arithmetic.run(lambda: local.learner.conclude(outcome.average_P))

    async def _go_on_without(self, update: Update, missed: Missed) -> None:
        """Take what the others have; if they have nothing, do as `next_step` says."""
        shared = self._shared
        step = next_step(missed, self._position.now, self._manifest.round)
        self._local.events.warn("round-missed", step.reason, round=update.round)
        cause = cause_of(missed)
        if isinstance(cause, Undecided | Void):
            shared.announcer.compare_notes(cause.group)
        found = await shared.catch_up.wait_for_result(step.waiting, shared.announcer.follow)
        if found is Found.OTHERS:
            shared.coordinator.others_went_on()
        elif step.action is Action.SKIP:
            await self._skip(update, missed)
        shared.announcer.announce_round()

    async def _skip(self, update: Update, missed: Missed) -> None:
        """We have no average of this round: go on with the same model."""
        local = self._local
        void = Record(update.round, population=self._position.now.population)
        self._shared.round_log.keep(update.state_root, void)
        state = await local.compute.arithmetic.run(lambda: local.learner.conclude(None))
        self._position.skip(state)
        await self._tell_round(update, missed)

    async def _wait_for_others(self, missed: Missed) -> None:
        step = next_step(missed, self._position.now, self._manifest.round)
        await self._shared.catch_up.wait_for_result(step.waiting, self._shared.announcer.follow)

    async def _tell_round(self, update: Update, outcome: Decided | Missed) -> None:
        local = self._local
        root = self._position.now.state_root
        seconds = asyncio.get_running_loop().time() - local.training.began
        trained = local.training.work.trained if local.training.work else None
        bits_per_byte = await local.evaluator.score_if_due(local.learner, root, now=self.is_finished)
        summary = RoundSummary(
            round=update.round,
            state_root=root,
            loss=trained.loss if trained else 0.0,
            steps=trained.steps if trained else 0,
            seconds=seconds,
            bits_per_byte=bits_per_byte,
        )
        local.events.round_finished(summary, outcome)
