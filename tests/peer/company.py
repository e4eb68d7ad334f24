"""Peers of one run on a simulated network, for tests of what they tell each other.

Keys, a manifest, signed messages, whole members of the run, and strangers that answer as a test says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from averaging.certificate import CertifiedDecision, open_decision
from peer.config.run import RunSettings, manifest_of
from peer.data import corpus as corpora
from peer.network.membership import TOPIC, Membership, NetworkPorts, Welcome
from peer.sync.activity import Activity
from peer.sync.head import Claim, Head
from peer.sync.head_exchange import HeadExchange
from peer.sync.position import Position, PositionTracker, Step
from peer.training.state import SharedState
from swarm.identity import KeyPair, PeerId
from swarm.manifest import RunManifest
from swarm.membership.contacts import Contacts, seal_contact
from swarm.membership.progress import Phase, Progress
from swarm.simulation.clock import simulate
from swarm.simulation.directory import SharedRecords, SimulatedDirectory
from swarm.simulation.network import Link, SimulatedNetwork, SimulatedTransport
from swarm.ticket import Address, Entry
from swarm.transport import Call, Handler, Route
from swarm.wire import NO_GROUP, Signed, Stamp, open_frame, seal
from tests.certificates import Company as Signing

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
    progress = described(number, phase=phase, contact=contact)
    return seal(key(number), progress, Stamp(RUN, round_, seq=seq))


def described(
    number: int,
    *,
    phase: Phase = Phase.TRAINING,
    contact: bytes | None = None,
    tokens_per_second: float = 0.0,
    name: str = "",
) -> Progress:
    """What peer ``number`` tells about itself."""
    return Progress(
        phase=phase,
        state_root=bytes(32),
        tokens=0,
        tokens_per_second=tokens_per_second,
        up=0.0,
        down=0.0,
        loss=0.0,
        name=name or f"p{number}",
        device="cpu",
        version="1",
        contact=contact or contact_of(number),
    )


def sealed_head(number: int, round_: int, head: Head, run: bytes = RUN) -> bytes:
    """``head`` as peer ``number`` signs it in ``round_``."""
    return seal(key(number), head, Stamp(run, round_))


def head_of(
    number: int,
    round_: int,
    root: bytes,
    *,
    tokens: int = 0,
    seconds_left: float = 0.0,
    population: int = 1,
    parent: bytes = NO_GROUP,
    run: bytes = RUN,
) -> Signed[Head]:
    """The signed head of peer ``number``; 0 is the organiser."""
    head = Head(root, tokens, seconds_left, population, parent)
    return open_frame(sealed_head(number, round_, head, run), Head, run=run)


@cache
def decided_by(numbers: tuple[int, ...], round_: int, level1_groups: int = 0) -> CertifiedDecision:
    """What these peers have decided in ``round_``, with its certificate."""
    keys = [key(number) for number in numbers]
    company = Signing(run=RUN, keys=keys, round=round_, level1_groups=level1_groups)
    return open_decision(company.decision(), RUN)


def led_to_by(numbers: Iterable[int], state: SharedState) -> Position:
    """Where a peer stands at ``state``, to which the group of these peers has led, itself among them."""
    origin = decided_by(tuple(numbers), state.round - 1).origin
    return Position(origin=origin, is_participant=True, population=len(origin.members))


def step_of(tokens: int, population: int, *, is_participant: bool) -> Step:
    """What an average of the first two peers adds to a position."""
    origin = decided_by((0, 1), 0).origin
    return Step(tokens=tokens, population=population, origin=origin, is_participant=is_participant)


def claim_of(
    number: int, round_: int, root: bytes, group: Iterable[int] | None = None, **fields: Any
) -> Claim:
    """The head of peer ``number`` at a state to which ``group`` has led in the round before.

    By default the group is of that peer alone.
    """
    decision = decided_by((number,) if group is None else tuple(group), round_ - 1)
    return Claim(head_of(number, round_, root, parent=decision.group.id, **fields), decision)


def claims_of(
    numbers: Iterable[int], round_: int, root: bytes, group: Iterable[int] | None = None
) -> list[Claim]:
    """The heads of peers at one state, to which ``group`` has led, by default these very peers."""
    claimants = tuple(numbers)
    members = claimants if group is None else tuple(group)
    return [claim_of(number, round_, root, members) for number in claimants]


@dataclass(eq=False)
class Member:
    """One peer as far as the others see it: its membership, its position, and the head that it tells."""

    number: int
    transport: SimulatedTransport
    contacts: Contacts
    membership: Membership = field(init=False)
    position: PositionTracker = field(init=False)
    activity: Activity = field(init=False)
    heads: HeadExchange = field(init=False)
    phase: Phase = Phase.TRAINING

    @property
    def id(self) -> PeerId:
        """Its id."""
        return self.transport.me

    def describe(self) -> tuple[int, Progress]:
        """Its round, and what it tells about itself."""
        return self.position.now.round, described(self.number, phase=self.phase)


class Company:
    """A network and its peers; to be made inside `simulate`."""

    def __init__(self) -> None:
        self.network = SimulatedNetwork(1, Link(latency=0.01, jitter=0.0))
        self._records = SharedRecords(self.network, RUN, {TOPIC: Progress}, seed=1)

    def transport(self, number: int) -> SimulatedTransport:
        """The transport of a peer that has nothing else: it asks, or it serves what the test says."""
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
        member.position = PositionTracker(manifest)
        member.membership = Membership(
            manifest, MANIFEST.seal(key(0)), key(number), network, member.describe, first_seq=2
        )
        clock = asyncio.get_running_loop().time
        member.activity = Activity(manifest.round, clock, lambda phase, ends_at: None)
        member.heads = HeadExchange(
            manifest, key(number), transport, member.membership, member.position, member.activity
        )
        return member

    def directory(self, number: int) -> SimulatedDirectory:
        """A peer's view of the DHT."""
        if key(number).peer_id not in self.network.peers:
            self.transport(number)
        return SimulatedDirectory(self._records, key(number).peer_id)

    def stranger(self, number: int, answers: dict[str, Callable[[Call], bytes]]) -> SimulatedTransport:
        """The transport of a peer that answers as ``answers`` says, by route."""
        transport = self.transport(number)
        for name, answer in answers.items():
            transport.serve(Route(name, _answering(answer)))
        return transport


def _answering(answer: Callable[[Call], bytes]) -> Handler:
    async def handle(call: Call) -> bytes:
        return answer(call)

    return handle


def introduce(*members: Member) -> None:
    """Each of ``members`` hears the progress records of all of them."""
    records = tuple(progress_of(member.number) for member in members)
    for member in members:
        member.membership.learn({members[0].id: Welcome("", 0.0, (), records)})


def played_by(
    setting: Callable[[asyncio.TaskGroup], C],
) -> Callable[[Callable[[C], Coroutine[Any, Any, None]]], Callable[[], None]]:
    """A decorator for tests that are coroutines in virtual time.

    Each of them gets what ``setting`` makes, and must leave no task behind.
    """

    def test_of(story: Callable[[C], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        def test() -> None:
            async def main() -> None:
                async with asyncio.TaskGroup() as tasks:
                    await story(setting(tasks))

            leftovers: list[str] = []
            simulate(main(), leftovers=leftovers)
            assert leftovers == []

        test.__name__ = story.__name__
        return test

    return test_of


def in_virtual_time(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A decorator for tests that are coroutines without arguments."""

    def test() -> None:
        simulate(story())

    test.__name__ = story.__name__
    return test
