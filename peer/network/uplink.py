"""How fast this computer's line sends, measured while it is busy: nothing is sent only to find out.

    requests with large bodies      ───####──────
                                    ─────####────────####─    a spell lasts while at least one is under way
    measurements                       |--x                   bytes that have arrived ÷ seconds, whenever one of them has
                                       |----x

Requests to several peers at once share the line, so they count together. Every such quotient is at most what the line can do: a
slow receiver, or one that fails, makes it smaller. So the largest of a spell is taken. Few bytes would measure distances.
"""

from __future__ import annotations

from collections.abc import Callable

from averaging.codec_choice import copies, fitting
from averaging.groups import LinkClaim
from averaging.messages import MAX_UP
from swarm.identity import PeerId
from swarm.manifest import Codec, RoundSpec
from swarm.transport import Request, Transport

from .forwarding import ForwardingTransport

LARGE = 64 << 10
"""Bytes of a body from which on it counts."""
ENOUGH = 1 << 20
"""Bytes of a spell from which on it is a measurement."""
SHARE = 0.1
"""Of a round's local training: a line that needs longer for its update sends a smaller one. The rest of it comes later."""
MEMORY = 0.9
"""What is left of an older measurement when a new one is slower: waiting for others makes a line look slow, nothing makes it look
fast."""


class Uplink:
    """The measurement, without a clock. ``rate`` in bytes per second, 0 before the first spell."""

    def __init__(self) -> None:
        self.rate = 0.0
        self._under_way = self._bytes = 0
        self._began = self._best = 0.0

    def begin(self, now: float) -> None:
        """A large request sets out."""
        if not self._under_way:
            self._began, self._bytes, self._best = now, 0, 0.0
        self._under_way += 1

    def end(self, size: int, now: float) -> None:
        """It has arrived with its ``size`` bytes; 0 where it has failed."""
        self._under_way -= 1
        self._bytes += size
        if self._bytes >= ENOUGH and now > self._began:
            self._best = max(self._best, self._bytes / (now - self._began))
        if not self._under_way and self._best:
            self.rate = max(self._best, MEMORY * self.rate)

    def codec(self, spec: RoundSpec, numbers: int, members: int) -> Codec:
        """How an update of ``numbers`` numbers should travel to a group like the last one, of so many ``members``.

        As the run says, or smaller, so that sending it takes at most `SHARE` of a round.
        """
        return fitting(spec.codec, numbers * copies(spec.exchange, members), self.rate, SHARE * spec.seconds)

    def line(self, *, dialable: bool) -> LinkClaim:
        """What we tell the others of our line."""
        return LinkClaim(min(MAX_UP, round(self.rate / 1000)), dialable)


class MeteredTransport(ForwardingTransport):
    """A `Transport` that lets ``uplink`` see every large request."""

    def __init__(self, transport: Transport, uplink: Uplink, clock: Callable[[], float]) -> None:
        super().__init__(transport)
        self._uplink, self._clock = uplink, clock

    async def request(self, to: PeerId, request: Request, *, deadline: float) -> bytes:
        """The reply of ``to``. Raises what the transport does."""
        if len(request.body) < LARGE:
            return await super().request(to, request, deadline=deadline)
        self._uplink.begin(self._clock())
        arrived = 0
        try:
            reply = await super().request(to, request, deadline=deadline)
            arrived = len(request.body)
            return reply
        finally:
            self._uplink.end(arrived, self._clock())
