"""A ticket in a file, so that scripts can pass an invitation from one process to others.

swarm new --ticket-file FILE  ──►  FILE  ──►  swarm join @FILE, swarm top @FILE
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from swarm.errors import TicketError

from .files import replacing, write_secret

MARK = "@"
"""What begins a file name given in the place of a ticket."""
PATIENCE = 60.0
"""Seconds to wait for a file that is not there yet: the process that writes it may still be starting."""
POLL_SECONDS = 0.25
"""Seconds between two looks for the file."""


def leave(path: Path, ticket: str) -> None:
    """Write ``ticket`` to ``path``, whole or not at all. Raises `DiskTrouble`.

    Only this user may read the file: a ticket may contain the secret of a run.
    """
    with replacing(path) as draft:
        write_secret(draft, ticket + "\n")


async def ticket_text(given: str, deadline: float) -> str:
    """The ticket ``given``, or where that is ``@FILE``, the ticket in the file. Waits until there is one.

    Raises `TicketError` where there is none by ``deadline`` (``loop.time()``) or the file cannot be read.
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
