"""``swarm rehearse``: many simulated peers in this process, on virtual time."""

from __future__ import annotations

import signal
import sys

import click

from swarm.errors import SwarmError

from ..observe.reporter import Reporter
from .options import json_option
from .running import exit_with


@click.command()
@click.argument("peers", type=click.IntRange(1, 1000))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, help="Same seed, same rehearsal, to the last bit.")
@click.option(
    "--churn",
    default=0.0,
    show_default=True,
    help="Chance that a peer crashes in a round; it comes back as a newcomer.",
)
@click.option("--loss", default=0.0, show_default=True, help="Chance that a message is lost.")
@click.option(
    "--jitter",
    default=0.02,
    show_default=True,
    help="Seconds that one message may take longer than another.",
)
@json_option
def rehearse(peers: int, rounds: int, seed: int, json_lines: bool, **network: float) -> None:
    """Run a swarm of PEERS simulated peers in this process, on virtual time.

    The simulated peers run the code that real peers run.
    """
    # A shell that starts a job in the background makes it ignore Ctrl-C: Python's own handlers end that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    from ..simulation.run import rehearse_and_report
    from ..simulation.scenario import scenario_of

    try:
        scenario = scenario_of(peers, rounds, seed, **network)
        rehearse_and_report(scenario, Reporter(sys.stdout, json_lines))
    except SwarmError as error:
        Reporter(sys.stdout if json_lines else sys.stderr, json_lines).error(error)
        exit_with(error.exit_status)
