"""Where arithmetic runs: one thread beside the event loop, or, in a rehearsal, inline at a price in virtual seconds.

Both keep the order of the jobs and run one at a time, so that a job may use the model without a lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Compute:
    """The only thread a peer starts. Torch may use more cores inside a job; that is the volunteer's limit, set elsewhere."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._handed: set[Future[Any]] = set()
        self._is_closed = False

    async def run(self, job: Callable[[], T], *, is_brief: bool = False) -> T:
        """The result of ``job()``, or its exception. A job that has begun runs to its end also where the caller is cancelled.

        A brief one is run here and now where no other waits or runs: to hand it over and back costs more than it does itself, as
        both threads then contend for the interpreter. Raises `RuntimeError` after `close`.
        """
        if (
            is_brief and not self._is_closed and all(handed.done() for handed in tuple(self._handed))
        ):  # another thread discards
            return job()
        self._handed.add(handed := self._worker.submit(job))
        handed.add_done_callback(self._handed.discard)
        return await asyncio.wrap_future(handed)

    def close(self) -> None:
        """Drop the jobs that wait, and wait for the one that runs."""
        self._is_closed = True
        self._worker.shutdown(wait=True, cancel_futures=True)


class Inline:
    """Runs each job at once, in the caller's thread, and lets ``cost(job)`` seconds of the loop's clock pass for it."""

    def __init__(self, cost: Callable[[Callable[[], Any]], float]) -> None:
        self._cost = cost
        self._turn = asyncio.Lock()

    async def run(self, job: Callable[[], T], *, is_brief: bool = False) -> T:
        """The result of ``job()``, or its exception, once its time has passed. Jobs take turns, as on the one thread."""
        async with self._turn:
            await asyncio.sleep(self._cost(job))
            return job()

    def close(self) -> None:
        """Nothing to end."""
