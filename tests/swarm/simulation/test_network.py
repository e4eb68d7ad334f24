import asyncio
from collections.abc import Awaitable, Callable

import pytest

from swarm.errors import BadSignature, Busy, ConfigError, Oversized, Refused, SwarmError, TooLate, Unreachable
from swarm.identity import PeerId
from swarm.simulation.clock import simulate
from swarm.simulation.network import HEAD, Link, SimulatedNetwork, SimulatedTransport, between
from swarm.simulation.transcript import Transcript
from swarm.transport import Allowance, Call, Request, Route, Transport
from swarm.wire import CONTROL_LIMIT

A, B, C = (PeerId(letter * 52) for letter in "abc")
EXACT = Link(latency=0.5, jitter=0, bandwidth=1000)
"""A link on which arrival times can be worked out by hand."""
AMPLE = Link(latency=0.5, jitter=0, bandwidth=1e15)

Scene = Callable[[SimulatedNetwork, SimulatedTransport, SimulatedTransport], Awaitable[None]]


def now() -> float:
    return asyncio.get_running_loop().time()


async def echo(call: Call) -> bytes:
    return call.sender.encode() + b"|" + call.argument.encode() + b"|" + bytes(call.body)


def stage(scene: Scene, link: Link = AMPLE, transcript: Transcript | None = None) -> SimulatedNetwork:
    """Run ``scene`` with A and B; B answers "echo"."""

    async def main() -> SimulatedNetwork:
        network = SimulatedNetwork(7, link, transcript)
        a = network.attach(A)
        b = network.attach(B)
        b.serve(Route("echo", echo))
        await scene(network, a, b)
        return network

    left: list[str] = []
    network = simulate(main(), leftovers=left)
    assert left == []
    return network


def test_a_request_arrives_with_sender_argument_and_body_and_its_reply_comes_back() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        assert (
            await a.request(B, Request("echo", b"hello", argument="x.1"), deadline=10)
            == A.encode() + b"|x.1|hello"
        )
        assert (
            await a.request(B, Request("echo", memoryview(bytearray(b"view"))), deadline=10)
            == A.encode() + b"||view"
        )
        assert (a.me, b.me) == (A, B)

    stage(scene)


def test_a_reply_takes_both_ways_and_the_time_that_its_bytes_need_upwards() -> None:
    async def scene(network: SimulatedNetwork, a: SimulatedTransport, b: SimulatedTransport) -> None:
        reply = await a.request(B, Request("echo", bytes(1000)), deadline=100)
        up = HEAD + 1000
        down = HEAD + len(reply)
        assert now() == pytest.approx(0.5 + up / 1000 + 0.5 + down / 1000)
        assert (a.bytes_up, a.bytes_down, b.bytes_up, b.bytes_down) == (up, down, down, up)

    stage(scene, EXACT)


def test_an_uplink_carries_one_message_after_the_other() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        arrivals: list[float] = []

        async def arrive(call: Call) -> bytes:
            arrivals.append(now())
            return b""

        b.serve(Route("echo", arrive))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(a.request(B, Request("echo", bytes(1000 - HEAD)), deadline=100))
        assert arrivals == pytest.approx([1.5, 2.5, 3.5])

    stage(scene, EXACT)


def test_a_lost_request_ends_at_its_deadline() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        with pytest.raises(TooLate):
            await a.request(B, Request("echo"), deadline=12.5)
        assert now() == 12.5

    stage(scene, Link(loss=1))


def test_a_deadline_in_the_past_has_passed() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        await asyncio.sleep(5)
        with pytest.raises(TooLate):
            await a.request(B, Request("echo"), deadline=4)
        assert now() == 5

    stage(scene)


def test_the_share_of_lost_messages_follows_the_link() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        results = await asyncio.gather(
            *(a.request(B, Request("echo"), deadline=50) for _ in range(2000)), return_exceptions=True
        )
        lost = sum(isinstance(result, TooLate) for result in results)
        assert 2 * 0.1 * 2000 * 0.7 < lost < 2 * 0.1 * 2000 * 1.2  # a request or its reply: 1 - 0.9² = 0.19

    stage(scene, Link(loss=0.1, bandwidth=1e9))


def test_an_unknown_peer_is_unreachable() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        with pytest.raises(Unreachable):
            await a.request(C, Request("echo"), deadline=100)
        assert now() == 1

    stage(scene)


@pytest.mark.parametrize("seconds", [0.1, 0.6])
def test_what_is_in_flight_from_or_to_a_crashed_peer_is_lost(seconds: float) -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        asyncio.get_running_loop().call_at(seconds, network.crash, B)
        with pytest.raises(TooLate):
            await a.request(B, Request("echo"), deadline=9)
        with pytest.raises(Unreachable):
            await a.request(B, Request("echo"), deadline=100)

    stage(scene)


def test_a_crash_ends_the_tasks_of_the_peer() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        life = asyncio.create_task(asyncio.sleep(1000))
        network.attach(C, on_crash=life.cancel)
        network.crash(C)
        network.crash(C)
        with pytest.raises(asyncio.CancelledError):
            await life
        assert network.peers == (A, B)
        assert not network.is_up(C)

    stage(scene)


def test_a_peer_that_comes_back_does_not_get_what_was_sent_before() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        async def before() -> None:
            with pytest.raises(TooLate):
                await a.request(B, Request("echo"), deadline=30)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(before())
            await asyncio.sleep(0.1)
            network.crash(B)
            network.attach(B).serve(Route("echo", echo))
            assert await a.request(B, Request("echo"), deadline=30)
        with pytest.raises(ValueError, match="attached already"):
            network.attach(B)

    stage(scene)


def test_a_cut_holds_in_both_directions_for_those_two_only_until_it_heals() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        c = network.attach(C)
        a.serve(Route("echo", echo))
        network.cut(A, B)
        for caller, called in ((a, B), (b, A)):
            with pytest.raises(TooLate):
                await caller.request(called, Request("echo"), deadline=now() + 10)
        assert await c.request(B, Request("echo"), deadline=now() + 10)
        network.heal(B, A)
        assert await a.request(B, Request("echo"), deadline=now() + 10)

    stage(scene)


def test_a_frozen_peer_answers_when_it_thaws_to_those_who_still_wait() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        network.freeze(B)
        assert not network.is_up(B)
        asyncio.get_running_loop().call_at(60, network.thaw, B)
        async with asyncio.TaskGroup() as tasks:
            patient = tasks.create_task(a.request(B, Request("echo"), deadline=100))
            with pytest.raises(TooLate):
                await a.request(B, Request("echo"), deadline=30)
        assert patient.result()
        assert now() == pytest.approx(60.5)
        assert network.is_up(B)

    stage(scene)


def test_nothing_leaves_a_frozen_peer() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        network.freeze(A)
        with pytest.raises(TooLate):
            await a.request(B, Request("echo"), deadline=30)
        assert network.messages == 0

    stage(scene)


def test_a_stopped_peer_stands_still_with_its_tasks_and_timers_and_goes_on_late() -> None:
    async def scene(network: SimulatedNetwork, a: SimulatedTransport, b: SimulatedTransport) -> None:
        ticks: list[float] = []

        async def tick() -> None:
            a.inhabit()
            asyncio.get_running_loop().call_at(15, lambda: ticks.append(-now()))
            while now() < 60:
                await asyncio.sleep(4)
                ticks.append(now())

        task = asyncio.create_task(tick())
        asyncio.get_running_loop().call_at(10, network.stop, A)
        asyncio.get_running_loop().call_at(60, network.go_on, A)
        await asyncio.sleep(11)
        with pytest.raises(TooLate):
            await b.request(A, Request("echo"), deadline=50)
        await task
        assert ticks == [4, 8, -60, 60]  # both were due; a sleeping task wakes a turn after its timer
        assert network.is_up(A)

    stage(scene)


def test_a_stopped_peer_that_crashes_is_gone_with_its_tasks() -> None:
    async def scene(network: SimulatedNetwork, a: SimulatedTransport, b: Transport) -> None:
        async def live() -> None:
            transport.inhabit()
            await asyncio.sleep(1000)

        tasks: list[asyncio.Task[None]] = []
        transport = network.attach(C, lambda: [task.cancel() for task in tasks])
        tasks.append(asyncio.create_task(live()))
        await asyncio.sleep(1)
        network.stop(C)
        await asyncio.sleep(1)
        network.crash(C)
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        assert now() == 2

    stage(scene)


def test_the_heard_callback_gets_handled_requests_and_no_lost_ones() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        heard: list[tuple[PeerId, PeerId, str, bytes]] = []

        def hear(time: float, sender: PeerId, receiver: PeerId, route: str, call: Call) -> None:
            assert time == now() == pytest.approx(0.5)
            heard.append((sender, receiver, route, call.body))

        network.heard = hear
        await a.request(B, Request("echo", b"one"), deadline=10)
        network.cut(A, B)
        with pytest.raises(TooLate):
            await a.request(B, Request("echo", b"two"), deadline=20)
        assert heard == [(A, B, "echo", b"one")]

    stage(scene)


def test_between_two_links_the_worse_values_hold_and_the_senders_bandwidth() -> None:
    fast = Link(0.1, 0.2, 5000, 0)
    slow = Link(2, 0, 100, 0.5)
    assert between(fast, slow) == Link(2, 0.2, 5000, 0.5)
    assert between(slow, fast) == Link(2, 0.2, 100, 0.5)


def test_a_slow_link_lasts_until_it_is_given_back() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        network.slow(B, Link(latency=10, jitter=0, bandwidth=1e15))
        await a.request(B, Request("echo"), deadline=100)
        assert now() == pytest.approx(20)
        network.slow(B)
        await a.request(B, Request("echo"), deadline=100)
        assert now() == pytest.approx(21)

    stage(scene)


@pytest.mark.parametrize("values", [(-1, 0, 1, 0), (0, -1, 1, 0), (0, 0, 0, 0), (0, 0, 1, 2)])
def test_a_link_that_cannot_be_is_refused(values: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="is not a link"):
        Link(*values)


def _raising(error: Exception) -> Callable[..., Awaitable[bytes]]:
    async def handler(call: Call) -> bytes:
        raise error

    return handler


@pytest.mark.parametrize(
    ("error", "seen"),
    [(Busy("no room"), Busy), (BadSignature("broken"), Refused), (Unreachable("gone"), Refused)],
)
def test_a_refusal_comes_back_as_on_sockets_with_its_text(error: SwarmError, seen: type[SwarmError]) -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        def refuse(sender: PeerId, argument: str) -> Allowance:
            raise error

        for route in (Route("no", _raising(error)), Route("no", echo, refuse)):
            b.serve(route)
            with pytest.raises(SwarmError, match=error.fact) as caught:
                await a.request(B, Request("no"), deadline=now() + 10)
            assert type(caught.value) is seen

    stage(scene)


def test_an_unknown_route_is_refused_and_an_impossible_name_is_our_bug() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        with pytest.raises(Refused, match="'nothing'"):
            await a.request(B, Request("nothing"), deadline=10)
        with pytest.raises(ValueError, match="name of a call"):
            await a.request(B, Request("echo", argument="not a path"), deadline=10)
        with pytest.raises(ValueError, match="name of a call"):
            b.serve(Route("No Route", echo))

    stage(scene)


def test_the_allowance_of_a_route_holds() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        b.serve(Route("exact", echo, lambda sender, argument: Allowance(exact=int(argument))))
        assert await a.request(B, Request("exact", bytes(5), argument="5"), deadline=10)
        for route, argument, size in (("exact", "5", 6), ("echo", "", CONTROL_LIMIT + 1)):
            with pytest.raises(Refused, match=str(size)):
                await a.request(B, Request(route, bytes(size), argument=argument), deadline=10)

    stage(scene)


def test_a_refused_bulk_body_costs_no_bandwidth() -> None:
    async def scene(network: SimulatedNetwork, a: SimulatedTransport, b: Transport) -> None:
        with pytest.raises(Refused):
            await a.request(B, Request("echo", bytes(1 << 24)), deadline=10)
        assert a.bytes_up == HEAD

    stage(scene)


def test_a_bulk_body_must_come_within_the_patience_of_its_route() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        size = CONTROL_LIMIT * 2
        b.serve(Route("bulk", echo, lambda sender, argument: Allowance(exact=size, seconds=float(argument))))
        with pytest.raises(Refused, match="within 60 s"):
            await a.request(B, Request("bulk", bytes(size), argument="60", limit=1 << 20), deadline=1000)
        assert await a.request(B, Request("bulk", bytes(size), argument="300", limit=1 << 20), deadline=2000)

    stage(scene, EXACT)


def test_a_reply_beyond_the_limit_is_oversized_for_the_caller() -> None:
    async def scene(network: SimulatedNetwork, a: SimulatedTransport, b: Transport) -> None:
        with pytest.raises(Oversized):
            await a.request(B, Request("echo", bytes(200), limit=100), deadline=10)
        assert a.bytes_down <= HEAD + 100

    stage(scene)


@pytest.mark.parametrize("bug", [ZeroDivisionError("a bug"), TimeoutError("a bug"), KeyError("a bug")])
def test_a_bug_in_a_handler_is_a_refusal_to_the_caller_and_a_failure_of_the_rehearsal(bug: Exception) -> None:
    seen: list[SwarmError] = []

    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        b.serve(Route("bug", _raising(bug)))
        with pytest.raises(Refused) as caught:
            await a.request(B, Request("bug"), deadline=10)
        seen.append(caught.value)

    with pytest.raises(type(bug)) as raised:
        stage(scene)
    assert "a bug" not in seen[0].fact
    assert raised.value.__notes__[-1] == f"while {B} answered 'bug'"


def test_faults_of_a_machine_are_not_described() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        b.serve(Route("disk", _raising(ConfigError("secret path"))))
        with pytest.raises(Refused) as caught:
            await a.request(B, Request("disk"), deadline=10)
        assert "secret" not in caught.value.fact

    stage(scene)


def test_a_handler_ends_with_its_caller() -> None:
    async def scene(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
        ended: list[float] = []

        async def wait(call: Call) -> bytes:
            try:
                await asyncio.sleep(1000)
            finally:
                ended.append(now())
            return b""

        b.serve(Route("wait", wait))
        with pytest.raises(TooLate):
            await a.request(B, Request("wait"), deadline=20)
        assert ended == [20]

    stage(scene)


async def _bustle(network: SimulatedNetwork, a: Transport, b: Transport) -> None:
    peers = [network.attach(PeerId(f"{number:052}")) for number in range(20)]
    for peer in peers:
        peer.serve(Route("echo", echo))
    for number, peer in enumerate(peers):
        asyncio.get_running_loop().call_at(
            number * 0.2, network.crash if number % 9 == 5 else network.is_up, peer.me
        )
    requests = [
        a.request(b.me, Request("echo", bytes(n), argument=str(n)), deadline=6)
        for a in peers
        for n, b in enumerate(peers)
    ]
    results = await asyncio.gather(*requests, return_exceptions=True)
    assert {type(result) for result in results} == {bytes, TooLate}


def test_equal_seeds_make_equal_transcripts_and_other_seeds_make_others() -> None:
    link = Link(latency=0.05, jitter=0.1, bandwidth=20000, loss=0.05)
    first = Transcript(keep=True)
    second = Transcript(keep=True)
    network = stage(_bustle, link, first)
    stage(_bustle, link, second)
    assert first.digest() == second.digest()
    assert first.lines == second.lines
    assert len(first) > network.messages > 400

    async def other() -> str:
        network = SimulatedNetwork(8, link)
        await _bustle(network, network.attach(A), network.attach(B))
        return network.transcript.digest()

    assert simulate(other()) != first.digest()


def test_objects_say_what_they_are() -> None:
    async def scene(network: SimulatedNetwork, a: SimulatedTransport, b: Transport) -> None:
        await a.request(B, Request("echo"), deadline=10)
        network.cut(A, B)
        assert repr(network) == "SimulatedNetwork(2 peers, 1 cuts, 2 messages)"
        assert repr(a) == f"SimulatedTransport(aaaaaaaa, {HEAD} up, {HEAD + 54} down)"

    stage(scene)
