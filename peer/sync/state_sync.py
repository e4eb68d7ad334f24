"""Get what the others have: the training text and the shared state, from several donors, believed by majority, checked by hash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from swarm.errors import DiskTrouble, NobodyThere, TheirFault, Weather
from swarm.identity import PeerId
from swarm.machine import Arithmetic, Report
from swarm.manifest import RunManifest
from swarm.wire import Signed

from ..chunks.download import DownloadProgress, Wanted
from ..chunks.exchange import ChunkExchange, Order
from ..chunks.hashes import chunk_count, chunk_length
from ..data import corpus as corpora
from ..data.corpus import Corpus
from ..network.membership import MANY, Membership
from ..training.state import CHUNK, SharedState, assemble, blob_length, state_root_from
from .head import ChosenHead, Head, fork_choice
from .trusted_head import TrustedHeads

Tell = Callable[[str, DownloadProgress], None]
"""(what is being fetched, how far it is)."""
POLL_SECONDS = 0.25
SCOUTS = 2
"""Peers that are asked in a population whether there is anything new, before more are."""


class Sync:
    """Downloads for one peer of one run. ``tell`` hears about progress."""

    def __init__(
        self,
        manifest: RunManifest,
        chunks: ChunkExchange,
        membership: Membership,
        arithmetic: Arithmetic,
        tell: Tell,
        anchors: TrustedHeads | None = None,
    ) -> None:
        self._manifest, self._chunk_exchange, self._membership, self._arithmetic = (
            manifest,
            chunks,
            membership,
            arithmetic,
        )
        self._tell, self._anchors = tell, anchors

    async def corpus(self, kept_in: Path | None, deadline: float) -> Corpus:
        """The run's training text: from ``kept_in`` where it is whole, else from peers. Raises `NobodyThere` at ``deadline``."""
        spec = self._manifest.data
        found = await self._arithmetic.run(lambda: corpora.open_saved(kept_in, spec)) if kept_in else None
        while found is None:
            found = await self._downloaded_corpus(kept_in, deadline)
            if found is None:
                await self._pause(deadline, "no peer could give us the training text")
        self._chunk_exchange.offer(spec.root, found, always=True)
        return found

    async def _downloaded_corpus(self, kept_in: Path | None, deadline: float) -> Corpus | None:
        spec = self._manifest.data
        lengths = tuple(
            chunk_length(i, spec.length, spec.chunk) for i in range(chunk_count(spec.length, spec.chunk))
        )
        chunks = await self._chunks(
            "text",
            spec.root,
            lengths,
            self._donors(),
            lambda hashes: corpora.data_root(hashes, spec.length) == spec.root,
            deadline,
        )
        if chunks is None:
            return None
        corpus = await self._arithmetic.run(lambda: corpora.assemble(spec, chunks))
        if kept_in:
            try:
                await self._arithmetic.run(lambda: corpora.save(corpus, kept_in))
            except DiskTrouble as error:  # memory is enough; the next life fetches it again
                self._chunk_exchange.report(Report(error.code, error.fact))
        return corpus

    async def standing(
        self, own: Signed[Head] | None, deadline: float, passed: Collection[bytes] = ()
    ) -> tuple[ChosenHead | None, int]:
        """(where the run stands, how many others said something). Our own word counts as one of them, and those do not who stand
        on a root that we have ``passed``.

        Who has no word of its own, or only an echo, is a newcomer, and holds on to the organiser's where the others are few.
        """
        offers = await self._membership.offers(deadline)
        heard = [offer for offer in offers if offer.message.state_root not in passed] + ([own] if own else [])
        if self._anchors and not (own and own.message.is_participant):
            return await self._anchors.choose(heard, deadline), len(offers)
        return fork_choice(heard, self._manifest.organiser_id), len(offers)

    async def is_news(self, own: Signed[Head] | None, deadline: float) -> bool:
        """Whether it is worth asking where the run stands: in a small run always, in a population where one of a few says so."""
        membership = self._membership
        if own is None or len(membership.roster) <= MANY:
            return True
        offers = await membership.offers(deadline, membership.some(SCOUTS))
        return not offers or any(offer.stamp.round > own.stamp.round for offer in offers)

    async def state(self, standing: ChosenHead, numbers: int, deadline: float) -> SharedState | None:
        """The state that ``standing`` names; None where its donors left or moved on before it was whole (weather: ask again)."""
        has_momentum = self._manifest.outer.momentum > 0
        length = blob_length(numbers, has_momentum)
        lengths = tuple(chunk_length(i, length, CHUNK) for i in range(chunk_count(length, CHUNK)))
        root, round_ = standing.state_root, standing.round
        chunks = await self._chunks(
            "model",
            root,
            lengths,
            standing.donors,
            lambda hashes: state_root_from(round_, hashes, length) == root,
            deadline,
        )
        if chunks is None:
            return None
        return await self._arithmetic.run(lambda: assemble(round_, chunks, numbers, has_momentum))

    def _donors(self) -> tuple[PeerId, ...]:
        return self._membership.some()

    async def _chunks(
        self,
        what: str,
        root: bytes,
        lengths: tuple[int, ...],
        donors: Sequence[PeerId],
        proves: Callable[[tuple[bytes, ...]], bool],
        deadline: float,
    ) -> list[bytes] | None:
        """All chunks of ``root`` in order; None where they could not be had this time (those that came are kept for the next)."""
        try:
            hashes = await self._chunk_exchange.index(root, donors, len(lengths), proves, deadline)
        except (TheirFault, Weather):
            return None
        order = Order(what, root, Wanted(hashes, lengths, deadline))
        fetched = await self._chunk_exchange.download(
            order, donors, lambda progress: self._tell(what, progress)
        )
        if not fetched.complete:
            return None
        await self._arithmetic.run(lambda: self._chunk_exchange.finished(what))
        return [fetched.chunks[index] for index in range(len(hashes))]

    async def _pause(self, deadline: float, fact: str) -> None:
        """Wait a little, or give up at ``deadline``."""
        if asyncio.get_running_loop().time() + POLL_SECONDS >= deadline:
            raise NobodyThere(
                fact, "check that the run is still alive, or ask the organiser for a fresh ticket"
            )
        await asyncio.sleep(POLL_SECONDS)
