"""Where arithmetic runs: in one thread beside the event loop, or, in a rehearsal, in the loop's thread for a
cost in virtual seconds.

Both run one job at a time, in the order in which jobs come. So a job may use the model without a lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Compute:
    """One thread for all arithmetic. Torch may use several cores inside a job."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._pending: set[Future[Any]] = set()
        self._is_closed = False

    async def run(self, job: Callable[[], T], *, is_brief: bool = False) -> T:
        """The result of ``job()``, or its exception.

        A job that has begun runs to its end even if the caller is cancelled. A brief job runs at once in this
        thread where no other job waits or runs: handing it to the other thread and back would take longer
        than the job, as both threads contend for the interpreter. Raises `RuntimeError` after `close`.
        """
        if is_brief and not self._is_closed and self._is_idle():
            return job()
        future = self._worker.submit(job)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return await asyncio.wrap_future(future)

    def _is_idle(self) -> bool:
        jobs = tuple(self._pending)  # a copy, because the other thread removes from the set
        return all(job.done() for job in jobs)

    def close(self) -> None:
        """Drop the jobs that have not begun, and wait for the one that runs."""
        self._is_closed = True
        self._worker.shutdown(wait=True, cancel_futures=True)


class Inline:
    """Runs each job in the caller's thread, after ``cost(job)`` seconds of the loop's clock."""

    def __init__(self, cost: Callable[[Callable[[], Any]], float]) -> None:
        self._cost = cost
        self._turn = asyncio.Lock()

    async def run(self, job: Callable[[], T], *, is_brief: bool = False) -> T:
        """The result of ``job()``, or its exception. Jobs take turns, as on one thread."""
        async with self._turn:
            await asyncio.sleep(self._cost(job))
            return job()

    def close(self) -> None:
        """Nothing to close."""
