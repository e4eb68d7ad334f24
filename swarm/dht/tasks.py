"""An owner for tasks that a library starts and forgets.

hivemind calls ``asyncio.create_task`` in dozens of places and drops the result. Nothing awaits or cancels
those tasks or reports their errors, and the garbage collector may delete them while they run. A task that is
started inside ``owner.adopting()``, or by another such task, belongs to that owner, which cancels it when it
closes.
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
    """Holds the tasks of one DHT node until they end. ``failures`` counts those that ended with an error."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._factory = _Adopting.installed(asyncio.get_running_loop())
        self.failures = 0

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def adopting(self) -> Iterator[None]:
        """Own all tasks that are started in this block, and all tasks that those start."""
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
        """Cancel the tasks that still run, and wait until they have ended."""
        while True:  # again, because a task that ends may start another one
            running = self._tasks - {asyncio.current_task()}
            if not running:
                break
            for task in running:
                task.cancel()
            await asyncio.wait(running)
        self._factory.release()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error:
            self.failures += 1
            _log.debug("a task of the DHT ended with an error", exc_info=error)


@contextmanager
def disowned() -> Iterator[None]:
    """Tasks that are started in this block have no owner: the transport's connections outlive a call."""
    token = _owner.set(None)
    try:
        yield
    finally:
        _owner.reset(token)


class _Adopting:
    """The task factory of a loop that has owners. It hands each new task to its owner, if there is one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._before = loop.get_task_factory()
        self._users = 0

    @classmethod
    def installed(cls, loop: asyncio.AbstractEventLoop) -> _Adopting:
        """The factory of ``loop``, with one more user."""
        present: Any = loop.get_task_factory()
        factory: Any = present if isinstance(present, cls) else cls(loop)
        loop.set_task_factory(factory)
        factory._users += 1
        return cast(_Adopting, factory)

    def release(self) -> None:
        """Count one user less. The last one restores the loop's task factory."""
        self._users -= 1
        present: Any = self._loop.get_task_factory()
        if not self._users and present is self:
            self._loop.set_task_factory(self._before)

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coro: Generator[Any, None, Any], **options: Any
    ) -> asyncio.Task[Any]:
        make: Any = self._before or (lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options))
        task: asyncio.Task[Any] = make(loop, coro, **options)
        owner = _owner.get()
        if owner is not None:
            owner.adopt(task)
        return task
