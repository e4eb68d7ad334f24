"""Train on while the average is under way, for a fraction of a round (the manifest's ``overlap``).

    arithmetic    ▕ encode ▏step ▏step ▏check ▏step ▏reduce ▏step ▏decode ▏ carry
                                                                           the average is here: the step under way is the last

One step is one job, so whatever the average wants computed waits for one step at most.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import TypeVar

from swarm.manifest import RoundSpec

from ..ports import Ports, StepAhead
from ..training.learner import Learner

T = TypeVar("T")


async def meanwhile(averaging: Awaitable[T], learner: Learner, ports: Ports, spec: RoundSpec) -> T:
    """The result of ``averaging``; local steps until it is there, or until the time of ``spec.overlap`` has passed."""
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_train(learner, ports, spec, is_over), name="train ahead")
        try:
            return await averaging
        finally:
            is_over.set()


async def _train(learner: Learner, ports: Ports, spec: RoundSpec, is_over: asyncio.Event) -> None:
    budget = ports.budget(spec.overlap * spec.seconds)
    steps = min(
        budget.steps, math.ceil(spec.overlap * spec.max_steps)
    )  # a fast peer must not drift further than in its round
    while steps > 0 and not is_over.is_set() and not budget.is_over():
        await ports.arithmetic.run(StepAhead(learner))
        steps -= 1
    await ports.arithmetic.run(learner.carry)
