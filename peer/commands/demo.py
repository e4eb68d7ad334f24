"""``swarm demo``: several peers on this computer train a small model together."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

from ..observe.reporter import Reporter
from .options import CODECS, data_option, json_option, model_options
from .running import exit_with, run_guarded


@click.command()
@click.option("--peers", default=4, show_default=True, type=click.IntRange(1, 32))
@click.option("--rounds", default=40, show_default=True, type=click.IntRange(1))
@click.option("--steps", default=20, show_default=True, help="Local steps per round.")
@model_options
@click.option("--codec", type=CODECS, default="int4", show_default=True, help="How updates are encoded.")
@data_option
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    help="Folder to leave the peers' files in. Default: a new one under /tmp.",
)
@json_option
def demo(json_lines: bool, **chosen: Any) -> None:
    """See it work: several peers on this computer train a small model on real text, and average."""

    def start() -> Coroutine[Any, Any, int]:
        from ..app.demo import Demo, run_demo

        return run_demo(Demo(**chosen), json_lines=json_lines)

    exit_with(run_guarded(start, Reporter(sys.stdout if json_lines else sys.stderr, json_lines)))
