"""A network in memory: it delays, loses, cuts and crashes as told, with random numbers of one seed.

    caller ──► uplink, one message after the other ──► latency, jitter ──► route.admit, handler ──► reply
    caller ◄────────────────────────── latency, jitter ◄── uplink ◄────────────────────────────────── │

Rule 1: no request hangs. A lost message is never answered, and its request ends at its deadline.
Rule 2: calls are admitted and refused as on sockets, with the same texts, by the rules of `swarm.transport`.
Rule 3: a handler runs in the task of its caller, and ends with it, as when a connection breaks off. A request
        starts no task.
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
"""Bytes of every message in addition to its body: about what HTTP and TLS add."""


@dataclass(frozen=True, slots=True)
class Link:
    """One peer's link to the network. Between two peers the worse latency, jitter and loss hold.

    The bandwidth is the sender's; downlinks are never the bottleneck.
    """

    latency: float = 0.04
    """Seconds from one peer to another."""
    jitter: float = 0.01
    """Most seconds on top of that, drawn for every message."""
    bandwidth: float = 2.5e6
    """Bytes per second of the uplink. Messages queue: the next one leaves when the last one has left."""
    loss: float = 0.0
    """Probability that a message never arrives: a TCP connection that hangs, not a lost packet."""

    def __post_init__(self) -> None:
        if min(self.latency, self.jitter) < 0 or self.bandwidth <= 0 or not 0 <= self.loss <= 1:
            raise ValueError(
                f"{self} is not a link: latency and jitter >= 0, bandwidth > 0, loss within [0, 1]"
            )


@lru_cache
def between(sender: Link, receiver: Link) -> Link:
    """The link that a message from ``sender`` to ``receiver`` takes."""
    return Link(
        latency=max(sender.latency, receiver.latency),
        jitter=max(sender.jitter, receiver.jitter),
        bandwidth=sender.bandwidth,
        loss=max(sender.loss, receiver.loss),
    )


@dataclass(slots=True, eq=False)
class Host:
    """A peer on the network from `SimulatedNetwork.attach` to a crash.

    If it comes back, it is another host.
    """

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
"""Waits until the body of a call has arrived; raises `TooLate` after the allowance's seconds."""


class Beyond(Protocol):
    """The part of the network that another process runs."""

    def __contains__(self, peer: PeerId) -> bool:
        """Whether ``peer`` is in that part."""

    async def ask(
        self, source: Host, to: PeerId, route: str, call: Call, limit: int, deadline: float
    ) -> tuple[int, bytes]:
        """(status, reply) of ``to``. Raises `Unreachable`. The caller cancels it at ``deadline``."""


class SimulatedNetwork:
    """Carries the requests of the peers that are attached to it.

    All have ``link``, until `slow` gives one another.

    An error of a handler that is not a `SwarmError` is a bug. Its caller gets what it would get on sockets
    (`Refused`), and `swarm.simulation.clock.simulate` raises the error at the end.
    """

    def __init__(self, seed: int, link: Link | None = None, transcript: Transcript | None = None) -> None:
        self.heard: Callable[[float, PeerId, PeerId, str, Call], None] | None = None
        """Called for every request that was handled: (time, sender, receiver, route, call)."""
        self.transcript = Transcript() if transcript is None else transcript
        self.messages = 0
        self.sent: Counter[PeerId] = Counter()
        """Bytes that each peer has sent, over all its hosts."""
        self._random = random.Random(seed)
        self._link = link or Link()
        self.hosts: dict[PeerId, Host] = {}
        self.beyond: Beyond | None = None
        """The peers that other processes run."""
        self._cuts: set[frozenset[PeerId]] = set()

    def __repr__(self) -> str:
        return f"SimulatedNetwork({len(self.hosts)} peers, {len(self._cuts)} cuts, {self.messages} messages)"

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """The peers that are attached and have not crashed, in the order of ids."""
        return tuple(sorted(self.hosts))

    def is_up(self, peer: PeerId) -> bool:
        """Whether ``peer`` is attached, and neither crashed nor frozen."""
        return peer in self.hosts and not self.hosts[peer].frozen

    # --- what happens to peers ------------------------------------------------------------------------------

    def attach(self, me: PeerId, on_crash: Callable[[], object] = bool) -> SimulatedTransport:
        """The transport of a peer that joins, or comes back.

        ``on_crash`` (say, ``task.cancel``) must end its tasks at a crash.
        """
        if me in self.hosts:
            raise ValueError(f"{me} is attached already")
        host = self.hosts[me] = Host(me, self._link, on_crash)
        self.note("attach", me)
        return SimulatedTransport(self, host)

    def crash(self, peer: PeerId) -> None:
        """Remove a peer. What is in flight from and to it is lost; later calls to it raise `Unreachable`."""
        if host := self.hosts.pop(peer, None):
            host.gone = True
            running_loop().release(host)
            host.on_crash()
            self.note("crash", peer)

    def freeze(self, peer: PeerId) -> None:
        """Stall the link of a peer: nothing goes out, nothing is answered. Its own tasks go on."""
        if host := self.hosts.get(peer):
            host.frozen = True
            host.thawed.clear()
            self.note("freeze", peer)

    def thaw(self, peer: PeerId) -> None:
        """Undo `freeze`: messages from and to the peer whose requests have not timed out move again."""
        if host := self.hosts.get(peer):
            host.frozen = False
            host.thawed.set()
            self.note("thaw", peer)

    def stop(self, peer: PeerId) -> None:
        """Stop a peer as SIGSTOP does: its link stalls as in `freeze`, and its tasks and timers stand still.

        What it had sent and has not arrived yet arrives when it goes on: the others cannot tell that from a
        slow link.
        """
        if host := self.hosts.get(peer):
            self.freeze(peer)
            running_loop().hold(host)

    def go_on(self, peer: PeerId) -> None:
        """Undo `stop`, as SIGCONT does: all its deadlines that have passed meanwhile expire at once."""
        if host := self.hosts.get(peer):
            running_loop().release(host)
            self.thaw(peer)

    def slow(self, peer: PeerId, link: Link | None = None) -> None:
        """Give a peer another link; None gives back the ordinary one."""
        if host := self.hosts.get(peer):
            host.link = link or self._link
            self.note(repr(host.link), peer)

    def cut(self, a: PeerId, b: PeerId) -> None:
        """Cut the connection of two peers, in both directions: what would arrive from now on is lost."""
        self._cuts.add(frozenset((a, b)))
        self.note("cut", a, b)

    def heal(self, a: PeerId, b: PeerId) -> None:
        """Undo `cut`."""
        self._cuts.discard(frozenset((a, b)))
        self.note("heal", a, b)

    def note(self, what: str, source: str, target: str = "", size: int = 0) -> None:
        """Note ``what`` in the transcript, with the time, ``source``, ``target`` and ``size`` (bytes)."""
        self.transcript.note(asyncio.get_running_loop().time(), what, source, target, size)

    # --- what happens to messages ---------------------------------------------------------------------------

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
        # A bulk body follows its head, so that a refusal costs no bandwidth.
        is_bulk = len(call.body) > CONTROL_LIMIT
        size = HEAD if is_bulk else HEAD + len(call.body)
        await self._carry(source, target, size, f"{route}/{call.argument}")
        carry_body = partial(self._carry_bulk, source, target, call) if is_bulk else None
        status, reply = await self.handled(target, route, call, carry_body)
        size = answer_size(status, reply, limit)
        await self._carry(target, source, size, f"{status} {route}/{call.argument}")
        return status, reply

    async def handled(
        self, target: Host, route: str, call: Call, carry_body: CarryBody | None
    ) -> tuple[int, bytes]:
        """(status, reply) of a call that has arrived; ``carry_body`` is given where its body comes later."""
        try:
            found = target.routes.get(route)
            if found is None:
                raise Malformed(f"this peer does not answer to {route!r}")
            allowance = found.admit(call.sender, call.argument)
            allowance.check(len(call.body))
            if carry_body:
                await carry_body(allowance)
            reply = bytes(await found.handler(call))
            status = 200
            if self.heard:
                self.heard(running_loop().time(), call.sender, target.peer, route, call)
        except SwarmError as error:
            status, reply = pack_refusal(error)
        except Exception as error:  # noqa: BLE001 - a bug in a handler: `simulate` raises it at the end
            error.add_note(f"while {target.peer} answered {route!r}")
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
        """Send ``size`` bytes from ``source``: (when they arrive, whether they are lost on the way)."""
        begins = max(running_loop().time(), source.uplink_free_at)
        leaves = begins + size / link.bandwidth
        source.uplink_free_at = leaves
        source.up += size
        self.messages += 1
        self.sent[source.peer] += size
        is_lost = link.loss > 0 and self._random.random() < link.loss
        return leaves + link.latency + link.jitter * self._random.random(), is_lost

    async def _carry(self, source: Host, target: Host, size: int, what: str) -> None:
        """Return when ``size`` bytes have arrived. If they are lost, wait until the request is cancelled."""
        loop = running_loop()
        if source.frozen:
            await source.thawed.wait()
        link = source.link if source.link is target.link else between(source.link, target.link)
        arrives, is_lost = self.depart(source, link, size)
        await loop.reach(arrives)
        if target.frozen:
            await target.thawed.wait()
        is_cut = bool(self._cuts) and frozenset((source.peer, target.peer)) in self._cuts
        if is_lost or is_cut or source.gone or target.gone:
            self.note(f"lost {what}", source.peer, target.peer, size)
            await loop.create_future()  # never done
        target.down += size
        self.transcript.note(loop.time(), what, source.peer, target.peer, size)


def answer_size(status: int, reply: bytes, limit: int) -> int:
    """Bytes of an answer on the wire: one that is longer than its limit is cut off."""
    at_most = limit if status == 200 else max(limit, REFUSAL_LIMIT)
    return HEAD + min(len(reply), at_most)


class SimulatedTransport:
    """The `swarm.transport.Transport` of one peer; `SimulatedNetwork.attach` makes it."""

    def __init__(self, network: SimulatedNetwork, host: Host) -> None:
        self._network = network
        self._host = host

    def __repr__(self) -> str:
        return f"SimulatedTransport({self.me[:8]}, {self.bytes_up} up, {self.bytes_down} down)"

    @property
    def me(self) -> PeerId:
        """The id of this peer, as the others see it."""
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
        """Make this peer the owner of the running task and of all that it starts, which `stop` then holds."""
        owner.set(self._host)

    def serve(self, route: Route) -> None:
        """Answer calls to ``route.name``. A second route of the same name replaces the first."""
        path_of(route.name, "")
        self._host.routes[route.name] = route

    async def request(self, to: PeerId, request: Request, *, deadline: float) -> bytes:
        """Send ``request`` to ``to`` and return its reply, before ``deadline`` (seconds of ``loop.time()``).

        Raises what `swarm.transport.Transport.request` raises.
        """
        path_of(request.route, request.argument)
        call = Call(self.me, request.argument, bytes(request.body))
        try:
            async with asyncio.timeout_at(deadline):
                return await self._network._request(
                    self._host, to, request.route, call, request.limit, deadline
                )
        except TimeoutError as error:
            raise TooLate(f"{to[:8]} did not answer {request.route!r} in time") from error
