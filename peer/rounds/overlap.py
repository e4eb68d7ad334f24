"""Training on while the average is under way, for a fraction of a round (the manifest's ``overlap``).

    arithmetic    ▕ encode ▏step ▏step ▏check ▏step ▏reduce ▏step ▏decode ▏ carry
                                                                           the average is here: the step under
                                                                           way is the last

One step is one job, so the arithmetic of the average waits for one step at most.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import TypeVar

from swarm.manifest import RoundSpec

from ..training.jobs import LocalCompute, StepAhead
from ..training.learner import Learner

T = TypeVar("T")


async def meanwhile(averaging: Awaitable[T], learner: Learner, compute: LocalCompute, spec: RoundSpec) -> T:
    """The result of ``averaging``.

    Takes local steps until it is there, or until the time of ``spec.overlap`` has passed.
    """
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_train(learner, compute, spec, is_over), name="train ahead")
        try:
            return await averaging
        finally:
            is_over.set()


async def _train(learner: Learner, compute: LocalCompute, spec: RoundSpec, is_over: asyncio.Event) -> None:
    budget = compute.budget(spec.overlap * spec.seconds)
    most = math.ceil(spec.overlap * spec.max_steps)  # a fast peer must not drift further than in its round
    steps = min(budget.steps, most)
    while steps > 0 and not is_over.is_set() and not budget.is_over():
        await compute.arithmetic.run(StepAhead(learner))
        steps -= 1
    await compute.arithmetic.run(learner.carry_over)
