"""Ask many peers at once and collect their answers until a deadline.

A peer that is dead, slow or lying costs its own answer only: the others are neither delayed nor lost.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .errors import SwarmError, TheirFault, Weather
from .identity import PeerId

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answers(Generic[T]):
    """The answers and the failures that came in time. A peer that was too slow is in neither dictionary.

    Both dictionaries are in the order in which the peers were given to `ask_all`.
    """

    given: dict[PeerId, T] = field(default_factory=dict)
    failed: dict[PeerId, SwarmError] = field(default_factory=dict)


async def ask_all(
    peers: Iterable[PeerId],
    ask: Callable[[PeerId], Awaitable[T]],
    *,
    deadline: float = math.inf,
    hurry: float = math.inf,
    enough: int | None = None,
) -> Answers[T]:
    """Call ``ask`` for all ``peers`` at once. `Weather` or `TheirFault` from it is that peer's failure.

    Stops waiting at ``deadline`` (the loop's clock), ``hurry`` seconds after the first answer (the answers
    that are there grow old while we wait for a silent peer), or as soon as ``enough`` peers have answered,
    whichever comes first. Calls that still run then are cancelled.
    """

    async def one(peer: PeerId) -> T | SwarmError:
        try:
            return await ask(peer)
        except (Weather, TheirFault) as error:
            return error

    async with asyncio.TaskGroup() as group:
        tasks = {peer: group.create_task(one(peer)) for peer in dict.fromkeys(peers)}
        await _wait(tuple(tasks.values()), deadline, hurry, len(tasks) if enough is None else enough)

    answers: Answers[T] = Answers()
    for peer, task in tasks.items():
        if task.cancelled():
            continue
        result = task.result()
        if isinstance(result, SwarmError):
            answers.failed[peer] = result
        else:
            answers.given[peer] = result
    return answers


async def _wait(
    tasks: Sequence[asyncio.Task[T | SwarmError]], deadline: float, hurry: float, enough: int
) -> None:
    """Wait as long as `ask_all` says, then cancel the tasks that still run."""
    loop = asyncio.get_running_loop()
    waiting = set(tasks)
    answered = 0
    while waiting and answered < enough:
        now = loop.time()
        if now >= deadline:
            break
        timeout = None if math.isinf(deadline) else deadline - now
        done, waiting = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        succeeded = sum(not isinstance(task.result(), SwarmError) for task in done if not task.cancelled())
        if succeeded:
            answered += succeeded
            deadline = min(deadline, loop.time() + hurry)
    for task in waiting:
        task.cancel()
