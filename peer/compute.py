"""Where arithmetic runs: one thread beside the event loop, or, in a rehearsal, inline at a price in virtual seconds.

Both keep the order of the jobs and run one at a time, so that a job may use the model without a lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Compute:
    """The only thread a peer starts. Torch may use more cores inside a job; that is the volunteer's limit, set elsewhere."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")

    async def run(self, job: Callable[[], T]) -> T:
        """The result of ``job()``, or its exception. A job that has begun runs to its end also where the caller is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, job)

    def close(self) -> None:
        """Drop the jobs that wait, and wait for the one that runs."""
        self._worker.shutdown(wait=True, cancel_futures=True)


class Inline:
    """Runs each job at once, in the caller's thread, and lets ``cost(job)`` seconds of the loop's clock pass for it."""

    def __init__(self, cost: Callable[[Callable[[], Any]], float]) -> None:
        self._cost = cost
        self._turn = asyncio.Lock()

    async def run(self, job: Callable[[], T]) -> T:
        """The result of ``job()``, or its exception, once its time has passed. Jobs take turns, as on the one thread."""
        async with self._turn:
            await asyncio.sleep(self._cost(job))
            return job()

    def close(self) -> None:
        """Nothing to end."""
