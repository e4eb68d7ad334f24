"""``swarm rehearse``: many simulated peers in this process, on virtual time."""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

from swarm.errors import SwarmError, TheirFault

from ..observe.reporter import Reporter
from .options import json_option
from .running import exit_with


@click.command()
@click.argument("peers", type=click.IntRange(1, 1000))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, help="Same seed, same rehearsal, to the last bit.")
@click.option(
    "--seeds",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Rehearse so many seeds, from --seed on, on all cores.",
)
@click.option(
    "--liars",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="So many of the peers break the rules, by strategy and by chance; never the founder.",
)
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
def rehearse(peers: int, json_lines: bool, **options: Any) -> None:
    """Run a swarm of PEERS simulated peers in this process, on virtual time.

    The simulated peers run the code that real peers run.

    With --liars, some of them lie: about their updates and lists, their votes, their models. What counts is
    then what becomes of the others: "forks" (two models of one round), "uncertified_states" (models that a
    liar made), "rounds_decided". A seed that fails prints the command that repeats it, and the exit code
    is 4. Liars are the same again with the same seed, and there are more of them with more seeds:

    \b
        swarm rehearse 5 --liars 1                    one liar, one seed
        swarm rehearse 5 --liars 1 --seeds 1000       a thousand, on all cores
        swarm rehearse 8 --liars 2 --churn 0.1        and honest peers that crash

    Fewer than a third of the peers may lie: two thirds decide.
    """
    # A shell that starts a job in the background makes it ignore Ctrl-C: Python's own handlers end that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    from ..simulation.run import rehearse_and_report
    from ..simulation.sweep import Sweep, sweep_and_report

    network = {name: options.pop(name) for name in ("churn", "loss", "jitter")}
    sweep = Sweep(peers=peers, network=network, **options)
    reporter = Reporter(sys.stdout, json_lines)
    is_fine = True
    try:
        if sweep.liars or sweep.seeds > 1:
            is_fine = sweep_and_report(sweep, reporter)
        else:
            rehearse_and_report(sweep.scenario(sweep.seed), reporter)
    except SwarmError as error:
        Reporter(sys.stdout if json_lines else sys.stderr, json_lines).error(error)
        exit_with(error.exit_status)
    if not is_fine:
        exit_with(TheirFault.exit_status)
