"""One Swarm peer on a link: real `HttpTransport`, `Post` and `Averager`, an update of a real shape.

`exchange` is what a round of training waits for: from the call with the update, before the group forms, to
the average. The event loop has a thread of its own, so that messages of other peers are handled between two
rounds as well.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import msgspec
import torch

from averaging.averager import Averager
from averaging.fragments import fragment_of
from averaging.layout import Layout
from averaging.messages import MESSAGES
from averaging.outcome import Decided, Outcome
from averaging.runner import Ports
from averaging.terms import Attendance
from averaging.update import Update
from benchmarks.loss.curves import KEYS, MEMBERS
from benchmarks.loss.methods import METHODS
from benchmarks.meters import sent_bytes
from benchmarks.worker import serve
from peer.models.registry import build, presets
from peer.training.compute import Compute
from swarm.machine import Report
from swarm.manifest import DataSpec, InnerSpec, RunManifest
from swarm.membership.contacts import Contacts, seal_contact
from swarm.seeds import derive_bytes
from swarm.ticket import Address
from swarm.transport.http import HttpTransport
from swarm.transport.post import Post
from swarm.wire import PROTOCOL

UPDATE_SIZE = 0.01
"""Standard deviation of the numbers that are exchanged: about that of a small model's update."""
START_SECONDS = 20.0
"""How long the transport may take to listen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Number ``seat`` of ``hosts``; peer n listens at ``port`` + n. ``interface`` is that of its link."""

    seat: int
    hosts: list[str]
    port: int
    interface: str

    def address(self, seat: int) -> Address:
        """Where the peer of ``seat`` listens."""
        return Address(self.hosts[seat], self.port + seat)


class Connection:
    """The transport and the averager of one run, in the event loop ``loop`` of another thread."""

    def __init__(
        self,
        manifest: RunManifest,
        place: Place,
        loop: asyncio.AbstractEventLoop,
        arithmetic: Compute,
        report: Callable[[Report], None],
    ) -> None:
        self._manifest = manifest
        self._place = place
        self._report = report
        self._arithmetic = arithmetic
        self._listening: Future[Averager] = Future()
        self._loop = loop
        self._life = asyncio.run_coroutine_threadsafe(self._live(), loop)
        self.averager = self._listening.result(START_SECONDS)

    def close(self) -> None:
        """Close all connections, some time later."""
        self._loop.call_soon_threadsafe(self._life.cancel)

    async def _live(self) -> None:
        """Keep the transport and all tasks until this task is cancelled."""
        run = self._manifest.run_id
        key = KEYS[self._place.seat]
        async with (
            HttpTransport(key, run, b"", self._contacts()) as transport,
            asyncio.TaskGroup() as tasks,
        ):
            await transport.listen(self._place.address(self._place.seat))
            post = Post(transport, key, run, tasks, MESSAGES)
            averager = Averager(self._manifest, key, Ports(post, self._arithmetic, tasks, self._report))
            self._listening.set_result(averager)
            await asyncio.Event().wait()

    def _contacts(self) -> Contacts:
        run = self._manifest.run_id
        contacts = Contacts(run)
        for seat, key in enumerate(KEYS):
            contacts.learn(seal_contact(key, run, (self._place.address(seat),), 1))
        return contacts


class SwarmPeer:
    """Opens one run after the other, each with a transport of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="loop").start()
        self._arithmetic = Compute()
        self._connection: Connection | None = None
        self._reports: list[str] = []

    def open(self, *, method: str, model: str, **place: Any) -> int:
        """Be a peer of a run that averages as ``method`` does, at a `Place`.

        Returns the parameters of the model.
        """
        if self._connection:
            self._connection.close()
        here = Place(**place)
        self._interface = here.interface
        self._round = 0
        layout = Layout.of(build(presets[model], 0).named_parameters())
        self._tensors = tuple(place.numbers for place in layout.places)
        numbers = torch.randn(layout.numbers, generator=torch.Generator().manual_seed(here.seat))
        self._update_P = numbers * UPDATE_SIZE
        self._manifest = _manifest_of(f"{method} {model} {here.port}", method, model)
        self._connection = Connection(self._manifest, here, self._loop, self._arithmetic, self._note)
        return layout.numbers

    def _note(self, report: Report) -> None:
        self._reports.append(f"{report.code}: {report.fact}")

    def exchange(self) -> dict[str, Any]:
        """One round with all peers: its seconds, and what was wrong with it."""
        return asyncio.run_coroutine_threadsafe(self._exchange(), self._loop).result()

    async def _exchange(self) -> dict[str, Any]:
        assert self._connection
        self._round += 1
        fragment = fragment_of(self._tensors, self._manifest.round.fragments, self._round)
        update = Update(
            round=self._round,
            vector_P=self._update_P[fragment.place],
            tokens=1000,
            seed=bytes(32),
            state_root=derive_bytes(self._manifest.run_id, "state", self._round),
            tensors=fragment.tensors,
            fragment=fragment.index,
        )
        began = time.monotonic()
        attendance = Attendance(
            near=MEMBERS,
            close_at=self._loop.time() + 30.0,
            others=MEMBERS,
        )
        outcome = await self._connection.averager.average(update, attendance)
        fault = _fault_of(outcome)
        if fault:
            fault = ", ".join([fault, *self._reports])
        self._reports.clear()
        return {"seconds": time.monotonic() - began, "fault": fault}

    def sent(self) -> int:
        """Bytes that this host has sent so far."""
        return sent_bytes(self._interface)


def _manifest_of(name: str, method: str, model: str) -> RunManifest:
    spec = METHODS[method]
    return RunManifest(
        PROTOCOL,
        name,
        KEYS[0].public,
        0,
        presets[model],
        DataSpec(bytes(32), 1000),
        msgspec.structs.replace(spec.round, average_seconds=240.0),
        InnerSpec(),
        spec.outer,
    )


def _fault_of(outcome: Outcome) -> str:
    """Why there is no average, or why it lacks peers; empty where all are in it."""
    if not isinstance(outcome, Decided):
        return outcome.reason
    if len(outcome.present) == len(MEMBERS):
        return ""
    return f"{len(outcome.group.members)} members, {len(outcome.missing)} missing"


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(SwarmPeer())
