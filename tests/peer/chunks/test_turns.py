"""Everybody that fetches from a peer gets a share, and what was not sent is not charged. In virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from peer.chunks.turns import Serving, Turns
from swarm.errors import Busy
from swarm.identity import PeerId
from swarm.simulation.clock import simulate
from swarm.transport import Call

CHUNK = 1000
SERVING = Serving(rate=10 * CHUNK, burst=CHUNK, parallel=8, patience=1.0)


def call(sender: str, host: str = "") -> Call:
    return Call(PeerId(sender), "", b"", host)


def now() -> float:
    return asyncio.get_running_loop().time()


class Queue:
    """The turns of a peer and what each taker got of them. It owns the takers' tasks."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.turns = Turns(SERVING)
        self.got: Counter[str] = Counter()
        self.busy: Counter[str] = Counter()
        self._tasks = tasks

    async def take(self, who: Call) -> None:
        """Ask for one chunk."""
        try:
            await self.turns.take(who, CHUNK)
        except Busy:
            self.busy[who.sender] += 1
            await asyncio.sleep(0.01)
        else:
            self.got[who.sender] += 1

    def crowd(self, who: Call, requests: int) -> None:
        """Let ``who`` ask for so many chunks at a time, again and again for 20 seconds."""

        async def again_and_again() -> None:
            while now() < 20:
                await self.take(who)

        for _ in range(requests):
            self._tasks.create_task(again_and_again())

    def ask(self, who: Call) -> asyncio.Task[None]:
        """Ask for one chunk in a task."""
        return self._tasks.create_task(self.turns.take(who, CHUNK))


def in_a_queue(story: Callable[[Queue], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A decorator for tests that are coroutines on virtual time."""

    def test() -> None:
        async def main() -> None:
            async with asyncio.TaskGroup() as tasks:
                await story(Queue(tasks))

        simulate(main())

    test.__name__ = story.__name__
    return test


@in_a_queue
async def test_a_peer_that_asks_for_much_leaves_the_others_their_share(queue: Queue) -> None:
    queue.crowd(call("greedy"), 50)
    queue.crowd(call("honest"), 1)
    await asyncio.sleep(20)
    assert queue.got["honest"] >= 90, "half of the 200 chunks that there were"
    assert sum(queue.got.values()) >= 198, "nothing is wasted"
    assert queue.busy["honest"] == 0


@in_a_queue
async def test_a_peer_that_is_alone_gets_everything(queue: Queue) -> None:
    queue.crowd(call("alone"), 2)
    await asyncio.sleep(20)
    assert queue.got["alone"] >= 198


@in_a_queue
async def test_peers_behind_one_public_address_have_one_share(queue: Queue) -> None:
    for number in range(40):
        queue.crowd(call(f"sybil {number}", "8.8.8.8"), 2)
    queue.crowd(call("honest", "8.8.4.4"), 2)
    await asyncio.sleep(20)
    assert queue.got["honest"] >= 90


@in_a_queue
async def test_what_is_aborted_while_it_waits_or_is_paid_costs_nobody_anything(queue: Queue) -> None:
    await queue.take(call("first"))
    aborted = [queue.ask(call("greedy")) for _ in range(5)]
    await asyncio.sleep(0.05)
    for task in aborted:
        task.cancel()
    await asyncio.sleep(0)
    began = now()
    await queue.take(call("honest"))
    assert now() - began == pytest.approx(0.05), "only the time until the first one's bytes have come in"


@in_a_queue
async def test_what_was_not_sent_is_given_back(queue: Queue) -> None:
    await queue.take(call("honest"))
    queue.turns.give_back(call("honest"), CHUNK // 2)
    began = now()
    await queue.take(call("honest"))
    assert now() - began == pytest.approx(0.05)


@in_a_queue
async def test_a_request_that_would_wait_too_long_is_refused_at_once(queue: Queue) -> None:
    waiting = [queue.ask(call("greedy")) for _ in range(9)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await queue.turns.take(call("greedy"), CHUNK)
    assert not any(task.done() for task in waiting[1:])
    await queue.turns.take(call("honest"), CHUNK)
    assert sum(task.done() for task in waiting) <= 3, "nor does the crowd keep out a peer that has its share"
