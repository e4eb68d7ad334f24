"""A ticket in a file: how an invitation passes from one process to others without a person in between.

swarm new --ticket-file FILE  ──►  FILE  ──►  swarm join @FILE, swarm top @FILE
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from swarm.errors import TicketError

from .files import replacing

MARK = "@"
PATIENCE = 60.0
"""Seconds to wait for a file that is not there yet: its writer may still be starting."""
POLL_SECONDS = 0.25


def leave(path: Path, ticket: str) -> None:
    """Put ``ticket`` into ``path``, whole or not at all, for this user only: it may carry a run's secret. Raises `DiskTrouble`."""
    with replacing(path) as draft:
        draft.touch(mode=0o600)
        draft.write_text(ticket + "\n")


async def ticket_text(given: str, deadline: float) -> str:
    """What ``given`` says, or what the file says that it names as ``@FILE``, as soon as there is one.

    Raises `TicketError` where there is none at ``deadline`` (in ``loop.time()``), or where it cannot be read.
    """
    if not given.startswith(MARK):
        return given
    path = Path(given.removeprefix(MARK))
    while not (text := _read(path)):
        if asyncio.get_running_loop().time() + POLL_SECONDS >= deadline:
            raise TicketError(
                f"there is no ticket in {path}", "is the run's first peer started, with --ticket-file?"
            )
        await asyncio.sleep(POLL_SECONDS)
    return text


def _read(path: Path) -> str:
    """The text of ``path`` without the white space around it; empty where there is no such file yet."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise TicketError(
            f"cannot read a ticket from {path}: {error}", "name a file that 'swarm new --ticket-file' wrote"
        ) from error
