"""The organiser's word on where a young run stands: what a newcomer holds on to while there are too few peers for a vote.

    organiser ──► anchor: its signed offer, now and then, to a few peers ──► kept by each, the newest only
    newcomer  ──► anchor / (nothing)                                      ──► the organiser's frame, from whoever has it

Rule 1: with fewer than `ENOUGH` answers that count the organiser's own decides, if it counts, however many say something else.
        It does not where the organiser is itself a newcomer to its run: it comes back without a checkpoint, and follows the others.
Rule 2: where the organiser is not among them, what it signed still counts: who contradicts it or is behind it is not believed.
        Who is ahead of it may be right: a run goes on without its organiser.
Rule 3: the frame is checked by its signature, so it does not matter who hands it on; an old one only protects less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from swarm.errors import Impostor, Refused, TheirFault, Weather
from swarm.identity import KeyPair, PeerId
from swarm.manifest import RunManifest
from swarm.transport import Call, Payload, Request, Route, Transport
from swarm.wire import Signed, Stamp, open_frame, seal

from .head import ENOUGH, ChosenHead, Head, fork_choice, voices

TELL_SECONDS = 30.0
"""Between two words of the organiser."""
PATIENCE = 5.0


def taken(
    offers: Sequence[Signed[Head]], organiser: PeerId, anchor: Signed[Head] | None
) -> ChosenHead | None:
    """The state that a newcomer takes, by the rules of the module; None where there is none to be believed (ask again)."""
    heard = voices(offers)
    if len(heard) < ENOUGH:
        decisive = next((signed for signed in heard if signed.signer == organiser), None)
        if decisive:
            offers = [signed for signed in offers if _said(signed) == _said(decisive)]
        elif anchor:
            offers = [signed for signed in offers if not _contradicts(signed, anchor)]
    return fork_choice(offers, organiser)


def _said(signed: Signed[Head]) -> tuple[int, bytes]:
    return signed.stamp.round, signed.message.state_root


def _contradicts(signed: Signed[Head], anchor: Signed[Head]) -> bool:
    return signed.stamp.round < anchor.stamp.round or (
        signed.stamp.round == anchor.stamp.round and signed.message.state_root != anchor.message.state_root
    )


class TrustedHeads:
    """Keeps the organiser's newest word, hands it on, and asks others for theirs."""

    def __init__(self, manifest: RunManifest, transport: Transport) -> None:
        self._run, self._organiser, self._transport = manifest.run_id, manifest.organiser_id, transport
        self.newest: Signed[Head] | None = None
        """Of the highest round that we have heard of; None where nobody has one."""
        transport.serve(Route("anchor", self._on_anchor))

    async def _on_anchor(self, call: Call) -> Payload:
        if call.body:
            self.learn(bytes(call.body))
            return b""
        if self.newest is None:
            raise Refused("no word of the organiser is here")
        return self.newest.raw

    def learn(self, raw: bytes) -> None:
        """Keep a frame if it is newer than ours. Raises the faults of `open_frame`, and `Impostor` where it is somebody else's."""
        signed = open_frame(raw, Head, run=self._run)
        if signed.signer != self._organiser:
            raise Impostor("only the organiser's word is an anchor")
        if self.newest is None or signed.stamp.round > self.newest.stamp.round:
            self.newest = signed

    async def choose(self, offers: Sequence[Signed[Head]], deadline: float) -> ChosenHead | None:
        """What a newcomer takes of ``offers``; where they are few, those who made them are asked for the organiser's word, too."""
        heard = voices(offers)
        if len(heard) < ENOUGH and all(signed.signer != self._organiser for signed in heard):
            await self._ask(
                [signed.signer for signed in offers if signed.signer != self._transport.me], deadline
            )
        return taken(offers, self._organiser, self.newest)

    async def _ask(self, peers: Sequence[PeerId], deadline: float) -> None:
        async def one(peer: PeerId) -> None:
            try:
                self.learn(await self._transport.request(peer, Request("anchor"), deadline=deadline))
            except (TheirFault, Weather):
                return  # it has none, or it lies: the others' words count the same

        async with asyncio.TaskGroup() as tasks:
            for peer in peers:
                tasks.create_task(one(peer))

    async def keep_telling(
        self,
        key: KeyPair,
        offer: Callable[[], tuple[int, Head] | None],
        some: Callable[[], Sequence[PeerId]],
    ) -> None:
        """For ever, the organiser's part: sign where we stand, and give it to ``some``."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TELL_SECONDS)
            if (current := offer()) is not None:
                self.learn(word := seal(key, current[1], Stamp(self._run, round=current[0])))
                await self._tell(word, some(), loop.time() + PATIENCE)

    async def _tell(self, word: bytes, peers: Sequence[PeerId], deadline: float) -> None:
        async def one(peer: PeerId) -> None:
            try:
                await self._transport.request(peer, Request("anchor", word), deadline=deadline)
            except (TheirFault, Weather):
                return  # the next time, or the others

        async with asyncio.TaskGroup() as tasks:
            for peer in peers:
                tasks.create_task(one(peer))
