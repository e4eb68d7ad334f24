"""Loss by step, with the code that peers run: `Learner`, `Averager` with its codecs and error feedback, the outer step.

The peers of one run share a process; where they average they do so as in a rehearsal, on the simulated network and virtual time.
So a curve is a function of its `Task`: no clock, no socket, no other process has a say in it.

What is not ours is written out here as plainly as it can be, and where it is idealised it is in the rival's favour:
- synchronous: one model and four batches at once are the same sum as four gradients averaged, up to rounding; float16 rounds once.
- hivemind-local: rounds are of exactly the steps asked for, and everybody is in all of them.
- hivemind-gradients: as synchronous, with the batches of a whole round for one update.
"""

# Axes: P parameters of the whole model, B sequences of a batch, T positions, W windows, U bytes of a window

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import torch
from torch import Tensor, nn

from averaging.averager import FORMS, Averaged, Averager, Company, Update
from averaging.layout import Layout
from peer.data import corpus as corpora
from peer.data.corpus import Corpus
from peer.data.shards import assign, shard_count
from peer.data.stream import Draw, batches, held_out
from peer.models.registry import build, presets
from peer.training.compute import Inline
from peer.training.evaluate import bits_per_byte
from peer.training.inner import Inner
from peer.training.learner import Assignment, Learner, Work
from peer.training.state import SharedState
from swarm.identity import KeyPair, PeerId
from swarm.manifest import InnerSpec, OuterSpec, RunManifest
from swarm.seeds import derive, derive_bytes
from swarm.simulation.clock import simulate
from swarm.simulation.network import Link, SimulatedNetwork
from swarm.transport.post import Post
from swarm.wire import PROTOCOL

from .methods import BATCH, METHODS, PEERS, Kind, Method

EVERY = 20
"""Steps between evaluations."""
WINDOWS = 512
"""Of held-out text that an evaluation scores; the same ones for all runs of one seed."""
DRAW_STEPS = 10
"""Steps after which a synchronous run draws new shards of the text."""

KEYS = sorted((KeyPair.from_seed(bytes([n + 1]) * 32) for n in range(PEERS)), key=lambda key: key.peer_id)
MEMBERS = tuple(key.peer_id for key in KEYS)

Points = list[tuple[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run: everything that its curve depends on."""

    method: str
    seed: int
    rate: float
    steps: int
    model: str = "nano"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What a run has shown: (steps of every peer, held-out bits per byte of the shared model), from step 0."""

    task: Task
    points: Points

    @property
    def final(self) -> float:
        """Bits per byte at the end."""
        return self.points[-1][1]


def draw(task: Task) -> Curve:
    """Run ``task``. Deterministic on one machine and one thread."""
    torch.set_num_threads(1)
    return Curve(task=task, points=_Stage(task).play())


def step_seconds(model: str, steps: int = 20) -> float:
    """What a local step takes on one core of this machine: the fastest of ``steps``, since others may be using the core as well."""
    torch.set_num_threads(1)
    task = Task(method="alone", seed=0, rate=1e-3, steps=100, model=model)
    manifest = manifest_of(task, METHODS["alone"], _corpus())
    inner = Inner(build(manifest.model, 0), manifest.inner)
    stream = batches(_corpus(), Draw(bytes(32), 0, MEMBERS[0]), [0], BATCH, manifest.model.context)
    taken = []
    for _ in range(steps):
        began = time.perf_counter()
        inner.run(stream, max_steps=1)
        taken.append(time.perf_counter() - began)
    return min(taken)


@lru_cache
def _corpus() -> Corpus:
    return corpora.build(None)


def text_name() -> str:
    """The name of the text that curves are drawn on: another version of Python has another standard library."""
    return _corpus().spec.root.hex()


class _Stage:
    """The set of one run."""

    def __init__(self, task: Task) -> None:
        self._task, self._method = task, METHODS[task.method]
        self._corpus = _corpus()
        self._manifest = manifest_of(task, self._method, self._corpus)
        self._draw = derive_bytes(self._corpus.spec.root, "data", task.seed)
        self._model = build(self._manifest.model, task.seed)
        context = self._manifest.model.context
        self._windows_WU = held_out(self._corpus, context, WINDOWS, derive(self._draw, "held out"))
        self._points: Points = []

    def play(self) -> Points:
        """The whole run."""
        match self._method.kind:
            case Kind.ROUNDS:
                simulate(self._rounds())
            case Kind.ALONE:
                self._alone()
            case Kind.PAIRS:
                self._pairs()
            case Kind.HIVEMIND_LOCAL:
                self._local_updates()
            case Kind.SYNCHRONOUS | Kind.HIVEMIND_GRADIENTS:
                self._synchronous()
        return self._points

    # --- ours -----------------------------------------------------------------------------------------------

    async def _rounds(self) -> None:
        """Four learners and four averagers, round after round."""
        network = SimulatedNetwork(self._task.seed, Link(latency=0.01, jitter=0.002, bandwidth=1e9))
        async with asyncio.TaskGroup() as tasks:
            learners = [Learner(self._manifest, self._corpus, me) for me in MEMBERS]
            averagers = [
                Averager(
                    self._manifest,
                    key,
                    Post(network.attach(key.peer_id), key, self._manifest.run_id, tasks, FORMS),
                    Inline(lambda job: 0.0),
                    tasks,
                    lambda told: None,
                )
                for key in KEYS
            ]
            self._score(0, learners[0].state.anchor_P)
            for round_ in range(self._task.steps // self._method.steps):
                works = [self._work(learner) for learner in learners]
                cuts = self._cut(network, round_)
                averages = await asyncio.gather(*map(self._average, averagers, learners, works))
                for one, other in cuts:
                    network.heal(one, other)
                self._conclude(learners, averages)
                self._score((round_ + 1) * self._method.steps, learners[0].state.anchor_P)

    def _work(self, learner: Learner) -> Work:
        task = Assignment(
            members=MEMBERS,
            max_steps=self._method.steps,
            until=lambda: False,
            on_step=lambda step, loss: None,
        )
        return learner.work(task)

    async def _average(self, averager: Averager, learner: Learner, work: Work) -> Averaged:
        round_ = learner.state.round
        update = Update(
            round=round_,
            vector_P=work.update_P,
            tokens=work.trained.tokens,
            seed=learner.seed_of(round_),
            state_root=derive_bytes(self._manifest.run_id, "state", round_),
            tensors=learner.fragment(learner.state.round).tensors,
            fragment=learner.fragment(learner.state.round).index,
        )
        loop = asyncio.get_running_loop()
        return await averager.average(update, Company(MEMBERS, loop.time() + 1.0, alone_is_fine=False))

    def _cut(self, network: SimulatedNetwork, round_: int) -> list[tuple[PeerId, PeerId]]:
        """Choose who is dropped in ``round_``, and when; the lines to heal afterwards."""
        count = round(self._method.dropped * PEERS)
        if not count:
            return []
        first = derive(self._draw, "dropped", round_)
        victims = {MEMBERS[(first + n) % PEERS] for n in range(count)}
        cuts = [(victim, other) for victim in sorted(victims) for other in MEMBERS if other != victim]
        moment = self._method.cut_within * (derive(self._draw, "moment", round_) % 1000) / 1000
        for cut in cuts:
            asyncio.get_running_loop().call_later(moment, network.cut, *cut)
        return cuts

    def _conclude(self, learners: Sequence[Learner], averages: Sequence[Averaged]) -> None:
        """The outer step; whoever has no average takes the model from those who have. Raises `AssertionError` for unequal bits."""
        states: dict[int, SharedState] = {
            seat: learners[seat].conclude(averaged.average_P)
            for seat, averaged in enumerate(averages)
            if averaged.average_P is not None
        }
        if not states:
            for learner in learners:
                learner.conclude(None)
            return
        standing = next(iter(states.values()))
        for seat, learner in enumerate(learners):
            if seat not in states:
                learner.adopt(standing)
            assert torch.equal(learner.state.anchor_P, standing.anchor_P), "two peers hold different models"

    # --- the others -----------------------------------------------------------------------------------------

    def _alone(self) -> None:
        learner = Learner(self._manifest, self._corpus, MEMBERS[0])
        self._score(0, learner.state.anchor_P)
        for round_ in range(self._task.steps // self._method.steps):
            learner.conclude(self._work(learner).update_P)
            self._score((round_ + 1) * self._method.steps, learner.state.anchor_P)

    def _local_updates(self) -> None:
        """`hivemind.Optimizer`: everybody sends its weights in float16 and gets back, in float16, what the average adds."""
        learners = [Learner(self._manifest, self._corpus, me) for me in MEMBERS]
        self._score(0, learners[0].state.anchor_P)
        for round_ in range(self._task.steps // self._method.steps):
            trained = [learner.state.anchor_P - self._work(learner).update_P for learner in learners]
            sent = [weights_P.half().float() for weights_P in trained]
            mean_P = torch.stack(sent).mean(0)
            for learner, weights_P, sent_P in zip(learners, trained, sent, strict=True):
                learner.state = SharedState(round_ + 1, weights_P + (mean_P - sent_P).half().float(), None)
            self._score((round_ + 1) * self._method.steps, learners[0].state.anchor_P)

    def _pairs(self) -> None:
        """Everybody averages its weights with one other, with another one each time; the mean of all is what would be exported."""
        learners = [Learner(self._manifest, self._corpus, me) for me in MEMBERS]
        self._score(0, learners[0].state.anchor_P)
        for round_ in range(self._task.steps // self._method.steps):
            sent = [
                (learner.state.anchor_P - self._work(learner).update_P).half().float() for learner in learners
            ]
            for seat, learner in enumerate(learners):
                other = sent[seat ^ (1 + round_ % (PEERS - 1))]
                learner.state = SharedState(round_ + 1, (sent[seat] + other) / 2, None)
            self._score(
                (round_ + 1) * self._method.steps,
                torch.stack([learner.state.anchor_P for learner in learners]).mean(0),
            )

    def _synchronous(self) -> None:
        """One model that sees what all peers see; an update may take the batches of several steps."""
        model, method = build(self._manifest.model, self._task.seed), self._method
        if method.half:
            for weight in model.parameters():
                weight.register_post_accumulate_grad_hook(_round_to_half)
        inner, layout = Inner(model, self._manifest.inner), Layout.of(model.named_parameters())
        stream, done = self._together(method.steps), 0
        self._score(0, layout.flatten(dict(model.named_parameters())))
        while done < self._task.steps:
            inner.run(stream, max_steps=1)
            done += method.steps
            if done % EVERY == 0 or done >= self._task.steps:
                self._score(done, layout.flatten(dict(model.named_parameters())))

    def _together(self, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches that the four peers would draw in ``steps`` steps, as one; shards change every `DRAW_STEPS` steps."""
        context = self._manifest.model.context
        shards = shard_count(self._corpus.spec, context)
        round_ = 0
        while True:
            streams = [
                batches(
                    self._corpus,
                    Draw(self._draw, round_, me),
                    assign(self._draw, round_, MEMBERS, me, shards),
                    BATCH,
                    context,
                )
                for me in MEMBERS
            ]
            for _ in range(max(1, DRAW_STEPS // steps)):
                drawn = [pair for stream in streams for pair in islice(stream, steps)]
                yield torch.cat([x_BT for x_BT, _ in drawn]), torch.cat([y_BT for _, y_BT in drawn])
            round_ += 1

    # --- what it came to ------------------------------------------------------------------------------------

    def _score(self, step: int, weights_P: Tensor) -> None:
        if step % max(EVERY, self._method.steps) and step < self._task.steps:
            return
        named = dict(self._model.named_parameters())
        Layout.of(named.items()).write(weights_P, named)
        self._points.append((step, bits_per_byte(self._model, self._windows_WU)))


def manifest_of(task: Task, method: Method, corpus: Corpus) -> RunManifest:
    """The run of ``task``: the schedule ends with the run, counted in updates of the weights."""
    updates = max(1, round(task.steps * method.updates_per_step))
    inner = InnerSpec(
        learning_rate=task.rate,
        batch=BATCH,
        warmup_steps=min(60, max(1, updates // 10)),
        horizon_steps=updates,
    )
    outer = OuterSpec() if method.kind is not Kind.ROUNDS else method.outer
    return RunManifest(
        PROTOCOL,
        task.method,
        KEYS[0].public,
        task.seed,
        presets[task.model],
        corpus.spec,
        method.round,
        inner,
        outer,
    )


def _round_to_half(weight: nn.Parameter) -> None:
    if weight.grad is not None:
        weight.grad.copy_(weight.grad.half())
