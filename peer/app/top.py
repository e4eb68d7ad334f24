"""`swarm top`: finds the peer to look at, and hands its snapshots to the dashboard."""

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
from ..observe.snapshot import Snapshot, decode
from ..observe.status_page import fetch
from ..storage.home import root_folder, running

ANSWER_SECONDS = 3.0
STATUS_LIMIT = 4 << 20
NOBODY = (
    "start one with 'swarm join TICKET', or name one: swarm top HOME, swarm top HOST:PORT, swarm top TICKET"
)


async def view(source: str, *, once: bool, json_lines: bool, plain: bool) -> int:
    """Show the peer that ``source`` means until the person quits; the exit status of the dashboard."""
    async with AsyncExitStack() as stack:
        snapshots = await _source(source, stack)
        return await watch(snapshots, once=once, json_lines=json_lines, ascii=plain)


async def _source(source: str, stack: AsyncExitStack) -> Callable[[], Awaitable[Snapshot]]:
    """Where snapshots come from: a ticket's peers, a home folder, a status page, or the newest peer on this computer."""
    if source.startswith(PREFIX):
        ticket = Ticket.unpack(source)
        local = next(running(ticket.run_id), None)
        return _page(local) if local else await _remote(ticket, stack)
    if folder := _folder(source):
        return _newest(folder)
    if source:
        try:
            return _page(str(Address.parse(source)))
        except ValueError as error:
            raise ConfigError(
                f"{source[:60]!r} is no ticket, no home folder and no HOST:PORT", NOBODY
            ) from error
    return _newest(root_folder())


def _folder(source: str) -> Path | None:
    """``source`` as a home folder, where it is one."""
    return Path(source) if source and Path(source).is_dir() else None


def _page(address: str) -> Callable[[], Awaitable[Snapshot]]:
    async def ask() -> Snapshot:
        return await fetch(address, asyncio.get_running_loop().time() + ANSWER_SECONDS)

    return ask


def _newest(folder: Path) -> Callable[[], Awaitable[Snapshot]]:
    """Looked up each time: the peer may end and come back on another port."""

    async def ask() -> Snapshot:
        address = next(running(under=folder), None)
        if address is None:
            raise Unreachable(
                "no peer runs on this computer" if folder == root_folder() else f"no peer runs in {folder}",
                NOBODY,
            )
        return await fetch(address, asyncio.get_running_loop().time() + ANSWER_SECONDS)

    return ask


async def _remote(ticket: Ticket, stack: AsyncExitStack) -> Callable[[], Awaitable[Snapshot]]:
    """Ask the run's own peers, as a guest with a key of its own that joins nothing."""
    contacts = Contacts(ticket.run_id, ticket.entries)
    transport = await stack.enter_async_context(
        HttpTransport(KeyPair.generate(), ticket.run_id, ticket.secret, contacts)
    )

    async def ask() -> Snapshot:
        failure: SwarmError = Unreachable("the ticket names nobody", NOBODY)
        for entry in ticket.entries:
            deadline = asyncio.get_running_loop().time() + ANSWER_SECONDS
            try:
                raw = await transport.request(
                    entry.peer, Request("status", limit=STATUS_LIMIT), deadline=deadline
                )
                return decode(raw)
            except SwarmError as error:
                failure = error
            except ValueError as error:
                failure = Malformed(f"{entry.address} answered with something that is not a status: {error}")
        raise failure

    return ask
