import asyncio
from collections.abc import Callable

import pytest

from swarm.errors import SwarmError
from swarm.identity import PeerId
from swarm.simulation.clock import simulate
from swarm.simulation.faults import Faults, churn
from swarm.simulation.network import Link, SimulatedNetwork
from swarm.transport import Call, Request, Route

NAMES = {name: PeerId(name * 52) for name in "abcd"}
A, B, C, D = NAMES.values()


def watch(faults: Faults, probe: Callable[[SimulatedNetwork], object], seconds: int) -> list[object]:
    """What ``probe`` sees in the middle of every second under ``faults``."""

    async def main() -> list[object]:
        network = SimulatedNetwork(1)
        for peer in NAMES.values():
            network.attach(peer)
        faults.schedule(network, NAMES)
        seen = []
        for second in range(seconds):
            await asyncio.sleep(second + 0.5 - asyncio.get_running_loop().time())
            seen.append(probe(network))
        return seen

    return simulate(main())


def test_a_plan_is_carried_out_at_its_times() -> None:
    assert watch(Faults().crash("a", at=2), lambda network: A in network.peers, 4) == [
        True,
        True,
        False,
        False,
    ]
    assert watch(Faults().freeze("a", between=(1, 3)), lambda network: network.is_up(A), 4) == [
        True,
        False,
        False,
        True,
    ]
    assert watch(Faults().stop("a", between=(1, 3)), lambda network: network.is_up(A), 4) == [
        True,
        False,
        False,
        True,
    ]


def reaches(faults: Faults, seconds: float) -> list[tuple[str, str]]:
    """Who can call whom at ``seconds``, under ``faults``."""

    async def yes(call: Call) -> bytes:
        return b"yes"

    async def main() -> list[tuple[str, str]]:
        network = SimulatedNetwork(1, Link(latency=0.001, jitter=0))
        transports = {name: network.attach(peer) for name, peer in NAMES.items()}
        for transport in transports.values():
            transport.serve(Route("yes", yes))
        faults.schedule(network, NAMES)
        await asyncio.sleep(seconds)
        pairs = [(a, b) for a in NAMES for b in NAMES if a < b]
        replies = await asyncio.gather(
            *(transports[a].request(NAMES[b], Request("yes"), deadline=seconds + 0.1) for a, b in pairs),
            return_exceptions=True,
        )
        assert all(isinstance(reply, bytes | SwarmError) for reply in replies)
        return [pair for pair, reply in zip(pairs, replies, strict=True) if reply == b"yes"]

    return simulate(main())


def test_a_cut_and_a_split_separate_the_peers_they_name_for_a_while() -> None:
    cut = Faults().cut("a", "b", between=(1, 2))
    split = Faults().split("ab", "cd", between=(1, 2))
    everybody = reaches(Faults(), 1.5)
    assert len(everybody) == 6
    assert reaches(cut, 1.5) == [pair for pair in everybody if pair != ("a", "b")]
    assert reaches(split, 1.5) == [("a", "b"), ("c", "d")]
    assert reaches(cut, 0.5) == reaches(cut, 2.5) == reaches(split, 2.5) == everybody


def test_a_slow_link_is_given_back() -> None:
    link = Link(latency=99)
    seen = watch(Faults().slow("a", link, between=(1, 2)), lambda network: network.hosts[A].link, 3)
    assert seen == [Link(), link, Link()]


def test_plans_are_values_that_can_be_added() -> None:
    one = Faults().crash("a", at=1)
    two = Faults().freeze("b", between=(2, 3))
    assert one + two == Faults().crash("a", at=1).freeze("b", between=(2, 3))
    assert (one + two).names == {"a", "b"}
    assert one == Faults().crash("a", at=1)


def test_a_plan_for_somebody_unknown_is_refused_before_anything_happens() -> None:
    with pytest.raises(ValueError, match="something happens to x, z"):
        watch(Faults().crash("z", at=1).cut("a", "x", between=(1, 2)), lambda network: None, 1)


def test_what_happens_to_a_crashed_peer_has_no_effect() -> None:
    faults = (
        Faults()
        .crash("a", at=1)
        .freeze("a", between=(2, 3))
        .slow("a", Link(), between=(2, 3))
        .crash("a", at=4)
    )
    assert watch(faults, lambda network: network.is_up(A), 5) == [True, False, False, False, False]


def test_churn_takes_about_the_share_it_is_told_to_within_its_time() -> None:
    names = [f"p{number}" for number in range(1000)]
    faults = churn(names, seed=1, share=0.2, between=(100, 200))
    assert 150 < len(faults.plan) < 250
    assert all(100 <= fault.at <= 200 for fault in faults.plan)
    assert churn(names, seed=1, share=0, between=(0, 1)) == Faults()
    assert churn(names, seed=1, share=1, between=(0, 1)).names == set(names)


def test_churn_depends_on_seed_and_name_only() -> None:
    names = [f"p{number}" for number in range(100)]
    faults = churn(names, seed=1, share=0.5, between=(0, 10))
    assert set(churn(reversed(names), seed=1, share=0.5, between=(0, 10)).plan) == set(faults.plan)
    assert set(churn(names[:50], seed=1, share=0.5, between=(0, 10)).plan) < set(faults.plan)
    assert churn(names, seed=2, share=0.5, between=(0, 10)).names != faults.names
