"""`swarm chaos`: run a command, kill and freeze it at random, and start it again.

This is what happens to volunteers' computers.

    wait ─► SIGKILL ─► pause ─► start again          no goodbye, no last checkpoint: a power cut
    wait ─► SIGSTOP ─► pause ─► SIGCONT              a laptop that was closed for a moment

All kills and freezes are drawn from a seed, so the same seed gives the same ones. It needs no rights but
those over its own child.
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
"""Seconds that a child has to end after it was asked to; then it is killed."""

KILL = "kill"
FREEZE = "freeze"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chaos:
    """Seconds between two faults of each kind, on average, and the seed they are drawn from. 0: never."""

    kill_every: float = 30.0
    freeze_every: float = 0.0
    pause: float = 3.0
    """Seconds between a kill and the restart, and length of a freeze."""
    seed: str = "0"

    def __post_init__(self) -> None:
        for name in ("kill_every", "freeze_every", "pause"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} is {value}", "give it as seconds, 0 or more")


def faults(chaos: Chaos) -> Iterator[tuple[float, str]]:
    """Yield (seconds to wait, `KILL` or `FREEZE`) without end; nothing where both are switched off.

    A Poisson process: how long ago the last fault was says nothing about the next. The same for the same
    seed.
    """
    kills = _per_second(chaos.kill_every)
    freezes = _per_second(chaos.freeze_every)
    if kills + freezes == 0:
        return
    for number in count():
        wait = -math.log1p(-_chance(chaos.seed, "when", number)) / (kills + freezes)
        is_kill = _chance(chaos.seed, "what", number) * (kills + freezes) < kills
        yield wait, KILL if is_kill else FREEZE


def _per_second(every: float) -> float:
    return 1 / every if every else 0.0


async def supervise(command: tuple[str, ...], chaos: Chaos, reporter: Reporter) -> int:
    """Run ``command`` until it ends by itself, through all kills and freezes; return its exit status.

    Each fault is reported. Cancelling asks the child to leave first. Raises `ConfigError` where the command
    cannot be started.
    """
    child = await _start(command)
    try:
        for wait, fault in faults(chaos):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    return _status(await child.wait())
            reporter.event("chaos", fault=fault, pid=child.pid, after=round(wait, 1))
            if fault == KILL:
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
    """Start the child in a process group of its own: a fault hits all of it, Ctrl-C none of it."""
    try:
        return await asyncio.create_subprocess_exec(*command, start_new_session=True)
    except OSError as error:
        raise ConfigError(
            f"cannot start {command[0]!r}: {error.strerror}", "swarm chaos -- swarm join TICKET"
        ) from error


async def _end(child: asyncio.subprocess.Process) -> None:
    """Ask the child to leave; kill it where it does not within `STOP_SECONDS`."""
    for number in (signal.SIGCONT, signal.SIGINT):
        _signal(child, number)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await child.wait()
    except TimeoutError:
        _signal(child, signal.SIGKILL)
        await child.wait()


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal to the child's whole process group, unless the child has just ended."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)


def _status(returned: int) -> int:
    """Return the exit status as shells do: 128 and the number of the signal that ended the child."""
    return returned if returned >= 0 else 128 - returned


def _chance(seed: str, *words: Label) -> float:
    """At least 0, less than 1."""
    return derive(b"chaos", seed, *words) / (1 << 63)
