"""Ours, whole: `HttpTransport` over mutual TLS, `Post`, and `Averager` with assembly, commits, receipts and decision.

The event loop has a thread of its own, so that what the others still have to say is heard between two averagings as well.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from hashlib import sha256
from typing import Any, TypeVar

import torch

from averaging.averager import FORMS, Averaged, Averager, Company, Update
from benchmarks.rivals.numbers import error_of, update_of
from benchmarks.rivals.stage import Scene, Times, Verdict, act, note
from peer.app import malloc as memory
from peer.training.compute import Compute
from swarm.identity import KeyPair, PeerId
from swarm.manifest import Codec, DataSpec, Exchange, InnerSpec, ModelSpec, OuterSpec, RoundSpec, RunManifest
from swarm.membership.contacts import Contacts, seal_contact
from swarm.ticket import Address
from swarm.transport.http import HttpTransport
from swarm.transport.post import Post
from swarm.wire import PROTOCOL

T = TypeVar("T")

PATIENCE_SECONDS = 120.0
_ASSEMBLE_SECONDS = 5.0


def key_of(seat: int) -> KeyPair:
    """The identity of a seat, the same in every scene."""
    return KeyPair.from_seed(bytes([seat + 1]) * 32)


def manifest_of(scene: Scene) -> RunManifest:
    """The run of a scene: nothing matters but how it averages."""
    codec = Codec[scene.codec.upper()]
    exchange = Exchange.GATHER if codec.name.startswith("SPARSE") else Exchange.BUTTERFLY
    round_ = RoundSpec(
        average_seconds=PATIENCE_SECONDS, assemble_seconds=_ASSEMBLE_SECONDS, codec=codec, exchange=exchange
    )
    return RunManifest(
        PROTOCOL,
        scene.name,
        key_of(0).public,
        0,
        ModelSpec(),
        DataSpec(bytes(32), 1000),
        round_,
        InnerSpec(),
        OuterSpec(),
    )


class SwarmPeer:
    """One peer's edge of the averaging room, without a model."""

    def __init__(self) -> None:
        memory.keep_freed_memory()  # as every peer does
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="loop").start()
        self._arithmetic = Compute()
        self._averaged: Averaged | None = None

    def prepare(self, scene: Scene) -> Any:
        """Listen; the signed contact is what the others have to know."""
        self._scene, self._manifest, self._key = scene, manifest_of(scene), key_of(scene.seat)
        self._update_P = update_of(scene.seat, scene.parameters)
        self._round, self._averaged = 0, None
        self._contacts = Contacts(self._manifest.run_id)
        self._stands, self._gone = threading.Event(), threading.Event()
        self._life = asyncio.run_coroutine_threadsafe(self._live(), self._loop)
        if not self._stands.wait(20):
            raise TimeoutError("the transport did not start")
        return seal_contact(self._key, self._manifest.run_id, (self._address,), 1).hex()

    async def _live(self) -> None:
        """Owns the transport and everything that is sent, until it is cancelled."""
        try:
            await self._listen()
        finally:
            self._gone.set()

    async def _listen(self) -> None:
        run = self._manifest.run_id
        async with (
            HttpTransport(self._key, run, b"", self._contacts) as transport,
            asyncio.TaskGroup() as tasks,
        ):
            self._transport = transport
            self._address = await transport.listen(Address("127.0.0.1", 0))
            post = Post(transport, self._key, run, tasks, FORMS)
            report = lambda told: note(f"{told.code}: {told.fact}")  # noqa: E731
            self._averager = Averager(self._manifest, self._key, post, self._arithmetic, tasks, report)
            self._stands.set()
            await asyncio.Event().wait()

    def meet(self, cards: list[Any]) -> None:
        """Learn where everybody is."""
        wrong = self._contacts.learn_all([bytes.fromhex(card) for card in cards])
        if wrong:
            raise ValueError(f"{wrong} contacts do not hold")
        memory.hide_from_collector()  # as every peer does

    def refill(self) -> None:
        """As a peer does once it has taken its step: the average is not needed any more. The update was never written to."""
        if self._averaged:
            self._averager.take_back(self._averaged.average_P)

    def average(self) -> Times:
        """One call, from the update to the average."""
        called, averaged, ended = self._in_loop(self._average())
        self._averaged, complete = (
            averaged,
            len(averaged.members) == self._scene.peers and not averaged.missing,
        )
        fault = averaged.reason or (
            "" if complete else f"{len(averaged.members)} members, {len(averaged.missing)} of them missing"
        )
        sent = self._transport.bytes_up
        return Times(called=called, began=ended - averaged.seconds, ended=ended, sent=sent, fault=fault)

    async def _average(self) -> tuple[float, Averaged, float]:
        self._round += 1
        update = Update(
            round=self._round, vector_P=self._update_P, tokens=1000, seed=bytes(32), state_root=bytes(32)
        )
        expected: list[PeerId] = [
            key_of(seat).peer_id for seat in range(self._scene.peers) if seat != self._scene.seat
        ]
        called = self._loop.time()
        averaged = await self._averager.average(update, Company(expected, called + PATIENCE_SECONDS))
        return called, averaged, self._loop.time()

    def _in_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def check(self) -> Verdict:
        """How far from the mean, and the bits, which must be everybody's."""
        average_P = self._averaged.average_P if self._averaged else None
        if average_P is None:
            return Verdict(error=float("inf"))
        digest = sha256(average_P.numpy().data).hexdigest()
        return Verdict(error=error_of(average_P, self._scene.peers), digest=digest)

    def drop(self) -> None:
        """Hang up, and forget everything that is as long as the vector."""
        self._life.cancel()
        self._gone.wait(10)
        self._in_loop(asyncio.sleep(0))  # once around: its task is over
        del self._averaged, self._averager, self._transport, self._life
        self._update_P = torch.empty(0)
        memory.return_freed_memory()  # a peer has one model all its life; here the next system may need the room

    def close(self) -> None:
        """End the thread of the arithmetic."""
        self._arithmetic.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    act(SwarmPeer())
