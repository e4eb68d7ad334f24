"""The directory of hivemind's nodes, on a network in memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

import swarm.dht.node as module
from swarm.dht.node import HivemindDirectory
from swarm.dht.records import pack_bundle
from swarm.dht.storage import Item
from swarm.errors import BadSignature, Malformed, NobodyThere, Oversized, Unreachable, WrongRun
from swarm.membership.contacts import seal_contact
from swarm.membership.progress import Progress
from swarm.ticket import Address
from swarm.wire import Stamp, seal_body
from tests.swarm.memory import RUN, MemoryTransport, Network, key, record, soon

TOPIC = "progress"


class Swarm:
    """Directories on one network; they are closed when the test ends."""

    def __init__(self) -> None:
        self.network = Network()
        self.stack = AsyncExitStack()

    async def open(self, number: int, *entries: int) -> HivemindDirectory:
        keys = [key(entry) for entry in entries]
        transport = self.network.join(key(number), *keys)
        return await self.stack.enter_async_context(
            await HivemindDirectory.open(
                transport,
                transport.contacts,
                run=RUN,
                forms={TOPIC: Progress},
                entries=[entry.peer_id for entry in keys],
                deadline=soon(),
            )
        )

    async def many(self, count: int) -> list[HivemindDirectory]:
        """A founder, and others whose ticket has the founder as its entry."""
        return [await self.open(0)] + [await self.open(number, 0) for number in range(1, count)]

    def kill(self, *numbers: int) -> None:
        self.network.dead.update(key(number).peer_id for number in numbers)


@pytest_asyncio.fixture
async def swarm() -> AsyncIterator[Swarm]:
    others = asyncio.all_tasks()
    swarm = Swarm()
    async with swarm.stack:
        yield swarm
    assert asyncio.all_tasks() <= {*others, asyncio.current_task()}, "a task outlived its directory"
    assert asyncio.get_running_loop().get_task_factory() is None


async def put(
    directory: HivemindDirectory, number: int, round_: int = 0, seq: int = 0, seconds: float = 60
) -> bool:
    return await directory.put(TOPIC, record(key(number), round_, seq), seconds=seconds, deadline=soon())


async def get(directory: HivemindDirectory) -> dict[str, tuple[int, int]]:
    found = await directory.get(TOPIC, Progress, deadline=soon())
    assert [signed.signer for signed in found] == sorted(signed.signer for signed in found)
    return {signed.signer: (signed.stamp.round, signed.stamp.seq) for signed in found}


def ids(*numbers: int) -> set[str]:
    return {key(number).peer_id for number in numbers}


def test_importing_the_module_imports_neither_hivemind_nor_torch() -> None:
    code = """
import sys
import swarm.dht.node
sys.exit(any(name in sys.modules for name in ("hivemind", "torch", "google.protobuf")))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_loading_hivemind_leaves_the_logs_and_warnings_of_the_process_as_they_were() -> None:
    code = """
import logging, warnings
before = list(warnings.filters), logging.getLevelName(logging.WARNING)
from swarm.dht.node import load_hivemind
load_hivemind()
assert (list(warnings.filters), logging.getLevelName(logging.WARNING)) == before
assert not logging.getLogger("hivemind").handlers and logging.getLogger("hivemind").propagate
assert not logging.getLogger().handlers
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.asyncio
async def test_what_any_peer_puts_every_peer_gets(swarm: Swarm) -> None:
    peers = await swarm.many(10)
    assert all([await put(peer, number, 1, number) for number, peer in enumerate(peers)])
    expected = {key(number).peer_id: (1, number) for number in range(10)}
    assert [await get(peer) for peer in peers] == [expected] * 10
    assert not any(peer.refused for peer in peers)


@pytest.mark.asyncio
async def test_the_newest_record_of_a_peer_replaces_the_older_one(swarm: Swarm) -> None:
    peers = await swarm.many(4)
    assert await put(peers[1], 1, 3, 1)
    assert await put(peers[1], 1, 3, 2)
    assert await get(peers[3]) == {key(1).peer_id: (3, 2)}
    assert not await put(peers[1], 1, 3, 1), "nobody takes the older one again"
    assert await get(peers[3]) == {key(1).peer_id: (3, 2)}


@pytest.mark.asyncio
async def test_a_founder_is_alone_until_another_peer_joins_and_gets_its_record(swarm: Swarm) -> None:
    founder = await swarm.open(0)
    assert not await put(founder, 0)
    assert await get(founder) == {key(0).peer_id: (0, 0)}
    assert await get(await swarm.open(1, 0)) == {key(0).peer_id: (0, 0)}


@pytest.mark.asyncio
async def test_a_newcomer_joins_through_any_living_entry_and_a_dead_one_is_a_non_event(swarm: Swarm) -> None:
    peers = await swarm.many(9)
    for number, peer in enumerate(peers):
        await put(peer, number)
    swarm.kill(0)
    newcomer = await swarm.open(20, 0, 4)
    assert set(await get(newcomer)) >= ids(*range(1, 9))
    assert await put(newcomer, 20)
    assert ids(20) < set(await get(peers[7]))


@pytest.mark.asyncio
async def test_the_others_go_on_when_the_first_entry_and_two_more_are_gone(swarm: Swarm) -> None:
    peers = await swarm.many(10)
    for number, peer in enumerate(peers):
        await put(peer, number)
    swarm.kill(0, 1, 2)
    for number in range(3, 10):
        assert await put(peers[number], number, 1)
    for peer in peers[3:]:
        assert {
            signer: stamp for signer, stamp in (await get(peer)).items() if stamp == (1, 0)
        }.keys() == ids(*range(3, 10))


@pytest.mark.asyncio
async def test_no_entry_that_answers_is_nobody_there_and_leaves_no_task(swarm: Swarm) -> None:
    swarm.network.join(key(0))
    swarm.kill(0)
    with pytest.raises(NobodyThere):
        await swarm.open(1, 0)


@pytest.mark.asyncio
async def test_a_silent_entry_does_not_delay_a_peer_that_has_another_entry(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE", 0.0)
    await swarm.many(3)
    silent = key(9).peer_id
    request = MemoryTransport.request

    async def never(self: MemoryTransport, to: str, *args: object, **options: object) -> bytes:
        if to == silent:
            await asyncio.Event().wait()
        return await request(self, to, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryTransport, "request", never)
    peer = await swarm.open(5, 9, 0)
    assert await put(peer, 5)
    assert peer.neighbours == 3


@pytest.mark.asyncio
async def test_a_silent_swarm_ends_the_wait_at_the_deadline_and_what_came_before_counts(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = await swarm.many(8)
    for number, peer in enumerate(peers):
        await put(peer, number)
    answers = 4
    request = MemoryTransport.request

    async def a_few(self: MemoryTransport, *args: object, **options: object) -> bytes:
        nonlocal answers
        answers -= 1
        if answers < 0:
            await asyncio.Event().wait()
        return await request(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryTransport, "request", a_few)
    known = peers[3].neighbours
    found = await peers[3].get(TOPIC, Progress, deadline=soon(1.5))
    assert {signed.signer for signed in found} == ids(*range(8))
    assert peers[3].neighbours == known, "an impatient caller is no reason to forget a peer"
    assert not await peers[3].put(TOPIC, record(key(3), 9), seconds=60, deadline=soon(0.05))


@pytest.mark.asyncio
async def test_cancelling_a_get_breaks_nothing(swarm: Swarm) -> None:
    peers = await swarm.many(6)
    await put(peers[2], 2)
    for steps in range(12):
        task = asyncio.create_task(get(peers[3]))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert await get(peers[3]) == {key(2).peer_id: (0, 0)}


@pytest.mark.asyncio
async def test_a_deadline_in_the_past_asks_nobody(swarm: Swarm) -> None:
    peers = await swarm.many(3)
    calls = swarm.network.calls
    assert await peers[1].get(TOPIC, Progress, deadline=soon(-1)) == []
    for _ in range(20):
        await asyncio.sleep(0)
    assert swarm.network.calls == calls
    assert peers[1].neighbours == 2


@pytest.mark.asyncio
async def test_a_peer_that_lost_all_others_finds_them_again_when_the_network_is_back(swarm: Swarm) -> None:
    peers = await swarm.many(6)
    await put(peers[5], 5)
    swarm.kill(2)
    assert await get(peers[2]) == {key(5).peer_id: (0, 0)}, "what it keeps itself"
    assert peers[2].neighbours == 0
    swarm.network.dead.clear()
    swarm.kill(0)
    assert await put(peers[2], 2, 1)
    assert ids(2, 5) == set(await get(peers[4]))


@pytest.mark.asyncio
async def test_two_swarms_become_one_when_one_peer_meets_another(swarm: Swarm) -> None:
    here = await swarm.open(0)
    there = await swarm.open(1)
    await put(here, 0)
    await put(there, 1)
    peer = key(1).peer_id
    assert not await here.meet(peer, soon()), "it knows no address"
    swarm.network.peers[key(0).peer_id].contacts.learn(seal_contact(key(1), RUN, (Address("there", 1),), 5))
    assert await here.meet(peer, soon())
    assert not await here.meet(key(0).peer_id, soon()), "a peer does not meet itself"
    assert set(await get(here)) == set(await get(there)) == ids(0, 1)


FORGED = bytearray(record(key(1)))
FORGED[-1] ^= 1
REFUSED = {
    "somebody else's": (record(key(2)), Malformed),
    "forged": (bytes(FORGED), BadSignature),
    "of another run": (record(key(1), run=bytes(32)), WrongRun),
    "too long": (seal_body(key(1), Progress.kind, bytes(4096), Stamp(RUN)), Oversized),
}


@pytest.mark.asyncio
@pytest.mark.parametrize(("frame", "fault"), REFUSED.values(), ids=REFUSED)
async def test_we_do_not_publish_a_record_that_is(frame: bytes, fault: type[Exception], swarm: Swarm) -> None:
    directory = await swarm.open(1)
    with pytest.raises(fault):
        await directory.put(TOPIC, frame, seconds=60, deadline=soon())


@pytest.mark.asyncio
async def test_a_topic_that_the_run_does_not_have_is_a_mistake_of_ours(swarm: Swarm) -> None:
    directory = await swarm.open(1)
    with pytest.raises(KeyError):
        await directory.get("gossip", Progress, deadline=soon())


@pytest.mark.asyncio
async def test_a_holder_that_replays_with_the_longest_life_cannot_hide_the_newer_record(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = await swarm.many(5)
    assert await put(peers[1], 1, 7, 7)
    old = pack_bundle(
        [(record(key(1), 7, 6), 600.0), (bytes(FORGED), 600.0), (record(key(2), run=bytes(32)), 600.0)]
    )
    monkeypatch.setattr(peers[2]._storage, "get", lambda where: Item(old))
    assert await get(peers[4]) == {key(1).peer_id: (7, 7)}
    assert peers[4].refused["signature"] > 0
    assert peers[4].refused["run"] > 0


@pytest.mark.asyncio
async def test_no_message_says_what_time_it_is(swarm: Swarm) -> None:
    """So a peer whose clock is an hour off joins like any other."""
    from hivemind.proto import dht_pb2

    from swarm.dht.p2p import _REPLY, _REQUEST
    from swarm.dht.records import unpack_bundle

    times: list[float] = []

    def tap(caller: str, callee: str, argument: str, body: bytes, reply: bytes) -> None:
        answer = _REPLY.decode(reply)[0]
        if argument == "ping":
            times.append(dht_pb2.PingResponse.FromString(answer).dht_time)
        elif argument == "store":
            request = dht_pb2.StoreRequest.FromString(_REQUEST.decode(body)[0])
            times.extend(request.expiration_time)
            times.extend(seconds for value in request.values for _, seconds in unpack_bundle(value))
        else:
            results = dht_pb2.FindResponse.FromString(answer).results
            times.extend(result.expiration_time for result in results)
            times.extend(
                seconds for result in results if result.value for _, seconds in unpack_bundle(result.value)
            )

    swarm.network.tap = tap
    peers = await swarm.many(4)
    for number, peer in enumerate(peers):
        await put(peer, number, seconds=1e9)
        await get(peer)
    assert max(times) > 590
    assert all(0 <= seconds <= 600 for seconds in times)


@pytest.mark.asyncio
async def test_a_closed_directory_sends_nothing(swarm: Swarm) -> None:
    peers = await swarm.many(3)
    await put(peers[2], 2)
    await peers[1].close()
    await peers[1].close()
    calls = swarm.network.calls
    assert not await put(peers[1], 1)
    assert set(await get(peers[1])) <= ids(2)
    assert swarm.network.calls == calls
    assert set(await get(peers[0])) == ids(2)


@pytest.mark.asyncio
async def test_closing_in_the_middle_of_a_search_ends_it_without_an_error(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = await swarm.many(5)

    async def never(self: MemoryTransport, *args: object, **options: object) -> bytes:
        await asyncio.Event().wait()
        raise Unreachable("never")

    monkeypatch.setattr(MemoryTransport, "request", never)
    searches = [asyncio.create_task(get(peers[1])), asyncio.create_task(put(peers[1], 1))]
    for _ in range(20):
        await asyncio.sleep(0)
    await peers[1].close()
    found, taken = [await search for search in searches]
    assert not taken
    assert found in ({}, {key(1).peer_id: (0, 0)}), "at most what it keeps itself"
