"""The simulated peers of one process: they arrive, crash and come back.

Each is composed as on sockets, with the simulation's ports.

Only the network, the clock, the DHT's delays and the duration of arithmetic are simulated: the same machines
as in a real run sign, check and average the same bytes.

    arrive ──► run to the end of the run ──► done
                 │ crash: no goodbye, nothing kept
                 └──► away for a while ──► arrive again, with the same key and the next incarnation number
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from types import MappingProxyType

import msgspec

import swarm
from averaging.signed_rounds import SignedInMemory
from swarm.errors import NobodyThere
from swarm.identity import KeyPair, PeerId
from swarm.manifest import RunManifest
from swarm.membership.contacts import Contacts, seal_contact
from swarm.membership.progress import Progress
from swarm.seeds import derive, derive_bytes
from swarm.simulation.border import Border
from swarm.simulation.clock import running_loop
from swarm.simulation.directory import Copied, SharedRecords, SimulatedDirectory
from swarm.simulation.network import SimulatedNetwork, SimulatedTransport
from swarm.simulation.shards import Pipe, Shards
from swarm.ticket import Address, Entry
from swarm.transport import Call, Transport
from swarm.wire import Kind

from ..config.run import manifest_of
from ..data import corpus as corpora
from ..data.corpus import Corpus
from ..models.registry import count
from ..network.membership import TOPIC, NetworkPorts, Welcome, greet
from ..observe.reporter import RoundReport
from ..peer import Peer
from ..ports import LocalPeer, Ports
from ..training.compute import Inline
from ..training.jobs import Budget, LocalTraining, StepAhead
from .liars import Liar
from .mind import Mind
from .result import Heard, Notebook, RehearsalResult, silent
from .scenario import Scenario
from .strategies import Temper, chance_of

JOB_SECONDS = 0.001
"""Virtual seconds of every piece of arithmetic that is not local training."""
ARRIVAL_SECONDS = 2.0
"""Virtual seconds within which all peers arrive."""
AWAY_SECONDS = 10.0
"""Virtual seconds until a crashed peer comes back, on average."""
GREETING_SECONDS = 10.0
"""Virtual seconds that a peer waits for the ticket's entries to greet it."""
LATE_SECONDS = 60.0
"""In a rehearsal with liars, virtual seconds from the end of the first honest peer to the end of all: a peer
that is late even then has only liars left to ask."""
WATCH = "watch tasks"
"""The name of the task that counts the others."""
WATCH_SECONDS = 1.0
"""Virtual seconds between two counts of the honest peers' tasks, in a rehearsal with liars."""
START_WITH = 256
"""Peers that the first round waits for, at most: a manifest cannot ask for more."""
Pipes = Mapping[int, Pipe]
"""Pipes to the other processes of a rehearsal, by their number."""
NO_PIPES: Pipes = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RehearsedRun:
    """The run that is rehearsed: its manifest, its text, and the key of every peer by name.

    The same in every process.
    """

    manifest: RunManifest
    corpus: Corpus
    keys: Mapping[str, KeyPair]

    @classmethod
    def of(cls, scenario: Scenario) -> RehearsedRun:
        """Make the run of ``scenario``; the organiser is ``p0``."""
        seed = scenario.seed.to_bytes(8, "little", signed=True)
        keys = {
            f"p{number}": KeyPair.from_seed(derive_bytes(seed, "rehearsed key", number))
            for number in range(scenario.peers)
        }
        corpus = _text(scenario.text_bytes)
        settings = replace(
            scenario.settings,
            rounds=scenario.rounds,
            seed=scenario.seed,
            name=scenario.settings.name or "rehearsal",
            start_with=min(START_WITH, scenario.peers - len(scenario.arrivals)),
            evaluate_every=scenario.rounds,
        )
        manifest = manifest_of(settings, corpus.spec, keys["p0"])
        round_spec = msgspec.structs.replace(manifest.round, owners=scenario.owners)
        model = scenario.model or manifest.model
        return cls(msgspec.structs.replace(manifest, round=round_spec, model=model), corpus, keys)


class MessageLog:
    """Notes every message that a simulated network delivers."""

    def __init__(self, names: Mapping[PeerId, str]) -> None:
        self._names = names
        self.messages: list[Heard] = []

    def add(self, time: float, sender: PeerId, receiver: PeerId, route: str, call: Call) -> None:
        """Note one message; called by `SimulatedNetwork`."""
        if route == "mail":
            what = Kind(call.body[4]).name
        elif route == "bulk":
            what = call.argument.split(".")[1]
        else:
            what = route
        self.messages.append(Heard(time, self._names[sender], self._names[receiver], what.lower()))


class Churn:
    """When peers crash and for how long they stay away, drawn from the scenario's seed."""

    def __init__(self, chance: float, seed: int) -> None:
        self._chance = chance
        self._seed = seed

    def seconds_away(self, name: str, incarnation: int) -> float:
        """Virtual seconds between the crash of this incarnation and the next one."""
        return AWAY_SECONDS * (0.5 + self._drawn("away", name, incarnation))

    def crash_later(
        self, notebook: Notebook, name: str, incarnation: int, crash: Callable[[], None]
    ) -> asyncio.Task[None]:
        """Start a task that calls ``crash`` at a drawn moment of a drawn round.

        The moment is drawn as a share of the last round's length: how long the coming round will take is not
        known.
        """
        round_ended = asyncio.Semaphore(0)
        notebook.on_round = round_ended.release
        survived = self._drawn("rounds", name, incarnation)
        rounds = math.floor(math.log(1 - survived) / math.log(1 - self._chance))

        async def wait_and_crash() -> None:
            began = 0.0
            took = 0.0
            for _ in range(rounds + 1):
                await round_ended.acquire()
                now = asyncio.get_running_loop().time()
                took = now - began
                began = now
            await asyncio.sleep(took * self._drawn("moment", name, incarnation))
            crash()

        return asyncio.create_task(wait_and_crash(), name=f"{name} crashes later")

    def _drawn(self, *words: str | int) -> float:
        """At least 0, less than 1."""
        return derive(b"rehearsed churn", self._seed, *words) / (1 << 63)


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """The surroundings of an arriving peer: the network, the directory's records, and its own speed."""

    network: SimulatedNetwork
    records: SharedRecords
    step_seconds: float
    """Virtual seconds per local step."""


class SimulatedPeers:
    """The simulated peers of process ``index``; all peers where there is one process.

    ``report`` gets one report per round. With ``listen``, the result holds every message. ``pipes`` lead to
    the other processes. The network is made inside the virtual event loop, by `run`.
    """

    def __init__(
        self,
        scenario: Scenario,
        report: Callable[[RoundReport], None],
        *,
        listen: bool = False,
        index: int = 0,
        pipes: Pipes = NO_PIPES,
    ) -> None:
        self._scenario = scenario
        self._report = report
        self._index = index
        self._pipes = pipes
        self._run = RehearsedRun.of(scenario)
        names = {key.peer_id: name for name, key in self._run.keys.items()}
        self._message_log = MessageLog(names) if listen else None
        self._churn = Churn(scenario.churn, scenario.seed) if scenario.churn else None
        self._crashes = 0
        self._newest_round = -1
        self._shard_of = {name: n % (1 + len(pipes)) for n, name in enumerate(self._run.keys)}
        here = [name for name, shard in self._shard_of.items() if shard == index]
        self._signed: dict[str, SignedInMemory] = {}
        """By peer name: for which round it has signed, which is all that a crash does not take away."""
        self._notebooks = {name: Notebook(partial(self._report_first, name)) for name in here}

    def _report_first(self, name: str, report: RoundReport) -> None:
        """Pass on the first report of each round by an honest peer that had an average of it.

        Any peer may be away for a while.
        """
        if name in self._scenario.liars:
            return
        if report.round > self._newest_round and report.round not in self._notebooks[name].missed:
            self._newest_round = report.round
            self._report(report)

    async def run(self) -> RehearsalResult:
        """Run all peers of this process from their arrival to the end of the run; return their reports.

        A liar stays until the honest peers are done.
        """
        scenario = self._scenario
        loop = running_loop()
        network = SimulatedNetwork(scenario.seed + self._index, scenario.link)
        records = SharedRecords(
            network, self._run.manifest.run_id, {TOPIC: Progress}, seed=scenario.seed + self._index
        )
        scenario.faults.schedule(network, {name: key.peer_id for name, key in self._run.keys.items()})
        if self._message_log:
            network.heard = self._message_log.add
        busiest = {name: 0 for name in self._notebooks if name not in scenario.liars}
        async with (
            asyncio.timeout(None if math.isinf(scenario.patience) else scenario.patience),
            asyncio.TaskGroup() as tasks,
        ):
            shards = self._connect_shards(network, records, tasks) if self._pipes else None
            running = self._start_peers(network, records, tasks)
            honest = [task for name, task in running.items() if name not in scenario.liars]
            if scenario.liars:
                running[WATCH] = tasks.create_task(self._watch_tasks(network, busiest), name=WATCH)
                await _end_the_late(honest)
            if shards:
                await asyncio.wait(honest)
                await shards.all_done()
            ended_at = loop.time()
            for name in (*scenario.liars, WATCH):
                if name in running:
                    running[name].cancel()  # a liar never ends by itself
        result = self._result(network, records, ended_at if scenario.liars else loop.time())
        return replace(result, most_tasks=max(busiest.values(), default=0))

    async def _watch_tasks(self, network: SimulatedNetwork, busiest: dict[str, int]) -> None:
        """For ever: note in ``busiest`` the most tasks that each honest peer of this process has had."""
        while True:
            counts = running_loop().tasks_by_owner()
            for name, most in busiest.items():
                host = network.hosts.get(self._run.keys[name].peer_id)
                busiest[name] = max(most, counts[host])
            await asyncio.sleep(WATCH_SECONDS)

    def _start_peers(
        self, network: SimulatedNetwork, records: SharedRecords, tasks: asyncio.TaskGroup
    ) -> dict[str, asyncio.Task[None]]:
        """Start one task per peer of this process.

        Every process draws for all peers, so that all draw the same.
        """
        scenario = self._scenario
        chance = random.Random(scenario.seed)
        running = {}
        for name, shard in self._shard_of.items():
            arrival = 0.0 if name == "p0" else 0.2 + chance.random() * ARRIVAL_SECONDS
            slowness = (1.0 + 2.0 * chance.random()) * scenario.slower.get(name, 1.0)
            if shard == self._index:
                surroundings = _Surroundings(network, records, scenario.step_seconds * slowness)
                arrivals = scenario.arrivals.get(name, (arrival,))
                peer = self._run_peer(name, arrivals, surroundings)
                running[name] = tasks.create_task(peer, name=name)
        return running

    def _connect_shards(
        self, network: SimulatedNetwork, records: SharedRecords, tasks: asyncio.TaskGroup
    ) -> Shards:
        """Make the peers and the records of the other processes reachable from this one."""
        loop = running_loop()
        lookahead = self._scenario.link.latency
        shards = Shards(self._index, self._pipes, lookahead)
        loop.window = shards
        elsewhere = {
            self._run.keys[name].peer_id: shard
            for name, shard in self._shard_of.items()
            if shard != self._index
        }
        border = Border(network, shards, elsewhere, tasks)
        network.beyond = border
        records.copy = lambda copied: shards.post_all(loop.time() + lookahead, copied)
        shards.receive = lambda content: (
            records.keep(content) if isinstance(content, Copied) else border.hear(content)
        )
        return shards

    def _result(
        self, network: SimulatedNetwork, records: SharedRecords, virtual_seconds: float
    ) -> RehearsalResult:
        peer_ids = {name: self._run.keys[name].peer_id for name in self._notebooks}
        return RehearsalResult(
            notebooks={
                name: replace(notebook, tell=silent, on_round=bool)
                for name, notebook in self._notebooks.items()
            },
            transcript=network.transcript.digest(),
            parameters=count(self._run.manifest.model),
            messages=network.messages,
            sent={name: network.sent[peer] for name, peer in peer_ids.items()},
            looked={name: records.looked[peer] for name, peer in peer_ids.items()},
            ids=peer_ids,
            crashes=self._crashes,
            virtual_seconds=virtual_seconds,
            heard=tuple(self._message_log.messages) if self._message_log else (),
        )

    async def _run_peer(self, name: str, arrivals: Sequence[float], surroundings: _Surroundings) -> None:
        """Run one peer from each of its arrivals; with churn, also after each crash.

        It keeps nothing from one to the next.
        """
        incarnation = 0
        loop = asyncio.get_running_loop()
        for incarnation, arrival in enumerate(arrivals, 1):
            await asyncio.sleep(max(0.0, arrival - loop.time()))
            has_crashed = await self._run_incarnation(name, incarnation, surroundings)
        while self._churn and has_crashed and not self._is_over():
            await asyncio.sleep(self._churn.seconds_away(name, incarnation))
            incarnation += 1
            has_crashed = await self._run_incarnation(name, incarnation, surroundings)

    def _is_over(self) -> bool:
        """Whether some honest peer has reached the end of the run: a peer that arrives now would soon be
        alone."""
        return any(
            notebook.rounds and notebook.rounds[-1].round + 1 >= self._scenario.rounds
            for name, notebook in self._notebooks.items()
            if name not in self._scenario.liars
        )

    async def _run_incarnation(self, name: str, incarnation: int, surroundings: _Surroundings) -> bool:
        """Run one peer to the end of the run, or until it crashes. Returns whether it should come back.

        A peer that crashed should, and with churn one that found no other peer, because its entries were all
        away.
        """
        network = surroundings.network
        peer_id = self._run.keys[name].peer_id
        tasks: list[asyncio.Task[None]] = []
        transport = network.attach(peer_id, lambda: [task.cancel() for task in tasks])
        composed = self._compose_and_run(name, incarnation, surroundings, transport)
        tasks.append(asyncio.create_task(composed, name=f"{name} alive"))
        crashing = None
        if self._churn:
            crash = partial(network.crash, peer_id)
            crashing = self._churn.crash_later(self._notebooks[name], name, incarnation, crash)
        try:
            await tasks[0]
        except asyncio.CancelledError:
            if network.is_up(peer_id):
                raise  # the rehearsal itself is being stopped
            self._crashes += 1
            return True
        except NobodyThere:
            if not self._churn:
                raise
            network.crash(peer_id)
            return True
        except Exception as error:
            error.add_note(f"while {name} ran")
            raise
        finally:
            if crashing:
                crashing.cancel()
        return False

    async def _compose_and_run(
        self, name: str, incarnation: int, surroundings: _Surroundings, host: SimulatedTransport
    ) -> None:
        """Compose one peer as on sockets, with the simulation's ports, and run it."""
        host.inhabit()
        loop = asyncio.get_running_loop()
        key = self._run.keys[name]
        notebook = self._notebooks[name]
        liar = self._liar(name, incarnation, host) if name in self._scenario.liars else None
        transport: Transport = liar.transport if liar else host
        manifest = self._run.manifest
        entries = [
            Entry(self._run.keys[entry].peer_id, Address(entry, 1)) for entry in self._scenario.entries
        ]
        contacts = Contacts(manifest.run_id, tuple(entries), key.peer_id)
        contact = seal_contact(key, manifest.run_id, (Address(name, 1),), incarnation)
        contacts.learn(contact)
        others = [entry.peer for entry in entries if entry.peer != key.peer_id]
        welcomes: dict[PeerId, Welcome] = {}
        if others:
            welcomes = await greet(transport, others, contact, loop.time() + GREETING_SECONDS)
        network = NetworkPorts(
            transport=transport,
            directory=SimulatedDirectory(surroundings.records, key.peer_id),
            contacts=contacts,
            wall=loop.time,
        )
        me = LocalPeer(
            key=key,
            name=name,
            version=swarm.__version__,
            contact=contact,
            corpus=self._run.corpus,
            founder=name == "p0" and incarnation == 1,
            signed=self._signed.setdefault(name, SignedInMemory()),
            first_seq=incarnation << 32,
        )
        ports = _simulated_ports(network, surroundings.step_seconds, notebook)
        peer = Peer(manifest, manifest.seal(self._run.keys["p0"]), me, liar.ports(ports) if liar else ports)
        peer.subscribe(notebook.stood)
        peer.membership.learn(welcomes)
        await (liar.live(peer) if liar else peer.run())

    def _liar(self, name: str, incarnation: int, host: SimulatedTransport) -> Liar:
        """One incarnation of a liar, as the scenario's seed and the liar's strategy make it."""
        run = self._run
        chance = chance_of(self._scenario.seed, name, incarnation)
        temper = Temper(chance, self._scenario.liars[name], self._notebooks[name].lies.append)
        everybody = sorted(key.peer_id for key in run.keys.values())
        return Liar(Mind(run.manifest, run.corpus, run.keys[name], everybody, temper), host)


async def _end_the_late(honest: Sequence[asyncio.Task[None]]) -> None:
    """Wait for the first of the ``honest`` peers and a while for the others; then end those that are late."""
    _, late = await asyncio.wait(honest, return_when=asyncio.FIRST_COMPLETED)
    if late:
        _, late = await asyncio.wait(late, timeout=LATE_SECONDS)
    for task in sorted(late, key=hash):
        task.cancel()
    await asyncio.wait(honest)


def _simulated_ports(network: NetworkPorts, step_seconds: float, notebook: Notebook) -> Ports:
    """The ports of a peer whose local steps take ``step_seconds`` virtual seconds each."""

    def seconds_of(job: object) -> float:
        if isinstance(job, LocalTraining | StepAhead):
            return job.steps * step_seconds
        return JOB_SECONDS

    return Ports(
        network=network,
        arithmetic=Inline(seconds_of),
        budget=lambda seconds: Budget(max(1, int(seconds / step_seconds)), lambda: False),
        event_sink=notebook,
    )


@lru_cache(maxsize=4)
def _text(length: int) -> Corpus:
    """The first ``length`` bytes of Python's library: not the same text on every computer."""
    whole = corpora.build(None)
    return corpora.from_bytes(bytes(memoryview(whole.data)[:length]), description="rehearsal")
