"""`swarm top`: find the peer to look at, and give its snapshots to the dashboard.

(nothing)     the newest peer on this computer
HOME          the newest peer below a home folder
HOST:PORT     a status page
TICKET        the run's own peers; a peer of that run on this computer, where there is one
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from swarm.errors import ConfigError, Malformed, SwarmError, Unreachable
from swarm.identity import KeyPair
from swarm.membership.contacts import Contacts
from swarm.ticket import PREFIX, Address, Ticket
from swarm.transport import Request
from swarm.transport.http import HttpTransport

from ..dashboard.app import watch
from ..observe.snapshot import Snapshot, as_told_by, decode
from ..observe.status_page import fetch
from ..storage.home import root_folder, running

ANSWER_SECONDS = 3.0
"""Seconds that a peer has to answer."""
STATUS_LIMIT = 4 << 20
"""Bytes of a snapshot that is accepted from a stranger."""
ADVICE = (
    "start one with 'swarm join TICKET', or name one: swarm top HOME, swarm top HOST:PORT, swarm top TICKET"
)
"""What to do where no peer is found."""


async def view(source: str, *, once: bool, json_lines: bool, plain: bool) -> int:
    """Show the peer that ``source`` names until the person quits; return the exit status of the dashboard.

    Raises `ConfigError` where ``source`` names nothing, `TicketError` where it is a damaged ticket.
    """
    async with AsyncExitStack() as stack:
        snapshots = await _source(source, stack)
        return await watch(snapshots, once=once, json_lines=json_lines, ascii=plain)


async def _source(source: str, stack: AsyncExitStack) -> Callable[[], Awaitable[Snapshot]]:
    """Return the function that asks the peer that ``source`` names for its snapshot."""
    if source.startswith(PREFIX):
        ticket = Ticket.unpack(source)
        local = next(running(ticket.run_id), None)
        return _page(local) if local else await _remote(ticket, stack)
    if not source:
        return _newest(root_folder())
    if _is_folder(source):
        return _newest(Path(source))
    try:
        return _page(str(Address.parse(source)))
    except ValueError as error:
        raise ConfigError(f"{source[:60]!r} is no ticket, no home folder and no HOST:PORT", ADVICE) from error


def _is_folder(source: str) -> bool:
    return Path(source).is_dir()


def _page(address: str) -> Callable[[], Awaitable[Snapshot]]:
    """Ask the status page at ``address``."""

    async def ask() -> Snapshot:
        return await fetch(address, asyncio.get_running_loop().time() + ANSWER_SECONDS)

    return ask


def _newest(folder: Path) -> Callable[[], Awaitable[Snapshot]]:
    """Ask the newest peer below ``folder``, looked up each time: it may end and come back on another port."""

    async def ask() -> Snapshot:
        address = next(running(under=folder), None)
        if address is None:
            place = "on this computer" if folder == root_folder() else f"in {folder}"
            raise Unreachable(f"no peer runs {place}", ADVICE)
        return await fetch(address, asyncio.get_running_loop().time() + ANSWER_SECONDS)

    return ask


async def _remote(ticket: Ticket, stack: AsyncExitStack) -> Callable[[], Awaitable[Snapshot]]:
    """Ask the ticket's entries one after the other, with a fresh key and without joining the run.

    The answer of a peer on another computer is a stranger's: it is shown as what that peer says.
    """
    contacts = Contacts(ticket.run_id, ticket.entries)
    transport = await stack.enter_async_context(
        HttpTransport(KeyPair.generate(), ticket.run_id, ticket.secret, contacts)
    )

    async def ask() -> Snapshot:
        failure: SwarmError = Unreachable("the ticket names no peer", ADVICE)
        for entry in ticket.entries:
            deadline = asyncio.get_running_loop().time() + ANSWER_SECONDS
            request = Request("status", limit=STATUS_LIMIT)
            try:
                told = decode(await transport.request(entry.peer, request, deadline=deadline))
                return as_told_by(entry.peer, ticket, told)
            except SwarmError as error:
                failure = error
            except ValueError as error:
                failure = Malformed(f"{entry.address} answered with something that is not a status: {error}")
        raise failure

    return ask
