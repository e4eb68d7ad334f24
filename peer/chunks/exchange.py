"""Content that this peer serves and fetches by its root: hash lists and chunks, of the training text and of the model.

index / ROOT       ──►  the hashes of all chunks, 32 bytes each
chunk / ROOT.I     ──►  one chunk, at the pace of `Serving`; who would have to wait longer is told to come again

Whoever has once sent what does not hash to its root is not asked for anything any more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from swarm.errors import Busy, Malformed, Refused, SwarmError, TheirFault, Weather, WrongContent
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
from swarm.transport.throttle import TokenBucket

from .download import CheckChunk, Download, DownloadProgress, Fetched, Wanted
from .resume import ResumeStore

INDEX_SECONDS = 10.0
"""Patience with a list of hashes, which is small beside what it lists."""
KEPT = 4
"""Contents served at a time: the corpus, and the last states, so that a newcomer's donor may move on while it downloads."""


class Content(Protocol):
    """Something in chunks. ``hashes`` and ``chunk`` never change for one root."""

    @property
    def hashes(self) -> Sequence[bytes]:
        """The digest of every chunk (`swarm.hashing`)."""

    def chunk(self, index: int) -> Payload:
        """The bytes of one chunk. Raises `IndexError`."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What newcomers may cost a donor, so that it still trains: bytes per second, after a burst, and chunks being handed out."""

    rate: float = 16 * 1024 * 1024
    burst: float = 64 * 1024 * 1024
    parallel: int = 32
    patience: float = 2.0
    """Seconds that a chunk may wait for its turn; whoever would wait longer is told that we are busy."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to download: the chunks of ``root``, which is a ``what`` (``text`` or ``model``) for people and for the disk."""

    what: str
    root: bytes
    wanted: Wanted


class ChunkExchange:
    """Serves `Content` by root, and downloads it from others. ``report`` is told what people should know."""

    def __init__(
        self,
        transport: Transport,
        arithmetic: Arithmetic,
        tasks: asyncio.TaskGroup,
        report: Callable[[Report], None],
        partial: ResumeStore | None = None,
        serving: Serving | None = None,
    ) -> None:
        """``partial`` keeps what has come of a download that was broken off; without it, memory does."""
        self._transport, self._arithmetic, self._tasks, self.report = transport, arithmetic, tasks, report
        self._partial, self._serving = partial or ResumeStore(None), serving or Serving()
        self._bucket = TokenBucket(self._serving.rate, self._serving.burst)
        self._handing_out = 0
        self._liars: set[PeerId] = set()
        self._shelves: OrderedDict[bytes, Content] = OrderedDict()
        self._pinned: dict[bytes, Content] = {}
        transport.serve(Route("index", self._on_index))
        transport.serve(Route("chunk", self._on_chunk))

    def offer(self, root: bytes, content: Content, *, always: bool = False) -> None:
        """Serve ``content`` from now on; ``always``, or until `KEPT` newer ones have come."""
        if always:
            self._pinned[root] = content
            return
        self._shelves[root] = content
        while len(self._shelves) > KEPT:
            self._shelves.popitem(last=False)

    # --- serving --------------------------------------------------------------------------------------------

    async def _on_index(self, call: Call) -> Payload:
        return b"".join(self._find(call.argument).hashes)

    async def _on_chunk(self, call: Call) -> Payload:
        root, _, number = call.argument.partition(".")
        content = self._find(root)
        if not (number.isascii() and number.isdigit() and int(number) < len(content.hashes)):
            raise Malformed(f"there is no chunk {number[:20]!r}")
        chunk = content.chunk(int(number))
        await self.take_turn(len(chunk))
        return chunk

    async def take_turn(self, size: int) -> None:
        """Wait until ``size`` bytes for a newcomer may leave. Raises `Busy` where that would take too long."""
        now = asyncio.get_running_loop().time()
        if (
            self._handing_out >= self._serving.parallel
            or self._bucket.wait(size, now) > self._serving.patience
        ):
            raise Busy("other newcomers are being served; come again")
        self._handing_out += 1
        try:
            if delay := self._bucket.take(size, now):
                await asyncio.sleep(delay)
        finally:
            self._handing_out -= 1

    def _find(self, root: str) -> Content:
        found = next((c for r, c in [*self._pinned.items(), *self._shelves.items()] if r.hex() == root), None)
        if found is None:
            raise Refused("that content is not here (any more)")
        return found

    # --- downloading ----------------------------------------------------------------------------------------

    def honest(self, donors: Sequence[PeerId]) -> list[PeerId]:
        """Those of ``donors`` that have not lied to us."""
        return [donor for donor in donors if donor not in self._liars]

    async def index(
        self,
        root: bytes,
        donors: Sequence[PeerId],
        count: int,
        proves: Callable[[tuple[bytes, ...]], bool],
        deadline: float,
    ) -> tuple[bytes, ...]:
        """The list of ``count`` hashes that ``proves`` to belong to ``root``; all donors are asked, the first that has it counts.

        Raises the last donor's error.
        """
        deadline = min(deadline, asyncio.get_running_loop().time() + INDEX_SECONDS)

        async def ask(donor: PeerId) -> tuple[bytes, ...] | SwarmError:
            try:
                raw = await self._transport.request(
                    donor, Request("index", argument=root.hex(), limit=32 * count), deadline=deadline
                )
            except (TheirFault, Weather) as error:
                return error
            hashes = tuple(raw[at : at + 32] for at in range(0, len(raw), 32))
            if len(hashes) == count and proves(hashes):
                return hashes
            self._liars.add(donor)
            self.report(
                Report(
                    "bad-chunk",
                    "sent a list of chunks that does not belong to its root; it is not asked again",
                    donor,
                )
            )
            return WrongContent("the list of chunks does not belong to its root")

        failure: SwarmError = WrongContent("nobody was asked")
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(ask(donor)) for donor in self.honest(donors)]
            for answer in asyncio.as_completed(asked):
                said = await answer
                if not isinstance(said, SwarmError):
                    for task in asked:
                        task.cancel()
                    return said
                failure = said
        raise failure

    async def download(
        self, order: Order, donors: Sequence[PeerId], tell: Callable[[DownloadProgress], None]
    ) -> Fetched:
        """Fetch the chunks that are missing from all ``donors`` in parallel; ``tell`` hears of every step ahead.

        What is here already of an earlier attempt, or an earlier life, is not fetched again.
        """
        hashes = order.wanted.hashes
        have = await self._arithmetic.run(lambda: self._partial.recall(order.what, order.root, hashes))
        inbox: asyncio.Queue[Event] = asyncio.Queue()
        machine = Download(order.wanted, self.honest(donors), have)
        loop, told = asyncio.get_running_loop(), -1

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
        """A download has come to its end: what was kept of it is not needed any more."""
        self._partial.done(what)

    async def _fetch(self, order: Order, command: Fetch, inbox: asyncio.Queue[Event]) -> None:
        argument, deadline = f"{order.root.hex()}.{command.item}", command.by or order.wanted.finish_by
        try:
            chunk = await self._transport.request(
                command.source, Request("chunk", argument=argument, limit=command.length), deadline=deadline
            )
        except (TheirFault, Weather) as error:
            inbox.put_nowait(Unreached(command.source, command.item, error.code))
        else:
            inbox.put_nowait(Delivered(command.source, command.item, chunk))

    async def _compute(self, order: Order, command: Compute, inbox: asyncio.Queue[Event]) -> None:
        job = command.job
        ok = await self._arithmetic.run(job.run)
        inbox.put_nowait(Computed(job, ok))
        if ok and isinstance(job, CheckChunk):
            failed = await self._arithmetic.run(
                lambda: self._partial.keep(order.what, order.root, job.index, job.payload)
            )
            if failed:
                self.report(
                    Report(failed.code, f"{failed.fact}; a broken download begins again after a restart")
                )


@contextmanager
def _cancelled_at_the_end() -> Iterator[list[asyncio.Task[None]]]:
    """A list of tasks that nobody needs any more once the block is left."""
    tasks: list[asyncio.Task[None]] = []
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
