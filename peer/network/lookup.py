"""Looking up peers that we cannot dial yet: the leader of a group may list peers of which its newcomers have
not heard.

request to a peer ──► in the address book ─────────────────────────────────────►  the transport
                  └─► not yet: present peers are asked for its contact first ──►  the transport
                                                          it cannot be reached ──►  noted
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from swarm.bounded import LeastRecentlyUsed
from swarm.errors import Unreachable
from swarm.identity import PeerId
from swarm.membership.contacts import Contacts
from swarm.transport import Request, Transport

from .forwarding import ForwardingTransport

PATIENCE_SECONDS = 2.0
"""For the answers of the peers that are asked."""
AGAIN_SECONDS = 5.0
"""After which they are asked again about a peer that none of them knew."""
ASKED_ABOUT = 256
"""Peers about which that is remembered, at most."""

Find = Callable[[PeerId, float], Awaitable[None]]
"""(peer, deadline): ask others for the contact of ``peer``, and put it into the address book."""
Lost = Callable[[PeerId, float], None]
"""(peer, time): a request to ``peer`` that began at this time has failed."""


class LookupTransport(ForwardingTransport):
    """A `Transport` that lets ``find`` look for a peer that is not among the ``contacts``, before the first
    request to it, and tells ``lost`` of peers that cannot be reached."""

    def __init__(self, transport: Transport, contacts: Contacts, find: Find, lost: Lost) -> None:
        super().__init__(transport)
        self._contacts = contacts
        self._find = find
        self._lost = lost
        self._asked_at: LeastRecentlyUsed[PeerId, float] = LeastRecentlyUsed(ASKED_ABOUT)
        self._turns: dict[PeerId, asyncio.Lock] = {}

    async def request(self, to: PeerId, request: Request, *, deadline: float) -> bytes:
        """The reply of ``to``. Raises what the transport raises."""
        if not self._contacts.addresses(to):
            await self._look_for(to, deadline)
        began = asyncio.get_running_loop().time()
        try:
            return await super().request(to, request, deadline=deadline)
        except Unreachable:
            self._lost(to, began)
            raise

    async def _look_for(self, peer: PeerId, deadline: float) -> None:
        """Ask about ``peer``. Requests that come meanwhile wait for the same answer."""
        loop = asyncio.get_running_loop()
        turn = self._turns.setdefault(peer, asyncio.Lock())
        try:
            async with asyncio.timeout_at(deadline), turn:
                now = loop.time()
                is_due = now >= self._asked_at.get(peer, -AGAIN_SECONDS) + AGAIN_SECONDS
                if is_due and not self._contacts.addresses(peer):
                    self._asked_at[peer] = now
                    await self._find(peer, min(deadline, now + PATIENCE_SECONDS))
        except TimeoutError:
            return  # the request itself will say so
        finally:
            if not turn.locked():
                self._turns.pop(peer, None)
