"""The trusted head: the organiser's signed head, on which newcomers rely while a young run has too few peers
for a vote.

    organiser ──► anchor: its signed head, now and then, to a few peers ──► each keeps the newest one
    newcomer  ──► anchor / (nothing)                                    ──► the organiser's, from any peer

(The route is called ``anchor`` on the wire.)

Rule 1: with fewer than `ENOUGH` claims the organiser's own head decides, if it counts, however many peers
        claim something else. It does not count if others have gone on from it since: then the organiser has
        lost its checkpoint, and follows them.
Rule 2: if the organiser is not among the answers, what it has signed still counts: heads that contradict it
        or are behind it are not believed. Heads that are ahead of it may be right: a run goes on without its
        organiser.
Rule 3: the frame is checked by its signature, so it does not matter which peer passes it on. An old one only
        protects less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from swarm.asking import ask_all
from swarm.errors import Impostor, Refused
from swarm.identity import PeerId
from swarm.manifest import RunManifest
from swarm.transport import Call, Payload, Request, Route, Transport
from swarm.wire import Signed

from .head import ENOUGH, ChosenHead, Claim, Head, current, fork_choice, open_head

TELL_SECONDS = 30.0
"""Between two trusted heads that the organiser sends."""
PATIENCE = 5.0
"""Seconds that telling a peer may take."""


def choose_for_newcomer(
    claims: Sequence[Claim], organiser: PeerId, trusted: Signed[Head] | None
) -> ChosenHead | None:
    """The head that a newcomer takes, by the rules of the module; None if there is none to believe (ask
    again)."""
    counted = current(claims, organiser)
    if len(counted) < ENOUGH:
        decisive = next((claim for claim in counted if claim.signer == organiser), None)
        if decisive:
            counted = [claim for claim in counted if claim.state == decisive.state]
        elif trusted:
            counted = [claim for claim in counted if not _contradicts(claim.signed, trusted)]
    return fork_choice(counted, organiser)


def _contradicts(signed: Signed[Head], trusted: Signed[Head]) -> bool:
    """Whether a head is behind the trusted one, or another one of the same round."""
    if signed.stamp.round == trusted.stamp.round:
        return signed.message.state_root != trusted.message.state_root
    return signed.stamp.round < trusted.stamp.round


class TrustedHeads:
    """Keeps the newest trusted head, passes it on, and asks others for theirs."""

    def __init__(self, manifest: RunManifest, transport: Transport) -> None:
        self._manifest = manifest
        self._organiser = manifest.organiser_id
        self._transport = transport
        self.newest: Signed[Head] | None = None
        """Of the highest round that we have heard of."""
        transport.serve(Route("anchor", self._on_anchor))

    async def _on_anchor(self, call: Call) -> Payload:
        if call.body:
            self.learn(bytes(call.body))
            return b""
        if self.newest is None:
            raise Refused("no word of the organiser is here")
        return self.newest.raw

    def learn(self, raw: bytes) -> None:
        """Keep a frame if it is newer than ours.

        Raises the faults of `open_head`, and `Impostor` if it is not the organiser's.
        """
        signed = open_head(raw, self._manifest)
        if signed.signer != self._organiser:
            raise Impostor("only the organiser's word is an anchor")
        if self.newest is None or signed.stamp.round > self.newest.stamp.round:
            self.newest = signed

    async def choose(self, claims: Sequence[Claim], deadline: float) -> ChosenHead | None:
        """The head that a newcomer takes.

        If few heads came, the peers that sent them are asked for the trusted head as well.
        """
        counted = current(claims, self._organiser)
        if len(counted) < ENOUGH and all(claim.signer != self._organiser for claim in counted):
            others = [claim.signer for claim in claims if claim.signer != self._transport.me]
            await self._ask(others, deadline)
        return choose_for_newcomer(claims, self._organiser, self.newest)

    async def _ask(self, peers: Sequence[PeerId], deadline: float) -> None:
        """A peer that has none, or lies, changes nothing: the heads of the others count the same."""

        async def ask(peer: PeerId) -> None:
            self.learn(await self._transport.request(peer, Request("anchor"), deadline=deadline))

        await ask_all(peers, ask)

    async def keep_telling(
        self, sealed_head: Callable[[], bytes | None], some: Callable[[], Sequence[PeerId]]
    ) -> None:
        """For ever, as the organiser: give our signed head to ``some`` peers now and then."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TELL_SECONDS)
            frame = sealed_head()
            if frame is not None:
                self.learn(frame)
                await self._tell(frame, some(), loop.time() + PATIENCE)

    async def _tell(self, frame: bytes, peers: Sequence[PeerId], deadline: float) -> None:
        """A peer that is not told hears of it the next time, or from the others."""

        async def tell(peer: PeerId) -> None:
            await self._transport.request(peer, Request("anchor", frame), deadline=deadline)

        await ask_all(peers, tell)
