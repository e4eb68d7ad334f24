"""How bytes move between two peers: the port. Behind it: real sockets (`http`), and a rehearsal's network (`swarm.simulation`).

    request(to, Request)  ──►  size, rate and identity are checked at the door  ──►  handler(Call)  ──►  reply

    throttle ─► guard ─► server ─► http        limits and their books, the listening side, the transport itself
         tls, sockets, envelope                who is there, what TCP carries, how calls and refusals look in HTTP

Every call has a deadline from outside and ends: with the reply, or with one of `Unreachable`, `TooLate`, `Busy` (weather),
`Impostor`, `Refused`, `Oversized`, `Malformed` (their fault).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from ..errors import Malformed
from ..identity import PeerId
from ..wire import CONTROL_LIMIT

__all__ = ["Admit", "Allowance", "Call", "Handler", "Payload", "Request", "Route", "Transport", "control"]

Payload = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Request:
    """What one peer asks of another: the name of a `Route`, its argument, and the body.

    ``argument`` is at most 200 URL-safe characters. ``limit`` is the most bytes that the reply may have.
    """

    route: str
    body: Payload = b""
    argument: str = ""
    limit: int = CONTROL_LIMIT


@dataclass(frozen=True, slots=True)
class Call:
    """One request as its handler sees it. ``sender`` has proven its key in the TLS handshake; ``host`` is where it came from."""

    sender: PeerId
    argument: str
    body: Payload
    host: str = ""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a route accepts for one call, decided before a byte of the body is read.

    ``exact`` where the length follows from a plan (bulk), else ``at_most``; ``seconds`` is the patience for the whole body.
    """

    at_most: int = CONTROL_LIMIT
    exact: int | None = None
    seconds: float = 10.0

    def check(self, length: int) -> None:
        """Raise `Malformed` where a body of ``length`` bytes is not allowed."""
        if self.exact is not None and length != self.exact:
            raise Malformed(f"{length} bytes came where the plan says {self.exact}")
        if self.exact is None and length > self.at_most:
            raise Malformed(f"{length} bytes came, at most {self.at_most} are allowed here")


Handler = Callable[[Call], Awaitable[Payload]]
Admit = Callable[[PeerId, str], Allowance]
"""(sender, argument) -> what is allowed; raises a `TheirFault` or `Weather` to refuse before the body is read."""


def control(sender: PeerId, argument: str) -> Allowance:
    """The allowance of an ordinary control message: at most 64 KiB, from anybody in the run."""
    return Allowance()


@dataclass(frozen=True, slots=True)
class Route:
    """One verb of the protocol. ``name`` is part of the wire format; ``argument`` of a call is at most 200 URL-safe characters."""

    name: str
    handler: Handler
    admit: Admit = control


class Transport(Protocol):
    """Carries requests between peers. Promises nothing about order between two calls."""

    @property
    def me(self) -> PeerId:
        """The id that the other sides see."""

    @property
    def bytes_up(self) -> int:
        """Bytes sent so far, as they cross the wire."""

    @property
    def bytes_down(self) -> int:
        """Bytes received so far."""

    def serve(self, route: Route) -> None:
        """Answer calls to ``route.name``; the latest route of a name wins."""

    async def request(self, to: PeerId, request: Request, *, deadline: float) -> bytes:
        """The reply of ``to``, before ``deadline`` (in ``loop.time()``). Raises what the module says."""
