"""``swarm top``: follow a run on a dashboard."""

from __future__ import annotations

import asyncio
import sys

import click

from ..observe.reporter import Reporter
from .options import json_option
from .running import exit_with, run_guarded


@click.command()
@click.argument("source", required=False, default="", metavar="[TICKET|PEER]")
@click.option(
    "--once", is_flag=True, help="Print one frame and end: 0 healthy, 1 not healthy, 2 no peer answers."
)
@click.option("--ascii", "plain", is_flag=True, help="Plain characters only.")
@json_option
def top(source: str, once: bool, plain: bool, json_lines: bool) -> None:
    """Follow a run. Without an argument: the newest peer on this computer.

    PEER is a home folder or the HOST:PORT of a status page; a TICKET asks the run's own peers. Closing it
    never stops a peer.
    """

    async def start() -> int:
        from ..app.top import view
        from ..storage import ticket_file

        deadline = asyncio.get_running_loop().time() + ticket_file.PATIENCE
        text = await ticket_file.ticket_text(source, deadline)
        return await view(text, once=once, json_lines=json_lines, plain=plain)

    exit_with(run_guarded(start, Reporter(sys.stderr)))
