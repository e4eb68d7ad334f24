"""The way between two shards of one network: a request crosses as one message, its reply as another.

    caller's shard    depart ─► ShardRequest ─────► arrives ─► route.admit, handler     the receiver's shard
                      reply ◄───────────────── ShardReply ◄─ depart

It works as a `SimulatedNetwork` of one process does, but for two things: a body that is refused has been sent
already, and a handler does not notice that its caller has crashed. Freezes, cuts and links of single peers
work in one process only.
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


class ShardRequest(NamedTuple):
    """A request on its way (a tuple is pickled in a third of the time).

    A long body arrives later, at ``body_arrives``.
    """

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


class ShardReply(NamedTuple):
    """The reply to request ``number``; ``status`` is 0 where the peer is not there."""

    number: int
    status: int
    reply: bytes
    size: int


class Border:
    """A `swarm.simulation.network.Beyond`.

    ``shard_of`` gives the shard of every peer that is not in this process.

    ``tasks`` owns the tasks that answer requests from other shards.
    """

    def __init__(
        self,
        network: SimulatedNetwork,
        shards: Shards,
        shard_of: Mapping[PeerId, int],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._network = network
        self._shards = shards
        self._shard_of = shard_of
        self._tasks = tasks
        self._waiting: dict[int, asyncio.Future[ShardReply]] = {}
        self._number = 0

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._shard_of

    async def ask(
        self, source: Host, to: PeerId, route: str, call: Call, limit: int, deadline: float
    ) -> tuple[int, bytes]:
        """(status, reply) of ``to``. Raises `Unreachable`."""
        network = self._network
        size = len(call.body)
        is_bulk = size > CONTROL_LIMIT
        arrives, is_lost = network.depart(source, source.link, HEAD if is_bulk else HEAD + size)
        body_arrives = arrives
        if is_bulk:
            body_arrives, is_body_lost = network.depart(source, source.link, size)
            is_lost = is_lost or is_body_lost

        self._number += 1
        number = self._number
        answer = running_loop().create_future()
        self._waiting[number] = answer
        if not is_lost:
            request = ShardRequest(
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
            self._shards.post(self._shard_of[to], arrives, request)
        try:
            reply = await answer
        finally:
            del self._waiting[number]

        if not reply.status:
            raise Unreachable(f"{to[:8]} does not answer")
        source.down += reply.size
        network.note(f"{reply.status} {route}/{call.argument}", to, source.peer, reply.size)
        return reply.status, reply.reply

    def hear(self, content: ShardRequest | ShardReply) -> None:
        """Take a message of another shard that has arrived."""
        if isinstance(content, ShardReply):
            waiting = self._waiting.get(content.number)
            if waiting and not waiting.done():
                waiting.set_result(content)
            return

        answering = self._answer(content)
        try:
            self._tasks.create_task(answering, name=f"answer {content.number} of shard {content.shard}")
        except RuntimeError:  # the rehearsal is being stopped: nobody waits for the answer any more
            answering.close()

    async def _answer(self, request: ShardRequest) -> None:
        network = self._network
        loop = running_loop()
        target = network.hosts.get(request.to)
        if target is None:
            arrives = loop.time() + self._shards.lookahead
            self._shards.post(request.shard, arrives, ShardReply(request.number, 0, b"", 0))
            return

        size = HEAD + len(request.body)
        target.down += size
        network.note(f"{request.route}/{request.argument}", request.sender, request.to, size)
        call = Call(request.sender, request.argument, request.body)
        is_bulk = len(request.body) > CONTROL_LIMIT
        wait_for_body = partial(_wait_for_body, request) if is_bulk else None
        try:
            async with asyncio.timeout_at(request.deadline):
                status, reply = await network.handled(target, request.route, call, wait_for_body)
        except TimeoutError:
            return  # the caller does not wait any more

        size = answer_size(status, reply, request.limit)
        arrives, is_lost = network.depart(target, target.link, size)
        if not (is_lost or target.gone):
            self._shards.post(request.shard, arrives, ShardReply(request.number, status, reply, size))


async def _wait_for_body(request: ShardRequest, allowance: Allowance) -> None:
    """Wait until the body has arrived. Raises `TooLate` where that takes longer than the allowance."""
    loop = running_loop()
    latest = loop.time() + allowance.seconds
    is_late = request.body_arrives > latest
    await loop.reach(latest if is_late else request.body_arrives)
    if is_late:
        raise TooLate(f"the {len(request.body)} bytes did not come within {allowance.seconds:.3g} s")
