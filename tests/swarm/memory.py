"""Peers of one run in one process that call each other directly: for tests that do not concern sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swarm.errors import Oversized, Refused, TheirFault, Unreachable
from swarm.identity import KeyPair, PeerId
from swarm.membership.contacts import Contacts, seal_contact
from swarm.membership.progress import Phase, Progress
from swarm.ticket import Address, Entry
from swarm.transport import Call, Request, Route
from swarm.wire import Stamp, seal

RUN = bytes(range(32))


def key(number: int) -> KeyPair:
    """The key of peer ``number``, the same in every test."""
    return KeyPair.from_seed(number.to_bytes(32, "big"))


def soon(seconds: float = 30.0) -> float:
    """A deadline that is far away for a test."""
    return asyncio.get_running_loop().time() + seconds


def progress(name: str = "anna", phase: Phase = Phase.TRAINING) -> Progress:
    """A plausible record."""
    return Progress(phase, bytes(32), 0, 0.0, 0.0, 0.0, 0.0, name, "cpu", "1", b"")


def record(who: KeyPair, round_: int = 0, seq: int = 0, *, run: bytes = RUN, name: str = "anna") -> bytes:
    """A sealed progress record of ``who``."""
    return seal(who, progress(name), Stamp(run, round_, seq=seq))


class Network:
    """The peers by id. ``tap`` gets every request and its reply; a peer in ``dead`` does not answer."""

    def __init__(self) -> None:
        self.peers: dict[PeerId, MemoryTransport] = {}
        self.dead: set[PeerId] = set()
        self.tap: Callable[[PeerId, PeerId, str, bytes, bytes], None] | None = None
        self.calls = 0

    def join(self, who: KeyPair, *entries: KeyPair) -> MemoryTransport:
        """The transport of a peer that knows only its ticket and its own contact."""
        transport = MemoryTransport(self, who, entries)
        self.peers[who.peer_id] = transport
        return transport


class MemoryTransport:
    """A `swarm.transport.Transport`; ``contacts`` belong to this peer."""

    def __init__(self, network: Network, who: KeyPair, entries: tuple[KeyPair, ...]) -> None:
        self.me = who.peer_id
        self.contacts = Contacts(RUN, tuple(Entry(entry.peer_id, _address(entry)) for entry in entries))
        self.contacts.learn(seal_contact(who, RUN, (_address(who),), 1))
        self.routes: dict[str, Route] = {}
        self.bytes_up = self.bytes_down = 0
        self.host = ""
        """The IP address from which it calls."""
        self._network = network

    def serve(self, route: Route) -> None:
        self.routes[route.name] = route

    async def request(self, to: PeerId, request: Request, *, deadline: float) -> bytes:
        await asyncio.sleep(0)
        network = self._network
        network.calls += 1
        if (
            not self.contacts.addresses(to)
            or to in network.dead
            or self.me in network.dead
            or to not in network.peers
        ):
            raise Unreachable("gone")
        served = network.peers[to].routes[request.route]
        try:
            served.admit(self.me, request.argument).check(len(request.body))
            reply = bytes(
                await served.handler(Call(self.me, request.argument, bytes(request.body), self.host))
            )
        except TheirFault as fault:
            raise Refused(fault.fact) from fault
        if len(reply) > request.limit:
            raise Oversized("too long a reply")
        if network.tap:
            network.tap(self.me, to, request.argument, bytes(request.body), reply)
        return reply


def _address(who: KeyPair) -> Address:
    return Address(f"{who.peer_id}.example.org", 1)
