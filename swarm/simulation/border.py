"""The way between two shards of one network: a request crosses as one letter, its answer as another.

    caller's shard    depart ─► Asked ─────────► arrives ─► route.admit, handler     the receiver's shard
                      result ◄───────────────── Answered ◄─ depart

As on a `SimulatedNetwork` of one process, but that a body that is refused has been sent already, and that nobody hears of a crash
of its caller. Freezes, cuts and lines of their own are for networks of one process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from ..errors import TooLate, Unreachable
from ..identity import PeerId
from ..transport import Allowance, Call
from ..wire import CONTROL_LIMIT
from .clock import running_loop
from .network import HEAD, Host, SimulatedNetwork, answer_size
from .shards import Shards


class Asked(NamedTuple):
    """A request on its way (a tuple: pickled in a third of the time). ``body_arrives`` after its head, where it is long."""

    shard: int
    number: int
    sender: PeerId
    to: PeerId
    route: str
    argument: str
    body: bytes
    body_arrives: float
    limit: int
    deadline: float


class Answered(NamedTuple):
    """Its answer; ``status`` 0 where nobody is there."""

    number: int
    status: int
    reply: bytes
    size: int


class Border:
    """A `swarm.simulation.network.Beyond`. ``shard_of`` says where those are who are not here; ``tasks`` own what answers them."""

    def __init__(
        self,
        network: SimulatedNetwork,
        shards: Shards,
        shard_of: Mapping[PeerId, int],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._network, self._shards, self._shard_of, self._tasks = network, shards, shard_of, tasks
        self._waiting: dict[int, asyncio.Future[Answered]] = {}
        self._number = 0

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._shard_of

    async def ask(
        self, source: Host, to: PeerId, route: str, call: Call, limit: int, deadline: float
    ) -> tuple[int, bytes]:
        """(status, reply) of ``to``. Raises `Unreachable`."""
        size, network = len(call.body), self._network
        is_bulk = size > CONTROL_LIMIT
        arrives, is_lost = network.depart(source, source.link, HEAD if is_bulk else HEAD + size)
        body_arrives, body_lost = network.depart(source, source.link, size) if is_bulk else (arrives, False)
        self._number = number = self._number + 1
        self._waiting[number] = answer = running_loop().create_future()
        if not (is_lost or body_lost):
            asked = Asked(
                self._shards.index,
                number,
                source.peer,
                to,
                route,
                call.argument,
                bytes(call.body),
                body_arrives,
                limit,
                deadline,
            )
            self._shards.post(self._shard_of[to], arrives, asked)
        try:
            answered = await answer
        finally:
            del self._waiting[number]
        if not answered.status:
            raise Unreachable(f"{to[:8]} does not answer")
        source.down += answered.size
        network.note(f"{answered.status} {route}/{call.argument}", to, source.peer, answered.size)
        return answered.status, answered.reply

    def hear(self, content: Asked | Answered) -> None:
        """A letter has arrived."""
        if isinstance(content, Asked):
            answering = self._answer(content)
            try:
                self._tasks.create_task(answering, name=f"answer {content.number} of shard {content.shard}")
            except RuntimeError:  # the rehearsal is being stopped: nobody waits for this any more
                answering.close()
        elif (answer := self._waiting.get(content.number)) and not answer.done():
            answer.set_result(content)

    async def _answer(self, asked: Asked) -> None:
        target, network, loop = self._network.hosts.get(asked.to), self._network, running_loop()
        if target is None:
            arrives = loop.time() + self._shards.lookahead
            self._shards.post(asked.shard, arrives, Answered(asked.number, 0, b"", 0))
            return
        size = HEAD + len(asked.body)
        target.down += size
        network.note(f"{asked.route}/{asked.argument}", asked.sender, asked.to, size)
        call, is_bulk = Call(asked.sender, asked.argument, asked.body), len(asked.body) > CONTROL_LIMIT
        try:
            async with asyncio.timeout_at(asked.deadline):
                status, reply = await network.handled(
                    target, asked.route, call, partial(_wait, asked) if is_bulk else None
                )
        except TimeoutError:
            return  # the caller waits no longer
        size = answer_size(status, reply, asked.limit)
        arrives, is_lost = network.depart(target, target.link, size)
        if not (is_lost or target.gone):
            self._shards.post(asked.shard, arrives, Answered(asked.number, status, reply, size))


async def _wait(asked: Asked, allowance: Allowance) -> None:
    """For the body."""
    loop = running_loop()
    late = asked.body_arrives > loop.time() + allowance.seconds
    await loop.reach(loop.time() + allowance.seconds if late else asked.body_arrives)
    if late:
        raise TooLate(f"the {len(asked.body)} bytes did not come within {allowance.seconds:.3g} s")
