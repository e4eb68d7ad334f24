"""Content that this peer serves and downloads by its root: lists of hashes, and chunks.

index / ROOT       ──►  the hashes of all chunks, 32 bytes each
chunk / ROOT.I     ──►  one chunk, when it is the caller's turn; `Busy` where that would take too long

A peer that has once sent something that does not match its root is not asked for anything again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from swarm.asking import ask_all
from swarm.bounded import LeastRecentlyUsed
from swarm.errors import Malformed, Refused, TheirFault, Weather, WrongContent
from swarm.identity import PeerId
from swarm.machine import (
    Arithmetic,
    Command,
    Compute,
    Computed,
    Delivered,
    Event,
    Fetch,
    Report,
    Unreached,
    drive,
)
from swarm.transport import Call, Payload, Request, Route, Transport

from .download import CheckChunk, Download, DownloadProgress, Fetched, Wanted
from .resume import ResumeStore
from .turns import Serving, Turns

INDEX_SECONDS = 10.0
"""Longest wait for a list of hashes. It is small beside the content that it lists."""
KEPT = 4
"""Contents served at once beside the permanent ones: the latest states, so that a donor may move on to the
next round while a newcomer downloads from it."""


class Content(Protocol):
    """Something in chunks. ``hashes`` and ``chunk`` never change for one root."""

    @property
    def hashes(self) -> Sequence[bytes]:
        """The digest of every chunk (`swarm.hashing`)."""

    def chunk(self, index: int) -> Payload:
        """The bytes of one chunk. Raises `IndexError`."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to download: the chunks of ``root``. ``what`` is ``text`` or ``model``, for people and on disk."""

    what: str
    root: bytes
    wanted: Wanted


class ChunkExchange:
    """Serves `Content` by root, and downloads it from others. Calls ``report`` with news for people."""

    def __init__(
        self,
        transport: Transport,
        arithmetic: Arithmetic,
        tasks: asyncio.TaskGroup,
        report: Callable[[Report], None],
        resume: ResumeStore | None = None,
        serving: Serving | None = None,
    ) -> None:
        """``resume`` keeps the chunks of a download that was cut off; by default in memory only."""
        self._transport = transport
        self._arithmetic = arithmetic
        self._tasks = tasks
        self.report = report
        self._resume = resume or ResumeStore(None)
        self.turns = Turns(serving or Serving())
        """Of all that this peer sends to those that fetch from it."""
        self._liars: set[PeerId] = set()
        self._permanent: dict[str, Content] = {}
        self._recent: LeastRecentlyUsed[str, Content] = LeastRecentlyUsed(KEPT)
        transport.serve(Route("index", self._on_index))
        transport.serve(Route("chunk", self._on_chunk, on_unsent=self.turns.give_back))

    def offer(self, root: bytes, content: Content, *, always: bool = False) -> None:
        """Serve ``content`` from now on: ``always``, or until `KEPT` newer contents have been offered."""
        if always:
            self._permanent[root.hex()] = content
        else:
            self._recent[root.hex()] = content

    # --- serving --------------------------------------------------------------------------------------------

    async def _on_index(self, call: Call) -> Payload:
        return b"".join(self._find(call.argument).hashes)

    async def _on_chunk(self, call: Call) -> Payload:
        root, _, number = call.argument.partition(".")
        content = self._find(root)
        if not (number.isascii() and number.isdigit() and int(number) < len(content.hashes)):
            raise Malformed(f"there is no chunk {number[:20]!r}")
        chunk = content.chunk(int(number))
        await self.turns.take(call, len(chunk))
        return chunk

    def _find(self, root: str) -> Content:
        content = self._permanent.get(root, self._recent.get(root))
        if content is None:
            raise Refused("that content is not here (any more)")
        return content

    # --- downloading ----------------------------------------------------------------------------------------

    def honest(self, donors: Sequence[PeerId]) -> list[PeerId]:
        """Those of ``donors`` that have never sent us wrong content."""
        return [donor for donor in donors if donor not in self._liars]

    async def index(
        self,
        root: bytes,
        donors: Sequence[PeerId],
        count: int,
        proves: Callable[[tuple[bytes, ...]], bool],
        deadline: float,
    ) -> tuple[bytes, ...]:
        """The list of ``count`` hashes that belongs to ``root``, which ``proves`` decides.

        Asks all donors at once and takes the first right list. Raises the error of the last donor where none
        has it, `WrongContent` where there is no donor to ask.
        """
        deadline = min(deadline, asyncio.get_running_loop().time() + INDEX_SECONDS)
        request = Request("index", argument=root.hex(), limit=32 * count)

        async def ask(donor: PeerId) -> tuple[bytes, ...]:
            raw = await self._transport.request(donor, request, deadline=deadline)
            hashes = tuple(raw[at : at + 32] for at in range(0, len(raw), 32))
            if len(hashes) == count and proves(hashes):
                return hashes
            self._liars.add(donor)
            fact = "sent a list of chunks that does not belong to its root; it is not asked again"
            self.report(Report("bad-chunk", fact, donor))
            raise WrongContent("the list of chunks does not belong to its root")

        answers = await ask_all(self.honest(donors), ask, enough=1)
        for hashes in answers.given.values():
            return hashes
        raise next(reversed(answers.failed.values()), WrongContent("nobody was asked"))

    async def download(
        self, order: Order, donors: Sequence[PeerId], tell: Callable[[DownloadProgress], None]
    ) -> Fetched:
        """Fetch the missing chunks from all ``donors`` in parallel; calls ``tell`` after every new chunk.

        Chunks that were fetched by an earlier attempt, or before a restart, are not fetched again.
        """
        hashes = order.wanted.hashes
        have = await self._arithmetic.run(lambda: self._resume.recall(order.what, order.root, hashes))
        inbox: asyncio.Queue[Event] = asyncio.Queue()
        machine = Download(order.wanted, self.honest(donors), have)
        loop = asyncio.get_running_loop()
        told = -1

        def act(command: Command) -> None:
            nonlocal told
            progress = machine.progress(loop.time())
            if progress.chunks != told:
                told = progress.chunks
                tell(progress)
            if isinstance(command, Fetch):
                under_way.append(self._tasks.create_task(self._fetch(order, command, inbox)))
            elif isinstance(command, Compute):
                under_way.append(self._tasks.create_task(self._compute(order, command, inbox)))
            elif isinstance(command, Report):
                self.report(command)

        with _cancelled_at_the_end() as under_way:
            fetched: Fetched = await drive(machine, act, inbox)
        tell(machine.progress(loop.time()))
        self._liars |= fetched.liars
        return fetched

    def finished(self, what: str) -> None:
        """The content of a download is in use: remove what was kept to resume it."""
        self._resume.done(what)

    async def _fetch(self, order: Order, command: Fetch, inbox: asyncio.Queue[Event]) -> None:
        argument = f"{order.root.hex()}.{command.item}"
        request = Request("chunk", argument=argument, limit=command.length)
        deadline = command.by or order.wanted.finish_by
        try:
            chunk = await self._transport.request(command.source, request, deadline=deadline)
        except (TheirFault, Weather) as error:
            inbox.put_nowait(Unreached(command.source, command.item, error.code))
        else:
            inbox.put_nowait(Delivered(command.source, command.item, chunk))

    async def _compute(self, order: Order, command: Compute, inbox: asyncio.Queue[Event]) -> None:
        job = command.job
        ok = await self._arithmetic.run(job.run)
        inbox.put_nowait(Computed(job, ok))
        if ok and isinstance(job, CheckChunk):
            await self._keep(order, job)

    async def _keep(self, order: Order, good: CheckChunk) -> None:
        """Keep a good chunk for the next attempt, and tell people once where the disk refuses."""
        failed = await self._arithmetic.run(
            lambda: self._resume.keep(order.what, order.root, good.index, good.payload)
        )
        if failed:
            fact = f"{failed.fact}; a broken download begins again after a restart"
            self.report(Report(failed.code, fact))


@contextmanager
def _cancelled_at_the_end() -> Iterator[list[asyncio.Task[None]]]:
    """A list of tasks that are cancelled when the block is left."""
    tasks: list[asyncio.Task[None]] = []
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
