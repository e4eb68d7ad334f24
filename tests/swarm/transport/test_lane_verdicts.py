"""A lane is not held for a peer that sends and never reads, in virtual time."""

from __future__ import annotations

import asyncio
import struct
from typing import cast

import pytest

from swarm.errors import TooLate
from swarm.simulation.clock import simulate
from swarm.transport.guard import Timeouts
from swarm.transport.lanes import Body, serve
from swarm.transport.stream import Stream

TIMEOUTS = Timeouts(first_request_seconds=5, idle_seconds=100, grace_seconds=7, minimum_rate=1000)


class Deaf:
    """A stream on which the other side sends message after message, and reads ``reads`` answers."""

    has_more = False

    def __init__(self, reads: int) -> None:
        self._reads = reads

    async def read_into(self, target: memoryview, least: int) -> int:
        """The next message: empty, for the path "x"."""
        target[:least] = struct.pack("<QB119s", 0, 1, b"x")
        return least

    async def write(self, answer: bytes) -> None:
        """Wait for ever once the other side has stopped reading."""
        self._reads -= 1
        if self._reads < 0:
            await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("reads", [0, 3])
@pytest.mark.parametrize("length", [0, 4000])
def test_an_answer_that_nobody_reads_ends_the_lane(reads: int, length: int) -> None:
    async def handle(path: str, size: int, body: Body) -> bytes:
        return bytes(length)

    async def main() -> float:
        with pytest.raises(TooLate):
            async with asyncio.timeout(1000):
                await serve(cast(Stream, Deaf(reads)), handle, TIMEOUTS)
        return asyncio.get_running_loop().time()

    assert simulate(main()) == TIMEOUTS.transfer(length)
