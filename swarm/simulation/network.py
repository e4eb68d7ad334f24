"""A network in memory: it delays, loses, cuts and crashes as it is told, and draws every accident from one seed.

    caller ──► uplink, one message after the other ──► latency, jitter ──► route.admit, handler ──► reply, the same way back

Rule 1: no request hangs. What is lost is never answered, and runs into the deadline of its request.
Rule 2: whoever is admitted or refused on sockets is so here, with the same words: the rules are those of `swarm.transport`.
Rule 3: a handler runs in the task of its caller, and ends with it, as on a connection that breaks off; a request starts no task.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Protocol

from ..errors import Malformed, Oversized, SwarmError, TooLate, Unreachable
from ..identity import PeerId
from ..transport import Allowance, Call, Request, Route
from ..transport.envelope import REFUSAL_LIMIT, pack_refusal, path_of, read_refusal
from ..wire import CONTROL_LIMIT
from .clock import owner, running_loop
from .transcript import Transcript

HEAD = 200
"""Bytes of every message besides its body: about what HTTP and TLS add."""


@dataclass(frozen=True, slots=True)
class Link:
    """One peer's line. Between two peers the worse of both lines counts; the bandwidth is the sender's, the receiver's is ample."""

    latency: float = 0.04
    """Seconds from one peer to another."""
    jitter: float = 0.01
    """At most so many seconds more, drawn for every message."""
    bandwidth: float = 2.5e6
    """Bytes per second upwards. Messages queue: the next one leaves when the last one has left."""
    loss: float = 0.0
    """The chance that a message never arrives. For a request over TCP that is a connection that hangs, not a lost packet."""

    def __post_init__(self) -> None:
        if min(self.latency, self.jitter) < 0 or self.bandwidth <= 0 or not 0 <= self.loss <= 1:
            raise ValueError(
                f"{self} is not a line: no seconds below 0, some bandwidth, a chance between 0 and 1"
            )


@lru_cache
def between(sender: Link, receiver: Link) -> Link:
    """What a message from ``sender`` to ``receiver`` meets."""
    latency, jitter = max(sender.latency, receiver.latency), max(sender.jitter, receiver.jitter)
    return Link(latency, jitter, sender.bandwidth, max(sender.loss, receiver.loss))


@dataclass(slots=True, eq=False)
class Host:
    """One life of a peer on the network; after a crash a peer of the same id is another host."""

    peer: PeerId
    link: Link
    on_crash: Callable[[], object]
    routes: dict[str, Route] = field(default_factory=dict)
    uplink_free_at: float = 0.0
    gone: bool = False
    frozen: bool = False
    thawed: asyncio.Event = field(default_factory=asyncio.Event)
    up: int = 0
    down: int = 0


CarryBody = Callable[[Allowance], Awaitable[None]]


class Beyond(Protocol):
    """Where those peers are that are not on this network, but on the same one in another process."""

    def __contains__(self, peer: PeerId) -> bool:
        """Whether ``peer`` is there."""

    async def ask(
        self, source: Host, to: PeerId, route: str, call: Call, limit: int, deadline: float
    ) -> tuple[int, bytes]:
        """(status, reply) of ``to``. Raises `Unreachable`; ends with its caller, whose deadline is ``deadline``."""


class SimulatedNetwork:
    """Carries the requests of the peers that are attached to it. ``link`` is the line of whoever has no other (`slow`).

    An error of a handler that is no `SwarmError` is a bug: the caller sees what it would see on sockets (`Refused`), and
    `swarm.simulation.clock.simulate` raises the error at the end.
    """

    def __init__(self, seed: int, link: Link | None = None, transcript: Transcript | None = None) -> None:
        self.heard: Callable[[float, PeerId, PeerId, str, Call], None] | None = None
        """Told of every request that its receiver has handled: (time, sender, receiver, route, call)."""
        self.transcript = Transcript() if transcript is None else transcript
        self.messages = 0
        self.sent: Counter[PeerId] = Counter()
        """Bytes that left each peer, over all its lives."""
        self._random = random.Random(seed)
        self._link = link or Link()
        self.hosts: dict[PeerId, Host] = {}
        self.beyond: Beyond | None = None
        """The way to the peers in other processes."""
        self._cuts: set[frozenset[PeerId]] = set()

    def __repr__(self) -> str:
        return f"SimulatedNetwork({len(self.hosts)} peers, {len(self._cuts)} cuts, {self.messages} messages)"

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """Who is attached and has not crashed, in the order of ids."""
        return tuple(sorted(self.hosts))

    def is_up(self, peer: PeerId) -> bool:
        """Whether ``peer`` is attached, and neither crashed nor frozen."""
        return peer in self.hosts and not self.hosts[peer].frozen

    # --- what happens to peers ------------------------------------------------------------------------------------

    def attach(self, me: PeerId, on_crash: Callable[[], object] = bool) -> SimulatedTransport:
        """The transport of a peer that comes, or comes back. ``on_crash`` ends its tasks (say ``task.cancel``) when it crashes."""
        if me in self.hosts:
            raise ValueError(f"{me} is attached already")
        host = self.hosts[me] = Host(me, self._link, on_crash)
        self.note("attach", me)
        return SimulatedTransport(self, host)

    def crash(self, peer: PeerId) -> None:
        """Take a peer away without a word: what is in flight from and to it is lost, who calls it later finds it `Unreachable`."""
        if host := self.hosts.pop(peer, None):
            host.gone = True
            running_loop().release(host)
            host.on_crash()
            self.note("crash", peer)

    def freeze(self, peer: PeerId) -> None:
        """Make a peer mute and deaf: nothing goes out, nothing is answered. Its own tasks go on, as behind a line that stalls."""
        if host := self.hosts.get(peer):
            host.frozen = True
            host.thawed.clear()
            self.note("freeze", peer)

    def thaw(self, peer: PeerId) -> None:
        """Let a frozen peer go on: what waited in it and for it, and is still wanted, moves again."""
        if host := self.hosts.get(peer):
            host.frozen = False
            host.thawed.set()
            self.note("thaw", peer)

    def stop(self, peer: PeerId) -> None:
        """Make a peer stand still as SIGSTOP does: deaf and mute like `freeze`, and its own tasks and timers rest as well.

        What it had sent, and what has not arrived yet, arrives when it goes on: nobody can tell that from a slow line.
        """
        if host := self.hosts.get(peer):
            self.freeze(peer)
            running_loop().hold(host)

    def go_on(self, peer: PeerId) -> None:
        """Let a stopped peer go on, as SIGCONT does: all its deadlines that have passed meanwhile ring at once."""
        if host := self.hosts.get(peer):
            running_loop().release(host)
            self.thaw(peer)

    def slow(self, peer: PeerId, link: Link | None = None) -> None:
        """Give a peer another line; None gives back the ordinary one."""
        if host := self.hosts.get(peer):
            host.link = link or self._link
            self.note(repr(host.link), peer)

    def cut(self, a: PeerId, b: PeerId) -> None:
        """Let nothing pass between two peers any more, in both directions: what would arrive is lost."""
        self._cuts.add(frozenset((a, b)))
        self.note("cut", a, b)

    def heal(self, a: PeerId, b: PeerId) -> None:
        """Undo `cut`."""
        self._cuts.discard(frozenset((a, b)))
        self.note("heal", a, b)

    def note(self, what: str, source: str, target: str = "", size: int = 0) -> None:
        """Write it into the transcript, now."""
        self.transcript.note(asyncio.get_running_loop().time(), what, source, target, size)

    # --- what happens to messages ---------------------------------------------------------------------------------

    async def _request(
        self, source: Host, to: PeerId, route: str, call: Call, limit: int, deadline: float
    ) -> bytes:
        if self.beyond and to in self.beyond:
            status, reply = await self.beyond.ask(source, to, route, call, limit, deadline)
        else:
            status, reply = await self._ask_here(source, to, route, call, limit)
        if len(reply) > limit and status == 200:
            raise Oversized(f"{to[:8]} answers with {len(reply)} bytes, at most {limit} are wanted")
        if status != 200:
            raise read_refusal(to[:8], status, reply)
        return reply

    async def _ask_here(
        self, source: Host, to: PeerId, route: str, call: Call, limit: int
    ) -> tuple[int, bytes]:
        target = self.hosts.get(to)
        if target is None:
            await asyncio.sleep(2 * source.link.latency)
            raise Unreachable(f"{to[:8]} does not answer")
        is_bulk = (
            len(call.body) > CONTROL_LIMIT
        )  # the body follows its head, so that a refusal costs no bandwidth
        await self._carry(
            source, target, HEAD if is_bulk else HEAD + len(call.body), f"{route}/{call.argument}"
        )
        body = partial(self._carry_bulk, source, target, call) if is_bulk else None
        status, reply = await self.handled(target, route, call, body)
        await self._carry(
            target, source, answer_size(status, reply, limit), f"{status} {route}/{call.argument}"
        )
        return status, reply

    async def handled(
        self, target: Host, route: str, call: Call, body: CarryBody | None
    ) -> tuple[int, bytes]:
        """(status, reply) of a call that has arrived; ``body`` brings the body where that comes after its head."""
        try:
            found = target.routes.get(route)
            if found is None:
                raise Malformed(f"this peer does not answer to {route!r}")
            allowance = found.admit(call.sender, call.argument)
            allowance.check(len(call.body))
            if body:
                await body(allowance)
            reply, status = bytes(await found.handler(call)), 200
            if self.heard:
                self.heard(running_loop().time(), call.sender, target.peer, route, call)
        except SwarmError as error:
            status, reply = pack_refusal(error)
        except Exception as error:  # noqa: BLE001 - a bug in a handler: kept for the end, as no caller may learn of it
            running_loop().call_exception_handler(
                {"message": f"the handler of {route} failed", "exception": error}
            )
            status, reply = pack_refusal(error)
        return status, reply

    async def _carry_bulk(self, source: Host, target: Host, call: Call, allowance: Allowance) -> None:
        try:
            async with asyncio.timeout(allowance.seconds):
                await self._carry(source, target, len(call.body), f"body {call.argument}")
        except TimeoutError as error:
            raise TooLate(
                f"the {len(call.body)} bytes did not come within {allowance.seconds:.3g} s"
            ) from error

    def depart(self, source: Host, link: Link, size: int) -> tuple[float, bool]:
        """``size`` bytes leave ``source``: when they arrive, and whether they are lost on the way."""
        leaves = source.uplink_free_at = (
            max(running_loop().time(), source.uplink_free_at) + size / link.bandwidth
        )
        source.up += size
        self.messages += 1
        self.sent[source.peer] += size
        is_lost = link.loss > 0 and self._random.random() < link.loss
        return leaves + link.latency + link.jitter * self._random.random(), is_lost

    async def _carry(self, source: Host, target: Host, size: int, what: str) -> None:
        """Return when ``size`` bytes have arrived; where they are lost, never."""
        loop = running_loop()
        if source.frozen:
            await source.thawed.wait()
        link = source.link if source.link is target.link else between(source.link, target.link)
        arrives, is_lost = self.depart(source, link, size)
        await loop.reach(arrives)
        if target.frozen:
            await target.thawed.wait()
        if (
            is_lost
            or source.gone
            or target.gone
            or (self._cuts and frozenset((source.peer, target.peer)) in self._cuts)
        ):
            self.note(f"lost {what}", source.peer, target.peer, size)
            await (
                loop.create_future()
            )  # nobody will ever say what became of it: the deadline of the request ends this
        target.down += size
        self.transcript.note(loop.time(), what, source.peer, target.peer, size)


def answer_size(status: int, reply: bytes, limit: int) -> int:
    """Bytes of an answer on the wire: what is too long breaks off."""
    return HEAD + min(len(reply), limit if status == 200 else max(limit, REFUSAL_LIMIT))


class SimulatedTransport:
    """The `swarm.transport.Transport` of one peer on a `SimulatedNetwork`; `SimulatedNetwork.attach` makes it."""

    def __init__(self, network: SimulatedNetwork, host: Host) -> None:
        self._network = network
        self._host = host

    def __repr__(self) -> str:
        return f"SimulatedTransport({self.me[:8]}, {self.bytes_up} up, {self.bytes_down} down)"

    @property
    def me(self) -> PeerId:
        """The id that the other sides see."""
        return self._host.peer

    @property
    def bytes_up(self) -> int:
        """Bytes sent so far, with `HEAD` for every message."""
        return self._host.up

    @property
    def bytes_down(self) -> int:
        """Bytes received so far, with `HEAD` for every message."""
        return self._host.down

    def inhabit(self) -> None:
        """From now on the running task, and all that it starts, is this peer's: it stands still while the peer is stopped."""
        owner.set(self._host)

    def serve(self, route: Route) -> None:
        """Answer calls to ``route.name``; the latest route of a name wins."""
        path_of(route.name, "")
        self._host.routes[route.name] = route

    async def request(self, to: PeerId, request: Request, *, deadline: float) -> bytes:
        """The reply of ``to``, before ``deadline`` (in ``loop.time()``). Raises what the port says."""
        path_of(request.route, request.argument)
        call = Call(self.me, request.argument, bytes(request.body))
        try:
            async with asyncio.timeout_at(deadline):
                return await self._network._request(
                    self._host, to, request.route, call, request.limit, deadline
                )
        except TimeoutError as error:
            raise TooLate(f"{to[:8]} did not answer {request.route!r} in time") from error
