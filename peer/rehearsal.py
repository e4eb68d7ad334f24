"""`swarm rehearse`: many peers in one process, on virtual time, with the code that real peers run and a real (tiny) model.

What is simulated: the network, the clock, the DHT's delays, and how long arithmetic takes. Nothing else: the same machines sign,
check and average the same bytes. The same seed gives the same rehearsal, to the last bit of the last model.
"""

from __future__ import annotations

import asyncio
import gc
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

import swarm
from swarm.identity import KeyPair, PeerId
from swarm.membership.contacts import Contacts, seal_contact
from swarm.membership.progress import Progress
from swarm.seeds import derive_bytes
from swarm.simulation.clock import simulate
from swarm.simulation.directory import Board, SimulatedDirectory
from swarm.simulation.faults import Faults
from swarm.simulation.network import Link, SimulatedNetwork, SimulatedTransport
from swarm.ticket import Address, Entry
from swarm.transport import Call
from swarm.wire import Kind

from .compute import Inline
from .data import corpus as corpora
from .data.corpus import Corpus
from .model import count
from .neighbours import TOPIC, Ways, greet
from .peer import Peer
from .ports import Budget, LocalTraining, Ports, Self, StepAhead
from .recipe import Recipe, manifest_of
from .report import Reporter, RoundReport

STEP_SECONDS = 0.05
JOB_SECONDS = 0.001
"""Virtual seconds of any other piece of arithmetic."""
ARRIVAL_SECONDS = 2.0
"""Within which all peers arrive."""
START_WITH = 256
"""The first round waits for so many peers at most: a manifest cannot ask for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What to rehearse. ``seed`` draws everything: keys, lines, speeds, arrival times."""

    peers: int
    rounds: int = 5
    seed: int = 0
    recipe: Recipe = field(default_factory=lambda: Recipe(model="tiny", max_steps=4, round_seconds=5.0, average_seconds=20.0))
    text_bytes: int = 400_000
    """Of the embedded text, from its start; more makes held-out figures comparable with those of real runs."""
    faults: Faults = field(default_factory=Faults)
    link: Link = field(default_factory=lambda: Link(latency=0.04, jitter=0.02, bandwidth=2.5e6))
    step_seconds: float = STEP_SECONDS
    """Virtual seconds per local step of the fastest peer; the slowest takes three times as long."""
    slower: Mapping[str, float] = field(default_factory=dict)
    """So many times the seconds per step that were drawn, for those who have slow computers."""
    arrivals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """When those come whose coming is not drawn: once, or again after each crash. The first round does not wait for them."""
    entries: Sequence[str] = ("p0",)
    """Whom the ticket names; the first is the founder."""
    owners: int = 16
    """At most this many members own a part in each round."""
    patience: float = math.inf
    """Virtual seconds after which the rehearsal is given up with `TimeoutError`: whoever should have ended by then hangs."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message that has been heard and answered. ``what``: the kind of a control message (``commit``), else the first word of a
    bulk item (``part``), else the route."""

    time: float
    sender: str
    receiver: str
    what: str


@dataclass(slots=True)
class Notebook:
    """What one rehearsed peer tells: a `Teller`."""

    tell: Callable[[RoundReport], None]
    rounds: list[RoundReport] = field(default_factory=list)
    told_at: list[float] = field(default_factory=list)
    """Virtual seconds at which each of ``rounds`` was over."""
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def round_finished(self, report: RoundReport) -> None:
        """Keep it, and pass it on."""
        self.rounds.append(report)
        self.told_at.append(asyncio.get_running_loop().time())
        self.tell(report)

    def event(self, name: str, /, **fields: object) -> None:
        """Keep it."""
        self.events.append((name, fields))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """What came of it. ``notebooks`` by peer name (``p0``, ``p1``, …; ``p0`` is the founder)."""

    notebooks: dict[str, Notebook]
    transcript: str
    parameters: int
    messages: int
    virtual_seconds: float
    leftovers: tuple[str, ...]
    heard: tuple[Heard, ...] = ()
    """Everything that was said, in order; empty without ``listen``."""

    def roots(self, round_: int) -> set[str]:
        """The different state roots that peers reported after ``round_``."""
        return {said.state_root for book in self.notebooks.values() for said in book.rounds if said.round == round_}

    @property
    def state_roots_equal(self) -> bool:
        """Whether all peers that finished a round agreed on its result, for every round."""
        rounds = {said.round for book in self.notebooks.values() for said in book.rounds}
        return bool(rounds) and all(len(self.roots(round_)) == 1 for round_ in rounds)


def rehearse(script: Script, tell: Callable[[RoundReport], None] = lambda report: None, *, listen: bool = False) -> Rehearsed:
    """Run the rehearsal to its end; ``tell`` hears the founder's rounds as they come. ``listen`` keeps what was said."""
    leftovers: list[str] = []
    stage = _Stage(script, tell, listen)
    gc.freeze()  # what is loaded stays: without this the collector walks through all of torch again and again
    try:
        virtual = simulate(stage.play(), leftovers=leftovers)
    finally:
        gc.unfreeze()
    return Rehearsed(
        notebooks=stage.notebooks,
        transcript=stage.digest(),
        parameters=stage.parameters,
        messages=stage.messages,
        virtual_seconds=virtual,
        leftovers=tuple(leftovers),
        heard=tuple(stage.heard),
    )


class _Stage:
    """The set of one rehearsal. The network is made inside the virtual loop, by `play`."""

    def __init__(self, script: Script, tell: Callable[[RoundReport], None], listen: bool = False) -> None:
        self._script, self._listen = script, listen
        self.heard: list[Heard] = []
        self._chance = random.Random(script.seed)
        seed = script.seed.to_bytes(8, "little", signed=True)
        self._keys = {f"p{n}": KeyPair.from_seed(derive_bytes(seed, "rehearsed key", n)) for n in range(script.peers)}
        self._names = {key.peer_id: name for name, key in self._keys.items()}
        self._corpus = _text(script.text_bytes)
        recipe = script.recipe
        self._manifest = manifest_of(
            replace(
                recipe,
                rounds=script.rounds,
                seed=script.seed,
                name=recipe.name or "rehearsal",
                start_with=min(START_WITH, script.peers - len(script.arrivals)),
                evaluate_every=script.rounds,
            ),
            self._corpus.spec,
            self._keys["p0"],
        )
        limits = msgspec.structs.replace(self._manifest.round, owners=script.owners)
        self._manifest = msgspec.structs.replace(self._manifest, round=limits)
        self.notebooks = {name: Notebook(tell if name == "p0" else lambda report: None) for name in self._keys}
        self._network: SimulatedNetwork | None = None

    def digest(self) -> str:
        """The hash of everything that crossed the network, and of every model on the way."""
        roots = "".join(said.state_root for name in sorted(self.notebooks) for said in self.notebooks[name].rounds)
        transcript = self._network.transcript.digest() if self._network else ""
        return derive_bytes(b"transcript", transcript, roots).hex()

    @property
    def parameters(self) -> int:
        """Of the rehearsed model."""
        return count(self._manifest.model)

    @property
    def messages(self) -> int:
        """Messages that crossed the network."""
        return self._network.messages if self._network else 0

    async def play(self) -> float:
        """All peers from their arrival to the end of the run; the virtual seconds it took."""
        script, loop = self._script, asyncio.get_running_loop()
        self._network = network = SimulatedNetwork(script.seed, script.link)
        board = Board(network, self._manifest.run_id, {TOPIC: Progress}, seed=script.seed)
        script.faults.schedule(network, {name: key.peer_id for name, key in self._keys.items()})
        if self._listen:
            network.heard = self._hear
        async with asyncio.timeout(None if math.isinf(script.patience) else script.patience), asyncio.TaskGroup() as tasks:
            for name in self._keys:
                arrival = 0.0 if name == "p0" else 0.2 + self._chance.random() * ARRIVAL_SECONDS
                step_seconds = script.step_seconds * (1.0 + 2.0 * self._chance.random()) * script.slower.get(name, 1.0)
                arrivals = script.arrivals.get(name, (arrival,))
                tasks.create_task(self._live(name, arrivals, step_seconds, network, board), name=name)
        return loop.time()

    def _hear(self, time_: float, sender: PeerId, receiver: PeerId, route: str, call: Call) -> None:
        what = Kind(call.body[4]).name if route == "mail" else call.argument.split(".")[1] if route == "bulk" else route
        self.heard.append(Heard(time_, self._names[sender], self._names[receiver], what.lower()))

    async def _live(
        self, name: str, arrivals: Sequence[float], step_seconds: float, network: SimulatedNetwork, board: Board
    ) -> None:
        """One peer, from each of its arrivals; it keeps nothing from one life to the next."""
        for life, arrival in enumerate(arrivals, 1):
            await asyncio.sleep(max(0.0, arrival - asyncio.get_running_loop().time()))
            await self._live_once(name, life, step_seconds, network, board)

    async def _live_once(self, name: str, life: int, step_seconds: float, network: SimulatedNetwork, board: Board) -> None:
        """Until the end of the run; a crash ends it like a power cut."""
        peer_id = self._keys[name].peer_id
        lives: list[asyncio.Task[None]] = []
        transport = network.attach(peer_id, lambda: [task.cancel() for task in lives])
        lives.append(asyncio.create_task(self._be(name, life, step_seconds, transport, board), name=f"{name} alive"))
        try:
            await lives[0]
        except asyncio.CancelledError:
            if network.is_up(peer_id):
                raise  # the rehearsal itself is being stopped

    async def _be(self, name: str, life: int, step_seconds: float, transport: SimulatedTransport, board: Board) -> None:
        """The same composition as on sockets, with the rehearsal's ports."""
        transport.inhabit()
        key, run, loop = self._keys[name], self._manifest.run_id, asyncio.get_running_loop()
        entries = [Entry(self._keys[entry].peer_id, Address(entry, 1)) for entry in self._script.entries]
        contacts = Contacts(run, tuple(entries))
        contact = seal_contact(key, run, (Address(name, 1),), life)
        contacts.learn(contact)
        others = [entry.peer for entry in entries if entry.peer != key.peer_id]
        welcomes = await greet(transport, others, contact, loop.time() + 10) if others else []
        ways = Ways(transport=transport, directory=SimulatedDirectory(board, key.peer_id), contacts=contacts, wall=loop.time)
        me = Self(
            key=key,
            name=name,
            version=swarm.__version__,
            contact=contact,
            corpus=self._corpus,
            founder=name == "p0",
            first_seq=life << 32,
        )
        ports = Ports(
            ways=ways,
            arithmetic=Inline(lambda job: job.steps * step_seconds if isinstance(job, LocalTraining | StepAhead) else JOB_SECONDS),
            budget=lambda seconds: Budget(max(1, int(seconds / step_seconds)), lambda: False),
            teller=self.notebooks[name],
        )
        peer = Peer(self._manifest, self._manifest.seal(self._keys["p0"]), me, ports)
        peer.neighbours.learn(welcomes)
        await peer.run()


def _text(length: int) -> Corpus:
    """A fixed slice of real text, the same on one computer; rehearsals do not compare across computers."""
    whole = corpora.build(None)
    return corpora.from_bytes(bytes(memoryview(whole.data)[:length]), description="rehearsal")


def rehearse_and_tell(peers: int, rounds: int, seed: int, reporter: Reporter) -> None:
    """The command: rounds as they come, then the summary."""
    began = time.perf_counter()
    result = rehearse(Script(peers=peers, rounds=rounds, seed=seed), reporter.round_finished)
    reporter.event(
        "rehearsal",
        peers=peers,
        rounds=rounds,
        seed=seed,
        transcript=result.transcript,
        seconds=round(time.perf_counter() - began, 2),
        virtual_seconds=round(result.virtual_seconds, 2),
        messages=result.messages,
        state_roots_equal=result.state_roots_equal,
    )
