"""Content by its root over a simulated network: served, downloaded from several at once, and never believed unseen."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from peer.catchup import Wanted
from peer.compute import Inline
from peer.library import KEPT, Library
from swarm.errors import Refused, TooLate, Unreachable, WrongContent
from swarm.machine import Report
from swarm.simulation.clock import simulate
from swarm.simulation.network import Link

from .company import Company, key, soon

PIECES = tuple(bytes([n]) * 2000 for n in range(6))
HASHES = tuple(hashlib.sha256(piece).digest() for piece in PIECES)
ROOT = bytes([9]) * 32


class Pieces:
    """Content of a few pieces."""

    def __init__(self, pieces: tuple[bytes, ...] = PIECES) -> None:
        self.pieces = pieces
        self.hashes = HASHES

    def chunk(self, index: int) -> bytes:
        """A piece."""
        return self.pieces[index]


class Readers:
    """Libraries of several peers; to be used inside `simulate`."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.company = Company()
        self.reports: list[Report] = []
        self.told: list[tuple[int, int]] = []
        self._tasks = tasks

    def library(self, number: int) -> Library:
        """A peer that serves and downloads."""
        return Library(self.company.transport(number), Inline(lambda job: 0.0), self._tasks, self.reports.append)

    def tell(self, here: int, whole: int) -> None:
        """Progress."""
        self.told.append((here, whole))


def wanted(seconds: float = 60.0) -> Wanted:
    return Wanted(HASHES, tuple(map(len, PIECES)), soon(seconds))


def in_company(story: Callable[[Readers], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that is a coroutine with `Readers`; it must leave no task behind."""

    def test() -> None:
        async def main() -> None:
            async with asyncio.TaskGroup() as tasks:
                await story(Readers(tasks))

        leftovers: list[str] = []
        simulate(main(), leftovers=leftovers)
        assert leftovers == []

    test.__name__ = story.__name__
    return test


def peers(*numbers: int) -> list[Any]:
    return [key(number).peer_id for number in numbers]


@in_company
async def test_what_one_offers_another_downloads_from_all_who_have_it(readers: Readers) -> None:
    for number in (1, 2, 3):
        readers.library(number).offer(ROOT, Pieces())
    reader = readers.library(9)
    assert await reader.index(ROOT, peers(1, 2, 3), lambda hashes: hashes == HASHES, soon()) == HASHES
    fetched = await reader.download(ROOT, wanted(), peers(1, 2, 3), {}, readers.tell)
    assert fetched.complete
    assert tuple(fetched.chunks[index] for index in range(6)) == PIECES
    assert readers.told[0] == (0, 6)
    assert readers.told == sorted(readers.told)
    assert all(readers.company.network._hosts[peer].up > 2 * 2000 for peer in peers(1, 2, 3))


@in_company
async def test_a_root_that_nobody_offers_is_refused(readers: Readers) -> None:
    readers.library(1)
    reader = readers.library(9)
    with pytest.raises(Refused, match="not here"):
        await reader.index(ROOT, peers(1), lambda hashes: True, soon())
    with pytest.raises(WrongContent, match="nobody was asked"):
        await reader.index(ROOT, [], lambda hashes: True, soon())
    fetched = await reader.download(ROOT, wanted(), peers(1), {}, readers.tell)
    assert not fetched.complete
    assert fetched.chunks == {}


@in_company
async def test_a_false_list_of_hashes_costs_its_donor_and_the_next_is_asked(readers: Readers) -> None:
    readers.company.stranger(1, {"index": lambda call: bytes(6 * 32)})
    readers.company.stranger(2, {"index": lambda call: b"not hashes"})
    readers.library(4).offer(ROOT, Pieces())
    reader = readers.library(9)
    proves = HASHES.__eq__
    assert await reader.index(ROOT, peers(1, 2, 3, 4), proves, soon()) == HASHES
    with pytest.raises(WrongContent):
        await reader.index(ROOT, peers(1, 2), proves, soon())
    with pytest.raises(Unreachable):
        await reader.index(ROOT, peers(1, 3), proves, soon())


@in_company
async def test_a_false_chunk_costs_its_donor_and_comes_from_another(readers: Readers) -> None:
    readers.library(1).offer(ROOT, Pieces(tuple(bytes(2000) for _ in PIECES)))
    readers.library(2).offer(ROOT, Pieces())
    fetched = await readers.library(9).download(ROOT, wanted(), peers(1, 2), {}, readers.tell)
    assert tuple(fetched.chunks[index] for index in range(6)) == PIECES
    assert [(report.code, report.peer) for report in readers.reports] == [("bad-chunk", key(1).peer_id)]


@in_company
async def test_a_donor_that_vanishes_or_is_slow_does_not_hold_up_the_others(readers: Readers) -> None:
    for number in (1, 2, 3):
        readers.library(number).offer(ROOT, Pieces())
    network = readers.company.network
    network.slow(key(1).peer_id, Link(latency=0.01, bandwidth=10.0))
    asyncio.get_running_loop().call_at(soon(0.015), network.crash, key(2).peer_id)
    fetched = await readers.library(9).download(ROOT, wanted(), peers(1, 2, 3), {}, readers.tell)
    assert fetched.complete
    assert soon(0) < 5


@in_company
async def test_at_the_deadline_it_ends_with_what_is_here_and_the_next_attempt_goes_on_from_there(readers: Readers) -> None:
    readers.library(1).offer(ROOT, Pieces())
    readers.company.network.slow(key(1).peer_id, Link(latency=0.01, bandwidth=1000.0))
    reader = readers.library(9)
    first = await reader.download(ROOT, wanted(7.0), peers(1), {}, readers.tell)
    assert not first.complete
    assert 0 < len(first.chunks) < 6
    readers.company.network.slow(key(1).peer_id)
    second = await reader.download(ROOT, wanted(), peers(1), first.chunks, readers.tell)
    assert second.complete


@pytest.mark.parametrize("number", ["6", "-1", "x", "", "1.5", "٣", "00000000000000000000000009"])
def test_there_is_no_such_chunk(number: str) -> None:
    @in_company
    async def story(readers: Readers) -> None:
        readers.library(1).offer(ROOT, Pieces())
        asking = readers.company.transport(8)
        argument = f"{ROOT.hex()}.{number}"
        if argument.isascii():
            with pytest.raises(Refused, match="no chunk"):
                await asking.request(key(1).peer_id, "chunk", argument=argument, deadline=soon())
        else:
            with pytest.raises(ValueError, match="cannot be the name of a call"):
                await asking.request(key(1).peer_id, "chunk", argument=argument, deadline=soon())

    story()


@in_company
async def test_the_last_contents_stay_and_older_ones_make_room_except_what_is_pinned(readers: Readers) -> None:
    library, reader = readers.library(1), readers.library(9)
    roots = [bytes([n]) * 32 for n in range(KEPT + 2)]
    library.offer(ROOT, Pieces(), always=True)
    for root in roots:
        library.offer(root, Pieces())
    library.offer(roots[-1], Pieces())  # once more is no newer one
    for root in (ROOT, *roots[2:]):
        assert await reader.index(root, peers(1), HASHES.__eq__, soon()) == HASHES
    for root in roots[:2]:
        with pytest.raises(Refused):
            await reader.index(root, peers(1), HASHES.__eq__, soon())


@in_company
async def test_a_donor_that_does_not_answer_ends_the_question_at_its_deadline(readers: Readers) -> None:
    readers.library(1).offer(ROOT, Pieces())
    readers.company.network.freeze(key(1).peer_id)
    with pytest.raises(TooLate):
        await readers.library(9).index(ROOT, peers(1), HASHES.__eq__, soon(3))
