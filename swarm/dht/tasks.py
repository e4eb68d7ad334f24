"""An owner for tasks that a library starts and forgets.

hivemind calls ``asyncio.create_task`` in dozens of places and drops the result: nobody awaits those tasks, cancels them or hears of
their errors, and the garbage collector may take them halfway. Whatever is started, at any depth, inside ``owner.adopting()``
belongs to that owner and ends with it at the latest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

_log = logging.getLogger(__name__)
_owner: ContextVar[TaskOwner | None] = ContextVar("swarm.dht.owner", default=None)


class TaskOwner:
    """Holds the tasks of one DHT node until they end. ``failures`` counts those that ended with an error nobody awaited."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._factory = _Adopting.installed(asyncio.get_running_loop())
        self.failures = 0

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def adopting(self) -> Iterator[None]:
        """Own every task started in this block, and every task that those start."""
        token = _owner.set(self)
        try:
            yield
        finally:
            _owner.reset(token)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Hold ``task`` until it ends."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        me = asyncio.current_task()
        while running := {
            task for task in self._tasks if task is not me
        }:  # a task that ends may still start another
            for task in running:
                task.cancel()
            await asyncio.wait(running)
        self._factory.release()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.failures += 1
            _log.debug("a task of the DHT ended with an error", exc_info=error)


@contextmanager
def disowned() -> Iterator[None]:
    """Tasks started in this block are their starter's own business (the transport keeps connections that outlive a call)."""
    token = _owner.set(None)
    try:
        yield
    finally:
        _owner.reset(token)


class _Adopting:
    """The task factory of a loop on which owners live. Tasks without an owner pass through untouched."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._before, self._users = loop, loop.get_task_factory(), 0

    @classmethod
    def installed(cls, loop: asyncio.AbstractEventLoop) -> _Adopting:
        """The factory of ``loop``, with one more user."""
        present: Any = loop.get_task_factory()
        factory: Any = present if isinstance(present, cls) else cls(loop)
        loop.set_task_factory(factory)
        factory._users += 1
        return cast(_Adopting, factory)

    def release(self) -> None:
        """One user less; the last one leaves the loop as it was found."""
        self._users -= 1
        present: Any = self._loop.get_task_factory()
        if not self._users and present is self:
            self._loop.set_task_factory(self._before)

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coro: Generator[Any, None, Any], **options: Any
    ) -> asyncio.Task[Any]:
        make: Any = self._before or (lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options))
        task: asyncio.Task[Any] = make(loop, coro, **options)
        if (owner := _owner.get()) is not None:
            owner.adopt(task)
        return task
