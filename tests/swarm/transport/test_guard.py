from collections.abc import AsyncIterator

import pytest

from swarm.errors import Busy, Flooding, Malformed, Oversized
from swarm.identity import PeerId
from swarm.transport.guard import Guard, Limits, Refusals, collect

ANNA, BORIS = PeerId("a" * 52), PeerId("b" * 52)


def test_one_host_gets_so_many_seats_and_no_more() -> None:
    guard = Guard(Limits(connections_per_host=2))
    with guard.seat("here"), guard.seat("here"):
        with pytest.raises(Flooding, match="here"), guard.seat("here"):
            pytest.fail("a third seat")
        with guard.seat("there"):
            assert repr(guard).startswith("Guard(3 connections")
    with guard.seat("here"), guard.seat("here"):
        pass
    assert repr(guard).startswith("Guard(0 connections")


def test_all_hosts_together_get_so_many_seats_and_no_more() -> None:
    guard = Guard(Limits(connections=2))
    with guard.seat("a"), guard.seat("b"), pytest.raises(Flooding), guard.seat("c"):
        pytest.fail("a third seat")


def test_a_seat_is_free_again_when_its_guest_fails() -> None:
    guard = Guard(Limits(connections=1))
    with pytest.raises(RuntimeError), guard.seat("a"):
        raise RuntimeError
    with guard.seat("b"):
        pass


def test_bytes_in_flight_have_room_or_come_later() -> None:
    guard = Guard(Limits(in_flight_bytes=100))
    with guard.room(60), guard.room(40):
        with guard.room(0):
            pass
        with pytest.raises(Busy), guard.room(1):
            pytest.fail("no room for this")
    with guard.room(100):
        pass


def test_every_peer_has_a_pace_of_its_own() -> None:
    guard = Guard(Limits(requests_rate=1, requests_burst=2))
    for _ in range(2):
        guard.pace(ANNA, 0.0)
    with pytest.raises(Flooding):
        guard.pace(ANNA, 0.0)
    guard.pace(BORIS, 0.0)
    guard.pace(ANNA, 1.0)


def test_a_refused_request_does_not_count_against_its_peer() -> None:
    guard = Guard(Limits(requests_rate=1, requests_burst=1))
    guard.pace(ANNA, 0.0)
    for _ in range(50):
        with pytest.raises(Flooding):
            guard.pace(ANNA, 0.5)
    guard.pace(ANNA, 1.0)


def test_the_books_do_not_grow_with_the_number_of_strangers() -> None:
    guard = Guard(Limits())
    for number in range(5000):
        guard.pace(PeerId(str(number)), 0.0)
    assert len(guard._paces) == 4096


def test_patience_grows_with_the_length() -> None:
    limits = Limits(grace_seconds=2, minimum_rate=1000)
    assert limits.patience(0) == 2
    assert limits.patience(5000) == 7


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
