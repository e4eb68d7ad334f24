"""The uplink is measured while it is busy, and only then."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import pytest

from averaging import groups
from averaging.groups import Group, LinkClaim
from averaging.messages import MAX_UPLINK
from peer.config.run import RunSettings
from peer.network import uplink as uplink_module
from peer.network.uplink import ENOUGH, LARGE, MeteredTransport, Uplink
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from swarm.errors import SwarmError
from swarm.identity import PeerId
from swarm.manifest import Codec, Exchange, RoundSpec
from swarm.simulation.clock import simulate
from swarm.simulation.faults import Faults
from swarm.simulation.network import Link, SimulatedNetwork
from swarm.transport import Allowance, Call, Request, Route
from tests.peer.company import key

MB = 1 << 20


def measured(*requests: tuple[float, float, int]) -> Uplink:
    """The uplink after requests of (begin, end, bytes that arrived)."""
    uplink = Uplink()
    moments = sorted(
        [(begin, 1, 0) for begin, _, _ in requests] + [(end, 0, size) for _, end, size in requests]
    )
    for now, is_begin, size in moments:
        if is_begin:
            uplink.begin(now)
        else:
            uplink.end(size, now)
    return uplink


def test_nothing_is_known_before_the_first_busy_period() -> None:
    assert Uplink().claim() == LinkClaim(0, dialable=True)


def test_the_claim_says_whether_others_can_dial_us() -> None:
    uplink = measured((0, 1, 2 * MB))
    uplink.is_dialable = False
    assert uplink.claim() == LinkClaim(round(2 * MB / 1000), dialable=False)


def test_requests_at_once_share_the_uplink() -> None:
    assert measured((0, 2, 2 * MB), (1, 4, 4 * MB)).rate == 6 * MB / 4
    assert measured((0, 2, 2 * MB), (0, 2, 2 * MB)).rate == 2 * MB


def test_time_between_busy_periods_does_not_count() -> None:
    assert measured((0, 1, 2 * MB), (100, 101, 2 * MB)).rate == 2 * MB


def test_a_busy_period_of_few_bytes_measures_nothing() -> None:
    assert measured((0, 1, ENOUGH - 1)).rate == 0


def test_requests_that_fail_or_crawl_make_an_uplink_look_no_slower_than_what_arrived_before() -> None:
    assert measured((0, 1, 8 * MB), (0.5, 4, 0)).rate == 8 * MB
    assert measured((0, 1, 8 * MB), (0.5, 10, 1 * MB)).rate == 8 * MB
    assert measured((0, 1, 0)).rate == 0


def test_a_slower_measurement_counts_little_by_little_and_a_faster_one_at_once() -> None:
    assert measured((0, 1, 10 * MB), (2, 3, 2 * MB)).rate == 9 * MB
    assert measured((0, 1, 2 * MB), (2, 3, 10 * MB)).rate == 10 * MB
    many = [(2.0 * n, 2.0 * n + 1, 2 * MB) for n in range(1, 40)]
    assert measured((0, 1, 10 * MB), *many).rate == 2 * MB


def test_a_claim_stays_within_what_a_message_may_say() -> None:
    assert measured((0, 1e-9, 2 * MB)).claim() == LinkClaim(MAX_UPLINK, dialable=True)


@pytest.mark.parametrize(
    ("seconds", "exchange", "members", "expected"),
    [
        (2, Exchange.BUTTERFLY, 4, Codec.INT8),
        (8, Exchange.BUTTERFLY, 4, Codec.INT4),
        (2, Exchange.GATHER, 4, Codec.INT4),
        (160, Exchange.BUTTERFLY, 4, Codec.INT4),
        (160, Exchange.BUTTERFLY, 0, Codec.INT8),
    ],
)
def test_a_slow_uplink_sends_a_smaller_update(
    seconds: float, exchange: Exchange, members: int, expected: Codec
) -> None:
    """Ten million numbers, a second to send them; the uplink has taken ``seconds`` for sixteen megabytes."""
    spec = RoundSpec(seconds=10.0, codec=Codec.INT8, exchange=exchange)
    assert measured((0, seconds, 16 * MB)).codec(spec, 10_000_000, members) == expected
    assert Uplink().codec(spec, 10_000_000, members) == Codec.INT8, (
        "nothing is known of an uplink that has not been used"
    )


@pytest.mark.parametrize("speed", [1e6, 2e7])
def test_the_rate_of_an_uplink_is_found(speed: float) -> None:
    async def main() -> Uplink:
        network = SimulatedNetwork(1, Link(latency=0.02, jitter=0.0, bandwidth=speed))
        uplink = Uplink()
        loop = asyncio.get_running_loop()
        sender = MeteredTransport(network.attach(key(0).peer_id, lambda: None), uplink, loop.time)
        receiver = network.attach(key(1).peer_id, lambda: None)

        async def take(call: Call) -> bytes:
            return b""

        receiver.serve(Route("bulk", take, lambda sender, argument: Allowance(at_most=64 * MB)))
        await sender.request(receiver.me, Request("bulk", bytes(LARGE - 1)), deadline=1000)
        assert uplink.rate == 0
        with pytest.raises(SwarmError):
            await sender.request(receiver.me, Request("nothing", bytes(8 * MB)), deadline=1000)
        assert uplink.rate == 0
        await sender.request(receiver.me, Request("bulk", bytes(8 * MB)), deadline=1000)
        assert sender.me == key(0).peer_id
        assert sender.bytes_up > 8 * MB > sender.bytes_down
        return uplink

    assert simulate(main()).rate == pytest.approx(speed, rel=0.35)


def test_a_peer_with_a_slow_uplink_comes_to_own_less_and_all_still_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sizes from which on uplinks are measured are made to fit the smallest model."""
    monkeypatch.setattr(uplink_module, "LARGE", 1000)
    monkeypatch.setattr(uplink_module, "ENOUGH", 2000)
    plans: list[dict[PeerId, float]] = []

    def spy(group: Group, owners: tuple[PeerId, ...]) -> tuple[Fraction, ...]:
        found = shares(group, owners)
        plans.append({owner: float(share) for owner, share in zip(owners, found, strict=True)})
        return found

    shares = groups.shares
    monkeypatch.setattr(groups, "shares", spy)
    fast = Link(latency=0.001, jitter=0.0, bandwidth=2e5)
    slow = Link(latency=0.001, jitter=0.0, bandwidth=4e4)
    faults = Faults().slow("p2", slow, between=(2.0, 1e6))
    settings = RunSettings(model="tiny", max_steps=4, round_seconds=5.0, average_seconds=60.0, codec="fp32")
    result = rehearse(Scenario(peers=5, rounds=4, settings=settings, link=fast, faults=faults))
    assert result.state_roots_equal
    assert set(plans[0].values()) == {0.2}
    slowest = [min(plan, key=lambda owner: plan[owner]) for plan in plans[-5:]]
    assert len(set(slowest)) == 1
    assert plans[-1][slowest[0]] < 0.1
    sent = {
        name: sum(report.bytes_up for report in notebook.rounds[2:])
        for name, notebook in result.notebooks.items()
    }
    assert min(sent, key=lambda name: sent[name]) == "p2"
