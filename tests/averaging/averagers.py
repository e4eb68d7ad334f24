"""Averagers on the simulated network, in virtual time, for tests of `Averager.average`."""

# Axes: P parameters of the whole model

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import torch
from torch import Tensor

from averaging.averager import Averager
from averaging.messages import MESSAGES
from averaging.outcome import Decided, Outcome
from averaging.record import Judge, Record, UpdateShape, VerifiedRecord
from averaging.runner import Ports
from averaging.terms import Attendance
from averaging.update import Update
from swarm.errors import TheirFault
from swarm.identity import KeyPair, PeerId
from swarm.machine import Report
from swarm.manifest import Codec, DataSpec, InnerSpec, ModelSpec, OuterSpec, RoundSpec, RunManifest
from swarm.simulation.clock import simulate
from swarm.simulation.network import Link, SimulatedNetwork
from swarm.transport.post import Post
from swarm.wire import PROTOCOL

T = TypeVar("T")

NUMBERS = 1000
ROOT = bytes([7]) * 32
OTHER = bytes([8]) * 32
"""The state root of another model."""
KEYS = sorted((KeyPair.from_seed(bytes([n]) * 32) for n in range(3)), key=lambda key: key.peer_id)
ROUND = RoundSpec(average_seconds=20.0, assemble_seconds=4.0, codec=Codec.INT8)
MANIFEST = RunManifest(
    PROTOCOL,
    "a run",
    KEYS[0].public,
    0,
    ModelSpec(),
    DataSpec(bytes(32), 1000),
    ROUND,
    InnerSpec(),
    OuterSpec(),
    rounds=10,
)
"""Of a run in which nothing matters but how it averages."""
SHAPE = UpdateShape(spec=ROUND, tensors=(NUMBERS,))


def manifest_with(**changes: object) -> RunManifest:
    """`MANIFEST` with changes in its `RoundSpec`."""
    return msgspec.structs.replace(MANIFEST, round=msgspec.structs.replace(ROUND, **changes))


OTHERS_ID = KeyPair.from_seed(bytes([9]) * 32).peer_id
"""A peer that trains without the others."""


class Slow:
    """Arithmetic that takes a hundredth of a second per job.

    Keeps the kinds of jobs that were brief, and those that were not.
    """

    def __init__(self) -> None:
        self.jobs: dict[bool, set[str]] = {False: set(), True: set()}

    async def run(self, job: Callable[[], T], *, is_brief: bool = False) -> T:
        """Do ``job``."""
        self.jobs[is_brief].add(type(getattr(job, "__self__", None)).__name__)
        await asyncio.sleep(0.01)
        return job()


@dataclass(eq=False)
class Elsewhere:
    """What others have decided, as the test says; keeps what it was asked."""

    shape: UpdateShape = SHAPE
    heard: Record | None = None
    """The record that the donors have."""
    asked: list[tuple[PeerId, ...]] = field(default_factory=list)
    """The donors, by question."""
    roots: list[bytes] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    announced: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Why records were not believed."""

    def donors(self, first: PeerId, among: Sequence[PeerId] | None = None) -> Sequence[PeerId]:
        """``first``, then two of those ``among``."""
        return (first, *(among or ())[:2])

    def announce(self, round_: int) -> None:
        """Note it."""
        self.announced.append(round_)

    async def record(
        self, root: bytes, donors: Sequence[PeerId], judge: Judge, deadline: float
    ) -> VerifiedRecord | None:
        """What was ``heard``, after a second, if ``judge`` believes it."""
        self.roots.append(root)
        self.asked.append(tuple(donors))
        self.deadlines.append(deadline)
        await asyncio.sleep(1.0)
        if self.heard is None:
            return None
        try:
            return judge(self.heard)
        except TheirFault as error:
            self.refused.append(error.fact)
            return None


@dataclass(eq=False)
class Peer:
    """One averager, its ports, and what it knows of the others."""

    key: KeyPair
    post: Post
    averager: Averager
    arithmetic: Slow
    reports: list[Report]
    expects: Sequence[PeerId] = ()
    """The peers that it expects in a round."""

    @property
    def id(self) -> PeerId:
        """Of its key."""
        return self.key.peer_id

    def attendance(self, close_at: float = 5.0, **changes: Any) -> Attendance:
        """All that it expects are present, and it has no population yet."""
        others = [peer for peer in self.expects if peer != self.id]
        known = {"near": others, "at_round": (), "present": others, "patience": ROUND.assemble_seconds}
        return Attendance(**(known | {"close_at": close_at} | changes))

    async def average(
        self,
        vector_P: Tensor,
        round_: int = 0,
        *,
        close_at: float = 5.0,
        elsewhere: Elsewhere | None = None,
        others: Sequence[PeerId] = (),
        **update: Any,
    ) -> Outcome:
        """Average ``vector_P`` with the peers that it expects."""
        return await self.averager.average(
            update_of(vector_P, round_, **update),
            self.attendance(close_at, others=others),
            elsewhere,
        )

    @property
    def residual(self) -> Tensor:
        """What it carries over of fragment 0."""
        residual_P = self.averager.residual()
        assert residual_P is not None
        return residual_P


def update_of(vector_P: Tensor, round_: int = 0, **changes: Any) -> Update:
    """An update of 100 tokens."""
    fields: dict[str, Any] = {"tokens": 100, "seed": bytes(32), "state_root": ROOT}
    return Update(round=round_, vector_P=vector_P, **(fields | changes))


def drawn(seed: int, numbers: int = NUMBERS) -> Tensor:
    """A random update."""
    return torch.randn(numbers, generator=torch.Generator().manual_seed(seed))


Scene = Callable[[SimulatedNetwork, list[Peer]], Awaitable[None]]


def stage(
    scene: Scene, count: int = 3, manifest: RunManifest = MANIFEST, keys: Sequence[KeyPair] = KEYS
) -> None:
    """Play a scene with so many peers; no task may outlive it."""

    async def main() -> None:
        network = SimulatedNetwork(1, Link(latency=0.05, jitter=0.01))
        ids = [key.peer_id for key in keys[:count]]
        async with asyncio.TaskGroup() as tasks:
            peers: list[Peer] = []
            for key in keys[:count]:
                post = Post(network.attach(key.peer_id), key, manifest.run_id, tasks, MESSAGES)
                reports: list[Report] = []
                arithmetic = Slow()
                averager = Averager(manifest, key, Ports(post, arithmetic, tasks, reports.append))
                peers.append(Peer(key, post, averager, arithmetic, reports, ids))
            await scene(network, peers)

    left: list[str] = []
    simulate(main(), leftovers=left)
    assert left == []


async def together(peers: list[Peer], round_: int = 0, *, close_at: float = 5.0) -> list[Outcome]:
    """The outcomes of a round in which peer n has the update ``drawn(n)``."""
    return await asyncio.gather(
        *(peer.average(drawn(seat), round_, close_at=close_at) for seat, peer in enumerate(peers))
    )


def decided(outcomes: Sequence[Outcome]) -> list[Decided]:
    """The same outcomes, all of which are decisions, with equal averages."""
    found = [outcome for outcome in outcomes if isinstance(outcome, Decided)]
    assert len(found) == len(outcomes), outcomes
    assert all(torch.equal(each.average_P, found[0].average_P) for each in found)
    return found


def ids_of(peers: Sequence[Peer]) -> list[PeerId]:
    """Sorted, as in a group."""
    return sorted(peer.id for peer in peers)
