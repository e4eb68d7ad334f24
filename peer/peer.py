"""One peer of one run: composes the parts, owns every task, and ends cleanly.

It decides nothing about rounds.

Everything from outside comes through `Ports`, so the same peer runs on sockets and in a rehearsal.
"""

from __future__ import annotations

import asyncio

from averaging.averager import Averager
from averaging.messages import MESSAGES
from averaging.record import UpdateShape
from averaging.runner import Ports as AveragingPorts
from swarm.errors import SwarmError
from swarm.identity import PeerId, petname
from swarm.manifest import RunManifest
from swarm.membership.progress import Phase, Progress
from swarm.transport.post import Post

from .chunks.exchange import ChunkExchange
from .chunks.resume import ResumeStore
from .loop import train
from .models.registry import count
from .network.bans import Bans
from .network.lookup import LookupTransport
from .network.membership import TOLD, Membership
from .network.uplink import MeteredTransport, Uplink
from .observe.events import Events
from .observe.metrics import About, Metrics
from .observe.snapshot import Snapshot
from .ports import LocalPeer, Ports
from .rounds.announcer import Announcer
from .rounds.checkpointer import Checkpointer
from .rounds.coordinator import Coordinator
from .rounds.evaluator import Evaluator
from .rounds.round_follower import RoundFollower
from .rounds.stages import Local, RoundStages, Shared
from .rounds.training_stage import TrainingStage
from .sync.activity import Activity
from .sync.catch_up import JOIN_PATIENCE, CatchUp
from .sync.head_exchange import HeadExchange
from .sync.partition_watch import PartitionWatch
from .sync.position import Position, PositionTracker, Subscriber
from .sync.round_log import RoundLog
from .sync.state_sync import StateSync
from .training.jobs import LocalCompute
from .training.learner import Learner
from .training.state import SharedState, StateContent

GOODBYE_SECONDS = 1.0
"""For telling the others that we leave, and for the answers that are still on their way."""
LAST_SAVE_SECONDS = 3.0
"""For everything that is left to do after Ctrl-C."""
OFTEN_SECONDS = 5.0
SELDOM_SECONDS = 20.0
"""Bounds of the time between two looks at the DHT; between them, the length of a round.

A look costs some 10 kB per peer.
"""
SAMPLE_SECONDS = 1.0
"""Between two samples of what crossed the wire."""


class Peer:
    """See the module. `run` is its whole life; `snapshot` may be read at any time meanwhile."""

    def __init__(self, manifest: RunManifest, sealed_manifest: bytes, me: LocalPeer, ports: Ports) -> None:
        clock = asyncio.get_running_loop().time
        transport = ports.network.transport
        peer_id = me.key.peer_id
        self._manifest = manifest
        self._me = me
        self._ports = ports
        self.uplink = Uplink()
        self.metrics = Metrics(manifest, About(peer_id, me.name, me.version, count(manifest.model)), clock)
        self._events = Events(self.metrics, ports.event_sink, transport, peer_id)
        self._position = PositionTracker(manifest)
        self._position.subscribe(self._observe_position)
        self._activity = Activity(manifest.round, clock, self.metrics.entered)
        self.membership = Membership(
            manifest, sealed_manifest, me.key, ports.network, self._describe, me.first_seq
        )
        self._heads = HeadExchange(
            manifest, me.key, transport, self.membership, self._position, self._activity
        )
        self._checkpointer = Checkpointer(
            me.home, manifest, ports.arithmetic, self._position, self.metrics, self._events
        )

    def __repr__(self) -> str:
        name = self._me.name or self._me.key.peer_id[:8]
        return f"Peer({name}, round {self.position.round}, {self._activity.phase.name.lower()})"

    @property
    def position(self) -> Position:
        """Where this peer stands in the run."""
        return self._position.now

    @property
    def has_had_state(self) -> bool:
        """Whether this peer has had a state of the run, its own or the others'."""
        return self._position.has_state

    def subscribe(self, subscriber: Subscriber) -> None:
        """Have ``subscriber`` called with every new position and its state."""
        self._position.subscribe(subscriber)

    def snapshot(self) -> Snapshot:
        """The picture of this moment, for every screen."""
        roster = self.membership.roster
        now = asyncio.get_running_loop().time()
        rows = [(row, now - row.heard, roster.is_present(row.peer, now)) for row in roster.snapshot()]
        return self.metrics.snapshot(rows)

    # --- life -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Join, train to the end of the run, leave.

        Cancelling it leaves cleanly; whatever else it raises is a `SwarmError`.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._live(tasks)
                raise _Over
        except* _Over:
            self.metrics.shown.is_finished = True
        except* SwarmError as errors:
            raise _first(errors) from None

    async def _live(self, tasks: asyncio.TaskGroup) -> None:
        """Compose the parts that need the tasks' owner, fetch the text, and train."""
        me = self._me
        ports = self._ports
        network = ports.network
        lookup = LookupTransport(
            network.transport, network.contacts, self.membership.find, self.membership.roster.mark_lost
        )
        metered = MeteredTransport(lookup, self.uplink, asyncio.get_running_loop().time)
        post = Post(metered, me.key, self._manifest.run_id, tasks, MESSAGES)
        bans = self._watch_for_liars(post, tasks)
        tasks.create_task(bans.ask(self.membership.some()), name="ask for evidence")
        resume = ResumeStore(me.home / "partial" if me.home else None)
        chunks = ChunkExchange(network.transport, ports.arithmetic, tasks, self._events.note, resume)
        self._position.subscribe(lambda position, state: _serve_state(chunks, position, state))
        state_sync = StateSync(
            self._manifest, chunks, self.membership, ports.arithmetic, self._events.fetching
        )
        averaging_ports = AveragingPorts(post, ports.arithmetic, tasks, self._events.note, me.signed)
        averager = Averager(self._manifest, me.key, averaging_ports)
        watch = PartitionWatch(self._manifest, self.membership, self._heads, self._position)
        interval = min(SELDOM_SECONDS, max(OFTEN_SECONDS, self._manifest.round.seconds))
        tasks.create_task(self.membership.publish_and_discover(interval, SELDOM_SECONDS), name="membership")
        tasks.create_task(watch.keep_looking(interval), name="watch for a partition")
        tasks.create_task(self._keep_sampling(), name="sample the wire")
        if me.key.peer_id == self._manifest.organiser_id:
            telling = self._heads.trusted.keep_telling(self._heads.sealed, self.membership.some)
            tasks.create_task(telling, name="trusted head")
        stages: RoundStages | None = None
        is_over = False
        try:
            learner = await self._make_learner(chunks, state_sync)
            round_log = self._round_log(learner, chunks)
            sources = (round_log, state_sync)
            catch_up = CatchUp(learner, self._position, self._activity, self._heads, sources, self._events)
            announcer = Announcer(tasks, self.membership, averager, bans, self._position, self._activity)
            stages = RoundStages(
                self._manifest,
                self._local(learner),
                self._shared(averager, announcer, catch_up, watch, round_log),
                self._position,
                self._activity,
            )
            await train(stages, is_founder=me.founder)
            is_over = True
            await self._checkpointer.export(learner)
        finally:
            await self._leave(post, stages, is_over=is_over)
            bans.close()

    def _watch_for_liars(self, post: Post, tasks: asyncio.TaskGroup) -> Bans:
        """Compare all that comes in; a peer that is shown to lie has no part in the run any more."""
        file = self._me.home / "evidence" if self._me.home else None
        bans = Bans(self._manifest.run_id, self._ports.network.transport, file)
        bans.subscribe(self.membership.roster.ban)
        bans.subscribe(self._tell_ban)
        bans.subscribe(lambda peer: bans.pass_on(peer, self.membership.some(TOLD), tasks))
        bans.load()
        post.witness = bans
        return bans

    def _tell_ban(self, peer: PeerId) -> None:
        fact = f"{petname(peer)} has sent two different things where it may say only one: it is banned"
        self._events.warn("banned", fact, peer=peer)

    async def _make_learner(self, chunks: ChunkExchange, state_sync: StateSync) -> Learner:
        """The model, and the text from which it learns: ours, from before a restart, or the others'."""
        me = self._me
        corpus = me.corpus
        if corpus is None:
            kept_in = me.home / "data" if me.home else None
            self._activity.enter(Phase.SYNCING)
            deadline = asyncio.get_running_loop().time() + JOIN_PATIENCE
            corpus = await state_sync.corpus(kept_in, deadline)
        else:
            chunks.offer(corpus.spec.root, corpus, always=True)
        text = corpus
        return await self._ports.arithmetic.run(lambda: Learner(self._manifest, text, me.key.peer_id))

    def _round_log(self, learner: Learner, chunks: ChunkExchange) -> RoundLog:
        shape = UpdateShape(spec=self._manifest.round, tensors=learner.tensors)
        return RoundLog(learner, shape, chunks, self._ports.network.transport, self._ports.arithmetic)

    def _local(self, learner: Learner) -> Local:
        ports = self._ports
        compute = LocalCompute(ports.arithmetic, ports.budget)
        observers = (self._events, self.metrics.training)
        training = TrainingStage(learner, compute, self.uplink, self._position, self._activity, observers)
        has_screen = self._me.home is not None
        evaluator = Evaluator(self._manifest, ports.arithmetic, self.metrics, has_screen=has_screen)
        return Local(learner, compute, training, self._checkpointer, evaluator, self.metrics, self._events)

    def _shared(
        self,
        averager: Averager,
        announcer: Announcer,
        catch_up: CatchUp,
        watch: PartitionWatch,
        round_log: RoundLog,
    ) -> Shared:
        follower = RoundFollower(self.membership, self._heads, round_log, self._position, catch_up, announcer)
        coordinator = Coordinator(
            self._manifest, self.membership, averager, follower, self._position, self._activity
        )
        return Shared(self.membership, averager, coordinator, announcer, catch_up, watch, round_log)

    async def _leave(self, post: Post, stages: RoundStages | None, *, is_over: bool) -> None:
        """Stop training, keep what there is, say goodbye: all within the seconds that a person waits after
        Ctrl-C."""
        if stages:
            stages.stop()
        self._activity.enter(Phase.LEAVING)
        try:
            async with asyncio.timeout(LAST_SAVE_SECONDS):
                if is_over:
                    await post.flush(GOODBYE_SECONDS)
                hierarchy = self._position.hierarchy
                # Where a large population ends at once, no peer needs a goodbye.
                if not is_over or hierarchy.count == 1:
                    deadline = asyncio.get_running_loop().time() + GOODBYE_SECONDS
                    await self.membership.announce(deadline, hierarchy)
                if stages:
                    await stages.save()
        except TimeoutError:
            fact = "no time for a last checkpoint; the one before it is still there"
            self._events.warn("checkpoint", fact)

    # --- what others read -----------------------------------------------------------------------------------

    def _observe_position(self, position: Position, state: SharedState) -> None:
        self.metrics.moved(position.round, position.state_root, position.tokens)

    def _describe(self) -> tuple[int, Progress]:
        """Our round, and what we tell the other peers about ourselves."""
        position = self.position
        contact = self._me.contact
        progress = self.metrics.progress(self._activity.phase, position.state_root, contact)
        return position.round, progress

    async def _keep_sampling(self) -> None:
        """For ever: note now and then what crossed the wire."""
        transport = self._ports.network.transport
        with_cpu = self._me.home is not None
        while True:
            self.metrics.sample(transport.bytes_up, transport.bytes_down, SAMPLE_SECONDS, with_cpu=with_cpu)
            await asyncio.sleep(SAMPLE_SECONDS)


def _serve_state(chunks: ChunkExchange, position: Position, state: SharedState) -> None:
    """From now on newcomers get this state from us."""
    chunks.offer(position.state_root, StateContent(state))


class _Over(Exception):
    """Leaves the task group when the run is over: answers that are still awaited are not needed."""


def _first(errors: BaseExceptionGroup[SwarmError]) -> SwarmError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, SwarmError) else SwarmError(str(error))
