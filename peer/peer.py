"""One peer of one run: puts the parts together, owns every task, and keeps the promises to the volunteer.

The stages of a round are methods in the order in which `peer.loop` calls them. Everything from outside comes through `Ports`, so
the same peer runs on sockets and in a rehearsal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from averaging.averager import FORMS, Averaged, Averager, Update
from averaging.feedback import ErrorFeedback
from swarm.errors import DiskTrouble, NobodyThere, SwarmError
from swarm.identity import KeyPair, PeerId, petname
from swarm.machine import Arithmetic, Report
from swarm.manifest import RunManifest
from swarm.membership.progress import Phase, Progress
from swarm.seeds import derive_bytes
from swarm.transport.post import Post
from swarm.wire import Signed, Stamp, open_frame, seal

from . import checkpoint
from .board import Board
from .data.corpus import Corpus
from .learner import Assignment, Learner, Work
from .library import Library
from .loop import train
from .model import count
from .neighbours import Neighbours, Ways
from .offers import Offer, Standing
from .report import RoundReport
from .state import SharedState, StateContent, state_root
from .status import Snapshot
from .sync import POLL_SECONDS, Sync

JOIN_PATIENCE = 60.0
"""Seconds a newcomer asks around for text and model before it gives up."""
COMPANY_PATIENCE = 120.0
"""Seconds to wait for `RunManifest.start_with` peers before the first round."""
GOODBYE_SECONDS = 1.0
SAMPLE_SECONDS = 30.0


class Teller(Protocol):
    """Whom a peer tells what happens: `peer.report.Reporter`, or a rehearsal's notebook."""

    def round_finished(self, report: RoundReport) -> None:
        """A round is over."""

    def event(self, name: str, /, **fields: object) -> None:
        """Anything else worth a line."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much local training fits: at most ``steps``, and until ``is_over`` says so (asked after every step)."""

    steps: int
    is_over: Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything a peer needs from outside."""

    ways: Ways
    arithmetic: Arithmetic
    budget: Callable[[float], Budget]
    """Seconds of local training -> what fits into them."""
    teller: Teller


@dataclass(frozen=True, slots=True, kw_only=True)
class Self:
    """Who this peer is: its key, its name for people, where it lives, and what it already has."""

    key: KeyPair
    name: str
    version: str
    contact: bytes
    """Our sealed `Contact`."""
    home: Path | None = None
    corpus: Corpus | None = None
    founder: bool = False
    """Whether it may begin from the fresh model where nobody has a state yet."""
    first_seq: int = 0


class LocalTraining:
    """One round of local training as a job; ``steps`` is what it may cost at most."""

    def __init__(self, learner: Learner, task: Assignment) -> None:
        self._learner, self._task = learner, task
        self.steps = task.max_steps

    def __call__(self) -> Work:
        """Do it."""
        return self._learner.work(self._task)


class Peer:
    """See the module. `run` is its whole life; `snapshot` may be read at any time meanwhile."""

    def __init__(self, manifest: RunManifest, sealed_manifest: bytes, me: Self, ports: Ports) -> None:
        self.manifest, self._me, self._ports = manifest, me, ports
        self._loop = asyncio.get_running_loop()
        self.board = Board(manifest, me.key.peer_id, me.name, me.version, count(manifest.model), self._loop.time)
        self.neighbours = Neighbours(
            manifest, sealed_manifest, me.key, ports.ways, self._describe, self._current_offer, first_seq=me.first_seq
        )
        self._learner: Learner | None = None
        self._members: tuple[PeerId, ...] = ()
        self._offer: Offer | None = None
        self._seconds_left: float | None = None
        self._deadline = self._round_began = 0.0
        self._loss, self._steps = 0.0, 0
        self._wire = (0, 0)
        self._saved_at = self._loop.time()
        self._save_cost = 0.0
        self._sampled_at: float | None = None
        self._stopping = False

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Join, train to the end of the run, leave. Cancelling it leaves cleanly; whatever else it raises is a `SwarmError`."""
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._live(tasks)
                raise _Over
        except* _Over:
            self._stopping = True
        except* SwarmError as errors:
            raise _first(errors) from None

    async def _live(self, tasks: asyncio.TaskGroup) -> None:
        me, ports = self._me, self._ports
        post = Post(ports.ways.transport, me.key, self.manifest.run_id, tasks, FORMS)
        self._library = Library(ports.ways.transport, ports.arithmetic, tasks, self._note)
        self._sync = Sync(self.manifest, self._library, self.neighbours, ports.arithmetic, self._tell_progress)
        self._averager = Averager(self.manifest, me.key, post, ports.arithmetic, tasks, self._note)
        interval = min(15.0, max(2.0, self.manifest.round.seconds / 2))
        tasks.create_task(self.neighbours.publish_and_discover(interval), name="membership")
        tasks.create_task(self._meter(), name="meter")
        try:
            self._learner = await self._make_learner()
            await train(self)
            self.board.finished = True
            await self._export()
        finally:
            self._stopping = True
            self.board.enter(Phase.LEAVING)
            await self.neighbours.announce(self._loop.time() + GOODBYE_SECONDS)

    async def _make_learner(self) -> Learner:
        corpus = self._me.corpus
        if corpus is None:
            kept_in = self._me.home / "data" if self._me.home else None
            self.board.enter(Phase.SYNCING)
            corpus = await self._sync.corpus(kept_in, self._loop.time() + JOIN_PATIENCE)
        else:
            self._library.offer(corpus.spec.root, corpus, always=True)
        return await self._ports.arithmetic.run(lambda: Learner(self.manifest, corpus, self._me.key.peer_id))

    # --- the stages of a round ------------------------------------------------------------------------------------

    @property
    def learner(self) -> Learner:
        """The model on this computer; there is one as soon as the training text is here."""
        if self._learner is None:
            raise RuntimeError("the peer has not read its training text yet")
        return self._learner

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its end."""
        return self.manifest.is_finished(self.learner.state.round, self.board.run_tokens)

    async def catch_up(self) -> None:
        """Begin where the run stands: our checkpoint, the others' state, or (a founder alone) the fresh model."""
        self.board.enter(Phase.SYNCING)
        resumed = await self._resume()
        give_up_at = self._loop.time() + JOIN_PATIENCE
        while True:
            own = self._signed_offer() if resumed else None
            standing, answers = await self._sync.standing(own, min(give_up_at, self._loop.time() + 10))
            if answers == 0 and (resumed or self._me.founder):
                break
            if standing and resumed and standing.state_root == self.board.state_root:
                break
            if standing and answers and await self._adopt(standing):
                break
            if self._loop.time() >= give_up_at:
                raise NobodyThere(
                    "no peer of the run gave us its model", "the run may be over; ask the organiser, or try again in a minute"
                )
            await asyncio.sleep(POLL_SECONDS)
        if not resumed and answers == 0:
            self._stand_on(self.learner.state)
        self.board.enter(Phase.WAITING)
        await self.neighbours.announce(self._loop.time() + 5)
        if self.learner.state.round == 0:
            await self._wait_for_company()

    async def _wait_for_company(self) -> None:
        """Before the first round: until as many are here as the run wants to start with, or patience ends."""
        self.board.enter(Phase.WAITING, COMPANY_PATIENCE)
        give_up_at = self._loop.time() + COMPANY_PATIENCE
        while len(self.neighbours.roster.peers(self._loop.time())) + 1 < self.manifest.start_with:
            if self._loop.time() >= give_up_at or self._has_begun():
                return
            await asyncio.sleep(POLL_SECONDS)
        await self.neighbours.announce(self._loop.time() + 5)

    def _has_begun(self) -> bool:
        """Whether somebody we know has gone on to a later round."""
        return any(signed.stamp.round > 0 for signed in self.neighbours.roster.records())

    async def learn(self) -> Update:
        """As many local steps as fit before the round's deadline."""
        spec, state = self.manifest.round, self.learner.state
        self._round_began = self._loop.time()
        seconds, self._seconds_left = self._seconds_left or spec.seconds, None
        self._deadline = self._round_began + seconds
        self.board.enter(Phase.TRAINING, seconds)
        budget = self._ports.budget(seconds)
        task = Assignment(
            members=self._members,
            max_steps=max(1, min(spec.max_steps, budget.steps)),
            until=lambda: self._stopping or budget.is_over(),
            on_step=self._on_step,
        )
        work = await self._ports.arithmetic.run(LocalTraining(self.learner, task))
        self._loss, self._steps = work.trained.loss, work.trained.steps
        self.board.given_tokens += work.trained.tokens
        self.board.tokens_per_second = work.trained.tokens / max(1e-3, self._loop.time() - self._round_began)
        run = self.manifest.run_id
        return Update(
            round=state.round,
            vector_P=work.update_P,
            tokens=work.trained.tokens,
            seed=derive_bytes(run, "batches", state.round, self._me.key.peer_id),
            state_root=self.board.state_root,
        )

    async def average(self, update: Update) -> Averaged:
        """The average with whoever is there."""
        self.board.enter(Phase.AVERAGING, self.manifest.round.average_seconds)
        now = self._loop.time()
        gone = self.neighbours.roster.absent(now)
        expected = sorted((set(self._members) - gone) | set(self.neighbours.roster.at_round(update.round, now)))
        return await self._averager.average(update, expected, self._deadline + self.manifest.round.assemble_seconds)

    async def conclude(self, update: Update, averaged: Averaged) -> None:
        """The next state: the outer step on the average; or, where there was none with us, what the others have now."""
        if averaged.average_P is None:
            self._say("warning", code="round-missed", fact=averaged.reason, round=update.round)
            if await self._reconcile(declined=averaged.declined):
                return
        state = await self._ports.arithmetic.run(lambda: self.learner.conclude(averaged.average_P))
        self._note_members(averaged)
        self.board.run_tokens += averaged.tokens
        self.board.given_rounds += averaged.average_P is not None
        self._stand_on(state)
        score = None
        if state.round % self.manifest.evaluate_every == 0 or self.is_finished:
            score = await self._ports.arithmetic.run(self.learner.evaluate)
            await self._sample_if_due()
        self._report(update, averaged, score)

    async def _sample_if_due(self) -> None:
        """A few lines by the shared model for the screens; it costs more than an evaluation, so seldom."""
        if self._sampled_at is None or self._loop.time() >= self._sampled_at + SAMPLE_SECONDS:
            self._sampled_at = self._loop.time()
            self.board.sample_text = await self._ports.arithmetic.run(self.learner.sample)

    async def save_if_due(self) -> None:
        """A checkpoint now and then: never more than a twentieth of the time, and always at the end."""
        due = self._saved_at + max(10.0, 20 * self._save_cost)
        if self._me.home is not None and (self.is_finished or self._loop.time() >= due):
            began = self._loop.time()
            await self.save()
            self._saved_at = self._loop.time()
            self._save_cost = self._saved_at - began

    async def save(self) -> None:
        """Write the checkpoint; a full disk is told, and training goes on."""
        home, learner, feedback = self._me.home, self.learner, self._averager.feedback
        if home is None:
            return
        residual_P = feedback.residual if feedback else None
        meta = {"run": self.manifest.run_id.hex(), "tokens": str(self.board.run_tokens)}
        try:
            path = await self._ports.arithmetic.run(
                lambda: checkpoint.save(home / "checkpoints", learner.state, learner.export_inner(), residual_P, meta)
            )
        except DiskTrouble as error:
            self._say("warning", code=error.code, fact=error.fact, advice=error.advice)
            return
        self.board.checkpoint = str(path)
        self._say("checkpoint", path=str(path), round=learner.state.round)

    # --- where the run stands -------------------------------------------------------------------------------------

    async def _resume(self) -> bool:
        """Our own checkpoint, where there is one that is whole."""
        home = self._me.home
        if home is None:
            return False
        loaded, warnings = await self._ports.arithmetic.run(lambda: checkpoint.load(home / "checkpoints"))
        for warning in warnings:
            self._say("warning", code="checkpoint", fact=warning)
        if loaded is None or loaded.meta.get("run") != self.manifest.run_id.hex():
            return False
        self.learner.adopt(loaded.state)
        self.learner.import_inner(loaded.inner)
        if loaded.residual_P is not None:
            feedback = ErrorFeedback(self.learner.numbers)
            feedback.adopt(loaded.residual_P)
            self._averager.restore(feedback)
        self.board.run_tokens = int(loaded.meta.get("tokens", "0"))
        self._stand_on(loaded.state)
        self._say("resumed", round=loaded.state.round, checkpoint=str(loaded.path))
        return True

    async def _adopt(self, standing: Standing) -> bool:
        """Take the state that the others believe in; False where it could not be had this time."""
        deadline = self._loop.time() + max(JOIN_PATIENCE, self.manifest.round.seconds)
        state = await self._sync.state(standing, self.learner.numbers, deadline)
        if state is None:
            return False
        await self._ports.arithmetic.run(lambda: self.learner.adopt(state, steps_per_round=self._steps or 0))
        self.board.run_tokens = max(self.board.run_tokens, standing.tokens)
        self._seconds_left = standing.seconds_left or None
        self._stand_on(state)
        self._say("synced", round=state.round, donors=len(standing.donors), state_root=self.board.state_root.hex())
        return True

    async def _reconcile(self, *, declined: bool) -> bool:
        """After a round without us: wait until the others have its result and take that. False where there is nothing to take."""
        spec = self.manifest.round
        deadline = self._loop.time() + (spec.average_seconds if declined else spec.assemble_seconds)
        self.board.enter(Phase.SYNCING)
        while True:
            standing, answers = await self._sync.standing(self._signed_offer(), deadline)
            late = self._loop.time() + POLL_SECONDS >= deadline
            ours = standing is None or standing.state_root == self.board.state_root
            if answers == 0 or (late and ours):
                return False
            if standing and not ours and (standing.round > self.learner.state.round or late) and await self._adopt(standing):
                return True
            if late:
                return False
            await asyncio.sleep(POLL_SECONDS)

    def _stand_on(self, state: SharedState) -> None:
        """From now on this is the state that we train from and hand to newcomers."""
        root = state_root(state)
        self.board.round, self.board.state_root = state.round, root
        self._offer = Offer(root, self.board.run_tokens, 0.0)
        self._library.offer(root, StateContent(state))

    def _current_offer(self) -> tuple[int, Offer] | None:
        if self._offer is None or self._learner is None:
            return None
        left = max(0.0, self._deadline - self._loop.time()) if self.board.phase is Phase.TRAINING else 0.0
        return self.board.round, Offer(self._offer.state_root, self.board.run_tokens, left)

    def _signed_offer(self) -> Signed[Offer] | None:
        current = self._current_offer()
        if current is None:
            return None
        run = self.manifest.run_id
        return open_frame(seal(self._me.key, current[1], Stamp(run, round=current[0])), Offer, run=run)

    # --- telling --------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The picture of this moment, for every screen."""
        return self.board.snapshot(self.neighbours.roster.rows(self._loop.time()))

    def _describe(self) -> tuple[int, Progress]:
        return self.board.round, self.board.progress(self._me.contact)

    def _on_step(self, step: int, loss: float) -> None:
        self.board.step = step

    def _note_members(self, averaged: Averaged) -> None:
        present = tuple(peer for peer in averaged.members if peer not in averaged.missing)
        me = self._me.key.peer_id
        if averaged.average_P is not None:
            for peer in sorted(set(present) - set(self._members) - {me}):
                self._say("joined", peer=peer, name=petname(peer))
            for peer in sorted(set(self._members) - set(present) - {me}):
                self._say("left", peer=peer, name=petname(peer))
            self._members = present
        self.board.members, self.board.missing = len(present), len(averaged.missing)
        self.board.reason = averaged.reason
        self.board.average_seconds = averaged.seconds

    def _report(self, update: Update, averaged: Averaged, score: float | None) -> None:
        up, down = self._ports.ways.transport.bytes_up, self._ports.ways.transport.bytes_down
        self.board.loss = self._loss
        self.board.add_loss(update.round, self._loss)
        if score is not None:
            self.board.add_evaluation(update.round, score)
        self.board.round_seconds = self._loop.time() - self._round_began
        report = RoundReport(
            round=update.round,
            state_root=self.board.state_root.hex(),
            members=max(1, self.board.members),
            missing=self.board.missing,
            loss=self._loss,
            bits_per_byte=score,
            tokens=self.board.given_tokens,
            local_steps=self._steps,
            seconds=round(self.board.round_seconds, 3),
            average_seconds=round(averaged.seconds, 3),
            bytes_up=up - self._wire[0],
            bytes_down=down - self._wire[1],
        )
        self._wire = (up, down)
        self._ports.teller.round_finished(report)

    def _note(self, report: Report) -> None:
        who = f"{petname(report.peer)}: " if report.peer else ""
        self._say("warning", code=report.code, fact=who + report.fact)

    def _say(self, event: str, /, **fields: Any) -> None:
        words = fields.get("fact") or " ".join(f"{key} {value}" for key, value in fields.items() if key != "peer")
        self.board.note(f"{event} {words}", "warning" if event == "warning" else "info")
        self._ports.teller.event(event, **fields)

    def _tell_progress(self, what: str, here: int, whole: int) -> None:
        self.board.reason = f"fetching the {what}: {here} of {whole} chunks"

    async def _meter(self) -> None:
        """For ever: note once a second what crossed the wire."""
        transport = self._ports.ways.transport
        while True:
            self.board.meter.sample(transport.bytes_up, transport.bytes_down, 1.0)
            await asyncio.sleep(1.0)

    async def _export(self) -> None:
        """The finished model as a file for people."""
        home, learner = self._me.home, self.learner
        if home is not None:
            meta = {"run": self.manifest.run_id.hex(), "name": self.manifest.name, "round": str(learner.state.round)}
            path = home / "model.safetensors"
            await self._ports.arithmetic.run(lambda: checkpoint.export(path, learner.named(), self.manifest.model, meta))
            self._say("model", path=str(path), round=learner.state.round)


class _Over(Exception):
    """Leaves the task group when the run is over: whatever still waits for an answer is not needed any more."""


def _first(errors: BaseExceptionGroup[SwarmError]) -> SwarmError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, SwarmError) else SwarmError(str(error))
