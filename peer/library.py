"""Content that this peer serves and fetches by its root: hash lists and chunks, of the training text and of the model.

index / ROOT       ──►  the hashes of all chunks, 32 bytes each
chunk / ROOT.I     ──►  one chunk
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from swarm.errors import Malformed, Refused, SwarmError, TheirFault, Weather, WrongContent
from swarm.identity import PeerId
from swarm.machine import Arithmetic, Command, Compute, Computed, Delivered, Event, Fetch, Report, Unreached, drive
from swarm.transport import Call, Payload, Route, Transport

from .catchup import CatchUp, Fetched, Wanted

INDEX_LIMIT = 32 << 20
"""Bytes of the largest hash list: a million chunks."""
KEPT = 4
"""Contents served at a time: the corpus, and the last states, so that a newcomer's donor may move on while it downloads."""


class Content(Protocol):
    """Something in chunks. ``hashes`` and ``chunk`` never change for one root."""

    @property
    def hashes(self) -> Sequence[bytes]:
        """SHA-256 of every chunk."""

    def chunk(self, index: int) -> Payload:
        """The bytes of one chunk. Raises `IndexError`."""


class Library:
    """Serves `Content` by root, and downloads it from others."""

    def __init__(
        self, transport: Transport, arithmetic: Arithmetic, tasks: asyncio.TaskGroup, report: Callable[[Report], None]
    ) -> None:
        self._transport, self._arithmetic, self._tasks, self._report = transport, arithmetic, tasks, report
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

    async def _on_index(self, call: Call) -> Payload:
        return b"".join(self._find(call.argument).hashes)

    async def _on_chunk(self, call: Call) -> Payload:
        root, _, number = call.argument.partition(".")
        content = self._find(root)
        if not (number.isascii() and number.isdigit() and int(number) < len(content.hashes)):
            raise Malformed(f"there is no chunk {number[:20]!r}")
        return content.chunk(int(number))

    def _find(self, root: str) -> Content:
        found = next((c for r, c in [*self._pinned.items(), *self._shelves.items()] if r.hex() == root), None)
        if found is None:
            raise Refused("that content is not here (any more)")
        return found

    async def index(
        self, root: bytes, donors: Sequence[PeerId], proves: Callable[[tuple[bytes, ...]], bool], deadline: float
    ) -> tuple[bytes, ...]:
        """The hash list that ``proves`` to belong to ``root``, from the first donor that has it. Raises the last donor's error."""
        failure: SwarmError = WrongContent("nobody was asked")
        for donor in donors:
            try:
                raw = await self._transport.request(donor, "index", argument=root.hex(), limit=INDEX_LIMIT, deadline=deadline)
            except (TheirFault, Weather) as error:
                failure = error
                continue
            hashes = tuple(raw[at : at + 32] for at in range(0, len(raw), 32))
            if proves(hashes):
                return hashes
            failure = WrongContent("the list of chunks does not belong to its root")
        raise failure

    async def download(
        self, root: bytes, wanted: Wanted, donors: Sequence[PeerId], have: Mapping[int, bytes], tell: Callable[[int, int], None]
    ) -> Fetched:
        """Fetch the chunks that are missing from all ``donors`` in parallel; ``tell`` hears (chunks here, chunks in all)."""
        inbox: asyncio.Queue[Event] = asyncio.Queue()
        machine = CatchUp(wanted, donors, have)

        def act(command: Command) -> None:
            tell(*machine.progress)
            if isinstance(command, Fetch):
                asyncio_task = self._fetch(root, command, wanted.finish_by, inbox)
                under_way.append(self._tasks.create_task(asyncio_task))
            elif isinstance(command, Compute):
                under_way.append(self._tasks.create_task(self._compute(command, inbox)))
            elif isinstance(command, Report):
                self._report(command)

        with _cancelled_at_the_end() as under_way:
            return await drive(machine, act, inbox)

    async def _fetch(self, root: bytes, command: Fetch, deadline: float, inbox: asyncio.Queue[Event]) -> None:
        argument = f"{root.hex()}.{command.item}"
        try:
            chunk = await self._transport.request(
                command.source, "chunk", argument=argument, limit=command.length, deadline=deadline
            )
        except (TheirFault, Weather):
            inbox.put_nowait(Unreached(command.source, command.item))
        else:
            inbox.put_nowait(Delivered(command.source, command.item, chunk))

    async def _compute(self, command: Compute, inbox: asyncio.Queue[Event]) -> None:
        inbox.put_nowait(Computed(command.job, await self._arithmetic.run(command.job.run)))


@contextmanager
def _cancelled_at_the_end() -> Iterator[list[asyncio.Task[None]]]:
    """A list of tasks that nobody needs any more once the block is left."""
    tasks: list[asyncio.Task[None]] = []
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
