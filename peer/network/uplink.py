"""How fast this computer's uplink is, measured while it is busy: nothing is sent only to find out.

    requests with large bodies    ───####──────
                                  ─────####────────####─    a busy period lasts while one is under way
    measurements                     |--x                   bytes arrived ÷ seconds, when one has arrived
                                     |----x

Requests to several peers at once share the uplink, so they count together. Every such quotient is at most
what the uplink can do: a slow receiver, or one that fails, makes it smaller. So the largest of a busy period
is taken. Few bytes would measure distances.
"""

from __future__ import annotations

from collections.abc import Callable

from averaging.codec_choice import copies, fitting
from averaging.groups import LinkClaim
from averaging.messages import MAX_UPLINK
from swarm.identity import PeerId
from swarm.manifest import Codec, RoundSpec
from swarm.transport import Request, Transport

from .forwarding import ForwardingTransport

LARGE = 64 << 10
"""Bytes of a body from which on a request counts."""
ENOUGH = 1 << 20
"""Bytes of a busy period from which on it is a measurement."""
SHARE = 0.1
"""Of a round's local training: a peer whose uplink needs longer for its update sends a smaller one and
carries over the rest."""
MEMORY = 0.9
"""What is left of an older measurement when a new one is slower: waiting for others makes an uplink look
slow, nothing makes it look fast."""


class Uplink:
    """The measurement, without a clock. ``rate`` is in bytes per second, 0 before the first measurement."""

    def __init__(self) -> None:
        self.rate = 0.0
        self.is_dialable = True
        """Whether others can open connections to us, as far as anybody has tried."""
        self._under_way = 0
        self._bytes = 0
        self._began = 0.0
        self._best = 0.0

    def begin(self, now: float) -> None:
        """A large request is sent."""
        if not self._under_way:
            self._began = now
            self._bytes = 0
            self._best = 0.0
        self._under_way += 1

    def end(self, size: int, now: float) -> None:
        """It has arrived with its ``size`` bytes; 0 if it has failed."""
        self._under_way -= 1
        self._bytes += size
        if self._bytes >= ENOUGH and now > self._began:
            self._best = max(self._best, self._bytes / (now - self._began))
        if not self._under_way and self._best:
            self.rate = max(self._best, MEMORY * self.rate)

    def codec(self, spec: RoundSpec, numbers: int, members: int) -> Codec:
        """How to encode an update of ``numbers`` numbers for a group like the last one, which had
        ``members``.

        As the run says, or smaller, so that sending it takes at most `SHARE` of a round.
        """
        sent = numbers * copies(spec.exchange, members)
        return fitting(spec.codec, sent, self.rate, SHARE * spec.seconds)

    def claim(self) -> LinkClaim:
        """What we tell the others about our link."""
        return LinkClaim(min(MAX_UPLINK, round(self.rate / 1000)), self.is_dialable)


class MeteredTransport(ForwardingTransport):
    """A `Transport` that lets ``uplink`` see every large request."""

    def __init__(self, transport: Transport, uplink: Uplink, clock: Callable[[], float]) -> None:
        super().__init__(transport)
        self._uplink = uplink
        self._clock = clock

    async def request(self, to: PeerId, request: Request, *, deadline: float) -> bytes:
        """The reply of ``to``. Raises what the transport raises."""
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
