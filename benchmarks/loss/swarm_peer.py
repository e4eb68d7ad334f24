"""One of our peers on a link: real `HttpTransport`, `Post` and `Averager`, and an update with the shape of a real model's.

`exchange` is what a round of training waits for: from the call with the update, before any group stands, to the average.
The event loop has a thread of its own, so that what the others still have to say is heard between two rounds as well.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from typing import Any

import msgspec
import torch

from averaging.averager import FORMS, Averager, Company, Update
from averaging.fragments import fragment_of
from averaging.layout import Layout
from benchmarks.loss.curves import KEYS, MEMBERS
from benchmarks.loss.methods import METHODS
from benchmarks.meters import sent_bytes
from benchmarks.rivals.stage import act
from peer.models.registry import build, presets
from peer.training.compute import Compute
from swarm.manifest import DataSpec, InnerSpec, RunManifest
from swarm.membership.contacts import Contacts, seal_contact
from swarm.seeds import derive_bytes
from swarm.ticket import Address
from swarm.transport.http import HttpTransport
from swarm.transport.post import Post
from swarm.wire import PROTOCOL

UPDATE_SIZE = 0.01
"""Standard deviation of the numbers that are exchanged: about that of a small model's update."""


class SwarmPeer:
    """Opens one run after the other, each with a transport of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="loop").start()
        self._arithmetic = Compute()
        self._life: Future[None] | None = None

    def open(self, *, method: str, model: str, seat: int, hosts: list[str], port: int, interface: str) -> int:
        """Be a peer of a run that averages as ``method`` does; peer n listens at ``port`` + n. The parameters of the model."""
        if self._life:
            self._loop.call_soon_threadsafe(self._life.cancel)
        self._interface, self._key, self._round = interface, KEYS[seat], 0
        layout = Layout.of(build(presets[model], 0).named_parameters())
        self._tensors = tuple(place.numbers for place in layout.places)
        self._update_P = (
            torch.randn(layout.numbers, generator=torch.Generator().manual_seed(seat)) * UPDATE_SIZE
        )
        spec = METHODS[method]
        name, owner = f"{method} {model} {port}", KEYS[0].public
        round_ = msgspec.structs.replace(spec.round, average_seconds=240.0)
        self._manifest = RunManifest(
            PROTOCOL,
            name,
            owner,
            0,
            presets[model],
            DataSpec(bytes(32), 1000),
            round_,
            InnerSpec(),
            spec.outer,
        )
        self._contacts = Contacts(self._manifest.run_id)
        for number, (key, host) in enumerate(zip(KEYS, hosts, strict=True)):
            self._contacts.learn(seal_contact(key, self._manifest.run_id, (Address(host, port + number),), 1))
        stands = threading.Event()
        self._life = asyncio.run_coroutine_threadsafe(
            self._live(Address(hosts[seat], port + seat), stands), self._loop
        )
        if not stands.wait(20):
            raise TimeoutError("the transport did not start")
        return layout.numbers

    async def _live(self, address: Address, stands: threading.Event) -> None:
        """Owns the transport and everything that is sent, until it is cancelled."""
        run = self._manifest.run_id
        async with (
            HttpTransport(self._key, run, b"", self._contacts) as transport,
            asyncio.TaskGroup() as tasks,
        ):
            await transport.listen(address)
            post = Post(transport, self._key, run, tasks, FORMS)
            self._told: list[str] = []
            report = lambda told: self._told.append(f"{told.code}: {told.fact}")  # noqa: E731
            self._averager = Averager(self._manifest, self._key, post, self._arithmetic, tasks, report)
            stands.set()
            await asyncio.Event().wait()

    def exchange(self) -> dict[str, Any]:
        """One round with everybody."""
        return asyncio.run_coroutine_threadsafe(self._exchange(), self._loop).result()

    async def _exchange(self) -> dict[str, Any]:
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
        averaged = await self._averager.average(
            update, Company(MEMBERS, self._loop.time() + 30.0, alone_is_fine=False)
        )
        whole = (
            averaged.average_P is not None and len(averaged.members) == len(MEMBERS) and not averaged.missing
        )
        fault = averaged.reason or (
            "" if whole else f"{len(averaged.members)} members, {len(averaged.missing)} missing"
        )
        fault = ", ".join([fault, *self._told]) if fault else ""
        self._told.clear()
        return {"seconds": time.monotonic() - began, "fault": fault}

    def sent(self) -> int:
        """Bytes so far."""
        return sent_bytes(self._interface)


if __name__ == "__main__":
    torch.set_num_threads(1)
    act(SwarmPeer())
