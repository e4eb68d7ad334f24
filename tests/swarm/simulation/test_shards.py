"""One network in two processes: here each is a thread with its own loop, and the pipes are real."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

import swarm.simulation.shards as shards_module
from swarm.errors import Oversized, Refused, SwarmError, TooLate, Unreachable
from swarm.identity import PeerId
from swarm.simulation.border import Border
from swarm.simulation.clock import Deadlock, running_loop, simulate
from swarm.simulation.network import Link, SimulatedNetwork, SimulatedTransport
from swarm.simulation.shards import Pipe, ShardLost, Shards, heard
from swarm.transport import Allowance, Call, Request, Route
from swarm.wire import CONTROL_LIMIT

A = PeerId("a" * 52)
B = PeerId("b" * 52)
LATENCY = 0.5
LINK = Link(latency=LATENCY, jitter=0, bandwidth=1e15)


@dataclass
class Half:
    """One of the two: A's network, or B's."""

    shards: Shards
    network: SimulatedNetwork
    transport: SimulatedTransport

    async def ask(
        self,
        to: PeerId,
        body: bytes = b"",
        *,
        route: str = "echo",
        deadline: float = 100.0,
        limit: int = 1 << 20,
    ) -> bytes:
        """The reply of ``to``."""
        return await self.transport.request(
            to, Request(route, body, argument="x", limit=limit), deadline=deadline
        )


Scene = Callable[[Half], Awaitable[Any]]


def act(index: int, pipe: Pipe, scene: Scene, link: Link) -> Any:
    async def main() -> Any:
        me, other = (A, B) if index == 0 else (B, A)
        async with asyncio.TaskGroup() as tasks:
            running_loop().window = shards = Shards(index, {1 - index: pipe}, LATENCY)
            network = SimulatedNetwork(index, link)
            network.beyond = border = Border(network, shards, {other: 1 - index}, tasks)
            shards.receive = border.hear
            result = await scene(Half(shards, network, network.attach(me)))
            await shards.all_done()
        return result

    left: list[str] = []
    try:
        return simulate(main(), leftovers=left), left
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        pipe.close()  # type: ignore[attr-defined]


def both(first: Scene, second: Scene, link: Link = LINK) -> tuple[Any, Any]:
    """What the two scenes return, in order; raises what the first of them raises."""
    pipes = multiprocessing.Pipe()
    with ThreadPoolExecutor(2) as threads:
        played = [
            threads.submit(act, index, pipes[index], scene, link)
            for index, scene in enumerate((first, second))
        ]
        (one, left), (other, also_left) = (each.result(30) for each in played)
    assert left == also_left == []
    return one, other


async def nothing(half: Half) -> None:
    """Do nothing."""


def answering(answer: Callable[[Call], Awaitable[bytes]], admit: Allowance | None = None) -> Scene:
    async def scene(half: Half) -> float:
        route = Route("echo", answer, lambda sender, argument: admit) if admit else Route("echo", answer)
        half.transport.serve(route)
        return running_loop().time()

    return scene


async def echo(call: Call) -> bytes:
    return call.sender.encode() + b"|" + call.argument.encode() + b"|" + bytes(call.body)


def test_a_request_crosses_and_its_answer_comes_back_after_both_ways() -> None:
    async def scene(half: Half) -> tuple[bytes, float]:
        return await half.ask(B, b"hello"), running_loop().time()

    (reply, time), _ = both(scene, answering(echo))
    assert reply == A.encode() + b"|x|hello"
    assert time == pytest.approx(2 * LATENCY)


def test_requests_cross_both_ways_at_once_and_both_count_their_bytes() -> None:
    async def scene(half: Half) -> tuple[int, int, int]:
        half.transport.serve(Route("echo", echo))
        other = B if half.transport.me == A else A
        for _ in range(20):
            await half.ask(other, b"hello")
        return half.transport.bytes_up, half.transport.bytes_down, half.network.messages

    one, other = both(scene, scene)
    assert one == other
    assert one[0] == one[1]
    assert one[2] == 40


def test_a_long_body_comes_after_its_head_and_refusals_are_those_of_one_process() -> None:
    long = bytes(CONTROL_LIMIT + 1)

    async def scene(half: Half) -> int:
        return len(await half.ask(B, long))

    assert both(scene, answering(echo, Allowance(exact=len(long), seconds=10)))[0] == len(long) + 52 + 3
    with pytest.raises(SwarmError, match="bytes"):
        both(scene, answering(echo, Allowance(exact=5, seconds=10)))
    slow = Link(latency=LATENCY, jitter=0, bandwidth=1000.0)
    with pytest.raises(Refused, match="did not come within"):
        both(scene, answering(echo, Allowance(exact=len(long), seconds=10)), slow)


async def refuse(call: Call) -> bytes:
    raise Refused("not here")


async def wait(call: Call) -> bytes:
    await asyncio.sleep(1000)
    return b""


@pytest.mark.parametrize(
    ("answer", "limit", "error"),
    [(refuse, 100, Refused), (echo, 5, Oversized), (wait, 100, TooLate)],
    ids=["refusal", "long", "late"],
)
def test_errors_across_shards_are_those_of_one_process(
    answer: Callable[[Call], Awaitable[bytes]], limit: int, error: type[SwarmError]
) -> None:
    async def scene(half: Half) -> float:
        with pytest.raises(error):
            await half.ask(B, limit=limit, deadline=20.0)
        return running_loop().time()

    assert both(scene, answering(answer))[0] <= 20.0


def test_a_crashed_peer_of_another_shard_is_unreachable_and_a_lost_request_is_late() -> None:
    async def gone(half: Half) -> None:
        half.network.crash(B)

    async def asks(half: Half) -> None:
        with pytest.raises(Unreachable):
            await half.ask(B)

    both(asks, gone)

    async def in_vain(half: Half) -> float:
        with pytest.raises(TooLate):
            await half.ask(B, deadline=5.0)
        return running_loop().time()

    assert both(in_vain, answering(echo), Link(latency=LATENCY, jitter=0, loss=1.0))[0] == 5.0


def test_a_bug_in_a_handler_of_another_shard_is_raised_there() -> None:
    async def bug(call: Call) -> bytes:
        raise ZeroDivisionError

    async def asks(half: Half) -> None:
        with pytest.raises(Refused):
            await half.ask(B)

    with pytest.raises(ZeroDivisionError):
        both(asks, answering(bug))


def test_a_shard_that_is_done_goes_on_answering_and_time_is_the_same_for_both() -> None:
    async def scene(half: Half) -> float:
        await asyncio.sleep(60)
        await half.ask(B)
        return running_loop().time()

    time, began = both(scene, answering(echo))
    assert (time, began) == (pytest.approx(61), 0)


def test_if_all_shards_wait_for_ever_both_raise_deadlock() -> None:
    async def scene(half: Half) -> None:
        await running_loop().create_future()

    with pytest.raises(Deadlock, match="as in all other shards"):
        both(scene, scene)


def test_a_shard_that_fails_ends_the_others() -> None:
    async def fails(half: Half) -> None:
        await asyncio.sleep(5)
        raise ZeroDivisionError

    async def lives(half: Half) -> None:
        await asyncio.sleep(1000)

    with pytest.raises(ShardLost, match="shard 1 has ended"):
        both(lives, fails)
    with pytest.raises(ZeroDivisionError):
        both(fails, lives)


def test_a_shard_that_sends_nothing_any_more_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "SILENT_SECONDS", 0.05)
    ours, theirs = multiprocessing.Pipe()
    with pytest.raises(ShardLost, match="shard 3 has sent nothing"):
        heard(ours, 3)
    theirs.send("word")
    assert heard(ours, 3) == "word"
    theirs.close()
    with pytest.raises(ShardLost, match="shard 3 has ended"):
        heard(ours, 3)


def test_nothing_may_cross_faster_than_the_windows_allow() -> None:
    async def scene(half: Half) -> None:
        with pytest.raises(ValueError, match="cannot arrive"):
            half.shards.post(1, running_loop().time() + LATENCY / 2, "soon")

    both(scene, nothing)
    with pytest.raises(ValueError, match="no time"):
        Shards(0, {}, 0.0)


def test_messages_arrive_by_time_and_then_in_the_order_of_their_number() -> None:
    async def sends(half: Half) -> None:
        for delay, word in ((2, "d"), (1, "b"), (1, "c"), (0.5, "a")):
            half.shards.post_all(running_loop().time() + delay, word)

    async def hears(half: Half) -> list[tuple[float, str]]:
        heard: list[tuple[float, str]] = []
        half.shards.receive = lambda word: heard.append((running_loop().time(), word))
        await asyncio.sleep(3)
        return heard

    assert both(sends, hears)[1] == [(0.5, "a"), (1, "b"), (1, "c"), (2, "d")]
