import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from swarm.simulation import clock
from swarm.simulation.clock import Deadlock, VirtualLoop, owner, running_loop, simulate

ROOT = Path(__file__).parents[3]


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_wait_of_three_hours_is_a_jump() -> None:
    async def main() -> float:
        await asyncio.sleep(3 * 3600)
        return now()

    assert simulate(main()) == 3 * 3600


def test_time_begins_at_zero_and_stands_still_while_anything_is_ready() -> None:
    async def main() -> list[float]:
        times = [now()]
        for _ in range(100):
            await asyncio.sleep(0)
        return [*times, now()]

    assert simulate(main()) == [0, 0]


def test_no_timer_rings_before_its_time_not_even_by_a_rounding() -> None:
    async def main() -> None:
        for step in range(1, 2000):
            when = now() + 0.1 * step + 1e-7
            await asyncio.sleep(when - now())
            deadline = now() + 1 / 3
            with pytest.raises(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await asyncio.Event().wait()
            assert now() >= deadline

    simulate(main())


def test_timers_of_one_instant_ring_in_the_order_they_were_set() -> None:
    async def main() -> list[int]:
        rung: list[int] = []
        for number in range(50):
            running_loop().call_at(5, rung.append, number)
        await asyncio.sleep(5)
        return rung

    assert simulate(main()) == list(range(50))


def test_a_cancelled_timer_never_rings_and_thousands_of_them_do_not_pile_up() -> None:
    async def main() -> tuple[list[str], int]:
        rung: list[str] = []
        loop = running_loop()
        for _ in range(5000):
            loop.call_later(100, rung.append, "cancelled").cancel()
        loop.call_later(100, rung.append, "kept")
        kept = len(loop._timers)
        await asyncio.sleep(200)
        return rung, kept

    rung, kept = simulate(main())
    assert rung == ["kept"]
    assert kept < 2500


def test_timeouts_task_groups_and_queues_work_as_on_a_real_loop() -> None:
    async def main() -> tuple[list[int], float]:
        queue: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
        heard: list[int] = []

        async def speak() -> None:
            for number in range(3):
                await asyncio.sleep(10)
                await queue.put(number)

        async def listen() -> None:
            while len(heard) < 3:
                heard.append(await queue.get())

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(speak())
            tasks.create_task(listen())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(now() + 5):
                await queue.get()
        return heard, now()

    assert simulate(main()) == ([0, 1, 2], 35)


def test_a_wait_that_nothing_can_end_is_a_deadlock_with_the_names_of_the_tasks() -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.Event().wait(), name="anna")
            tasks.create_task(asyncio.sleep(1e9), name="boris")
            tasks.create_task(asyncio.Event().wait(), name="carla")

    left: list[str] = []
    with pytest.raises(Deadlock, match=r"t=1000000000\.000 s all 3 tasks \(main, anna, carla\) wait"):
        simulate(main(), leftovers=left)
    assert left == ["main", "anna", "carla"]


def test_a_deadline_that_never_comes_is_none() -> None:
    async def main() -> None:
        async with asyncio.timeout_at(float("inf")):
            await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        simulate(main())


def test_tasks_that_keep_each_other_busy_in_one_instant_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "SPIN_LIMIT", 1000)

    async def main() -> None:
        while True:  # noqa: ASYNC110 - the mistake that is to be found
            await asyncio.sleep(0)

    with pytest.raises(Deadlock, match="keep each other busy"):
        simulate(main())


def test_threads_are_refused_with_a_sentence() -> None:
    async def main() -> None:
        await asyncio.to_thread(print)

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="no threads in a simulation"):
        simulate(main())
    assert threading.active_count() == before


def test_tasks_that_outlive_the_end_are_cancelled_and_named() -> None:
    ended: list[str] = []

    async def stay() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)
            ended.append("cleaned up")

    async def main() -> str:
        task = asyncio.create_task(stay(), name="guest")
        await asyncio.sleep(1)
        assert not task.done()
        return "over"

    left: list[str] = []
    assert simulate(main(), leftovers=left) == "over"
    assert (left, ended) == (["guest"], ["cleaned up"])


def test_nothing_is_left_where_every_task_has_an_owner() -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            for seconds in range(10):
                tasks.create_task(asyncio.sleep(seconds))

    left: list[str] = []
    simulate(main(), leftovers=left)
    assert left == []


def test_a_task_that_ignores_its_cancellation_is_a_failure() -> None:
    async def stay() -> None:
        for _ in range(1000):
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                await asyncio.sleep(1)

    async def main() -> None:
        running_loop().create_task(stay(), name="ghost")
        await asyncio.sleep(5)

    with pytest.raises(RuntimeError, match="ghost still runs"):
        simulate(main())


def _fail_in_a_callback() -> None:
    raise ValueError("in a callback")


def test_errors_that_nobody_awaits_are_raised_at_the_end() -> None:
    async def fail() -> None:
        raise OSError("in a task")

    async def callback() -> None:
        running_loop().call_soon(_fail_in_a_callback)
        await asyncio.sleep(1)

    async def task() -> None:
        asyncio.create_task(fail()).add_done_callback(lambda done: None)
        await asyncio.sleep(1)

    async def both() -> None:
        await callback()
        await task()

    with pytest.raises(ValueError, match="in a callback"):
        simulate(callback())
    with pytest.raises(OSError, match="in a task"):
        simulate(task())
    with pytest.raises(BaseExceptionGroup) as caught:
        simulate(both())
    assert {type(error) for error in caught.value.exceptions} == {ValueError, OSError}


def test_an_error_of_the_whole_carries_the_unseen_ones_as_notes() -> None:
    async def main() -> None:
        running_loop().call_soon(_fail_in_a_callback)
        await asyncio.sleep(1)
        raise KeyError("the whole")

    with pytest.raises(KeyError) as caught:
        simulate(main())
    assert any("in a callback" in note for note in caught.value.__notes__)


def test_tasks_are_counted_by_the_owner_of_the_task_that_started_them() -> None:
    async def own(name: str, started: int) -> None:
        owner.set(name)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(started):
                tasks.create_task(asyncio.sleep(2.0))

    async def main() -> tuple[int, int, int]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(own("one", 3))
            tasks.create_task(own("other", 1))
            await asyncio.sleep(1.0)
            counts = running_loop().tasks_by_owner()
        return counts["one"], counts["other"], running_loop().tasks_by_owner()["one"]

    assert simulate(main()) == (3, 1, 0)


def test_a_real_loop_is_not_taken_for_a_virtual_one() -> None:
    async def main() -> VirtualLoop:
        return running_loop()

    with pytest.raises(RuntimeError, match="virtual time only"):
        asyncio.run(main())


ORDER = """
import asyncio
from swarm.simulation.clock import simulate

async def main():
    padding = [object() for _ in range({padding})]  # moves what comes after it to other addresses
    tasks = [asyncio.create_task(asyncio.sleep(1, number)) for number in range(200)]
    done, _ = await asyncio.wait(tasks)
    return [task.result() for task in done]

print(simulate(main()))
"""


def test_sets_of_tasks_have_the_same_order_in_every_process() -> None:
    def order(padding: int) -> str:
        environment = os.environ | {"PYTHONHASHSEED": str(padding), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", ORDER.format(padding=padding)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert order(1) == order(12345)


def test_what_cannot_run_on_virtual_time_fails_at_once() -> None:
    def attempts() -> list[Coroutine[Any, Any, Any]]:
        return [asyncio.open_connection("127.0.0.1", 9), asyncio.create_subprocess_exec("true")]

    async def main(attempt: Coroutine[Any, Any, Any]) -> None:
        await attempt

    for attempt in attempts():
        with pytest.raises((RuntimeError, NotImplementedError)):
            simulate(main(attempt))
