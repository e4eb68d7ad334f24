"""How bytes move between two peers: the interface.

Real sockets (`http`) and a simulated network (`swarm.simulation`) implement it.

    request(to, Request) ──► identity, rate and size are checked ──► route.admit ──► handler(Call) ──► reply

    http        the transport itself: which way a request takes
    dialing     where a peer can be reached; opens lanes to it
    dials       how often we dial an address that a stranger names
    client      calls by HTTP
    lanes       short and bulk messages, one after the other on a connection of our own format
    server      the listening side of both
    guard       limits and counters, with `throttle`
    post        messages of a round, to and from its machines; `outbox` sends them, and tries again
    tls         who is at the other end
    stream      TLS without needless copies
    sockets     TCP, and how many bytes it has carried
    envelope    how calls and refusals look in HTTP

Every call has a deadline from outside and ends: with the reply, or with one of `Unreachable`, `TooLate`,
`Busy` (weather), `Impostor`, `Refused`, `Oversized`, `Malformed` (their fault).
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

    ``argument`` has at most 200 URL-safe characters; the reply may have at most ``limit`` bytes.
    """

    route: str
    body: Payload = b""
    argument: str = ""
    limit: int = CONTROL_LIMIT


@dataclass(frozen=True, slots=True)
class Call:
    """A request as its handler sees it.

    ``sender`` has proven its key in the TLS handshake; ``host`` is the IP address that it came from, empty
    where there is none.
    """

    sender: PeerId
    argument: str
    body: Payload
    host: str = ""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a route accepts for one call, decided before a byte of the body is read.

    The body must have ``exact`` bytes where that is given (bulk items have a planned length), else
    ``at_most`` bytes, and must have arrived within ``seconds``.
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
"""(sender, argument) -> the allowance. Raises a `TheirFault` or `Weather` to refuse a call before its body is
read."""


Unsent = Callable[[Call, int], None]
"""(call, bytes): of the reply to ``call``, so many bytes could not be sent, because its connection ended."""


def control(sender: PeerId, argument: str) -> Allowance:
    """The allowance of an ordinary control message: at most 64 KiB, from any peer of the run."""
    return Allowance()


@dataclass(frozen=True, slots=True)
class Route:
    """One verb of the protocol, and the handler that answers calls to it.

    ``name`` is part of the wire format.
    """

    name: str
    handler: Handler
    admit: Admit = control
    on_unsent: Unsent | None = None


class Transport(Protocol):
    """Carries requests between peers. Promises nothing about order between two calls."""

    @property
    def me(self) -> PeerId:
        """The id of this peer, as the others see it."""

    @property
    def bytes_up(self) -> int:
        """Bytes sent so far, as they cross the wire."""

    @property
    def bytes_down(self) -> int:
        """Bytes received so far."""

    def serve(self, route: Route) -> None:
        """Answer calls to ``route.name``. A second route of the same name replaces the first."""

    async def request(self, to: PeerId, request: Request, *, deadline: float) -> bytes:
        """Send ``request`` to ``to`` and return its reply, before ``deadline`` (seconds of ``loop.time()``).

        Raises the errors that the package's docstring lists.
        """
