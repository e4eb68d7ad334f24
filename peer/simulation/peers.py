"""The set of a rehearsal: every peer is composed as on sockets, with ports of the simulation, and lives, crashes and comes back.

What is simulated: the network, the clock, the DHT's delays, and how long arithmetic takes. Nothing else: the same machines sign,
check and average the same bytes.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import msgspec

import swarm
from swarm.errors import NobodyThere
from swarm.identity import KeyPair, PeerId
from swarm.membership.contacts import Contacts, seal_contact
from swarm.membership.progress import Progress
from swarm.seeds import derive, derive_bytes
from swarm.simulation.border import Border
from swarm.simulation.clock import running_loop
from swarm.simulation.directory import Copied, SharedRecords, SimulatedDirectory
from swarm.simulation.network import SimulatedNetwork, SimulatedTransport
from swarm.simulation.shards import Pipe, Shards
from swarm.ticket import Address, Entry
from swarm.transport import Call
from swarm.wire import Kind

from ..config.run import manifest_of
from ..data import corpus as corpora
from ..data.corpus import Corpus
from ..models.registry import count
from ..network.membership import TOPIC, NetworkPorts, greet
from ..observe.reporter import RoundReport
from ..peer import Peer
from ..ports import LocalPeer, Ports
from ..training.compute import Inline
from ..training.jobs import Budget, LocalTraining, StepAhead
from .scenario import Scenario

JOB_SECONDS = 0.001
"""Virtual seconds of any other piece of arithmetic."""
ARRIVAL_SECONDS = 2.0
"""Within which all peers arrive."""
AWAY_SECONDS = 10.0
"""Virtual seconds until a crashed peer comes back, on average."""
Pipes = Mapping[int, Pipe]
NO_PIPES: Pipes = MappingProxyType({})
START_WITH = 256
"""The first round waits for so many peers at most: a manifest cannot ask for more."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message that has been heard and answered. ``what``: the kind of a control message (``commit``), else the first word of a
    bulk item (``part``), else the route."""

    time: float
    sender: str
    receiver: str
    what: str


def silent(report: RoundReport) -> None:
    """Nobody listens."""


@dataclass(slots=True)
class Notebook:
    """What one rehearsed peer tells: a `EventSink`."""

    tell: Callable[[RoundReport], None]
    rounds: list[RoundReport] = field(default_factory=list)
    on_round: Callable[[], object] = bool
    """Called at the end of every round, also of one without an average."""
    told_at: list[float] = field(default_factory=list)
    """Virtual seconds at which each of ``rounds`` was over."""
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def missed(self) -> set[int]:
        """The rounds that this peer had no average of, as it said itself: it may have stood still in them."""
        return {
            fields["round"]
            for name, fields in self.events
            if name == "warning" and fields["code"] == "round-missed"
        }

    def round_finished(self, report: RoundReport) -> None:
        """Keep it, and pass it on."""
        self.rounds.append(report)
        self.told_at.append(asyncio.get_running_loop().time())
        self.on_round()
        self.tell(report)

    def event(self, name: str, /, **fields: object) -> None:
        """Keep it."""
        self.events.append((name, fields))
        if fields.get("code") == "round-missed":
            self.on_round()


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalResult:
    """What came of it. ``notebooks`` by peer name (``p0``, ``p1``, …; ``p0`` is the founder)."""

    notebooks: dict[str, Notebook]
    transcript: str
    parameters: int
    messages: int
    sent: dict[str, int]
    """Bytes that crossed the network, by the name of the sender, over all its lives."""
    looked: dict[str, int]
    """Bytes of the records that a peer found in the directory."""
    crashes: int
    virtual_seconds: float
    leftovers: tuple[str, ...] = ()
    heard: tuple[Heard, ...] = ()
    """Everything that was said, in order; empty without ``listen``."""

    def roots(self, round_: int) -> set[str]:
        """The different state roots that peers reported who had an average in ``round_``."""
        books = [book for book in self.notebooks.values() if round_ not in book.missed]
        return {said.state_root for book in books for said in book.rounds if said.round == round_}

    @property
    def state_roots_equal(self) -> bool:
        """Whether all peers that had an average agreed on its result, for every round."""
        rounds = {said.round for book in self.notebooks.values() for said in book.rounds}
        return bool(rounds) and all(len(self.roots(round_)) <= 1 for round_ in rounds)


class SimulatedPeers:
    """The set of one rehearsal, or of the peers of shard ``index``. The network is made inside the virtual loop, by `play`."""

    def __init__(
        self,
        scenario: Scenario,
        tell: Callable[[RoundReport], None],
        *,
        listen: bool = False,
        index: int = 0,
        lines: Pipes = NO_PIPES,
    ) -> None:
        self._scenario, self._listen, self._index, self._lines = scenario, listen, index, lines
        self._heard: list[Heard] = []
        self._crashes = 0
        self._chance = random.Random(scenario.seed)
        seed = scenario.seed.to_bytes(8, "little", signed=True)
        self._keys = {
            f"p{n}": KeyPair.from_seed(derive_bytes(seed, "rehearsed key", n)) for n in range(scenario.peers)
        }
        self._names = {key.peer_id: name for name, key in self._keys.items()}
        self._shard_of = {name: n % (1 + len(lines)) for n, name in enumerate(self._keys)}
        self._corpus = _text(scenario.text_bytes)
        settings = scenario.settings
        self._manifest = manifest_of(
            replace(
                settings,
                rounds=scenario.rounds,
                seed=scenario.seed,
                name=settings.name or "rehearsal",
                start_with=min(START_WITH, scenario.peers - len(scenario.arrivals)),
                evaluate_every=scenario.rounds,
            ),
            self._corpus.spec,
            self._keys["p0"],
        )
        limits = msgspec.structs.replace(self._manifest.round, owners=scenario.owners)
        self._manifest = msgspec.structs.replace(
            self._manifest, round=limits, model=scenario.model or self._manifest.model
        )
        here = [name for name, shard in self._shard_of.items() if shard == index]
        self._tell, self._round = tell, -1
        self._notebooks = {name: Notebook(partial(self._tell_first, name)) for name in here}

    def _tell_first(self, name: str, report: RoundReport) -> None:
        """Of every round what the first peer says that had an average of it: any of them may be away for a while."""
        if report.round > self._round and report.round not in self._notebooks[name].missed:
            self._round = report.round
            self._tell(report)

    async def play(self) -> RehearsalResult:
        """All peers from their arrival to the end of the run: what came of those of this stage."""
        scenario, loop = self._scenario, running_loop()
        network = SimulatedNetwork(scenario.seed + self._index, scenario.link)
        board = SharedRecords(
            network, self._manifest.run_id, {TOPIC: Progress}, seed=scenario.seed + self._index
        )
        scenario.faults.schedule(network, {name: key.peer_id for name, key in self._keys.items()})
        if self._listen:
            network.heard = self._hear
        async with (
            asyncio.timeout(None if math.isinf(scenario.patience) else scenario.patience),
            asyncio.TaskGroup() as tasks,
        ):
            shards = self._joined(network, board, tasks) if self._lines else None
            lives = []
            for name, shard in self._shard_of.items():
                arrival = 0.0 if name == "p0" else 0.2 + self._chance.random() * ARRIVAL_SECONDS
                step_seconds = (
                    scenario.step_seconds
                    * (1.0 + 2.0 * self._chance.random())
                    * scenario.slower.get(name, 1.0)
                )
                arrivals = scenario.arrivals.get(name, (arrival,))
                if shard == self._index:
                    lives.append(
                        tasks.create_task(self._live(name, arrivals, step_seconds, network, board), name=name)
                    )
            if shards:
                await asyncio.wait(lives)
                await shards.all_done()
        return self._told(network, board, loop.time())

    def _joined(self, network: SimulatedNetwork, board: SharedRecords, tasks: asyncio.TaskGroup) -> Shards:
        """What is on the other stages can be reached from this one."""
        loop, lookahead = running_loop(), self._scenario.link.latency
        loop.window = shards = Shards(self._index, self._lines, lookahead)
        elsewhere = {
            self._keys[name].peer_id: shard for name, shard in self._shard_of.items() if shard != self._index
        }
        network.beyond = border = Border(network, shards, elsewhere, tasks)
        board.copy = lambda copied: shards.post_all(loop.time() + lookahead, copied)
        shards.receive = lambda content: (
            board.keep(content) if isinstance(content, Copied) else border.hear(content)
        )
        return shards

    def _told(
        self, network: SimulatedNetwork, board: SharedRecords, virtual_seconds: float
    ) -> RehearsalResult:
        books, here = self._notebooks, {name: self._keys[name].peer_id for name in self._notebooks}
        return RehearsalResult(
            notebooks={name: replace(book, tell=silent, on_round=bool) for name, book in books.items()},
            transcript=network.transcript.digest(),
            parameters=count(self._manifest.model),
            messages=network.messages,
            sent={name: network.sent[peer] for name, peer in here.items()},
            looked={name: board.looked[peer] for name, peer in here.items()},
            crashes=self._crashes,
            virtual_seconds=virtual_seconds,
            heard=tuple(self._heard),
        )

    def _hear(self, time_: float, sender: PeerId, receiver: PeerId, route: str, call: Call) -> None:
        what = (
            Kind(call.body[4]).name
            if route == "mail"
            else call.argument.split(".")[1]
            if route == "bulk"
            else route
        )
        self._heard.append(Heard(time_, self._names[sender], self._names[receiver], what.lower()))

    async def _live(
        self,
        name: str,
        arrivals: Sequence[float],
        step_seconds: float,
        network: SimulatedNetwork,
        board: SharedRecords,
    ) -> None:
        """One peer, from each of its arrivals, with churn also after each crash; it keeps nothing from one life to the next."""
        life, loop = 0, asyncio.get_running_loop()
        for life, arrival in enumerate(arrivals, 1):
            await asyncio.sleep(max(0.0, arrival - loop.time()))
            has_crashed = await self._live_once(name, life, step_seconds, network, board)
        while self._scenario.churn and has_crashed and not self._is_over():
            await asyncio.sleep(AWAY_SECONDS * (0.5 + self._drawn("away", name, life)))
            life += 1
            has_crashed = await self._live_once(name, life, step_seconds, network, board)

    def _is_over(self) -> bool:
        """Whether somebody has reached the end of the run: who comes now finds nobody soon."""
        return any(
            book.rounds and book.rounds[-1].round + 1 >= self._scenario.rounds
            for book in self._notebooks.values()
        )

    async def _live_once(
        self, name: str, life: int, step_seconds: float, network: SimulatedNetwork, board: SharedRecords
    ) -> bool:
        """Until the end of the run; a crash ends it like a power cut. Whether it was one, or came too late to find anybody."""
        peer_id = self._keys[name].peer_id
        lives: list[asyncio.Task[None]] = []
        transport = network.attach(peer_id, lambda: [task.cancel() for task in lives])
        lives.append(
            asyncio.create_task(self._be(name, life, step_seconds, transport, board), name=f"{name} alive")
        )
        doom = self._doom(name, life, partial(network.crash, peer_id)) if self._scenario.churn else None
        try:
            await lives[0]
        except asyncio.CancelledError:
            if network.is_up(peer_id):
                raise  # the rehearsal itself is being stopped
            self._crashes += 1
            return True
        except NobodyThere:
            if not self._scenario.churn:
                raise
            network.crash(peer_id)
            return True
        finally:
            if doom:
                doom.cancel()
        return False

    def _doom(self, name: str, life: int, crash: Callable[[], None]) -> asyncio.Task[None]:
        """Crashes a life: at a moment drawn from the round in which it is its turn."""
        book, ended = self._notebooks[name], asyncio.Semaphore(0)
        book.on_round = ended.release
        rounds = math.floor(
            math.log(1 - self._drawn("rounds", name, life)) / math.log(1 - self._scenario.churn)
        )

        async def wait() -> None:
            began = took = 0.0
            for _ in range(rounds + 1):
                await ended.acquire()
                now = asyncio.get_running_loop().time()
                began, took = now, now - began
            await asyncio.sleep(took * self._drawn("moment", name, life))
            crash()

        return asyncio.create_task(wait(), name=f"{name} doomed")

    def _drawn(self, *words: str | int) -> float:
        """At least 0, less than 1."""
        return derive(b"rehearsed churn", self._scenario.seed, *words) / (1 << 63)

    async def _be(
        self, name: str, life: int, step_seconds: float, transport: SimulatedTransport, board: SharedRecords
    ) -> None:
        """The same composition as on sockets, with the rehearsal's ports."""
        transport.inhabit()
        key, run, loop = self._keys[name], self._manifest.run_id, asyncio.get_running_loop()
        entries = [Entry(self._keys[entry].peer_id, Address(entry, 1)) for entry in self._scenario.entries]
        contacts = Contacts(run, tuple(entries))
        contact = seal_contact(key, run, (Address(name, 1),), life)
        contacts.learn(contact)
        others = [entry.peer for entry in entries if entry.peer != key.peer_id]
        welcomes = await greet(transport, others, contact, loop.time() + 10) if others else []
        network = NetworkPorts(
            transport=transport,
            directory=SimulatedDirectory(board, key.peer_id),
            contacts=contacts,
            wall=loop.time,
        )
        me = LocalPeer(
            key=key,
            name=name,
            version=swarm.__version__,
            contact=contact,
            corpus=self._corpus,
            founder=name == "p0" and life == 1,
            first_seq=life << 32,
        )
        ports = Ports(
            network=network,
            arithmetic=Inline(
                lambda job: (
                    job.steps * step_seconds if isinstance(job, LocalTraining | StepAhead) else JOB_SECONDS
                )
            ),
            budget=lambda seconds: Budget(max(1, int(seconds / step_seconds)), lambda: False),
            event_sink=self._notebooks[name],
        )
        peer = Peer(self._manifest, self._manifest.seal(self._keys["p0"]), me, ports)
        peer.membership.learn(welcomes)
        await peer.run()


def _text(length: int) -> Corpus:
    """A fixed slice of real text, the same on one computer; rehearsals do not compare across computers."""
    whole = corpora.build(None)
    return corpora.from_bytes(bytes(memoryview(whole.data)[:length]), description="rehearsal")
