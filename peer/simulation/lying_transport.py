"""A transport and a directory that lie: an honest peer on the one side, the network on the other.

    honest half ──► request ──► deed ──► the network     what leaves is changed, split, late, or held back
    honest half ◄── hear    ◄── deed ◄── the network     what comes is swallowed, late, answered with a lie
    the network ──► answer  ──► deed ──► the network     what is asked is refused, forged, late, or replayed

The liar signs with its own key only. It hears everything, and its honest half asks the truth of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from functools import partial
from typing import TypeVar

from swarm.dht.directory import Directory
from swarm.errors import Busy, Malformed, Refused, SwarmError, TheirFault
from swarm.identity import PeerId
from swarm.transport import Call, Payload, Request, Route, Transport
from swarm.transport.outbox import BULK_ROUTE, ITEM_ROUTE, MESSAGE_ROUTE
from swarm.wire import Message, Signed

from ..network.forwarding import ForwardingTransport
from .mind import Mind
from .strategies import Deed

M = TypeVar("M", bound=Message)

FOREVER = 3600.0
"""Virtual seconds after which no caller waits any more."""
LIE_SECONDS = 5.0
"""Patience with a peer that is told a lie beside the honest half's messages."""
DELAYS = (0.1, 0.5, 2.0, 6.0)
"""Most virtual seconds by which something is late."""


class LyingTransport(ForwardingTransport):
    """The transport of a liar's honest half."""

    def __init__(self, transport: Transport, mind: Mind) -> None:
        super().__init__(transport)
        self._mind = mind
        self.tasks: asyncio.TaskGroup | None = None
        """Owns what is sent beside the honest half's messages; without it nothing is."""

    # --- outgoing -------------------------------------------------------------------------------------------

    async def request(self, to: PeerId, request: Request, *, deadline: float) -> bytes:
        """The reply of ``to`` to ``request``, or to a lie in its place; empty where nothing was sent."""
        if not request.body:
            reply = await super().request(to, request, deadline=deadline)
            self._mind.note_heard(request.route, reply)
            return reply
        self._mind.hearsay.note_request(request)
        signed = self._mind.hearsay.note_bytes(request.body)
        deed = self._mind.draw(f"send {_what(request.route, request.argument, signed)}")
        match deed:
            case Deed.SILENCE | Deed.REFUSE:
                return b""
            case Deed.DELAY:
                await asyncio.sleep(self._delay())
            case Deed.DOUBLE:
                self.tell(to, self._mind.in_place_of(request, Deed.VARY, to))
            case Deed.VARY | Deed.SPLIT | Deed.BOAST | Deed.REPLAY | Deed.FORGE:
                return await self._lie(to, self._mind.in_place_of(request, deed, to), deadline)
        return await super().request(to, request, deadline=deadline)

    async def _lie(self, to: PeerId, request: Request, deadline: float) -> bytes:
        """Send a lie; that it was refused is not for the honest half to know."""
        try:
            return await super().request(to, request, deadline=deadline)
        except TheirFault as refusal:
            if request.route in (MESSAGE_ROUTE, BULK_ROUTE):
                return b""
            raise refusal

    def tell(self, to: PeerId, request: Request) -> None:
        """Send ``request`` as well, in the background; what becomes of it does not matter."""
        self._start(self._tell(to, request))

    async def _tell(self, to: PeerId, request: Request) -> None:
        deadline = asyncio.get_running_loop().time() + LIE_SECONDS
        with contextlib.suppress(SwarmError):
            await super().request(to, request, deadline=deadline)

    def _start(self, telling: Coroutine[None, None, None]) -> None:
        if self.tasks is None:
            telling.close()
            return
        try:
            self.tasks.create_task(telling, name="a lie")
        except RuntimeError:  # the rehearsal is being stopped
            telling.close()

    # --- incoming -------------------------------------------------------------------------------------------

    def serve(self, route: Route) -> None:
        """Answer calls to ``route.name``: as the honest half does, or with a lie."""
        super().serve(Route(route.name, partial(self._on_call, route), route.admit))

    async def _on_call(self, route: Route, call: Call) -> Payload:
        try:
            if call.body and route.name != "hello":
                return await self._hear(route, call)
            return await self._answer(route, call)
        except SwarmError:
            raise
        except Exception as error:
            raise Busy("come again") from error

    async def _hear(self, route: Route, call: Call) -> Payload:
        """Something has come that needs no answer."""
        mind = self._mind
        signed = mind.hearsay.note_bytes(call.body)
        if route.name == MESSAGE_ROUTE and signed is None:
            raise Malformed("not a message of this run")
        match mind.draw(f"hear {_what(route.name, call.argument, signed)}"):
            case Deed.SILENCE:
                return b""
            case Deed.REFUSE:
                raise self._refusal()
            case Deed.DELAY:
                await asyncio.sleep(self._delay())
            case Deed.DECLINE if signed and route.name == MESSAGE_ROUTE:
                self.tell(call.sender, mind.decline(signed))
                return b""
            case Deed.ECHO if signed and route.name == MESSAGE_ROUTE:
                self.tell(call.sender, mind.echo(signed))
        return await route.handler(call)

    async def _answer(self, route: Route, call: Call) -> Payload:
        """Somebody asks."""
        mind = self._mind
        deed = mind.draw(f"answer {route.name}")
        match deed:
            case Deed.SILENCE:
                await asyncio.sleep(FOREVER)
            case Deed.REFUSE:
                raise self._refusal()
            case Deed.DELAY:
                await asyncio.sleep(self._delay())
        reply = await self._true_or_forged(route, call, deed)
        mind.note_reply(route.name, reply)
        is_lie = deed in (Deed.VARY, Deed.BOAST, Deed.REPLAY, Deed.FORGE)
        return mind.changed_reply(route.name, reply, deed) if is_lie else reply

    async def _true_or_forged(self, route: Route, call: Call, deed: Deed) -> Payload:
        """The honest half's reply, or that of a peer that has the liar's forged states and second faces.

        True states have true records, unless ``deed`` says otherwise.
        """
        forged: Payload | None = None
        if route.name == ITEM_ROUTE:
            forged = self._mind.faces.fetched(call.argument)
        elif route.name != "record" or deed is Deed.FORGE:
            forged = self._mind.forger.answer(route.name, call.argument)
        return await route.handler(call) if forged is None else forged

    def _delay(self) -> float:
        return self._mind.chance.choice(DELAYS) * self._mind.chance.random()

    def _refusal(self) -> SwarmError:
        if self._mind.chance.random() < 0.5:
            return Busy("come again")
        return Refused("not for you")


def _what(route: str, argument: str, signed: Signed[Message] | None) -> str:
    """The name of a message or bulk item in opportunities; else that of its route."""
    if route == MESSAGE_ROUTE and signed:
        return signed.message.kind.name.lower()
    if route == BULK_ROUTE:
        return argument.split(".")[1] if "." in argument else route
    return route


class LyingDirectory:
    """The directory of a liar's honest half: what it publishes may be a lie, or be missing."""

    def __init__(self, directory: Directory, mind: Mind) -> None:
        self._directory = directory
        self._mind = mind

    async def put(self, topic: str, record: bytes, *, seconds: float, deadline: float) -> bool:
        """Publish ``record``, or a lie in its place; True where nothing was published."""
        deed = self._mind.draw("publish")
        match deed:
            case Deed.SILENCE | Deed.REFUSE:
                return True
            case Deed.VARY | Deed.SPLIT | Deed.BOAST | Deed.FORGE:
                record = self._mind.published(record, deed)
        return await self._directory.put(topic, record, seconds=seconds, deadline=deadline)

    async def get(self, topic: str, form: type[M], *, deadline: float) -> list[Signed[M]]:
        """What others have published, as it is."""
        return await self._directory.get(topic, form, deadline=deadline)
