"""Fetching what the other peers have, the training text and the shared state: from several donors, each chunk
checked by its hash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from swarm.errors import DiskTrouble, NobodyThere, TheirFault, Weather, WrongContent
from swarm.identity import PeerId
from swarm.machine import Arithmetic, Report
from swarm.manifest import RunManifest

from ..chunks.download import DownloadProgress, Wanted
from ..chunks.exchange import ChunkExchange, Order
from ..chunks.hashes import ChunkLengths
from ..data import corpus as corpora
from ..data.corpus import Corpus
from ..network.membership import Membership
from ..observe.snapshot import Fetching
from ..training.state import CHUNK, SharedState, assemble, blob_length, state_root_from
from .head import ChosenHead

Tell = Callable[[Fetching], None]
"""Hears how far a download is."""
POLL_SECONDS = 0.25
"""Between two attempts."""


@dataclass(frozen=True, slots=True)
class _Content:
    """Something to fetch: for people a ``text`` or a ``model``; its root; the lengths of its chunks; what
    proves their hashes."""

    what: str
    root: bytes
    lengths: Sequence[int]
    proves: Callable[[tuple[bytes, ...]], bool]


class StateSync:
    """Downloads for one peer of one run. ``tell`` hears about progress."""

    def __init__(
        self,
        manifest: RunManifest,
        chunks: ChunkExchange,
        membership: Membership,
        arithmetic: Arithmetic,
        tell: Tell,
    ) -> None:
        self._manifest = manifest
        self._chunk_exchange = chunks
        self._membership = membership
        self._arithmetic = arithmetic
        self._tell = tell

    async def corpus(self, kept_in: Path | None, deadline: float) -> Corpus:
        """The run's training text: from ``kept_in`` if it is whole there, else from peers.

        Raises `NobodyThere` at ``deadline``.
        """
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
        lengths = ChunkLengths(spec.length, spec.chunk)
        content = _Content(
            "text", spec.root, lengths, lambda hashes: corpora.data_root(hashes, spec.length) == spec.root
        )
        chunks = await self._chunks(content, self._membership.some(), deadline)
        if chunks is None:
            return None
        corpus = await self._arithmetic.run(lambda: corpora.assemble(spec, chunks))
        if kept_in:
            try:
                await self._arithmetic.run(lambda: corpora.save(corpus, kept_in))
            except DiskTrouble as error:  # memory is enough; the next start fetches it again
                self._chunk_exchange.report(Report(error.code, error.fact))
        return corpus

    async def state(self, head: ChosenHead, numbers: int, deadline: float) -> SharedState | None:
        """The state of ``head``; None if its donors left or moved on before it was whole (ask again for the
        head), or if it is no model that can be trained.

        The latter is reported. It is not the donors' fault: they have what the head says that they have.
        """
        has_momentum = self._manifest.outer.momentum > 0
        length = blob_length(numbers, has_momentum)
        content = _Content(
            "model",
            head.state_root,
            ChunkLengths(length, CHUNK),
            lambda hashes: state_root_from(head.round, hashes, length) == head.state_root,
        )
        chunks = await self._chunks(content, head.donors, deadline)
        if chunks is None:
            return None
        try:
            return await self._arithmetic.run(lambda: assemble(head.round, chunks, numbers, has_momentum))
        except WrongContent as error:
            self._chunk_exchange.report(Report("bad-state", error.fact))
            return None

    async def _chunks(
        self, content: _Content, donors: Sequence[PeerId], deadline: float
    ) -> list[bytes] | None:
        """All chunks in order; None if they could not be had this time (those that came are kept for the
        next)."""
        exchange = self._chunk_exchange
        count = len(content.lengths)
        try:
            hashes = await exchange.index(content.root, donors, count, content.proves, deadline)
        except (TheirFault, Weather):
            return None
        order = Order(content.what, content.root, Wanted(hashes, content.lengths, deadline))
        fetched = await exchange.download(
            order, donors, lambda progress: self._tell(_fetching(content.what, progress))
        )
        if not fetched.complete:
            return None
        await self._arithmetic.run(lambda: exchange.finished(content.what))
        return [fetched.chunks[index] for index in range(len(hashes))]

    async def _pause(self, deadline: float, fact: str) -> None:
        """Wait a little, or give up at ``deadline``."""
        if asyncio.get_running_loop().time() + POLL_SECONDS >= deadline:
            advice = "check that the run is still alive, or ask the organiser for a fresh ticket"
            raise NobodyThere(fact, advice)
        await asyncio.sleep(POLL_SECONDS)


def _fetching(what: str, progress: DownloadProgress) -> Fetching:
    return Fetching(
        what=what,
        here=progress.chunks,
        whole=progress.chunks_whole,
        bytes_per_second=progress.bytes_per_second,
        donors=progress.donors,
    )
