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
from functools import partial
from typing import Any

import msgspec
import torch

import swarm
from swarm.errors import ConfigError, NobodyThere
from swarm.identity import KeyPair, PeerId
from swarm.membership.contacts import Contacts, seal_contact
from swarm.membership.progress import Progress
from swarm.seeds import derive, derive_bytes
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
AWAY_SECONDS = 10.0
"""Virtual seconds until a crashed peer comes back, on average."""
CROWD = 64
"""From more peers on, a rehearsed round has one local step instead of four, and at most four owners instead of sixteen."""
ENTRIES = 8
"""Peers that the ticket of a rehearsal with churn names: any of them may be away."""
GARBAGE = (50_000, 20, 50)
"""How many new objects make the collector look: hundreds of peers have many that stay. A tenth of the time goes without this."""
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
    churn: float = 0.0
    """The chance that a peer crashes in a round, at any moment of it. It comes back after a while and has kept nothing."""
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
    on_round: Callable[[], object] = bool
    """Called at the end of every round, also of one without an average."""
    told_at: list[float] = field(default_factory=list)
    """Virtual seconds at which each of ``rounds`` was over."""
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def missed(self) -> set[int]:
        """The rounds that this peer had no average of, as it said itself: it may have stood still in them."""
        return {fields["round"] for name, fields in self.events if name == "warning" and fields["code"] == "round-missed"}

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
class Rehearsed:
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
    leftovers: tuple[str, ...]
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


def rehearse(script: Script, tell: Callable[[RoundReport], None] = lambda report: None, *, listen: bool = False) -> Rehearsed:
    """Run the rehearsal to its end; ``tell`` hears the founder's rounds as they come. ``listen`` keeps what was said."""
    leftovers: list[str] = []
    stage = _Stage(script, tell, listen)
    often, threads = gc.get_threshold(), torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model gains nothing by more, and waits for each of them wherever the computer is busy
    gc.freeze()  # what is loaded stays: without this the collector walks through all of torch again and again
    gc.set_threshold(*GARBAGE)
    try:
        virtual = simulate(stage.play(), leftovers=leftovers)
    finally:
        gc.set_threshold(*often)
        gc.unfreeze()
        torch.set_num_threads(threads)
    return Rehearsed(
        notebooks=stage.notebooks,
        transcript=stage.digest(),
        parameters=stage.parameters,
        messages=stage.messages,
        sent=stage.sent,
        looked=stage.looked,
        crashes=stage.crashes,
        virtual_seconds=virtual,
        leftovers=tuple(leftovers),
        heard=tuple(stage.heard),
    )


class _Stage:
    """The set of one rehearsal. The network is made inside the virtual loop, by `play`."""

    def __init__(self, script: Script, tell: Callable[[RoundReport], None], listen: bool = False) -> None:
        self._script, self._listen = script, listen
        self.heard: list[Heard] = []
        self.crashes = 0
        self.looked: dict[str, int] = {}
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

    @property
    def sent(self) -> dict[str, int]:
        """Bytes of these messages, by sender."""
        return {name: self._network.sent[key.peer_id] if self._network else 0 for name, key in self._keys.items()}

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
        self.looked = {name: board.looked[key.peer_id] for name, key in self._keys.items()}
        return loop.time()

    def _hear(self, time_: float, sender: PeerId, receiver: PeerId, route: str, call: Call) -> None:
        what = Kind(call.body[4]).name if route == "mail" else call.argument.split(".")[1] if route == "bulk" else route
        self.heard.append(Heard(time_, self._names[sender], self._names[receiver], what.lower()))

    async def _live(
        self, name: str, arrivals: Sequence[float], step_seconds: float, network: SimulatedNetwork, board: Board
    ) -> None:
        """One peer, from each of its arrivals, with churn also after each crash; it keeps nothing from one life to the next."""
        life, loop = 0, asyncio.get_running_loop()
        for life, arrival in enumerate(arrivals, 1):
            await asyncio.sleep(max(0.0, arrival - loop.time()))
            has_crashed = await self._live_once(name, life, step_seconds, network, board)
        while self._script.churn and has_crashed and not self._is_over():
            await asyncio.sleep(AWAY_SECONDS * (0.5 + self._drawn("away", name, life)))
            life += 1
            has_crashed = await self._live_once(name, life, step_seconds, network, board)

    def _is_over(self) -> bool:
        """Whether somebody has reached the end of the run: who comes now finds nobody soon."""
        return any(book.rounds and book.rounds[-1].round + 1 >= self._script.rounds for book in self.notebooks.values())

    async def _live_once(self, name: str, life: int, step_seconds: float, network: SimulatedNetwork, board: Board) -> bool:
        """Until the end of the run; a crash ends it like a power cut. Whether it was one, or came too late to find anybody."""
        peer_id = self._keys[name].peer_id
        lives: list[asyncio.Task[None]] = []
        transport = network.attach(peer_id, lambda: [task.cancel() for task in lives])
        lives.append(asyncio.create_task(self._be(name, life, step_seconds, transport, board), name=f"{name} alive"))
        doom = self._doom(name, life, partial(network.crash, peer_id)) if self._script.churn else None
        try:
            await lives[0]
        except asyncio.CancelledError:
            if network.is_up(peer_id):
                raise  # the rehearsal itself is being stopped
            self.crashes += 1
            return True
        except NobodyThere:
            if not self._script.churn:
                raise
            network.crash(peer_id)
            return True
        finally:
            if doom:
                doom.cancel()
        return False

    def _doom(self, name: str, life: int, crash: Callable[[], None]) -> asyncio.Task[None]:
        """Crashes a life: at a moment drawn from the round in which it is its turn."""
        book, ended = self.notebooks[name], asyncio.Semaphore(0)
        book.on_round = ended.release
        rounds = math.floor(math.log(1 - self._drawn("rounds", name, life)) / math.log(1 - self._script.churn))

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
        return derive(b"rehearsed churn", self._script.seed, *words) / (1 << 63)

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
            founder=name == "p0" and life == 1,
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


def script_of(peers: int, rounds: int, seed: int, *, churn: float = 0.0, loss: float = 0.0, jitter: float = 0.02) -> Script:
    """What `swarm rehearse` rehearses. A crowd trains less, so that it fits into minutes: what is rehearsed is how it gets on.

    Raises `ConfigError` for chances that are none.
    """
    if not (0 <= churn < 1 and 0 <= loss < 1 and 0 <= jitter < math.inf):
        raise ConfigError(
            "churn and loss are chances from 0 to below 1, jitter is seconds", "swarm rehearse 64 --churn 0.02 --loss 0.01"
        )
    steps, owners = (4, 16) if peers <= CROWD else (1, 4)
    recipe = Recipe(model="tiny", max_steps=steps, round_seconds=5.0, average_seconds=20.0)
    entries = [f"p{number}" for number in range(min(peers, ENTRIES if churn else 1))]
    link = Link(latency=0.04, jitter=jitter, bandwidth=2.5e6, loss=loss)
    return Script(peers=peers, rounds=rounds, seed=seed, recipe=recipe, link=link, churn=churn, entries=entries, owners=owners)


def rehearse_and_tell(script: Script, reporter: Reporter) -> None:
    """The command: rounds as they come, then the summary."""
    began = time.perf_counter()
    result = rehearse(script, reporter.round_finished)
    peer_rounds = script.peers * script.rounds
    reporter.event(
        "rehearsal",
        peers=script.peers,
        rounds=script.rounds,
        seed=script.seed,
        transcript=result.transcript,
        seconds=round(time.perf_counter() - began, 2),
        virtual_seconds=round(result.virtual_seconds, 2),
        messages=result.messages,
        state_roots_equal=result.state_roots_equal,
        crashes=result.crashes,
        messages_per_peer_per_round=round(result.messages / peer_rounds, 1),
        bytes_per_peer_per_round=round(sum(result.sent.values()) / peer_rounds),
    )
