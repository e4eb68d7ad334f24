"""Start a life again that has ended before its time, after a pause that grows; and tell what cannot be helped by that.

the network's fault, others' fault, a bug      again: after 1 s, 2 s, 4 s, … at most a minute
a person must change something here            not again: another life would meet the same port, ticket, version
a bug that ends every life at once             not again after `SHORT_LIVES` of them: somebody should read what it says
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from swarm.errors import OurFault, SwarmError, Weather

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
LONG_LIFE = 120.0
"""Seconds after which a life counts as one: the next pause is the first again."""
SHORT_LIVES = 5
"""Lives in a row that may end at once by a bug."""

_LOG = logging.getLogger(__name__)


class Life(Protocol):
    """One attempt at being a peer. Its end by itself is the end of the run."""

    @property
    def has_begun(self) -> bool:
        """Whether it got so far that another life is worth it: before, the ticket or the run may simply be dead."""

    async def live(self) -> None:
        """From the first socket to the last; leaves nothing behind, however it ends."""


class Restarts:
    """Decides about the next life. A value that changes in `pause` only: no clock, no sleep."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._bugs = 0

    def pause(self, error: Exception, *, lived: float, has_begun: bool) -> float | None:
        """Seconds until the next life after one of ``lived`` seconds has ended by ``error``; None: not again."""
        cause = cause_of(error)
        if isinstance(cause, OurFault) or not has_begun:
            return None
        if lived >= LONG_LIFE:
            self._in_a_row = self._bugs = 0
        self._bugs += not isinstance(cause, SwarmError)
        if self._bugs > SHORT_LIVES:
            return None
        self._in_a_row += 1
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(16, self._in_a_row - 1))


async def keep_alive(birth: Callable[[str], Life], tell: Callable[[SwarmError, float], None]) -> None:
    """Live, again and again, to the end of the run. ``birth`` makes a life and is told why the last one ended, if one has.

    ``tell`` hears of each restart and of the seconds until then. Raises what no other life can help.
    """
    loop, restarts, reason, has_begun = asyncio.get_running_loop(), Restarts(), "", False
    while True:
        life, began = birth(reason), loop.time()
        try:
            await life.live()
            return
        except Exception as error:  # whatever ends a life; what it is decides about the next one
            has_begun = has_begun or life.has_begun
            pause = restarts.pause(error, lived=loop.time() - began, has_begun=has_begun)
            if pause is None:
                raise
            known = told_as(error)
        tell(known, pause)
        reason = known.fact
        del life, known  # an error knows the frames that it has passed, and they the model
        await asyncio.sleep(pause)


def cause_of(error: BaseException) -> BaseException:
    """The error that a person should read: of a group the one that somebody must act on, else the first bug, else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [cause_of(each) for each in error.exceptions]
    return min(
        causes, key=lambda cause: 0 if isinstance(cause, OurFault) else 2 if isinstance(cause, Weather) else 1
    )


def told_as(error: Exception) -> SwarmError:
    """``error`` for people; a bug also goes to the log with its traceback, because a restart hides nothing."""
    cause = cause_of(error)
    if isinstance(cause, SwarmError):
        return cause
    _LOG.error("a life ended by a fault in this program", exc_info=error)
    return SwarmError(f"a fault in this program: {type(cause).__name__}: {cause}", "tell us what was printed")
