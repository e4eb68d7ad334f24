"""How often we dial the addresses that strangers name: who dials on their word may be their port scanner.

    a first dial ──► is the same one under way? wait for it ──► is anything left for it? ──► dial
                     it has answered as that peer: from now on it is dialled as often as we like ◄──┘

An address that has not answered as the peer that names it is dialled as `DialLimits` allows: only so often
for one peer, only so many at one host, only so many on the word of one teller. An answer gives back what its
dial has taken, so peers that are there take nothing from each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ..bounded import LeastRecentlyUsed
from ..hosts import group_of
from ..identity import PeerId
from ..membership.contacts import BOOK_LIMIT
from ..ticket import Address
from .guard import DialLimits
from .throttle import TokenBucket


class NoAnswer(Exception):
    """No peer of this protocol answers at an address; the text says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A peer at an IP address that it names, and on whose word: a share as in `swarm.hosts`."""

    peer: PeerId
    address: Address
    share: str


@dataclass(slots=True)
class _FirstDial:
    """A dial of an address that has not answered yet. ``failure`` is why, if it has failed."""

    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    failure: NoAnswer | None = None


class Dials:
    """The dials of one transport to addresses that have not answered yet."""

    def __init__(self, limits: DialLimits) -> None:
        self._limits = limits
        self._answered: LeastRecentlyUsed[tuple[PeerId, Address], None] = LeastRecentlyUsed(BOOK_LIMIT)
        self._under_way: dict[tuple[PeerId, Address], _FirstDial] = {}
        self._buckets: LeastRecentlyUsed[tuple[str, str], TokenBucket] = LeastRecentlyUsed(3 * BOOK_LIMIT)
        """By what they limit, and whose: a peer's address, a host, or a teller."""

    def answered(self, peer: PeerId, address: Address) -> None:
        """``peer`` has proven its key at ``address``."""
        self._answered[peer, address] = None
        first = self._under_way.get((peer, address))
        if first:
            first.is_over.set()

    @asynccontextmanager
    async def one(self, target: Target) -> AsyncIterator[None]:
        """Dial ``target`` within this context.

        Raises `NoAnswer` where it was dialled too often, or where the dial that was under way has failed.
        """
        key = (target.peer, target.address)
        while key not in self._answered and key in self._under_way:
            first = self._under_way[key]
            await first.is_over.wait()
            if first.failure:
                raise NoAnswer(str(first.failure))
        if key in self._answered:
            yield
            return

        buckets = self._take(target)
        first = self._under_way[key] = _FirstDial()
        try:
            yield
            self.answered(*key)
        except NoAnswer as failure:
            first.failure = failure
            raise
        finally:
            del self._under_way[key]
            first.is_over.set()
            if key in self._answered:
                for bucket in buckets:
                    bucket.give_back(1)

    def _take(self, target: Target) -> list[TokenBucket]:
        """The buckets that have paid for a dial. Raises `NoAnswer` where one of them is empty."""
        now = asyncio.get_running_loop().time()
        limits = self._limits
        address = f"{target.peer} {target.address}"
        buckets = [
            self._bucket("address", address, limits.tries_per_second, limits.tries),
            self._bucket("host", group_of(target.address.host), limits.host_rate, limits.host_burst),
            self._bucket("teller", target.share, limits.teller_rate, limits.teller_burst),
        ]
        if any(bucket.wait(1, now) for bucket in buckets):
            raise NoAnswer("it has been tried too often just now")
        for bucket in buckets:
            bucket.take(1, now)
        return buckets

    def _bucket(self, kind: str, name: str, rate: float, burst: float) -> TokenBucket:
        key = (kind, name)
        if key not in self._buckets:
            self._buckets[key] = TokenBucket(rate, burst)
        self._buckets.touch(key)
        return self._buckets[key]
