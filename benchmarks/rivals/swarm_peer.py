"""All of Swarm's averaging: `HttpTransport` over mutual TLS, `Post`, and `Averager` with its decision.

The event loop has a thread of its own, so that messages of other peers are handled between two averagings as
well.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

import torch

from averaging.averager import Averager
from averaging.messages import MESSAGES
from averaging.outcome import Decided, Outcome
from averaging.runner import Ports
from averaging.terms import Attendance
from averaging.update import Update
from benchmarks.rivals.numbers import error_of, update_of
from benchmarks.worker import Check, Times, Trial, note, serve
from peer.app import malloc as memory
from peer.training.compute import Compute
from swarm.identity import KeyPair, PeerId
from swarm.machine import Report
from swarm.manifest import Codec, DataSpec, Exchange, InnerSpec, ModelSpec, OuterSpec, RoundSpec, RunManifest
from swarm.membership.contacts import Contacts, seal_contact
from swarm.ticket import Address
from swarm.transport.http import HttpTransport
from swarm.transport.post import Post
from swarm.wire import PROTOCOL

T = TypeVar("T")

PATIENCE_SECONDS = 120.0
ASSEMBLE_SECONDS = 5.0
START_SECONDS = 20.0
"""How long the transport may take to listen."""
CLOSE_SECONDS = 10.0
"""How long it may take to close its connections."""


def key_of(seat: int) -> KeyPair:
    """The identity of a seat, the same in every trial."""
    return KeyPair.from_seed(bytes([seat + 1]) * 32)


def manifest_of(trial: Trial) -> RunManifest:
    """The run of a trial; only its averaging is used."""
    codec = Codec[trial.codec.upper()]
    exchange = Exchange.GATHER if codec.name.startswith("SPARSE") else Exchange.BUTTERFLY
    round_ = RoundSpec(
        average_seconds=PATIENCE_SECONDS, assemble_seconds=ASSEMBLE_SECONDS, codec=codec, exchange=exchange
    )
    return RunManifest(
        PROTOCOL,
        trial.name,
        key_of(0).public,
        0,
        ModelSpec(),
        DataSpec(bytes(32), 1000),
        round_,
        InnerSpec(),
        OuterSpec(),
    )


@dataclass(frozen=True)
class Node:
    """A peer that listens: what it averages with, and where others reach it."""

    transport: HttpTransport
    averager: Averager
    address: Address


class Network:
    """The transport and the averager of one trial, in the event loop ``loop`` of another thread."""

    def __init__(self, trial: Trial, loop: asyncio.AbstractEventLoop, arithmetic: Compute) -> None:
        self.manifest = manifest_of(trial)
        self.contacts = Contacts(self.manifest.run_id)
        self._key = key_of(trial.seat)
        self._arithmetic = arithmetic
        self._listening: Future[Node] = Future()
        self._closed = threading.Event()
        self._life = asyncio.run_coroutine_threadsafe(self._live(), loop)
        self.node = self._listening.result(START_SECONDS)

    def contact(self) -> str:
        """This peer's signed contact, in hexadecimal."""
        return seal_contact(self._key, self.manifest.run_id, (self.node.address,), 1).hex()

    def close(self) -> None:
        """Close all connections, and wait until they are closed."""
        self._life.cancel()
        self._closed.wait(CLOSE_SECONDS)

    async def _live(self) -> None:
        """Keep the transport and all tasks until this task is cancelled."""
        try:
            await self._listen()
        finally:
            self._closed.set()

    async def _listen(self) -> None:
        run = self.manifest.run_id
        async with (
            HttpTransport(self._key, run, b"", self.contacts) as transport,
            asyncio.TaskGroup() as tasks,
        ):
            address = await transport.listen(Address("127.0.0.1", 0))
            post = Post(transport, self._key, run, tasks, MESSAGES)
            averager = Averager(self.manifest, self._key, Ports(post, self._arithmetic, tasks, _report))
            self._listening.set_result(Node(transport, averager, address))
            await asyncio.Event().wait()


def _report(report: Report) -> None:
    note(f"{report.code}: {report.fact}")


class SwarmPeer:
    """One peer that averages random numbers, without a model."""

    def __init__(self) -> None:
        memory.keep_freed_memory()  # as every peer does
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="loop").start()
        self._arithmetic = Compute()
        self._outcome: Outcome | None = None

    def prepare(self, trial: Trial) -> Any:
        """Listen; returns the signed contact."""
        self._trial = trial
        self._update_P = update_of(trial.seat, trial.parameters)
        self._round = 0
        self._outcome = None
        self._network = Network(trial, self._loop, self._arithmetic)
        return self._network.contact()

    def connect(self, contacts: list[Any]) -> None:
        """Learn the contacts of all peers."""
        wrong = self._network.contacts.learn_all([bytes.fromhex(contact) for contact in contacts])
        if wrong:
            raise ValueError(f"{wrong} contacts are not valid")
        memory.hide_from_collector()  # as every peer does

    def reset(self) -> None:
        """Nothing to do: nobody wrote to the update, and the next call reuses the last average's memory."""

    def average(self) -> Times:
        """One call, from the update to the average."""
        called, outcome, ended = self._in_loop(self._average())
        self._outcome = outcome
        seconds = outcome.seconds if isinstance(outcome, Decided) else 0.0
        return Times(
            called=called,
            began=ended - seconds,
            ended=ended,
            sent=self._network.node.transport.bytes_up,
            fault=self._fault_of(outcome),
        )

    def _fault_of(self, outcome: Outcome) -> str:
        """Why there is no average, or why it lacks peers; empty where all are in it."""
        if not isinstance(outcome, Decided):
            return outcome.reason
        if len(outcome.present) == self._trial.peers:
            return ""
        return f"{len(outcome.group.members)} members, {len(outcome.missing)} of them missing"

    async def _average(self) -> tuple[float, Outcome, float]:
        self._round += 1
        update = Update(
            round=self._round, vector_P=self._update_P, tokens=1000, seed=bytes(32), state_root=bytes(32)
        )
        expected: list[PeerId] = [
            key_of(seat).peer_id for seat in range(self._trial.peers) if seat != self._trial.seat
        ]
        called = self._loop.time()
        attendance = Attendance(near=expected, close_at=called + PATIENCE_SECONDS)
        outcome = await self._network.node.averager.average(update, attendance)
        return called, outcome, self._loop.time()

    def _in_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def check(self) -> Check:
        """The distance from the mean, and a hash of the bits, which must be equal on all peers."""
        if not isinstance(self._outcome, Decided):
            return Check(error=float("inf"))
        average_P = self._outcome.average_P
        digest = sha256(average_P.numpy().data).hexdigest()
        return Check(error=error_of(average_P, self._trial.peers), digest=digest)

    def release(self) -> None:
        """Close the connections, and free everything that is as long as the vector."""
        self._network.close()
        self._in_loop(asyncio.sleep(0))  # one turn of the loop, in which the cancelled task ends
        self._outcome = None
        del self._network
        self._update_P = torch.empty(0)
        # A real peer keeps its memory for one model; here the next system may need it.
        memory.return_freed_memory()

    def close(self) -> None:
        """End the thread of the arithmetic."""
        self._arithmetic.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(SwarmPeer())
