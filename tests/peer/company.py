"""Peers of one run on a simulated network, for tests of what binds them: keys, a manifest, neighbours, and strangers who lie."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from peer.config.run import RunSettings, manifest_of
from peer.data import corpus as corpora
from peer.network.membership import TOPIC, Membership, NetworkPorts, Welcome
from peer.sync.head import Head
from swarm.identity import KeyPair
from swarm.manifest import RunManifest
from swarm.membership.contacts import Contacts, seal_contact
from swarm.membership.progress import Phase, Progress
from swarm.simulation.clock import simulate
from swarm.simulation.directory import SharedRecords, SimulatedDirectory
from swarm.simulation.network import Link, SimulatedNetwork, SimulatedTransport
from swarm.ticket import Address, Entry
from swarm.transport import Call, Handler, Route
from swarm.wire import Signed, Stamp, open_frame, seal

C = TypeVar("C")

TEXT = corpora.from_bytes(bytes(range(32, 127)) * 40, chunk=1 << 10, description="a short text")
RECIPE = RunSettings(name="a run", model="tiny", max_steps=2, round_seconds=1.0)


def key(number: int) -> KeyPair:
    """The key of peer ``number``, the same in every test; 0 is the organiser's."""
    return KeyPair.from_seed(number.to_bytes(32, "big"))


MANIFEST: RunManifest = manifest_of(RECIPE, TEXT.spec, key(0))
RUN = MANIFEST.run_id


def soon(seconds: float = 10.0) -> float:
    """A deadline on the running loop."""
    return asyncio.get_running_loop().time() + seconds


def contact_of(number: int, seq: int = 1) -> bytes:
    """The sealed contact of a peer that listens at its own name."""
    return seal_contact(key(number), RUN, (Address(f"p{number}", 1),), seq)


def progress_of(
    number: int, round_: int = 0, seq: int = 1, *, phase: Phase = Phase.TRAINING, contact: bytes | None = None
) -> bytes:
    """A sealed progress record."""
    said = Progress(
        phase, bytes(32), 0, 0.0, 0.0, 0.0, 0.0, f"p{number}", "cpu", "1", contact or contact_of(number)
    )
    return seal(key(number), said, Stamp(RUN, round_, seq=seq))


def echoes(numbers: Iterable[int], round_: int, root: bytes) -> list[Signed[Head]]:
    """What those say who have only fetched their state."""
    word = Head(root, 0, 0.0, is_participant=False)
    return [open_frame(seal(key(number), word, Stamp(RUN, round_)), Head, run=RUN) for number in numbers]


@dataclass(eq=False)
class Member:
    """One peer's membership edge, with what it would say of itself. ``offer`` None: it has no state yet."""

    number: int
    transport: SimulatedTransport
    contacts: Contacts
    membership: Membership = field(init=False)
    offer: tuple[int, Head] | None = None
    phase: Phase = Phase.TRAINING

    def describe(self) -> tuple[int, Progress]:
        """Our own progress."""
        said = Progress(
            self.phase,
            bytes(32),
            0,
            0.0,
            0.0,
            0.0,
            0.0,
            f"p{self.number}",
            "cpu",
            "1",
            contact_of(self.number),
        )
        return (self.offer[0] if self.offer else 0), said


class Company:
    """A network and its peers; to be made inside `simulate`."""

    def __init__(self) -> None:
        self.network = SimulatedNetwork(1, Link(latency=0.01, jitter=0.0))
        self._metrics = SharedRecords(self.network, RUN, {TOPIC: Progress}, seed=1)

    def transport(self, number: int) -> SimulatedTransport:
        """The transport of a peer that has nothing else: a stranger, or a donor."""
        return self.network.attach(key(number).peer_id)

    def member(
        self, number: int, *, entries: tuple[int, ...] = (0,), manifest: RunManifest = MANIFEST
    ) -> Member:
        """A peer that has a ticket with ``entries``."""
        transport = self.transport(number)
        contacts = Contacts(
            RUN, tuple(Entry(key(entry).peer_id, Address(f"p{entry}", 1)) for entry in entries)
        )
        contacts.learn(contact_of(number))
        member = Member(number, transport, contacts)
        network = NetworkPorts(
            transport=transport,
            directory=self.directory(number),
            contacts=contacts,
            wall=lambda: 1000.0 + number,
        )
        member.membership = Membership(
            manifest,
            MANIFEST.seal(key(0)),
            key(number),
            network,
            member.describe,
            lambda: member.offer,
            first_seq=2,
        )
        return member

    def directory(self, number: int) -> SimulatedDirectory:
        """A peer's view of the DHT."""
        if key(number).peer_id not in self.network.peers:
            self.transport(number)
        return SimulatedDirectory(self._metrics, key(number).peer_id)

    def stranger(self, number: int, answers: dict[str, Callable[[Call], bytes]]) -> SimulatedTransport:
        """Somebody with a key who answers as ``answers`` says, by route."""
        transport = self.transport(number)
        for name, answer in answers.items():
            transport.serve(Route(name, _answering(answer)))
        return transport


def _answering(answer: Callable[[Call], bytes]) -> Handler:
    async def handle(call: Call) -> bytes:
        return answer(call)

    return handle


def introduce(*members: Member) -> None:
    """Everybody has heard of everybody."""
    records = tuple(progress_of(member.number) for member in members)
    for member in members:
        member.membership.learn([Welcome("", 0.0, (), records)])


def played_by(
    cast: Callable[[asyncio.TaskGroup], C],
) -> Callable[[Callable[[C], Coroutine[Any, Any, None]]], Callable[[], None]]:
    """Makes a test of a coroutine that wants ``cast``, in virtual time; it must leave no task behind."""

    def test_of(story: Callable[[C], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        def test() -> None:
            async def main() -> None:
                async with asyncio.TaskGroup() as tasks:
                    await story(cast(tasks))

            leftovers: list[str] = []
            simulate(main(), leftovers=leftovers)
            assert leftovers == []

        test.__name__ = story.__name__
        return test

    return test_of
