"""Loss by step, with the code that peers run: `Learner`, `Averager` with codecs and feedback, the outer step.

The peers of one run share a process. They average as in a rehearsal, on the simulated network and virtual
time, so a curve is a function of its `Task`: it depends on no clock, no socket and no other process.

The rivals' arithmetic is written out here in the plainest form. Where it is idealised, it favours the rival:
- synchronous: one model with four batches at once gives the same sum as four gradients averaged, up to
  rounding; float16 rounds once.
- hivemind-local: rounds have exactly the steps asked for, and all peers are in all of them.
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

from averaging.averager import Averager
from averaging.layout import Layout
from averaging.messages import MESSAGES
from averaging.outcome import Decided, Outcome
from averaging.runner import Ports
from averaging.terms import Attendance
from averaging.update import Update
from peer.data import corpus as corpora
from peer.data.corpus import Corpus
from peer.data.shards import assign, shard_count
from peer.data.stream import Draw, batches, held_out
from peer.models.registry import build, presets
from peer.training.compute import Inline
from peer.training.evaluate import bits_per_byte
from peer.training.inner import Inner
from peer.training.learner import Assignment, Learner, LocalUpdate
from peer.training.state import SharedState
from swarm.identity import KeyPair, PeerId
from swarm.manifest import InnerSpec, OuterSpec, RunManifest
from swarm.seeds import derive, derive_bytes
from swarm.simulation.clock import simulate
from swarm.simulation.network import Link, SimulatedNetwork
from swarm.transport.post import Post
from swarm.wire import PROTOCOL

from .methods import BATCH, PEERS, Kind, Method, method_of

EVERY = 20
"""Steps between evaluations."""
WINDOWS = 512
"""Windows of held-out text that an evaluation scores, the same ones for all runs of one seed."""
DRAW_STEPS = 10
"""Steps after which a synchronous run draws new shards of the text."""

KEYS = sorted((KeyPair.from_seed(bytes([n + 1]) * 32) for n in range(PEERS)), key=lambda key: key.peer_id)
MEMBERS = tuple(key.peer_id for key in KEYS)

Points = list[tuple[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run: all that its curve depends on."""

    method: str
    seed: int
    rate: float
    steps: int
    model: str = "nano"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The result of a run: (steps of every peer, held-out bits per byte of the shared model), from step 0."""

    task: Task
    points: Points

    @property
    def final(self) -> float:
        """Bits per byte at the end."""
        return self.points[-1][1]


def draw(task: Task) -> Curve:
    """Run ``task``. Deterministic on one machine and one thread."""
    torch.set_num_threads(1)
    return Curve(task=task, points=_play(Setting.of(task)).points)


def bytes_of_round(method: str, model: str = "nano", rounds: int = 6) -> float:
    """Bytes that one peer sends in a round of ``method`` (`Kind.ROUNDS`), on the simulated network."""
    torch.set_num_threads(1)
    steps = rounds * method_of(method).steps
    played = _play(Setting.of(Task(method=method, seed=0, rate=1e-3, steps=steps, model=model)))
    return played.bytes_sent / rounds


def step_seconds(model: str, steps: int = 20) -> float:
    """Seconds of a local step on one core here: the fastest of ``steps``, as other programs run, too."""
    torch.set_num_threads(1)
    manifest = Setting.of(Task(method="alone", seed=0, rate=1e-3, steps=100, model=model)).manifest
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
    """The name of the text that curves are drawn on: the standard library of this version of Python."""
    return _corpus().spec.root.hex()


@dataclass(frozen=True, slots=True)
class Setting:
    """A task with all that follows from it: the manifest, the text, and the seed of all draws of data."""

    task: Task
    method: Method
    manifest: RunManifest
    corpus: Corpus
    data_seed: bytes

    @classmethod
    def of(cls, task: Task) -> Setting:
        """The setting of ``task``, on the built-in text."""
        method = method_of(task.method)
        corpus = _corpus()
        data_seed = derive_bytes(corpus.spec.root, "data", task.seed)
        return cls(task, method, manifest_of(task, method, corpus), corpus, data_seed)

    @property
    def rounds(self) -> int:
        """The rounds of the whole run."""
        return self.task.steps // self.method.steps

    def learner(self, me: PeerId) -> Learner:
        """The peer ``me``, with a fresh model."""
        return Learner(self.manifest, self.corpus, me)

    def work(self, learner: Learner) -> LocalUpdate:
        """The local steps of one round."""
        task = Assignment(
            members=MEMBERS,
            max_steps=self.method.steps,
            until=lambda: False,
            on_step=lambda step, loss: None,
        )
        return learner.work(task)


class Scores:
    """Evaluates the shared model every `EVERY` steps (or every round, if longer), and at the end."""

    def __init__(self, setting: Setting) -> None:
        self._last_step = setting.task.steps
        self._every = max(EVERY, setting.method.steps)
        self._model = build(setting.manifest.model, setting.task.seed)
        seed = derive(setting.data_seed, "held out")
        self._windows_WU = held_out(setting.corpus, setting.manifest.model.context, WINDOWS, seed)
        self.points: Points = []

    def add(self, step: int, weights_P: Tensor) -> None:
        """Evaluate ``weights_P`` after ``step`` steps of every peer, if that is due."""
        if step % self._every and step < self._last_step:
            return
        named = dict(self._model.named_parameters())
        Layout.of(named.items()).write(weights_P, named)
        self.points.append((step, bits_per_byte(self._model, self._windows_WU)))


@dataclass(frozen=True, slots=True)
class Played:
    """A run that is over. ``bytes_sent``: by one peer, 0 for a method without Swarm's averager."""

    points: Points
    bytes_sent: float = 0.0


def _play(setting: Setting) -> Played:
    """The whole run."""
    scores = Scores(setting)
    bytes_sent = 0.0
    match setting.method.kind:
        case Kind.ROUNDS:
            bytes_sent = simulate(_rounds(setting, scores))
        case Kind.ALONE:
            _alone(setting, scores)
        case Kind.PAIRS:
            _pairs(setting, scores)
        case Kind.HIVEMIND_LOCAL:
            _local_updates(setting, scores)
        case Kind.SYNCHRONOUS | Kind.HIVEMIND_GRADIENTS:
            _synchronous(setting, scores)
    return Played(scores.points, bytes_sent)


# --- Swarm ------------------------------------------------------------------------------------------------


async def _rounds(setting: Setting, scores: Scores) -> float:
    """Four learners and four averagers, round after round. Returns the bytes that one peer has sent."""
    network = SimulatedNetwork(setting.task.seed, Link(latency=0.01, jitter=0.002, bandwidth=1e9))
    manifest = setting.manifest
    async with asyncio.TaskGroup() as tasks:
        learners = [setting.learner(me) for me in MEMBERS]
        averagers = [
            Averager(
                manifest,
                key,
                Ports(
                    Post(network.attach(key.peer_id), key, manifest.run_id, tasks, MESSAGES),
                    Inline(lambda job: 0.0),
                    tasks,
                    lambda report: None,
                ),
            )
            for key in KEYS
        ]
        scores.add(0, learners[0].state.anchor_P)
        for round_ in range(setting.rounds):
            works = [setting.work(learner) for learner in learners]
            cuts = _cut(setting, network, round_)
            pairs = zip(averagers, learners, works, strict=True)
            outcomes = await asyncio.gather(*(_average(manifest, *pair) for pair in pairs))
            for one, other in cuts:
                network.heal(one, other)
            _conclude(learners, outcomes)
            scores.add((round_ + 1) * setting.method.steps, learners[0].state.anchor_P)
    return sum(network.sent.values()) / PEERS


async def _average(manifest: RunManifest, averager: Averager, learner: Learner, work: LocalUpdate) -> Outcome:
    round_ = learner.state.round
    fragment = learner.fragment(round_)
    update = Update(
        round=round_,
        vector_P=work.update_N,
        tokens=work.trained.tokens,
        seed=learner.seed_of(round_),
        state_root=derive_bytes(manifest.run_id, "state", round_),
        tensors=fragment.tensors,
        fragment=fragment.index,
    )
    close_at = asyncio.get_running_loop().time() + 1.0
    attendance = Attendance(near=MEMBERS, close_at=close_at, others=MEMBERS)
    return await averager.average(update, attendance)


def _cut(setting: Setting, network: SimulatedNetwork, round_: int) -> list[tuple[PeerId, PeerId]]:
    """Choose the peers that are dropped in ``round_``, and when. Returns the links to heal afterwards."""
    method = setting.method
    count = round(method.dropped * PEERS)
    if not count:
        return []
    first = derive(setting.data_seed, "dropped", round_)
    victims = {MEMBERS[(first + n) % PEERS] for n in range(count)}
    cuts = [(victim, other) for victim in sorted(victims) for other in MEMBERS if other != victim]
    moment = method.cut_within * (derive(setting.data_seed, "moment", round_) % 1000) / 1000
    for cut in cuts:
        asyncio.get_running_loop().call_later(moment, network.cut, *cut)
    return cuts


def _conclude(learners: Sequence[Learner], outcomes: Sequence[Outcome]) -> None:
    """Take the outer step; peers without an average take over the model of those that have it.

    Raises `AssertionError` where two peers hold different bits.
    """
    states: dict[int, SharedState] = {
        seat: learners[seat].conclude(outcome.average_P)
        for seat, outcome in enumerate(outcomes)
        if isinstance(outcome, Decided)
    }
    if not states:
        for learner in learners:
            learner.conclude(None)
        return
    shared = next(iter(states.values()))
    for seat, learner in enumerate(learners):
        if seat not in states:
            learner.adopt(shared)
        assert torch.equal(learner.state.anchor_P, shared.anchor_P), "two peers hold different models"


# --- the other methods ------------------------------------------------------------------------------------


def _alone(setting: Setting, scores: Scores) -> None:
    learner = setting.learner(MEMBERS[0])
    scores.add(0, learner.state.anchor_P)
    for round_ in range(setting.rounds):
        learner.conclude(setting.work(learner).update_N)
        scores.add((round_ + 1) * setting.method.steps, learner.state.anchor_P)


def _local_updates(setting: Setting, scores: Scores) -> None:
    """`hivemind.Optimizer`: each peer sends its float16 weights and gets back what the average adds."""
    learners = [setting.learner(me) for me in MEMBERS]
    scores.add(0, learners[0].state.anchor_P)
    for round_ in range(setting.rounds):
        trained = [learner.state.anchor_P - setting.work(learner).update_N for learner in learners]
        sent = [weights_P.half().float() for weights_P in trained]
        mean_P = torch.stack(sent).mean(0)
        for learner, weights_P, sent_P in zip(learners, trained, sent, strict=True):
            learner.state = SharedState(round_ + 1, weights_P + (mean_P - sent_P).half().float(), None)
        scores.add((round_ + 1) * setting.method.steps, learners[0].state.anchor_P)


def _pairs(setting: Setting, scores: Scores) -> None:
    """Each peer averages its weights with one other, with another one each round.

    Scored: the mean of all, as for an export.
    """
    learners = [setting.learner(me) for me in MEMBERS]
    scores.add(0, learners[0].state.anchor_P)
    for round_ in range(setting.rounds):
        sent = [
            (learner.state.anchor_P - setting.work(learner).update_N).half().float() for learner in learners
        ]
        for seat, learner in enumerate(learners):
            other = sent[seat ^ (1 + round_ % (PEERS - 1))]
            learner.state = SharedState(round_ + 1, (sent[seat] + other) / 2, None)
        mean_P = torch.stack([learner.state.anchor_P for learner in learners]).mean(0)
        scores.add((round_ + 1) * setting.method.steps, mean_P)


def _synchronous(setting: Setting, scores: Scores) -> None:
    """One model that sees the batches of all peers; an update may take the batches of several steps."""
    model = build(setting.manifest.model, setting.task.seed)
    method = setting.method
    if method.half:
        for weight in model.parameters():
            weight.register_post_accumulate_grad_hook(_round_to_half)
    inner = Inner(model, setting.manifest.inner)
    layout = Layout.of(model.named_parameters())
    stream = _joint_batches(setting, method.steps)
    done = 0
    scores.add(0, layout.flatten(dict(model.named_parameters())))
    while done < setting.task.steps:
        inner.run(stream, max_steps=1)
        done += method.steps
        if done % EVERY == 0 or done >= setting.task.steps:
            scores.add(done, layout.flatten(dict(model.named_parameters())))


def _joint_batches(setting: Setting, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of all peers in ``steps`` steps, as one; shards change every `DRAW_STEPS` steps."""
    corpus = setting.corpus
    seed = setting.data_seed
    context = setting.manifest.model.context
    shards = shard_count(corpus.spec, context)
    round_ = 0
    while True:
        streams = [
            batches(corpus, Draw(seed, round_, me), assign(seed, round_, MEMBERS, me, shards), BATCH, context)
            for me in MEMBERS
        ]
        for _ in range(max(1, DRAW_STEPS // steps)):
            drawn = [pair for stream in streams for pair in islice(stream, steps)]
            yield torch.cat([x_BT for x_BT, _ in drawn]), torch.cat([y_BT for _, y_BT in drawn])
        round_ += 1


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
