"""Runs a command to its end: Ctrl-C, deadlines, exit status.

first Ctrl-C or SIGTERM    the command is cancelled and ends cleanly: exit code 0
second one                 the process ends at once: exit code 130
the clean end takes long   the process ends after `LEAVE_SECONDS` all the same: exit code 0 (peers only)
a `SwarmError`             it is reported, and its exit status is ours
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from swarm.errors import SwarmError

from ..observe.reporter import Reporter, stop_writing

LEAVE_SECONDS = 3.5
"""Seconds after which a peer that was asked to leave has left, whatever it was doing. People wait five
seconds; a busy computer needs some of them before it even notices the signal."""


def run_peer(start: Callable[[Reporter], Coroutine[Any, Any, None]], json_lines: bool) -> None:
    """Be a peer until the run is over or somebody asks it to leave, then exit.

    With ``json_lines``, errors are lines on standard output among the others; else they go to standard error.
    """
    reporter = Reporter(sys.stdout, json_lines)

    async def run() -> int:
        await start(reporter)
        return 0

    exit_with(run_guarded(run, reporter if json_lines else Reporter(sys.stderr), leave_within=LEAVE_SECONDS))


def run_guarded(
    start: Callable[[], Coroutine[Any, Any, int]], reporter: Reporter, leave_within: float = 0.0
) -> int:
    """Run ``start()`` to its end and return the exit status. ``reporter`` is told how it ended.

    ``leave_within`` limits the clean end to so many seconds; 0 sets no limit. Arithmetic that is under way
    cannot be cancelled, and nobody should have to wait for it. Files are replaced as a whole, so no file is
    lost or half written.
    """

    def give_up(*_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the signal came while another line was being written
            reporter.event("left", reason="asked to stop; a step was still under way")
        os._exit(0)

    def stop(task: asyncio.Task[int]) -> None:
        if task.cancelling():
            os._exit(130)  # asked twice: the person does not want to wait
        if leave_within:
            signal.signal(signal.SIGALRM, give_up)
            signal.setitimer(signal.ITIMER_REAL, leave_within)
        task.cancel()

    async def run() -> int:
        task = asyncio.create_task(start())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, task)
        try:
            return await task
        except asyncio.CancelledError:
            reporter.event("left", reason="asked to stop")
            if leave_within:
                _flush()
                # Everything is closed and saved; Python's own shutdown would take another second.
                os._exit(0)
            return 0

    try:
        return asyncio.run(run())
    except SwarmError as error:
        reporter.error(error)
        return error.exit_status
    except ExceptionGroup as errors:
        known, unknown = errors.split(SwarmError)
        if known is None or unknown is not None:
            raise
        return _report_all(known, reporter)
    finally:
        # Python removes our handler before the process ends: an alarm after that would kill it.
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _report_all(errors: ExceptionGroup[SwarmError], reporter: Reporter) -> int:
    """Report every error of the group; return the exit status of the last one."""
    status = 1
    for error in errors.exceptions:
        if isinstance(error, ExceptionGroup):
            status = _report_all(error, reporter)
        elif isinstance(error, SwarmError):
            reporter.error(error)
            status = error.exit_status
    return status


def exit_with(status: int) -> None:
    """Flush standard output and end the process with ``status``, also where nothing can be written there."""
    _flush()
    raise SystemExit(status)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        stop_writing(sys.stdout, error)
