"""One peer of one run: puts the parts together, owns every task, and keeps the promises to the volunteer.

The stages of a round are methods in the order in which `peer.loop` calls them. Everything from outside comes through `Ports`, so
the same peer runs on sockets and in a rehearsal.
"""

from __future__ import annotations

import asyncio

from averaging.averager import FORMS, Averaged, Averager, Update
from averaging.record import Record, UpdateShape
from swarm.errors import SwarmError
from swarm.identity import PeerId
from swarm.manifest import RunManifest
from swarm.membership.progress import Phase, Progress
from swarm.transport.post import Post

from .chunks.exchange import ChunkExchange
from .chunks.resume import ResumeStore
from .loop import train
from .models.registry import count
from .network.lookup import LookupTransport
from .network.membership import Membership
from .network.uplink import MeteredTransport, Uplink
from .observe.events import Events, RoundSummary
from .observe.metrics import Metrics
from .observe.snapshot import Snapshot
from .ports import LocalPeer, LocalTraining, Ports
from .rounds.checkpointer import Checkpointer
from .rounds.coordinator import COMPANY_PATIENCE, Coordinator
from .rounds.evaluator import Evaluator
from .rounds.overlap import meanwhile
from .sync.position import JOIN_PATIENCE, Course, Found, Means
from .sync.round_log import RoundLog
from .sync.state_sync import Sync
from .sync.trusted_head import TrustedHeads
from .training.learner import Assignment, Learner, Work

GOODBYE_SECONDS = 1.0
LAST_SAVE_SECONDS = 3.0
OFTEN_SECONDS, SELDOM_SECONDS = 5.0, 20.0
"""Bounds of the time between two looks at the DHT; between them, the length of a round. A look costs some 10 kB per peer."""


class Peer:
    """See the module. `run` is its whole life; `snapshot` may be read at any time meanwhile."""

    def __init__(self, manifest: RunManifest, sealed_manifest: bytes, me: LocalPeer, ports: Ports) -> None:
        self._manifest, self._me, self._ports = manifest, me, ports
        self._id = me.key.peer_id
        self._loop = asyncio.get_running_loop()
        self.metrics = Metrics(
            manifest, self._id, me.name, me.version, count(manifest.model), self._loop.time
        )
        self._events = Events(self.metrics, ports.event_sink, ports.network.transport, self._id)
        self._course = Course(manifest, me.key, self.metrics, self._events)
        self._keeper = Checkpointer(me.home, manifest, ports.arithmetic, self.metrics, self._events)
        self._examiner = Evaluator(manifest, ports.arithmetic, self.metrics, has_screen=me.home is not None)
        self.membership = Membership(
            manifest,
            sealed_manifest,
            me.key,
            ports.network,
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
        return f"Peer({self._me.name or self._id[:8]}, round {self.metrics.round}, {self.metrics.phase.name.lower()})"

    @property
    def has_stood(self) -> bool:
        """Whether this peer has had a state of the run, its own or the others'."""
        return any(self.metrics.state_root)

    def snapshot(self) -> Snapshot:
        """The picture of this moment, for every screen."""
        roster, now = self.membership.roster, self._loop.time()
        return self.metrics.snapshot(
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
            self.metrics.finished = True
        except* SwarmError as errors:
            raise _first(errors) from None

    async def _live(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        me, transport, arithmetic = self._me, self._ports.network.transport, self._ports.arithmetic
        acquainted = LookupTransport(transport, self._ports.network.contacts, self.membership.find)
        metered = MeteredTransport(acquainted, self._uplink, self._loop.time)
        self._post = post = Post(metered, me.key, self._manifest.run_id, tasks, FORMS)
        partial = ResumeStore(me.home / "partial" if me.home else None)
        self._chunk_exchange = ChunkExchange(transport, arithmetic, tasks, self._events.note, partial)
        anchors = TrustedHeads(self._manifest, transport)
        self._sync = Sync(
            self._manifest, self._chunk_exchange, self.membership, arithmetic, self._events.progress, anchors
        )
        self._averager = Averager(self._manifest, me.key, post, arithmetic, tasks, self._events.note)
        interval = min(SELDOM_SECONDS, max(OFTEN_SECONDS, self._manifest.round.seconds))
        tasks.create_task(self.membership.publish_and_discover(interval, SELDOM_SECONDS), name="membership")
        tasks.create_task(self._look_around(interval), name="look around")
        tasks.create_task(self._meter(), name="meter")
        if self._id == self._manifest.organiser_id:
            tasks.create_task(
                anchors.keep_telling(me.key, self._course.offer, self.membership.some), name="anchor"
            )
        try:
            self._learner = learner = await self._make_learner()
            frame = UpdateShape(spec=self._manifest.round, tensors=learner.tensors)
            self._round_log = RoundLog(learner, frame, self._chunk_exchange, transport, arithmetic)
            self._means = Means(learner, self._sync, self._chunk_exchange, self._round_log)
            network = (self._course, self.membership, self._averager, self._means, self._ask_to_wait)
            self._meeting = Coordinator(self._manifest, *network)
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
            self.metrics.enter(Phase.SYNCING)
            corpus = await self._sync.corpus(kept_in, self._loop.time() + JOIN_PATIENCE)
        else:
            self._chunk_exchange.offer(corpus.spec.root, corpus, always=True)
        return await self._ports.arithmetic.run(lambda: Learner(self._manifest, corpus, self._id))

    async def _leave(self) -> None:
        """Stop the local steps, keep what there is, say goodbye: all within the seconds that a person waits after Ctrl-C."""
        self._stopping = True
        self.metrics.enter(Phase.LEAVING)
        try:
            async with asyncio.timeout(LAST_SAVE_SECONDS):
                if self._is_over:
                    await self._post.rest(GOODBYE_SECONDS)
                if (
                    not self._is_over or self._course.hierarchy.count == 1
                ):  # a population that goes all at once needs no word of it
                    await self.membership.announce(
                        self._loop.time() + GOODBYE_SECONDS, self._course.hierarchy
                    )
                if self.metrics.given_rounds:
                    await self._keeper.save_if_due(self._learner, self._averager, now=True)
        except TimeoutError:
            self._events.warn("checkpoint", "no time for a last checkpoint; the one before it is still there")

    # --- the stages of a round ------------------------------------------------------------------------------------

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its end."""
        return self._manifest.is_finished(self._learner.state.round, self.metrics.run_tokens)

    async def catch_up(self) -> None:
        """Begin where the run stands: our checkpoint, the others' state, or (a founder alone) the fresh model."""
        self.metrics.enter(Phase.SYNCING)
        resumed = await self._keeper.restore(self._learner, self._averager)
        if resumed:
            self._course.come_back(self._learner.state, self._chunk_exchange)
        await self._course.join(self._means, alone_is_fine=resumed or self._me.founder)
        if self._course.is_late:
            turned_away = Averaged(average_P=None, declined=True, round=self.metrics.round)
            await self._course.rejoin(self._means, turned_away, self._ask_to_wait)
        self._show_up()
        if self._learner.state.round == 0:
            self.metrics.enter(Phase.WAITING, COMPANY_PATIENCE)
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
        self.metrics.enter(Phase.TRAINING, seconds)
        budget = self._ports.budget(seconds)
        task = Assignment(
            members=self._members,
            max_steps=max(1, min(spec.max_steps - self._learner.steps_ahead, budget.steps)),
            until=lambda: self._stopping or budget.is_over(),
            on_step=self.metrics.on_step,
        )
        self._work: Work = await self._ports.arithmetic.run(LocalTraining(self._learner, task))
        if not self._work.is_usable:
            self._events.warn(
                "diverged",
                "our local steps led to numbers that are not finite; this round has no update of ours",
            )
        tokens = self._work.trained.tokens
        self.metrics.given_tokens += tokens
        self.metrics.tokens_per_second = tokens / max(1e-3, self._loop.time() - self._began)
        seed, root, fragment = (
            self._learner.seed_of(round_),
            self.metrics.state_root,
            self._learner.fragment(round_),
        )
        codec = self._uplink.codec(spec, fragment.numbers, len(self._members))
        self.metrics.sends(codec)
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
        self.metrics.enter(Phase.AVERAGING, spec.average_seconds)
        averaging = self._meeting.average(update, self._members)
        is_last = self._manifest.is_finished(update.round + 1, self.metrics.run_tokens)
        if not spec.overlap or is_last or not self._work.is_usable:
            return await averaging
        return await meanwhile(averaging, self._learner, self._ports, spec)

    async def conclude(self, update: Update, averaged: Averaged) -> None:
        """The next state: the outer step on the average; or, where there was none with us, what the others have now."""
        is_without_us = not averaged.members
        if averaged.average_P is None or is_without_us:
            self._events.warn("round-missed", averaged.reason, round=update.round)
        if averaged.average_P is None:
            found = await self._course.rejoin(self._means, averaged, self._ask_to_wait)
            if found is Found.OTHERS:
                self._meeting.others_went_on()
            if found is Found.OTHERS or not averaged.signed:
                self._show_up()
                return
        if averaged.record or averaged.average_P is None:
            self._round_log.keep(
                update.state_root, averaged.record or Record(update.round, population=self._course.population)
            )
        state = await self._ports.arithmetic.run(lambda: self._learner.conclude(averaged.average_P))
        self._averager.take_back(averaged.average_P)
        self.metrics.run_tokens += averaged.tokens
        self._course.step_on(state, self._chunk_exchange, averaged)
        if is_without_us and averaged.record:
            self._course.companions = self._meeting.deciders(averaged.record)
            self._show_up()
            return
        if averaged.average_P is not None:
            self._members = self._events.members(averaged)
            self.metrics.given_rounds += 1
        self._events.round_finished(
            RoundSummary(
                round=update.round,
                loss=self._work.trained.loss,
                steps=self._work.trained.steps,
                seconds=self._loop.time() - self._began,
                bits_per_byte=await self._examiner.score_if_due(self._learner, now=self.is_finished),
            ),
            averaged,
        )
        if averaged.average_P is None or await self._course.move(self._means, self.membership, self._members):
            self._show_up()

    def _show_up(self) -> None:
        """After a round without us: tell the others in which one we are now, so that they expect us in it."""
        self._averager.stand(self._learner.state.round)
        self._announce(Phase.WAITING)

    def _announce(self, phase: Phase) -> None:
        """Be in ``phase``, and tell now whom it concerns: who leads the next round, where we follow this one, else everybody."""
        self.metrics.enter(phase)
        membership, deadline = self.membership, self._loop.time() + self._manifest.round.assemble_seconds
        is_for_next = phase is Phase.FOLLOWING
        events = (
            membership.announce_to_next(deadline)
            if is_for_next
            else membership.announce(deadline, self._course.hierarchy)
        )
        self._tasks.create_task(events, name="announce")  # who does not answer must not make us late

    def _ask_to_wait(self) -> None:
        """The group of this round stands without us, and its result is soon ours. Who leads the next one must know before we have
        that, else we are late for every round that is shorter than the way to its state."""
        self._announce(Phase.FOLLOWING)

    async def save_if_due(self) -> None:
        """A checkpoint now and then, and always at the end."""
        await self._keeper.save_if_due(self._learner, self._averager, now=self.is_finished)

    # --- small things ---------------------------------------------------------------------------------------------

    def _describe(self) -> tuple[int, Progress]:
        return self.metrics.round, self.metrics.progress(self._me.contact)

    async def _look_around(self, interval: float) -> None:
        """For ever: see whether others train without us, who may be the larger camp."""
        while True:
            await asyncio.sleep(interval)
            await self._course.look_around(self.membership, self._members)

    async def _meter(self) -> None:
        """For ever: note once a second what crossed the wire."""
        transport, has_screen = self._ports.network.transport, self._me.home is not None
        while True:
            self.metrics.sample(transport.bytes_up, transport.bytes_down, 1.0, with_cpu=has_screen)
            await asyncio.sleep(1.0)


class _Over(Exception):
    """Leaves the task group when the run is over: whatever still waits for an answer is not needed any more."""


def _first(errors: BaseExceptionGroup[SwarmError]) -> SwarmError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, SwarmError) else SwarmError(str(error))
