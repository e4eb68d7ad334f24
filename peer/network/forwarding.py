"""A transport in front of another one: the base of transports that look at requests on their way, or do
something before them."""

from __future__ import annotations

from swarm.identity import PeerId
from swarm.transport import Request, Route, Transport


class ForwardingTransport:
    """A `Transport` that forwards everything to ``transport``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def me(self) -> PeerId:
        """The id that the other sides see."""
        return self._transport.me

    @property
    def bytes_up(self) -> int:
        """Bytes sent so far, as they cross the wire."""
        return self._transport.bytes_up

    @property
    def bytes_down(self) -> int:
        """Bytes received so far."""
        return self._transport.bytes_down

    def serve(self, route: Route) -> None:
        """Answer calls to ``route.name``."""
        self._transport.serve(route)

    async def request(self, to: PeerId, request: Request, *, deadline: float) -> bytes:
        """The reply of ``to``. Raises what the transport raises."""
        return await self._transport.request(to, request, deadline=deadline)
