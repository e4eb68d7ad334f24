"""Whom we cannot dial we ask the others about: the leader of a group lists peers of whom its newcomers have not heard yet.

request to somebody ──► in the address book ──────────────────────────────►  the transport
                    └─► not yet: who is here is asked for its contact ────►  the transport
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from swarm.identity import PeerId
from swarm.membership.contacts import Contacts
from swarm.transport import Request, Transport

from .forwarding import ForwardingTransport

PATIENCE_SECONDS = 2.0
"""For the answers of those who are asked."""
AGAIN_SECONDS = 5.0
"""After which they are asked again about somebody whom nobody knew."""
ASKED_ABOUT = 256
"""Peers at most of whom that is remembered."""

Find = Callable[[PeerId, float], Awaitable[None]]
"""(peer, deadline): ask others for the contact of ``peer``, and put it into the address book."""


class LookupTransport(ForwardingTransport):
    """A `Transport` that lets ``find`` look for whoever is not among ``contacts``, before the first request to it."""

    def __init__(self, transport: Transport, contacts: Contacts, find: Find) -> None:
        super().__init__(transport)
        self._contacts, self._find = contacts, find
        self._asked_at: OrderedDict[PeerId, float] = OrderedDict()
        self._turns: dict[PeerId, asyncio.Lock] = {}

    async def request(self, to: PeerId, request: Request, *, deadline: float) -> bytes:
        """The reply of ``to``. Raises what the transport does."""
        if not self._contacts.addresses(to):
            await self._look_for(to, deadline)
        return await super().request(to, request, deadline=deadline)

    async def _look_for(self, peer: PeerId, deadline: float) -> None:
        """Ask about ``peer``; who comes meanwhile waits for the same answer."""
        turn, loop = self._turns.setdefault(peer, asyncio.Lock()), asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline), turn:
                now = loop.time()
                if (
                    not self._contacts.addresses(peer)
                    and now >= self._asked_at.get(peer, -AGAIN_SECONDS) + AGAIN_SECONDS
                ):
                    self._note(peer, now)
                    await self._find(peer, min(deadline, now + PATIENCE_SECONDS))
        except TimeoutError:
            return  # the request itself will say so
        finally:
            if not turn.locked():
                self._turns.pop(peer, None)

    def _note(self, peer: PeerId, now: float) -> None:
        self._asked_at[peer] = now
        self._asked_at.move_to_end(peer)
        if len(self._asked_at) > ASKED_ABOUT:
            self._asked_at.popitem(last=False)
