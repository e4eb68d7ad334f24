"""Real transports on loopback for tests: a few peers of one run that know each other's addresses."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import TracebackType

from swarm.identity import KeyPair
from swarm.membership.contacts import Contacts, seal_contact
from swarm.ticket import Address
from swarm.transport import Allowance, Call, Route
from swarm.transport.guard import Limits
from swarm.transport.http import HttpTransport

RUN = bytes(range(32))
ANY_PORT = Address("127.0.0.1", 0)


def key(number: int) -> KeyPair:
    """The key of peer ``number``, the same in every test."""
    return KeyPair.from_seed(bytes([number]) * 32)


def soon(seconds: float = 20.0) -> float:
    """A deadline that is far away for a test."""
    return asyncio.get_running_loop().time() + seconds


async def echo(call: Call) -> bytes:
    """Reply with the body."""
    return call.body


async def take(call: Call) -> bytes:
    """Reply with the number of bytes that came."""
    return str(len(call.body)).encode()


BULK = Route("bulk", take, lambda sender, argument: Allowance(at_most=64 << 20, seconds=20))


class Loopback:
    """An async context that owns the transports of a few peers, who know each other's addresses."""

    def __init__(self, run: bytes = RUN, secret: bytes = b"", limits: Limits | None = None) -> None:
        self.run = run
        self.secret = secret
        self.limits = limits
        self.contacts = Contacts(run)
        self._seq = 0
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Loopback:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    def know(self, who: KeyPair, *addresses: Address) -> None:
        """Tell all peers the addresses of ``who``."""
        self._seq += 1
        self.contacts.learn(seal_contact(who, self.run, addresses, self._seq))

    async def caller(
        self, number: int, *, secret: bytes | None = None, limits: Limits | None = None
    ) -> HttpTransport:
        """A peer that does not listen."""
        secret = self.secret if secret is None else secret
        return await self._stack.enter_async_context(
            HttpTransport(key(number), self.run, secret, self.contacts, limits or self.limits)
        )

    async def peer(
        self, number: int, *routes: Route, limits: Limits | None = None
    ) -> tuple[HttpTransport, Address]:
        """A peer that listens and answers ``routes``; all others know its address."""
        transport = await self.caller(number, limits=limits)
        for route in routes:
            transport.serve(route)
        address = await transport.listen(ANY_PORT)
        self.know(key(number), address)
        return transport, address
