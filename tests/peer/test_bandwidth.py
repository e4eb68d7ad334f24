"""The line measures itself while it is busy, and only then."""

from __future__ import annotations

import asyncio

import pytest

from averaging.groups import Line
from averaging.messages import MAX_UP
from peer.bandwidth import ENOUGH, LARGE, Metered, Uplink
from swarm.errors import SwarmError
from swarm.simulation.clock import simulate
from swarm.simulation.network import Link, SimulatedNetwork
from swarm.transport import Allowance, Call, Route

from .company import key

MB = 1 << 20


def measured(*requests: tuple[float, float, int]) -> Uplink:
    """The uplink after requests of (begin, end, bytes that arrived)."""
    uplink = Uplink()
    moments = sorted([(begin, 1, 0) for begin, _, _ in requests] + [(end, 0, size) for _, end, size in requests])
    for now, is_begin, size in moments:
        if is_begin:
            uplink.begin(now)
        else:
            uplink.end(size, now)
    return uplink


def test_nothing_is_known_before_the_first_spell() -> None:
    assert Uplink().line(dialable=True) == Line(0, dialable=True)


def test_requests_at_once_share_the_line() -> None:
    assert measured((0, 2, 2 * MB), (1, 4, 4 * MB)).rate == 6 * MB / 4


def test_time_between_spells_does_not_count() -> None:
    assert measured((0, 1, 2 * MB), (100, 101, 2 * MB)).rate == 2 * MB


def test_a_spell_of_few_bytes_measures_nothing() -> None:
    assert measured((0, 1, ENOUGH - 1)).rate == 0


def test_a_spell_with_a_failure_measures_nothing() -> None:
    assert measured((0, 1, 9 * MB), (0.5, 2, 0)).rate == 0
    assert measured((0, 1, 9 * MB), (0.5, 2, 0), (3, 4, 2 * MB)).rate == 2 * MB


def test_a_slower_spell_is_believed_little_by_little_and_a_faster_one_at_once() -> None:
    assert measured((0, 1, 10 * MB), (2, 3, 2 * MB)).rate == 9 * MB
    assert measured((0, 1, 2 * MB), (2, 3, 10 * MB)).rate == 10 * MB
    many = [(2.0 * n, 2.0 * n + 1, 2 * MB) for n in range(1, 40)]
    assert measured((0, 1, 10 * MB), *many).rate == 2 * MB


def test_a_claim_stays_within_what_a_message_may_say() -> None:
    assert measured((0, 1e-9, 2 * MB)).line(dialable=False) == Line(MAX_UP, dialable=False)


@pytest.mark.parametrize("bandwidth", [1e6, 2e7])
def test_the_rate_of_a_line_is_found(bandwidth: float) -> None:
    async def story() -> Uplink:
        network = SimulatedNetwork(1, Link(latency=0.02, jitter=0.0, bandwidth=bandwidth))
        uplink, loop = Uplink(), asyncio.get_running_loop()
        sender = Metered(network.attach(key(0).peer_id, lambda: None), uplink, loop.time)
        receiver = network.attach(key(1).peer_id, lambda: None)

        async def take(call: Call) -> bytes:
            return b""

        receiver.serve(Route("bulk", take, lambda who, argument: Allowance(at_most=64 * MB)))
        await sender.request(receiver.me, "bulk", bytes(LARGE - 1), deadline=1000)
        assert uplink.rate == 0
        with pytest.raises(SwarmError):
            await sender.request(receiver.me, "nothing", bytes(8 * MB), deadline=1000)
        assert uplink.rate == 0
        await sender.request(receiver.me, "bulk", bytes(8 * MB), deadline=1000)
        assert sender.me == key(0).peer_id
        assert sender.bytes_up > 8 * MB > sender.bytes_down
        return uplink

    rates: list[float] = []

    async def run() -> None:
        rates.append((await story()).rate)

    simulate(run())
    assert rates[0] == pytest.approx(bandwidth, rel=0.35)
