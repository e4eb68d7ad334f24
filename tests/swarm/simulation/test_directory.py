import asyncio
from collections.abc import Awaitable, Callable

import pytest

from swarm.dht.directory import RECORD_LIMIT, Directory
from swarm.identity import KeyPair
from swarm.membership.contacts import Contact, seal_contact
from swarm.simulation.clock import simulate
from swarm.simulation.directory import Quality, SharedRecords, SimulatedDirectory
from swarm.simulation.network import SimulatedNetwork
from swarm.ticket import Address
from swarm.wire import Kind, Message, Stamp, seal_body

RUN = bytes(range(32))
KEYS = sorted((KeyPair.from_seed(bytes([number]) * 32) for number in range(3)), key=lambda key: key.peer_id)
A, B, C = KEYS
INSTANT = Quality(lookup=0, spread=0)

Scene = Callable[[SimulatedNetwork, Directory, Directory], Awaitable[None]]


def stage(scene: Scene, quality: Quality = INSTANT) -> None:
    """Run ``scene`` with the directories of A and B."""

    async def main() -> None:
        network = SimulatedNetwork(1)
        records = SharedRecords(network, RUN, {"contacts": Contact}, seed=1, quality=quality)
        for key in KEYS:
            network.attach(key.peer_id)
        await scene(network, SimulatedDirectory(records, A.peer_id), SimulatedDirectory(records, B.peer_id))

    simulate(main())


def now() -> float:
    return asyncio.get_running_loop().time()


def contact(key: KeyPair, seq: int = 1) -> bytes:
    return seal_contact(key, RUN, (Address("192.0.2.1", 1000 + seq),), seq)


async def publish(directory: Directory, record: bytes, seconds: float = 60) -> bool:
    return await directory.put("contacts", record, seconds=seconds, deadline=now() + 10)


async def seqs(directory: Directory) -> list[int]:
    """What a reader finds: the number of each record, in the order it gets them."""
    return [found.stamp.seq for found in await directory.get("contacts", Contact, deadline=now() + 10)]


def test_others_get_what_one_puts_one_record_per_signer_in_the_order_of_ids() -> None:
    async def scene(network: SimulatedNetwork, a: Directory, b: Directory) -> None:
        assert await seqs(b) == []
        for key, seq in ((C, 3), (A, 1), (B, 2)):
            assert await publish(a, contact(key, seq))
        found = await b.get("contacts", Contact, deadline=now() + 10)
        assert [signed.signer for signed in found] == [key.peer_id for key in KEYS]
        assert found[0].raw == contact(A, 1)

    stage(scene)


def test_the_newest_record_wins_whatever_the_order_and_a_replay_changes_nothing() -> None:
    async def scene(network: SimulatedNetwork, a: Directory, b: Directory) -> None:
        for seq in (5, 7, 6, 1):
            await publish(a, contact(A, seq))
        assert await seqs(b) == [7]

    stage(scene)


def test_a_record_is_gone_after_its_life() -> None:
    async def scene(network: SimulatedNetwork, a: Directory, b: Directory) -> None:
        await publish(a, contact(A), seconds=30)
        await asyncio.sleep(29)
        assert await seqs(b) == [1]
        await asyncio.sleep(1)
        assert await seqs(b) == []

    stage(scene)


def test_nothing_lives_longer_than_the_directory_allows() -> None:
    async def scene(network: SimulatedNetwork, a: Directory, b: Directory) -> None:
        await publish(a, contact(A), seconds=1e9)
        await asyncio.sleep(599)
        assert await seqs(b) == [1]
        await asyncio.sleep(2)
        assert await seqs(b) == []

    stage(scene)


def test_a_new_record_spreads_and_until_then_the_old_one_is_read() -> None:
    async def scene(network: SimulatedNetwork, a: Directory, b: Directory) -> None:
        await publish(a, contact(A, 1))
        await asyncio.sleep(11)
        await publish(a, contact(A, 2))
        assert (await seqs(a), await seqs(b)) == ([2], [1])
        await asyncio.sleep(11)
        assert await seqs(b) == [2]

    stage(scene, Quality(lookup=0, spread=10))


def test_a_look_up_takes_its_time_and_ends_at_the_deadline() -> None:
    async def scene(network: SimulatedNetwork, a: Directory, b: Directory) -> None:
        assert await a.put("contacts", contact(A), seconds=60, deadline=100)
        assert 2 <= now() <= 8
        began = now()
        assert await a.get("contacts", Contact, deadline=began + 1) == []
        assert now() == began + 1
        assert not await a.put("contacts", contact(A, 2), seconds=60, deadline=began)
        assert now() == began + 1

    stage(scene, Quality(lookup=4, spread=0))


def test_a_peer_without_a_network_puts_and_gets_nothing() -> None:
    async def scene(network: SimulatedNetwork, a: Directory, b: Directory) -> None:
        await publish(a, contact(A))
        network.freeze(B.peer_id)
        assert await seqs(b) == []
        assert not await publish(b, contact(B))
        network.thaw(B.peer_id)
        network.crash(A.peer_id)
        assert await seqs(b) == [1]
        assert not await publish(a, contact(A, 2))

    stage(scene)


def test_loss_takes_its_share_of_puts_and_of_what_is_read() -> None:
    async def scene(network: SimulatedNetwork, a: Directory, b: Directory) -> None:
        kept = [await publish(a, contact(A)) for _ in range(1000)]
        assert 600 < sum(kept) < 800
        found = [len(await seqs(b)) for _ in range(1000)]
        assert 0.91 - 0.05 < sum(found) / 1000 < 0.91 + 0.05  # one of the two kept copies is enough

    stage(scene, Quality(lookup=0, spread=0, loss=0.3))


class Other(Message, frozen=True):
    kind = Kind.VOTE
    text: str


def test_what_is_not_a_sealed_record_of_the_run_and_the_topic_is_refused() -> None:
    async def scene(network: SimulatedNetwork, a: Directory, b: Directory) -> None:
        foreign = seal_contact(A, bytes(32), (), 1)
        wrong_kind = seal_body(A, Kind.VOTE, b"\x91\xa1x", Stamp(RUN))
        broken = contact(A)[:-1] + b"\x00"
        too_long = seal_body(A, Kind.CONTACT, bytes(RECORD_LIMIT), Stamp(RUN))
        for record in (b"noise", foreign, wrong_kind, broken, too_long):
            assert not await publish(a, record)
        assert await seqs(b) == []
        await publish(a, contact(A))
        assert await b.get("contacts", Other, deadline=now() + 1) == []

    stage(scene)


def test_a_topic_that_the_run_does_not_have_is_our_bug() -> None:
    async def scene(network: SimulatedNetwork, a: Directory, b: Directory) -> None:
        with pytest.raises(KeyError):
            await a.put("weather", contact(A), seconds=1, deadline=1)
        with pytest.raises(KeyError):
            await a.get("weather", Contact, deadline=1)

    stage(scene)


def test_equal_seeds_make_equal_directories() -> None:
    def told() -> list[tuple[float, list[int]]]:
        seen: list[tuple[float, list[int]]] = []

        async def scene(network: SimulatedNetwork, a: Directory, b: Directory) -> None:
            for seq in range(50):
                await publish(a, contact(A, seq))
                seen.append((now(), await seqs(b)))

        stage(scene, Quality(lookup=0.3, spread=2, loss=0.3))
        return seen

    assert told() == told()
