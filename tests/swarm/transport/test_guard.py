from collections.abc import AsyncIterator

import pytest

from swarm.errors import Busy, Flooding, Malformed, Oversized
from swarm.identity import PeerId
from swarm.transport.guard import (
    ConnectionLimits,
    Guard,
    Limits,
    Refusals,
    RequestLimits,
    Timeouts,
    collect,
)
from swarm.wire import CONTROL_LIMIT

ANNA = PeerId("a" * 52)
BORIS = PeerId("b" * 52)
CARLA = PeerId("c" * 52)


def test_one_host_gets_so_many_connections_and_no_more() -> None:
    guard = Guard(Limits(connections=ConnectionLimits(per_host=2)))
    with guard.connection("here"), guard.connection("here"):
        with pytest.raises(Flooding, match="here"), guard.connection("here"):
            pytest.fail("a third connection")
        with guard.connection("there"):
            assert repr(guard).startswith("Guard(3 connections")
    with guard.connection("here"), guard.connection("here"):
        pass
    assert repr(guard).startswith("Guard(0 connections")


def test_an_ipv6_network_of_one_owner_is_one_host() -> None:
    """A household has 2^64 addresses, and would have as many shares."""
    guard = Guard(Limits(connections=ConnectionLimits(per_host=2)))
    with guard.connection("2001:db8::1"), guard.connection("2001:db8::2"):
        with pytest.raises(Flooding), guard.connection("2001:db8::3"):
            pytest.fail("a third connection")
        with guard.connection("2001:db8:0:1::1"):
            assert guard.connections == 3
    old = "192.0.2.1"
    new = "::ffff:192.0.2.1"
    with guard.connection(old), guard.connection(new), pytest.raises(Flooding), guard.connection(old):
        pytest.fail("a third connection of one address in two forms")


def test_all_hosts_together_get_so_many_connections_and_no_more() -> None:
    guard = Guard(Limits(connections=ConnectionLimits(total=2)))
    with guard.connection("a"), guard.connection("b"), pytest.raises(Flooding), guard.connection("c"):
        pytest.fail("a third connection")


def test_a_connection_that_fails_is_not_counted_any_more() -> None:
    guard = Guard(Limits(connections=ConnectionLimits(total=1)))
    with pytest.raises(RuntimeError), guard.connection("a"):
        raise RuntimeError
    with guard.connection("b"):
        pass


def test_more_bytes_in_flight_than_allowed_are_refused_for_now() -> None:
    guard = Guard(Limits(requests=RequestLimits(in_flight_bytes=100)))
    with guard.reserve(ANNA, 60), guard.reserve(BORIS, 40):
        with guard.reserve(CARLA, 0):
            pass
        with pytest.raises(Busy), guard.reserve(CARLA, 1):
            pytest.fail("no room for this")
    with guard.reserve(ANNA, 100):
        pass
    assert guard.in_flight == 0


def test_a_peer_with_many_bodies_under_way_leaves_room_for_the_others() -> None:
    guard = Guard(Limits(requests=RequestLimits(in_flight_bytes=100 * CONTROL_LIMIT, share=0.25)))
    with guard.reserve(ANNA, 20 * CONTROL_LIMIT):
        with pytest.raises(Busy), guard.reserve(ANNA, 6 * CONTROL_LIMIT):
            pytest.fail("more than its share")
        with guard.reserve(BORIS, 75 * CONTROL_LIMIT):
            pass


def test_control_messages_get_through_beside_a_body_that_exceeds_the_share_of_its_peer() -> None:
    guard = Guard(Limits(requests=RequestLimits(in_flight_bytes=100 * CONTROL_LIMIT, share=0.25)))
    with guard.reserve(ANNA, 60 * CONTROL_LIMIT), guard.reserve(ANNA, 0), guard.reserve(ANNA, CONTROL_LIMIT):
        assert guard.in_flight == 61 * CONTROL_LIMIT


def test_the_request_rate_of_each_peer_is_limited_by_itself() -> None:
    guard = Guard(Limits(requests=RequestLimits(rate=1, burst=2)))
    for _ in range(2):
        guard.check_rate(ANNA, 0.0)
    with pytest.raises(Flooding):
        guard.check_rate(ANNA, 0.0)
    guard.check_rate(BORIS, 0.0)
    guard.check_rate(ANNA, 1.0)


def test_a_refused_request_does_not_count_against_its_peer() -> None:
    guard = Guard(Limits(requests=RequestLimits(rate=1, burst=1)))
    guard.check_rate(ANNA, 0.0)
    for _ in range(50):
        with pytest.raises(Flooding):
            guard.check_rate(ANNA, 0.5)
    guard.check_rate(ANNA, 1.0)


def test_memory_does_not_grow_with_the_number_of_strangers() -> None:
    guard = Guard(Limits())
    for number in range(5000):
        guard.check_rate(PeerId(str(number)), 0.0)
    assert len(guard._buckets) == 4096


def test_the_time_for_a_body_grows_with_its_length() -> None:
    timeouts = Timeouts(grace_seconds=2, minimum_rate=1000)
    assert timeouts.transfer(0) == 2
    assert timeouts.transfer(5000) == 7


def test_a_snapshot_of_refusals_does_not_change_and_cannot_be_changed() -> None:
    refusals = Refusals()
    refusals.count("silent")
    before = refusals.snapshot()
    refusals.count("silent")
    assert (before, refusals.snapshot()) == ({"silent": 1}, {"silent": 2})
    with pytest.raises(TypeError):
        before["silent"] = 0  # type: ignore[index]
    assert repr(refusals) == "Refusals(silent 2)"


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.asyncio
@pytest.mark.parametrize("chunks", [(), (b"",), (b"abc",), (b"a", b"", b"bc"), (bytes(1 << 20), bytes(17))])
async def test_a_body_is_its_chunks(chunks: tuple[bytes, ...]) -> None:
    whole = b"".join(chunks)
    assert await collect(stream(*chunks), len(whole)) == whole


@pytest.mark.asyncio
async def test_a_body_longer_than_announced_is_oversized() -> None:
    with pytest.raises(Oversized):
        await collect(stream(b"abc", b"d"), 3)


@pytest.mark.asyncio
async def test_a_body_that_breaks_off_is_malformed() -> None:
    with pytest.raises(Malformed, match="3 of 4"):
        await collect(stream(b"abc"), 4)
