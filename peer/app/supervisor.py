"""Start a peer again when it fails, after a pause that grows; and give up where another attempt cannot help.

the network, other peers, or a bug ended it      again: after 1 s, 2 s, 4 s, … at most a minute
a person must change something here              not again: the port, ticket or version would be the same
it never joined the run                          not again: the ticket or the run may simply be dead
a bug ended `EARLY_BUGS` attempts in a row       not again: somebody should read the error
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from swarm.errors import OurFault, SwarmError, Weather

FIRST_PAUSE = 1.0
"""Seconds before the first restart; each further pause is twice as long."""
LONGEST_PAUSE = 60.0
"""Seconds."""
LONG_ATTEMPT = 120.0
"""Seconds after which an attempt counts as a success: the next pause is the first one again."""
EARLY_BUGS = 5
"""Attempts in a row that a bug may end before `LONG_ATTEMPT`."""

_LOG = logging.getLogger(__name__)


class Attempt(Protocol):
    """One attempt at being a peer, from the first socket to the last.

    It ends by itself only at the end of the run.
    """

    @property
    def has_joined(self) -> bool:
        """Whether the peer has been in the run, so that another attempt is worth it."""

    async def run(self) -> None:
        """Run to the end of the run, or raise. Leaves nothing open, however it ends."""


class Restarts:
    """Decides whether and when there is another attempt. No clock, no sleep: it changes in `pause` only."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._bugs = 0

    def pause(self, error: Exception, *, lasted: float, has_joined: bool) -> float | None:
        """Return the seconds until the next attempt; None where there should be none.

        The last attempt took ``lasted`` seconds and ended by ``error``.
        """
        cause = cause_of(error)
        if isinstance(cause, OurFault) or not has_joined:
            return None
        if lasted >= LONG_ATTEMPT:
            self._in_a_row = 0
            self._bugs = 0
        self._bugs += not isinstance(cause, SwarmError)
        if self._bugs > EARLY_BUGS:
            return None
        self._in_a_row += 1
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(16, self._in_a_row - 1))


async def run_with_restarts(
    make_attempt: Callable[[str], Attempt], report_restart: Callable[[SwarmError, float], None]
) -> None:
    """Make attempts until one reaches the end of the run.

    ``make_attempt`` gets the reason why the last attempt ended, "" for the first. ``report_restart`` gets
    that error and the seconds until the next attempt. Raises the error that no other attempt can help.
    """
    loop = asyncio.get_running_loop()
    restarts = Restarts()
    reason = ""
    has_joined = False
    while True:
        attempt = make_attempt(reason)
        began = loop.time()
        try:
            await attempt.run()
            return
        except (
            Exception
        ) as error:  # any error ends an attempt; `Restarts` decides whether there is another one
            has_joined = has_joined or attempt.has_joined
            pause = restarts.pause(error, lasted=loop.time() - began, has_joined=has_joined)
            if pause is None:
                raise
            reported = for_people(error)
        report_restart(reported, pause)
        reason = reported.fact
        del attempt, reported  # an error holds the frames it has passed, and they hold the model
        await asyncio.sleep(pause)


def cause_of(error: BaseException) -> BaseException:
    """Return the error that a person should read.

    Of a group, this is the one that a person must act on, else the first bug, else the first error.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    return min((cause_of(each) for each in error.exceptions), key=_urgency)


def _urgency(cause: BaseException) -> int:
    """0 for what a person must change here, 1 for bugs and other peers' faults, 2 for network trouble."""
    if isinstance(cause, OurFault):
        return 0
    return 2 if isinstance(cause, Weather) else 1


def for_people(error: Exception) -> SwarmError:
    """Return ``error`` with a fact and an advice.

    A bug also goes to the log with its traceback: a restart must not hide it.
    """
    cause = cause_of(error)
    if isinstance(cause, SwarmError):
        return cause
    _LOG.error("the peer ended by a fault in this program", exc_info=error)
    return SwarmError(f"a fault in this program: {type(cause).__name__}: {cause}", "tell us what was printed")
