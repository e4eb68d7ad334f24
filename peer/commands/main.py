"""The group of all commands, their exit codes, and the console script."""

from __future__ import annotations

import sys

import click

from swarm import __version__
from swarm.errors import ConfigError

from ..observe.reporter import Reporter
from .chaos import chaos
from .demo import demo
from .join import join
from .new import new
from .rehearse import rehearse
from .running import exit_with
from .top import top

EXIT_CODES = """
\b
Exit codes
  0  done, or left cleanly (Ctrl-C)
  1  a fault in this program
  2  wrong usage: an option, a setting, or the ticket
  3  something on this computer must change (port, disk, data, home, version)
  4  another peer broke the rules and we could not go on without it
  5  the network failed for now; try again
  6  no peer of the run answers
"""
"""The meaning of every exit status; shown below ``swarm --help``."""


@click.group(
    epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "SWARM"}
)
@click.version_option(__version__, prog_name="swarm")
def cli() -> None:
    """Train a model together with volunteers' computers.

    \b
    swarm demo              see it: four peers on this computer train a small model
    swarm new               make a run of your own; prints a ticket
    swarm join TICKET       give computing time to a run; Ctrl-C leaves
    swarm top               follow a run on a dashboard
    swarm rehearse 64       try a swarm of 64 simulated peers
    """


for command in (new, join, top, demo, rehearse, chaos):
    cli.add_command(command)


def main() -> None:
    """Run the command that the arguments name. This is the console script ``swarm``."""
    try:
        cli()
    except ConfigError as error:
        Reporter(sys.stderr).error(error)
        exit_with(error.exit_status)
