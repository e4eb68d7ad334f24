"""`swarm chaos`: a command that is killed and frozen now and then, as volunteers' computers are, and started again.

    quiet ─► SIGKILL ─► pause ─► start again          no goodbye, no last checkpoint: a power cut
    quiet ─► SIGSTOP ─► pause ─► SIGCONT              a laptop that was closed for a moment

When what happens is drawn from a seed before anything starts. The supervisor needs no rights but those over its own child.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from swarm.errors import ConfigError
from swarm.seeds import Label, derive

from ..observe.reporter import Reporter

STOP_SECONDS = 10.0
"""Patience with a child that was asked to leave."""

KILL, FREEZE = "kill", "freeze"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chaos:
    """What happens, on average how many seconds apart, and from which seed. An ``every`` of 0 is never."""

    kill_every: float = 30.0
    freeze_every: float = 0.0
    pause: float = 3.0
    """Seconds between a death and the next life, and length of a freeze."""
    seed: str = "0"

    def __post_init__(self) -> None:
        for name in ("kill_every", "freeze_every", "pause"):
            if not (math.isfinite(value := getattr(self, name)) and value >= 0):
                raise ConfigError(f"{name} is {value}", "give it as seconds, 0 or more")


def accidents(chaos: Chaos) -> Iterator[tuple[float, str]]:
    """(seconds of quiet, `KILL` or `FREEZE`), without end: a Poisson process, so the past says nothing about the next.

    The same for the same seed; nothing at all where nothing should happen.
    """
    kills, freezes = (1 / every if every else 0.0 for every in (chaos.kill_every, chaos.freeze_every))
    for number in count() if kills + freezes else ():
        quiet = -math.log1p(-_chance(chaos.seed, "when", number)) / (kills + freezes)
        yield quiet, KILL if _chance(chaos.seed, "what", number) * (kills + freezes) < kills else FREEZE


async def supervise(command: tuple[str, ...], chaos: Chaos, reporter: Reporter) -> int:
    """Run ``command`` until it ends by itself, through all accidents; its exit status. Cancelling asks the child to leave first.

    Raises `ConfigError` where it cannot be started.
    """
    child = await _start(command)
    try:
        for quiet, deed in accidents(chaos):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(quiet):
                    return _status(await child.wait())
            reporter.event("chaos", deed=deed, pid=child.pid, after=round(quiet, 1))
            if deed == KILL:
                _signal(child, signal.SIGKILL)
                await child.wait()
                await asyncio.sleep(chaos.pause)
                child = await _start(command)
            else:
                _signal(child, signal.SIGSTOP)
                await asyncio.sleep(chaos.pause)
                _signal(child, signal.SIGCONT)
        return _status(await child.wait())
    finally:
        await _end(child)


async def _start(command: tuple[str, ...]) -> asyncio.subprocess.Process:
    """A child in a process group of its own, so that an accident meets all of it, and Ctrl-C only the supervisor."""
    try:
        return await asyncio.create_subprocess_exec(*command, start_new_session=True)
    except OSError as error:
        raise ConfigError(
            f"cannot start {command[0]!r}: {error.strerror}", "swarm chaos -- swarm join TICKET"
        ) from error


async def _end(child: asyncio.subprocess.Process) -> None:
    """Ask it to leave; end it where it does not within `STOP_SECONDS`."""
    for number in (signal.SIGCONT, signal.SIGINT):
        _signal(child, number)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await child.wait()
    except TimeoutError:
        _signal(child, signal.SIGKILL)
        await child.wait()


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """To the child's whole process group; one that has just ended needs no signal any more."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)


def _status(returned: int) -> int:
    """An exit status as shells give it: 128 and the signal's number for a child that somebody else has killed."""
    return returned if returned >= 0 else 128 - returned


def _chance(seed: str, *words: Label) -> float:
    """At least 0, less than 1."""
    return derive(b"chaos", seed, *words) / (1 << 63)
