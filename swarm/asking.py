"""Ask many peers at once and collect their answers until a deadline. The dead, the slow and the liars cost only their own answer."""

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
    """What came in time. Both dictionaries are in the order in which the peers were given; who was too slow is in neither."""

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
    """Call ``ask`` for each of ``peers`` at once; whatever of `Weather` or `TheirFault` it raises is that peer's failure.

    Stops waiting at ``deadline`` (the loop's clock), ``hurry`` seconds after the first answer (answers grow old while one waits
    for a peer that the network has swallowed), and as soon as ``enough`` have answered. What still runs then is cancelled.
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
        said = task.result()
        if isinstance(said, SwarmError):
            answers.failed[peer] = said
        else:
            answers.given[peer] = said
    return answers


async def _wait(
    tasks: Sequence[asyncio.Task[T | SwarmError]], deadline: float, hurry: float, enough: int
) -> None:
    """Wait as long as `ask_all` says, then cancel the rest."""
    loop = asyncio.get_running_loop()
    waiting = set(tasks)
    answered = 0
    while waiting and answered < enough and (now := loop.time()) < deadline:
        patience = None if math.isinf(deadline) else deadline - now
        done, waiting = await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        succeeded = sum(not isinstance(task.result(), SwarmError) for task in done if not task.cancelled())
        if succeeded:
            answered += succeeded
            deadline = min(deadline, loop.time() + hurry)
    for task in waiting:
        task.cancel()
