"""The end of a demo on a terminal: one table, and a few lines of text that the shared model generated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..observe.text import clean, size


def show(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print ``summary`` (the fields of the demo's last event, and ``sample``)."""
    console = console or Console(highlight=False)
    table = Table(title="result", show_header=False, box=None, padding=(0, 2), title_justify="left")
    table.add_column(justify="right", style="dim")
    table.add_column()
    together = summary["bits_per_byte"]
    alone = summary["bits_per_byte_alone"]
    rows = [
        (
            "peers × rounds",
            f"{summary['peers']} × {summary['rounds']}, {summary['parameters']:,} parameters, "
            f"{summary['seconds']} s",
        ),
        ("fresh model", f"{summary['bits_per_byte_start']:.3f} bits per byte of held-out text"),
        ("one peer alone", f"{_score(alone)}, at the same time: {_work(summary, '_alone')}"),
        ("the shared model", f"{_score(together)}, each of its peers: {_work(summary)}"),
        ("all peers agree", "yes, to the bit, after every round" if summary["state_roots_equal"] else "NO"),
        ("upload", f"{size(summary['bytes_up_per_peer_per_round'])} per peer and round"),
        ("the model", clean(str(summary["checkpoint"]), 200)),
    ]
    for name, value in rows:
        table.add_row(name, Text(value))
    console.print(table)
    sample = "\n".join(clean(line, 100) for line in str(summary["sample"]).splitlines()[:12])
    console.print(
        Panel(Text("def " + sample), title="written by the shared model", title_align="left", expand=False)
    )


def _score(bits_per_byte: float | None) -> str:
    return "not evaluated" if bits_per_byte is None else f"{bits_per_byte:.3f}"


def _work(summary: Mapping[str, Any], suffix: str = "") -> str:
    return f"{summary['local_steps' + suffix]} local steps in {summary['training_seconds' + suffix]} s"
