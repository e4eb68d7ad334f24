"""Tasks that a library starts and forgets end with their owner."""

import asyncio
from typing import Any

import pytest

from swarm.dht.tasks import TaskOwner, disowned


async def forever() -> None:
    await asyncio.Event().wait()


async def parent(tasks: list[asyncio.Task[None]]) -> None:
    """Starts a task and forgets it, as hivemind does."""
    tasks.append(asyncio.create_task(forever()))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_a_task_started_at_any_depth_ends_with_its_owner() -> None:
    owner = TaskOwner()
    started = list[asyncio.Task[None]]()
    with owner.adopting():
        first = asyncio.create_task(parent(started))
    await settled()
    assert first.done()
    assert len(owner) == 1
    await owner.close()
    assert [task.cancelled() for task in started] == [True]
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.asyncio
async def test_tasks_without_an_owner_are_left_alone() -> None:
    owner = TaskOwner()
    started = list[asyncio.Task[None]]()
    with owner.adopting(), disowned():
        await parent(started)
    await parent(started)
    await owner.close()
    assert not any(task.done() for task in started)
    for task in started:
        task.cancel()
    await asyncio.wait(started)


@pytest.mark.asyncio
async def test_each_of_two_owners_ends_its_own_tasks_and_the_loop_is_as_it_was() -> None:
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    seen = 0

    def factory(loop: Any, coro: Any, **options: Any) -> Any:
        nonlocal seen
        seen += 1
        return asyncio.Task(coro, loop=loop, **options)

    loop.set_task_factory(factory)
    first = TaskOwner()
    second = TaskOwner()
    with first.adopting():
        one = asyncio.create_task(forever())
    with second.adopting():
        two = asyncio.create_task(forever())
    await first.close()
    assert (one.cancelled(), two.cancelled()) == (True, False)
    await second.close()
    assert two.cancelled()
    assert seen == 2
    assert loop.get_task_factory() is factory
    loop.set_task_factory(before)


@pytest.mark.asyncio
async def test_a_task_that_another_starts_while_it_is_cancelled_ends_too() -> None:
    owner = TaskOwner()
    started = list[asyncio.Task[None]]()

    async def stubborn() -> None:
        try:
            await forever()
        finally:
            await parent(started)

    with owner.adopting():
        task = asyncio.create_task(stubborn())
    await settled()
    await owner.close()
    assert task.cancelled()
    assert [late.cancelled() for late in started] == [True]


@pytest.mark.asyncio
async def test_errors_of_tasks_are_counted() -> None:
    owner = TaskOwner()

    async def fails() -> None:
        raise ValueError

    with owner.adopting():
        task = asyncio.create_task(fails())
    await asyncio.wait([task])
    await settled()
    assert owner.failures == 1
    await owner.close()
