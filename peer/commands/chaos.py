"""``swarm chaos``: run a command, kill and freeze it at random, and start it again."""

from __future__ import annotations

import platform
import sys
from typing import Any

import click

from ..observe.reporter import Reporter
from .running import exit_with, run_guarded


@click.command()
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...")
@click.option(
    "--kill-every", default=30.0, show_default=True, help="Seconds between two kill -9, on average; 0: never."
)
@click.option(
    "--freeze-every",
    default=0.0,
    show_default=True,
    help="Seconds between two SIGSTOP, on average; 0: never.",
)
@click.option(
    "--pause", default=3.0, show_default=True, help="Seconds before a restart, and length of a freeze."
)
@click.option(
    "--seed",
    default=platform.node,
    help="Same seed, same kills and freezes. Default: the name of this computer.",
)
def chaos(command: tuple[str, ...], **chosen: Any) -> None:
    """Run COMMAND, kill and freeze it at random, and start it again: swarm chaos -- swarm join TICKET

    Ends when COMMAND ends by itself, with its exit code. Each kill and freeze is reported on standard error.
    """

    async def start() -> int:
        from ..app.chaos import Chaos, supervise

        return await supervise(command, Chaos(**chosen), Reporter(sys.stderr))

    exit_with(run_guarded(start, Reporter(sys.stderr)))
