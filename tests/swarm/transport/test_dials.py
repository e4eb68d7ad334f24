"""Addresses that have not answered are dialled so often and no more; peers that are there notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from swarm.simulation.clock import simulate
from swarm.ticket import Address
from swarm.transport.dials import Dials, NoAnswer, Target
from swarm.transport.guard import DialLimits
from tests.swarm.loopback import key

LIMITS = DialLimits()
HERE = "127.0.0.1"
VICTIM = "8.8.8.8"


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        simulate(test())

    return run


def target(peer: int = 1, host: str = VICTIM, port: int = 1000, share: str = "") -> Target:
    """A peer at an address. By default each peer has told it itself, from a private network."""
    peer_id = key(peer).peer_id
    return Target(peer_id, Address(host, port), share or peer_id)


class Network:
    """Peers answer at the addresses in ``there``, after ``seconds``. ``dialled`` counts the connections."""

    def __init__(self, *there: Target, seconds: float = 0.1) -> None:
        self.dials = Dials(LIMITS)
        self.there = set(there)
        self.seconds = seconds
        self.dialled = 0

    async def dial(self, to: Target) -> bool:
        """Whether the peer has answered."""
        try:
            async with self.dials.one(to):
                self.dialled += 1
                await asyncio.sleep(self.seconds)
                if to not in self.there:
                    raise NoAnswer("Connection refused")
        except NoAnswer:
            return False
        return True

    async def dial_all(self, *targets: Target) -> list[bool]:
        """The same for many at once."""
        return await asyncio.gather(*map(self.dial, targets))


@in_virtual_time
async def test_one_address_of_one_peer_is_tried_four_times_and_then_four_times_a_minute() -> None:
    network = Network()
    for _ in range(50):
        assert not await network.dial(target())
    assert network.dialled == 4
    for _ in range(600):
        await asyncio.sleep(1)
        await network.dial(target())
    assert network.dialled in (43, 44, 45)


@in_virtual_time
async def test_a_scan_of_one_host_by_many_names_ends_after_so_many_ports() -> None:
    network = Network()
    await network.dial_all(*(target(peer, port=1000 + peer) for peer in range(1, 250)))
    assert network.dialled == LIMITS.host_burst
    await asyncio.sleep(10)
    await network.dial_all(*(target(peer, port=2000 + peer) for peer in range(1, 250)))
    assert network.dialled <= LIMITS.host_burst + 11 * LIMITS.host_rate


@in_virtual_time
async def test_one_household_of_addresses_is_one_host() -> None:
    network = Network()
    await network.dial_all(*(target(peer, host=f"2600::{peer}") for peer in range(1, 250)))
    assert network.dialled == LIMITS.host_burst


@in_virtual_time
async def test_a_scan_of_many_hosts_on_one_word_ends_after_so_many() -> None:
    network = Network()
    scan = [target(peer, host=f"8.8.{peer}.8", share="9.9.9.9") for peer in range(1, 250)]
    await network.dial_all(*scan)
    assert network.dialled == LIMITS.teller_burst
    await asyncio.sleep(10)
    await network.dial_all(*scan)
    assert network.dialled <= LIMITS.teller_burst + 11 * LIMITS.teller_rate


@in_virtual_time
async def test_a_scan_on_the_word_of_one_does_not_keep_us_from_peers_that_others_have_told() -> None:
    honest = target(250, host="9.9.9.9")
    network = Network(honest)
    await network.dial_all(*(target(peer, host=f"8.8.{peer}.8", share="7.7.7.7") for peer in range(1, 250)))
    assert await network.dial(honest)


@in_virtual_time
async def test_sixty_peers_on_one_host_that_one_welcome_has_named_are_all_reached_at_once() -> None:
    peers = [target(peer, HERE, 1000 + peer, share="the entry") for peer in range(1, 61)]
    network = Network(*peers)
    assert all(await network.dial_all(*peers))
    more = [target(peer, HERE, 2000 + peer, share="the entry") for peer in range(1, 61)]
    network.there |= set(more)
    assert all(await network.dial_all(*more)), "those that have answered take nothing"


@in_virtual_time
async def test_a_peer_that_has_answered_is_dialled_as_often_as_we_like_also_while_it_is_away() -> None:
    network = Network(target())
    assert await network.dial(target())
    network.there.clear()
    for _ in range(100):
        assert not await network.dial(target())
    assert network.dialled == 101
    network.there.add(target())
    assert await network.dial(target())


@in_virtual_time
async def test_a_peer_whose_port_opens_late_is_reached_within_a_quarter_of_a_minute() -> None:
    network = Network()
    for _ in range(60):
        await network.dial(target())
        await asyncio.sleep(1)
    network.there.add(target())
    answers = []
    for _ in range(16):
        answers.append(await network.dial(target()))
        await asyncio.sleep(1)
    assert answers[-1]


@in_virtual_time
async def test_a_peer_that_comes_back_at_another_port_is_reached_at_once() -> None:
    network = Network()
    await network.dial_all(*[target()] * 9)
    again = target(port=2000)
    network.there.add(again)
    assert await network.dial(again)


@in_virtual_time
async def test_many_that_want_one_new_peer_wait_for_one_dial() -> None:
    network = Network()
    assert not any(await network.dial_all(*[target()] * 30))
    assert network.dialled == 1
    network.there.add(target())
    assert all(await network.dial_all(*[target()] * 30))
    assert network.dialled == 31


@in_virtual_time
async def test_a_dial_that_is_given_up_keeps_nobody_waiting() -> None:
    network = Network(target(), seconds=5)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await network.dial(target())
    assert await network.dial(target())
