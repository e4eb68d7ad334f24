"""One peer of one run: puts the parts together, owns every task, and keeps the promises to the volunteer.

The stages of a round are methods in the order in which `peer.loop` calls them. Everything from outside comes through `Ports`, so
the same peer runs on sockets and in a rehearsal.
"""

from __future__ import annotations

import asyncio

from averaging.averager import FORMS, Averaged, Averager, Update
from averaging.record import Frame, Record
from swarm.errors import SwarmError
from swarm.identity import PeerId
from swarm.manifest import RunManifest
from swarm.membership.progress import Phase, Progress
from swarm.transport.post import Post

from .chunks.exchange import Library
from .chunks.resume import Partial
from .loop import train
from .models.registry import count
from .network.lookup import Acquainted
from .network.membership import Neighbours
from .network.uplink import Metered, Uplink
from .observe.events import Lesson, Telling
from .observe.metrics import Board
from .observe.snapshot import Snapshot
from .ports import LocalTraining, Ports, Self
from .rounds.checkpointer import Keeper
from .rounds.coordinator import COMPANY_PATIENCE, Meeting
from .rounds.evaluator import Examiner
from .rounds.overlap import meanwhile
from .sync.position import JOIN_PATIENCE, Course, Found, Means
from .sync.round_log import Replays
from .sync.state_sync import Sync
from .sync.trusted_head import Anchors
from .training.learner import Assignment, Learner, Work

GOODBYE_SECONDS = 1.0
LAST_SAVE_SECONDS = 3.0
OFTEN_SECONDS, SELDOM_SECONDS = 5.0, 20.0
"""Bounds of the time between two looks at the DHT; between them, the length of a round. A look costs some 10 kB per peer."""


class Peer:
    """See the module. `run` is its whole life; `snapshot` may be read at any time meanwhile."""

    def __init__(self, manifest: RunManifest, sealed_manifest: bytes, me: Self, ports: Ports) -> None:
        self._manifest, self._me, self._ports = manifest, me, ports
        self._id = me.key.peer_id
        self._loop = asyncio.get_running_loop()
        self.board = Board(manifest, self._id, me.name, me.version, count(manifest.model), self._loop.time)
        self._telling = Telling(self.board, ports.teller, ports.ways.transport, self._id)
        self._course = Course(manifest, me.key, self.board, self._telling)
        self._keeper = Keeper(me.home, manifest, ports.arithmetic, self.board, self._telling)
        self._examiner = Examiner(manifest, ports.arithmetic, self.board, has_screen=me.home is not None)
        self.neighbours = Neighbours(
            manifest,
            sealed_manifest,
            me.key,
            ports.ways,
            self._describe,
            self._course.offer,
            first_seq=me.first_seq,
        )
        self.dialable = True
        """Whether others can open connections to us, as far as anybody has tried."""
        self._uplink = Uplink()
        self._members: tuple[PeerId, ...] = ()
        self._began = 0.0
        self._stopping = self._is_over = False

    def __repr__(self) -> str:
        return f"Peer({self._me.name or self._id[:8]}, round {self.board.round}, {self.board.phase.name.lower()})"

    @property
    def has_stood(self) -> bool:
        """Whether this peer has had a state of the run, its own or the others'."""
        return any(self.board.state_root)

    def snapshot(self) -> Snapshot:
        """The picture of this moment, for every screen."""
        roster, now = self.neighbours.roster, self._loop.time()
        return self.board.snapshot(
            [(row, now - row.heard, roster.is_present(row.peer, now)) for row in roster.snapshot()]
        )

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Join, train to the end of the run, leave. Cancelling it leaves cleanly; whatever else it raises is a `SwarmError`."""
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._live(tasks)
                raise _Over
        except* _Over:
            self.board.finished = True
        except* SwarmError as errors:
            raise _first(errors) from None

    async def _live(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        me, transport, arithmetic = self._me, self._ports.ways.transport, self._ports.arithmetic
        acquainted = Acquainted(transport, self._ports.ways.contacts, self.neighbours.find)
        metered = Metered(acquainted, self._uplink, self._loop.time)
        self._post = post = Post(metered, me.key, self._manifest.run_id, tasks, FORMS)
        partial = Partial(me.home / "partial" if me.home else None)
        self._library = Library(transport, arithmetic, tasks, self._telling.note, partial)
        anchors = Anchors(self._manifest, transport)
        self._sync = Sync(
            self._manifest, self._library, self.neighbours, arithmetic, self._telling.progress, anchors
        )
        self._averager = Averager(self._manifest, me.key, post, arithmetic, tasks, self._telling.note)
        interval = min(SELDOM_SECONDS, max(OFTEN_SECONDS, self._manifest.round.seconds))
        tasks.create_task(self.neighbours.publish_and_discover(interval, SELDOM_SECONDS), name="membership")
        tasks.create_task(self._look_around(interval), name="look around")
        tasks.create_task(self._meter(), name="meter")
        if self._id == self._manifest.organiser_id:
            tasks.create_task(
                anchors.keep_telling(me.key, self._course.offer, self.neighbours.some), name="anchor"
            )
        try:
            self._learner = learner = await self._make_learner()
            frame = Frame(spec=self._manifest.round, tensors=learner.tensors)
            self._replays = Replays(learner, frame, self._library, transport, arithmetic)
            self._means = Means(learner, self._sync, self._library, self._replays)
            ways = (self._course, self.neighbours, self._averager, self._means, self._ask_to_wait)
            self._meeting = Meeting(self._manifest, *ways)
            await train(self)
            self._is_over = True
            await self._keeper.export(self._learner)
        finally:
            await self._leave()

    async def _make_learner(self) -> Learner:
        """The model, and the text it learns from: ours, kept from an earlier life, or the others'."""
        corpus = self._me.corpus
        if corpus is None:
            kept_in = self._me.home / "data" if self._me.home else None
            self.board.enter(Phase.SYNCING)
            corpus = await self._sync.corpus(kept_in, self._loop.time() + JOIN_PATIENCE)
        else:
            self._library.offer(corpus.spec.root, corpus, always=True)
        return await self._ports.arithmetic.run(lambda: Learner(self._manifest, corpus, self._id))

    async def _leave(self) -> None:
        """Stop the local steps, keep what there is, say goodbye: all within the seconds that a person waits after Ctrl-C."""
        self._stopping = True
        self.board.enter(Phase.LEAVING)
        try:
            async with asyncio.timeout(LAST_SAVE_SECONDS):
                if self._is_over:
                    await self._post.rest(GOODBYE_SECONDS)
                if (
                    not self._is_over or self._course.cells.count == 1
                ):  # a crowd that goes all at once needs no word of it
                    await self.neighbours.announce(self._loop.time() + GOODBYE_SECONDS, self._course.cells)
                if self.board.given_rounds:
                    await self._keeper.save_if_due(self._learner, self._averager, now=True)
        except TimeoutError:
            self._telling.warn(
                "checkpoint", "no time for a last checkpoint; the one before it is still there"
            )

    # --- the stages of a round ------------------------------------------------------------------------------------

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its end."""
        return self._manifest.is_finished(self._learner.state.round, self.board.run_tokens)

    async def catch_up(self) -> None:
        """Begin where the run stands: our checkpoint, the others' state, or (a founder alone) the fresh model."""
        self.board.enter(Phase.SYNCING)
        resumed = await self._keeper.restore(self._learner, self._averager)
        if resumed:
            self._course.come_back(self._learner.state, self._library)
        await self._course.join(self._means, alone_is_fine=resumed or self._me.founder)
        if self._course.is_late:
            turned_away = Averaged(average_P=None, declined=True, round=self.board.round)
            await self._course.rejoin(self._means, turned_away, self._ask_to_wait)
        self._show_up()
        if self._learner.state.round == 0:
            self.board.enter(Phase.WAITING, COMPANY_PATIENCE)
            await self._meeting.company()
            self._announce(Phase.TRAINING)

    async def learn(self) -> Update:
        """As many local steps as fit before the round's deadline."""
        spec, round_ = self._manifest.round, self._learner.state.round
        self._began = self._loop.time()
        left, self._course.seconds_left = self._course.seconds_left, None
        seconds = (
            spec.seconds if left is None else left
        )  # none left: one step, to be in time for the next round
        self._course.train_until = self._began + seconds
        self.board.enter(Phase.TRAINING, seconds)
        budget = self._ports.budget(seconds)
        task = Assignment(
            members=self._members,
            max_steps=max(1, min(spec.max_steps - self._learner.steps_ahead, budget.steps)),
            until=lambda: self._stopping or budget.is_over(),
            on_step=self.board.on_step,
        )
        self._work: Work = await self._ports.arithmetic.run(LocalTraining(self._learner, task))
        if not self._work.is_usable:
            self._telling.warn(
                "diverged",
                "our local steps led to numbers that are not finite; this round has no update of ours",
            )
        tokens = self._work.trained.tokens
        self.board.given_tokens += tokens
        self.board.tokens_per_second = tokens / max(1e-3, self._loop.time() - self._began)
        seed, root, fragment = (
            self._learner.seed_of(round_),
            self.board.state_root,
            self._learner.fragment(round_),
        )
        codec = self._uplink.codec(spec, fragment.numbers, len(self._members))
        self.board.sends(codec)
        return Update(
            round=round_,
            vector_P=self._work.update_P,
            tokens=tokens,
            seed=seed,
            state_root=root,
            tensors=fragment.tensors,
            fragment=fragment.index,
            codec=codec,
            line=self._uplink.line(dialable=self.dialable),
        )

    async def average(self, update: Update) -> Averaged:
        """The average with whoever is there."""
        spec = self._manifest.round
        self.board.enter(Phase.AVERAGING, spec.average_seconds)
        averaging = self._meeting.average(update, self._members)
        is_last = self._manifest.is_finished(update.round + 1, self.board.run_tokens)
        if not spec.overlap or is_last or not self._work.is_usable:
            return await averaging
        return await meanwhile(averaging, self._learner, self._ports, spec)

    async def conclude(self, update: Update, averaged: Averaged) -> None:
        """The next state: the outer step on the average; or, where there was none with us, what the others have now."""
        is_without_us = not averaged.members
        if averaged.average_P is None or is_without_us:
            self._telling.warn("round-missed", averaged.reason, round=update.round)
        if averaged.average_P is None:
            found = await self._course.rejoin(self._means, averaged, self._ask_to_wait)
            if found is Found.OTHERS:
                self._meeting.others_went_on()
            if found is Found.OTHERS or not averaged.signed:
                self._show_up()
                return
        if averaged.record or averaged.average_P is None:
            self._replays.keep(
                update.state_root, averaged.record or Record(update.round, crowd=self._course.crowd)
            )
        state = await self._ports.arithmetic.run(lambda: self._learner.conclude(averaged.average_P))
        self._averager.take_back(averaged.average_P)
        self.board.run_tokens += averaged.tokens
        self._course.step_on(state, self._library, averaged)
        if is_without_us and averaged.record:
            self._course.companions = self._meeting.deciders(averaged.record)
            self._show_up()
            return
        if averaged.average_P is not None:
            self._members = self._telling.members(averaged)
            self.board.given_rounds += 1
        self._telling.round_finished(
            Lesson(
                round=update.round,
                loss=self._work.trained.loss,
                steps=self._work.trained.steps,
                seconds=self._loop.time() - self._began,
                bits_per_byte=await self._examiner.score_if_due(self._learner, now=self.is_finished),
            ),
            averaged,
        )
        if averaged.average_P is None or await self._course.move(self._means, self.neighbours, self._members):
            self._show_up()

    def _show_up(self) -> None:
        """After a round without us: tell the others in which one we are now, so that they expect us in it."""
        self._averager.stand(self._learner.state.round)
        self._announce(Phase.WAITING)

    def _announce(self, phase: Phase) -> None:
        """Be in ``phase``, and tell now whom it concerns: who leads the next round, where we follow this one, else everybody."""
        self.board.enter(phase)
        neighbours, deadline = self.neighbours, self._loop.time() + self._manifest.round.assemble_seconds
        is_for_next = phase is Phase.FOLLOWING
        telling = (
            neighbours.announce_to_next(deadline)
            if is_for_next
            else neighbours.announce(deadline, self._course.cells)
        )
        self._tasks.create_task(telling, name="announce")  # who does not answer must not make us late

    def _ask_to_wait(self) -> None:
        """The group of this round stands without us, and its result is soon ours. Who leads the next one must know before we have
        that, else we are late for every round that is shorter than the way to its state."""
        self._announce(Phase.FOLLOWING)

    async def save_if_due(self) -> None:
        """A checkpoint now and then, and always at the end."""
        await self._keeper.save_if_due(self._learner, self._averager, now=self.is_finished)

    # --- small things ---------------------------------------------------------------------------------------------

    def _describe(self) -> tuple[int, Progress]:
        return self.board.round, self.board.progress(self._me.contact)

    async def _look_around(self, interval: float) -> None:
        """For ever: see whether others train without us, who may be the larger camp."""
        while True:
            await asyncio.sleep(interval)
            await self._course.look_around(self.neighbours, self._members)

    async def _meter(self) -> None:
        """For ever: note once a second what crossed the wire."""
        transport, has_screen = self._ports.ways.transport, self._me.home is not None
        while True:
            self.board.sample(transport.bytes_up, transport.bytes_down, 1.0, with_cpu=has_screen)
            await asyncio.sleep(1.0)


class _Over(Exception):
    """Leaves the task group when the run is over: whatever still waits for an answer is not needed any more."""


def _first(errors: BaseExceptionGroup[SwarmError]) -> SwarmError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, SwarmError) else SwarmError(str(error))
