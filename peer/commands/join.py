"""``swarm join``: give computing time to a run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from swarm.ticket import Address, Ticket

from ..observe.reporter import Reporter
from .options import peer_options
from .running import run_peer


@click.command()
@click.argument("ticket")
@peer_options
def join(ticket: str, home: Path | None, listen: Address | None, name: str, json_lines: bool) -> None:
    """Give computing time to the run of TICKET. Ctrl-C leaves; the same command comes back and goes on.

    TICKET may be @FILE: the file of 'swarm new --ticket-file'. The command waits up to a minute for it. Needs
    nothing but the ticket: text and model come from the other peers. Joining never lets others run code here.
    """

    async def start(reporter: Reporter) -> None:
        from ..storage import ticket_file

        deadline = asyncio.get_running_loop().time() + ticket_file.PATIENCE
        text = await ticket_file.ticket_text(ticket, deadline)
        parsed = Ticket.unpack(text)  # before the heavy imports: a typing error is reported at once
        from ..app.node import Options, join

        await join(parsed, Options(home=home, listen=listen, name=name, reporter=reporter))

    run_peer(start, json_lines)
