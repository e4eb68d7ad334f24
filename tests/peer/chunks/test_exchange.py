"""Content by its root over a simulated network: served, downloaded from several at once, and checked."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from peer.chunks.download import DownloadProgress, Wanted
from peer.chunks.exchange import INDEX_SECONDS, KEPT, ChunkExchange, Order
from peer.chunks.resume import ResumeStore
from peer.chunks.turns import Serving
from peer.training.compute import Inline
from swarm.errors import Busy, Refused, TooLate, Unreachable, WrongContent
from swarm.hashing import digest
from swarm.machine import Report
from swarm.simulation.network import Link
from swarm.transport import Request
from tests.peer.company import Company, key, played_by, soon

PIECES = tuple(bytes([n]) * 2000 for n in range(6))
HASHES = tuple(digest(piece) for piece in PIECES)
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
    """Chunk exchanges of several peers; to be used inside `simulate`."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.company = Company()
        self.reports: list[Report] = []
        self.told: list[DownloadProgress] = []
        self._tasks = tasks

    def chunks(
        self, number: int, resume: ResumeStore | None = None, serving: Serving | None = None
    ) -> ChunkExchange:
        """A peer that serves and downloads."""
        transport = self.company.transport(number)
        return ChunkExchange(
            transport, Inline(lambda job: 0.0), self._tasks, self.reports.append, resume, serving
        )


def order(seconds: float = 60.0) -> Order:
    return Order("model", ROOT, Wanted(HASHES, tuple(map(len, PIECES)), soon(seconds)))


in_company = played_by(Readers)


def peers(*numbers: int) -> list[Any]:
    return [key(number).peer_id for number in numbers]


@in_company
async def test_content_is_downloaded_from_all_peers_that_offer_it(readers: Readers) -> None:
    for number in (1, 2, 3):
        readers.chunks(number).offer(ROOT, Pieces())
    reader = readers.chunks(9)
    assert await reader.index(ROOT, peers(1, 2, 3), 6, lambda hashes: hashes == HASHES, soon()) == HASHES
    fetched = await reader.download(order(), peers(1, 2, 3), readers.told.append)
    assert fetched.complete
    assert tuple(fetched.chunks[index] for index in range(6)) == PIECES
    assert [told.chunks for told in readers.told] == [0, 1, 2, 3, 4, 5, 6]
    assert readers.told[-1].bytes == 12_000
    assert readers.told[-1].bytes_per_second > 0
    assert all(readers.company.network.hosts[peer].up > 2000 for peer in peers(1, 2, 3))


@in_company
async def test_a_root_that_nobody_offers_is_refused(readers: Readers) -> None:
    readers.chunks(1)
    reader = readers.chunks(9)
    with pytest.raises(Refused, match="not here"):
        await reader.index(ROOT, peers(1), 6, lambda hashes: True, soon())
    with pytest.raises(WrongContent, match="nobody was asked"):
        await reader.index(ROOT, [], 6, lambda hashes: True, soon())
    fetched = await reader.download(order(), peers(1), readers.told.append)
    assert not fetched.complete
    assert fetched.chunks == {}


@in_company
async def test_a_false_list_of_hashes_costs_its_donor_and_the_next_is_asked(readers: Readers) -> None:
    readers.company.stranger(1, {"index": lambda call: bytes(6 * 32)})
    readers.company.stranger(2, {"index": lambda call: b"not hashes"})
    readers.chunks(4).offer(ROOT, Pieces())
    reader = readers.chunks(9)
    proves = HASHES.__eq__
    with pytest.raises(WrongContent, match="does not belong"):
        await reader.index(ROOT, peers(1, 2), 6, proves, soon())
    assert {(report.code, report.peer) for report in readers.reports} == {
        ("bad-chunk", peer) for peer in peers(1, 2)
    }
    assert reader.honest(peers(1, 2, 3, 4)) == peers(3, 4)
    assert await reader.index(ROOT, peers(1, 2, 3, 4), 6, proves, soon()) == HASHES
    with pytest.raises(WrongContent, match="nobody was asked"):
        await reader.index(ROOT, peers(1, 2), 6, proves, soon())
    with pytest.raises(Unreachable):
        await reader.index(ROOT, peers(1, 3), 6, proves, soon())


@in_company
async def test_a_list_of_hashes_does_not_wait_for_a_donor_that_hangs(readers: Readers) -> None:
    for number in (1, 2):
        readers.chunks(number).offer(ROOT, Pieces())
    readers.company.network.freeze(key(1).peer_id)
    reader = readers.chunks(9)
    began = soon(0)
    assert await reader.index(ROOT, peers(1, 2), 6, HASHES.__eq__, soon(60)) == HASHES
    assert soon(0) - began < 1
    with pytest.raises(TooLate):
        await reader.index(ROOT, peers(1), 6, HASHES.__eq__, soon(60))
    assert soon(0) - began < INDEX_SECONDS + 2


@in_company
async def test_a_false_chunk_costs_its_donor_and_comes_from_another(readers: Readers) -> None:
    readers.chunks(1).offer(ROOT, Pieces(tuple(bytes(2000) for _ in PIECES)))
    readers.chunks(2).offer(ROOT, Pieces())
    reader = readers.chunks(9)
    fetched = await reader.download(order(), peers(1, 2), readers.told.append)
    assert tuple(fetched.chunks[index] for index in range(6)) == PIECES
    assert [(report.code, report.peer) for report in readers.reports] == [("bad-chunk", key(1).peer_id)]
    assert reader.honest(peers(1, 2)) == peers(2)
    again = await reader.download(Order("text", ROOT, order().wanted), peers(1), readers.told.append)
    assert (again.complete, again.chunks) == (False, {}), "it is not even asked"
    assert len(readers.reports) == 1


@in_company
async def test_a_donor_that_vanishes_or_is_slow_does_not_hold_up_the_others(readers: Readers) -> None:
    for number in (1, 2, 3):
        readers.chunks(number).offer(ROOT, Pieces())
    network = readers.company.network
    network.slow(key(1).peer_id, Link(latency=0.01, bandwidth=10.0))
    asyncio.get_running_loop().call_at(soon(0.015), network.crash, key(2).peer_id)
    fetched = await readers.chunks(9).download(order(), peers(1, 2, 3), readers.told.append)
    assert fetched.complete
    assert soon(0) < 5


@in_company
async def test_at_the_deadline_it_ends_with_what_is_here_and_the_next_attempt_goes_on_from_there(
    readers: Readers,
) -> None:
    readers.chunks(1).offer(ROOT, Pieces())
    readers.company.network.slow(key(1).peer_id, Link(latency=0.01, bandwidth=1000.0))
    reader = readers.chunks(9)
    first = await reader.download(order(7.0), peers(1), readers.told.append)
    assert not first.complete
    assert 0 < len(first.chunks) < 6
    readers.company.network.slow(key(1).peer_id)
    second = await reader.download(order(), peers(1), readers.told.append)
    assert second.complete
    assert readers.told[-1].bytes == 12_000
    reader.finished("model")
    third = await reader.download(order(), peers(40), readers.told.append)
    assert third.chunks == {}


def test_after_a_kill_the_restarted_peer_continues_the_download(tmp_path: Path) -> None:
    @in_company
    async def first(readers: Readers) -> None:
        readers.chunks(1).offer(ROOT, Pieces())
        readers.company.network.slow(key(1).peer_id, Link(latency=0.01, bandwidth=1000.0))
        fetched = await readers.chunks(9, ResumeStore(tmp_path)).download(
            order(7.0), peers(1), readers.told.append
        )
        assert 0 < len(fetched.chunks) < 6

    @in_company
    async def second(readers: Readers) -> None:
        readers.chunks(1).offer(ROOT, Pieces())
        reader = readers.chunks(9, ResumeStore(tmp_path))
        fetched = await reader.download(order(), peers(1), readers.told.append)
        assert tuple(fetched.chunks[index] for index in range(6)) == PIECES
        assert readers.told[0].chunks > 0
        assert readers.company.network.hosts[key(1).peer_id].up < 6 * 2000
        reader.finished("model")

    first()
    second()
    assert list(tmp_path.iterdir()) == []


@in_company
async def test_a_donor_serves_at_its_rate_and_is_busy_for_requests_that_would_wait_too_long(
    readers: Readers,
) -> None:
    readers.chunks(1, serving=Serving(rate=1000.0, burst=2000.0, patience=2.0)).offer(ROOT, Pieces())
    asking = readers.company.transport(8)
    began = soon(0)

    async def ask(index: int) -> bytes:
        argument = f"{ROOT.hex()}.{index}"
        return await asking.request(
            key(1).peer_id, Request("chunk", argument=argument, limit=4000), deadline=soon(60)
        )

    answers = await asyncio.gather(*(ask(index) for index in range(6)), return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, bytes)] == list(PIECES[:2])
    assert [type(answer) for answer in answers].count(Busy) == 4
    assert soon(0) - began > 2, "the second one waited for its turn"


@in_company
async def test_a_newcomer_gets_everything_from_a_donor_that_is_often_busy(readers: Readers) -> None:
    readers.chunks(1, serving=Serving(rate=1000.0, burst=2000.0, patience=1.0)).offer(ROOT, Pieces())
    fetched = await readers.chunks(9).download(order(120), peers(1), readers.told.append)
    assert fetched.complete
    assert readers.reports == []


@in_company
async def test_a_donor_hands_out_few_chunks_at_a_time(readers: Readers) -> None:
    readers.chunks(1, serving=Serving(rate=1000.0, burst=1.0, patience=1e6, parallel=3)).offer(ROOT, Pieces())
    asking = readers.company.transport(8)

    async def ask(index: int) -> bytes:
        return await asking.request(
            key(1).peer_id, Request("chunk", argument=f"{ROOT.hex()}.{index}", limit=4000), deadline=soon(60)
        )

    answers = await asyncio.gather(*(ask(index) for index in range(6)), return_exceptions=True)
    assert [type(answer) for answer in answers].count(Busy) == 3


@in_company
async def test_requests_that_are_aborted_do_not_hold_up_the_downloads_of_others(readers: Readers) -> None:
    """200 requests a second, each given up at once: as many as the transport allows one peer."""
    serving = Serving(rate=20_000.0, burst=2000.0)
    readers.chunks(1, serving=serving).offer(ROOT, Pieces())
    greedy = readers.company.transport(8)

    async def ask_and_hang_up() -> None:
        request = Request("chunk", argument=f"{ROOT.hex()}.0", limit=4000)
        with contextlib.suppress(TooLate, Busy):
            await greedy.request(key(1).peer_id, request, deadline=soon(0.03))

    async def crowd() -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(ask_and_hang_up())
                await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as tasks:
        crowding = tasks.create_task(crowd())
        await asyncio.sleep(1)
        began = soon(0)
        fetched = await readers.chunks(9).download(order(60), peers(1), readers.told.append)
        crowding.cancel()
    assert fetched.complete
    assert soon(0) - began < 2.5, "12,000 bytes at half of the rate take 1.2 seconds"


@pytest.mark.parametrize("number", ["6", "-1", "x", "", "1.5", "٣", "00000000000000000000000009"])
def test_there_is_no_such_chunk(number: str) -> None:
    @in_company
    async def story(readers: Readers) -> None:
        readers.chunks(1).offer(ROOT, Pieces())
        asking = readers.company.transport(8)
        argument = f"{ROOT.hex()}.{number}"
        if argument.isascii():
            with pytest.raises(Refused, match="no chunk"):
                await asking.request(key(1).peer_id, Request("chunk", argument=argument), deadline=soon())
        else:
            with pytest.raises(ValueError, match="cannot be the name of a call"):
                await asking.request(key(1).peer_id, Request("chunk", argument=argument), deadline=soon())

    story()


@in_company
async def test_the_latest_contents_stay_and_older_ones_are_dropped_except_permanent_ones(
    readers: Readers,
) -> None:
    chunks = readers.chunks(1)
    reader = readers.chunks(9)
    roots = [bytes([n]) * 32 for n in range(KEPT + 2)]
    chunks.offer(ROOT, Pieces(), always=True)
    for root in roots:
        chunks.offer(root, Pieces())
    chunks.offer(roots[-1], Pieces())  # once more is no newer one
    for root in (ROOT, *roots[2:]):
        assert await reader.index(root, peers(1), 6, HASHES.__eq__, soon()) == HASHES
    for root in roots[:2]:
        with pytest.raises(Refused):
            await reader.index(root, peers(1), 6, HASHES.__eq__, soon())


@in_company
async def test_a_donor_that_does_not_answer_ends_the_question_at_its_deadline(readers: Readers) -> None:
    readers.chunks(1).offer(ROOT, Pieces())
    readers.company.network.freeze(key(1).peer_id)
    with pytest.raises(TooLate):
        await readers.chunks(9).index(ROOT, peers(1), 6, HASHES.__eq__, soon(3))
