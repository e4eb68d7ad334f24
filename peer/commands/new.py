"""``swarm new``: make a run, print its ticket, and be its first peer."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarm.ticket import Address

from ..observe.reporter import Reporter
from .options import CODECS, data_option, model_options, peer_options
from .running import run_peer

if TYPE_CHECKING:
    from ..config.run import RunSettings


@click.command()
@data_option
@model_options
@click.option("--rounds", type=click.IntRange(1), help="Length of the run. Default: 100 rounds.")
@click.option("--tokens", type=click.IntRange(1), help="Length of the run in tokens of all peers together.")
@click.option(
    "--preset",
    type=click.Choice(["lan", "safe", "ahead", "wan", "thin"]),
    default="safe",
    show_default=True,
    help="How the run averages. lan: one local network. wan: home connections. thin: slow links, long runs. "
    "ahead: as safe, but peers train on while they average.",
)
@click.option("--codec", type=CODECS, help="How updates are encoded, if not as the preset says.")
@click.option(
    "--exchange",
    type=click.Choice(["butterfly", "gather"]),
    help="butterfly: each part to its owner. gather: every update to every member. "
    "Default: as the preset says.",
)
@click.option(
    "--fragments",
    type=click.IntRange(1, 64),
    help="Split the model in so many fragments and average one per round. Default: the whole model.",
)
@click.option(
    "--round-seconds",
    type=float,
    help="Local training per round; each peer does what fits. Default: as the preset says, "
    "longer for large models.",
)
@click.option("--steps", default=500, show_default=True, help="At most this many local steps per round.")
@click.option(
    "--admission",
    type=click.Choice(["open", "invite"]),
    default="open",
    show_default=True,
    help="open: anybody may join. invite: only with a ticket of this run.",
)
@click.option(
    "--inner",
    type=click.Choice(["adamw", "muon"]),
    default="adamw",
    show_default=True,
    help="Local optimiser.",
)
@click.option(
    "--outer",
    type=click.Choice(["plain", "nesterov"]),
    help="Outer optimiser. Default: plain averaging.",
)
@click.option(
    "--momentum",
    default=0.0,
    show_default=True,
    help="Momentum of the outer optimiser. 0: none, or what --outer needs.",
)
@click.option(
    "--evaluate-every", default=1, show_default=True, help="Rounds between two evaluations on held-out text."
)
@click.option("--start-with", default=1, show_default=True, help="Peers to wait for before the first round.")
@click.option(
    "--ticket-file",
    type=click.Path(path_type=Path),
    help="Also write the ticket to this file, for 'swarm join @FILE'.",
)
@peer_options
def new(
    data: Path | None, home: Path | None, listen: Address | None, json_lines: bool, **chosen: Any
) -> None:
    """Make a run, print its ticket, and be its first peer.

    Give the ticket to others; each of them types 'swarm join TICKET'. The run goes on without you once others
    are in it.
    """

    def start(reporter: Reporter) -> Coroutine[Any, Any, None]:
        from ..app.node import Options, found_run

        options = Options(
            home=home,
            listen=listen,
            name=chosen["name"],
            reporter=reporter,
            ticket_file=chosen["ticket_file"],
        )
        return found_run(_settings_of(chosen), data, options)

    run_peer(start, json_lines)


def _settings_of(chosen: dict[str, Any]) -> RunSettings:
    """Return the organiser's choices. An option that was not given means "as the preset says"."""
    from ..config.run import RunSettings

    return RunSettings(
        name=chosen["name"],
        model=chosen["model"],
        rounds=chosen["rounds"] or 0,
        tokens=chosen["tokens"] or 0,
        preset=chosen["preset"],
        round_seconds=chosen["round_seconds"],
        max_steps=chosen["steps"],
        codec=chosen["codec"] or "",
        exchange=chosen["exchange"] or "",
        fragments=chosen["fragments"] or 0,
        admission=chosen["admission"],
        seed=chosen["seed"],
        inner=chosen["inner"],
        outer=chosen["outer"] or "",
        momentum=chosen["momentum"],
        evaluate_every=chosen["evaluate_every"],
        start_with=chosen["start_with"],
    )
