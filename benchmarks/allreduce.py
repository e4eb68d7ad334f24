"""All-reduce against its rivals: time, CPU, memory and bytes of N processes that average M parameters on this machine.

    python -m benchmarks.allreduce [--quick] [--peers 2,4,8] [--parameters 1,10,50] [--codecs fp32,fp16,int8,int4] [--rounds 5]
                                   [--systems swarm,hivemind,gloo,floor] [--json FILE]

    swarm      ours: mutual TLS 1.3, signed commits and receipts, every byte hashed, decision by ballots, error feedback
    hivemind   stock `DecentralizedAverager` with its p2pd: encrypted, no hashes, no decision
    gloo       ``torch.distributed``: neither, and one dead member ends it for all
    floor      the same bytes over bare TLS 1.3 sockets in threads: what any encrypted exchange has to take on these cores

Each peer is a process of its own with one thread for arithmetic. ``seconds`` runs from the first standing group to the last
average: forming the group is not in it (it has a column of its own), for nobody. The systems take turns, round by round, so noise
hits all alike. A first round warms up and a last one watches the memory; neither is timed. A rival that fails or hangs is out from
there on; where ours does, that is the end.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from averaging.codecs import codec_of
from benchmarks import meters
from benchmarks.cast import Cast, NotMeasured
from benchmarks.figures import RATIOS, Round, Row, cell_name, document, ratios, summary
from benchmarks.rivals.stage import Times
from swarm.manifest import Codec

T = TypeVar("T")

SYSTEMS = {
    "swarm": "benchmarks.rivals.swarm_peer",
    "hivemind": "benchmarks.rivals.hivemind_peer",
    "gloo": "benchmarks.rivals.gloo_peer",
    "floor": "benchmarks.rivals.tls_peer",
}
SPEAKS = {"hivemind": {"fp32", "fp16", "int8"}, "gloo": {"fp32"}, "floor": {"fp32", "fp16", "int8", "int4"}}
"""The codecs of the rivals; ours are those of the manifest."""
TOLERANCE = {"fp32": 2e-3, "bf16": 0.02, "fp16": 4e-3, "int8": 0.05, "int4": 0.4}
"""Relative distance from the plain mean beyond which something is broken: ours clips an update of more than the median norm, and
random ones differ by a thousandth. The codecs that are not here leave numbers out on purpose."""
_PAGE = 140
"""Characters of a line where nobody says how many fit."""
BYTES_PER_NUMBER = 48
"""What a peer takes of memory per parameter at its peak, about: all systems stay while they take turns, where there is room."""


@dataclass(frozen=True, slots=True)
class Part:
    """One system in a cell."""

    cast: Cast
    codec: str


class Stage:
    """Plays cells and keeps their rows."""

    def __init__(self, console: Console, progress: Progress, rounds: int) -> None:
        self._console, self._progress, self._rounds = console, progress, rounds
        self._scenes = 0
        self.rows: list[Row] = []

    def play(self, casts: Sequence[Cast], parameters: int, codec: str) -> None:
        """One cell: all ``casts`` that speak ``codec``, in turns; one after the other where memory is short."""
        playing = [
            Part(cast, codec) for cast in casts if cast.is_here and codec in SPEAKS.get(cast.system, {codec})
        ]
        needed = sum(part.cast.peers * parameters * BYTES_PER_NUMBER for part in playing)
        together = needed < psutil.virtual_memory().available
        for parts in [playing] if together else [[part] for part in playing]:
            if parts:
                self._play(parts, parameters)

    def _play(self, parts: Sequence[Part], parameters: int) -> None:
        self._scenes += 1
        for part in parts:
            self._tell(part, parameters, "prepares")
            self._ask(part, partial(self._enter, part, parameters))
        kept: dict[Part, list[Round]] = {part: [] for part in parts}
        for number in range(self._rounds + 1):
            for part in (*parts[number % len(parts) :], *parts[: number % len(parts)]):
                self._tell(part, parameters, f"round {number} of {self._rounds}" if number else "warms up")
                round_ = self._ask(part, partial(one_round, part.cast))
                self._progress.advance(self._progress.task_ids[0])
                if number and round_:
                    kept[part].append(round_)
        for part in parts:
            self._tell(part, parameters, "memory")
            if row := self._ask(part, partial(self._row, part, parameters, kept[part])):
                self.rows.append(row)
        for part in parts:
            self._ask(part, partial(part.cast.all, "drop"))

    def _enter(self, part: Part, parameters: int) -> None:
        share = 2 * codec_of(Codec[part.codec.upper()]).size(-(-parameters // part.cast.peers))
        part.cast.enter(name=f"scene {self._scenes}", parameters=parameters, codec=part.codec, share=share)
        meters.forget_peaks(part.cast.pids)

    def _ask(self, part: Part, act: Callable[[], T]) -> T | None:
        """What ``act`` comes to; None where a rival is out. Raises `NotMeasured` where it is ours."""
        if not part.cast.is_here:
            return None
        try:
            return act()
        except NotMeasured as error:
            part.cast.send_away()
            if part.cast.system == "swarm":
                raise
            self._progress.console.print(f"{part.cast.system} is out: {error}", markup=False)
            return None

    def _row(self, part: Part, parameters: int, rounds: Sequence[Round]) -> Row:
        cast = part.cast
        with meters.MemoryWatch(cast.pids) as watch:
            one_round(cast)
        memory = sum(watch.peaks.values()) / cast.peers
        rss = sum(meters.peak_rss_of(pid) for pid in cast.pids) / cast.peers
        verdicts = cast.all("check")
        error = max(verdict["error"] for verdict in verdicts)
        if len({verdict["digest"] for verdict in verdicts}) > 1:
            raise NotMeasured(f"{cast.system} {part.codec}: the peers do not hold the same bits")
        if not error <= TOLERANCE.get(part.codec, float("inf")) and cast.system != "hivemind":
            raise NotMeasured(f"{cast.system} {part.codec}: the average is {error:.3g} away from the mean")
        return Row(
            system=cast.system,
            peers=cast.peers,
            parameters=parameters,
            codec=part.codec,
            memory_mb=round(memory, 1),
            peak_rss_mb=round(rss, 1),
            error=error,
            **summary(rounds),
        )

    def _tell(self, part: Part, parameters: int, what: str) -> None:
        where = f"{cell_name(part.cast.peers, parameters)} {part.codec} {part.cast.system}: {what}"
        self._progress.update(self._progress.task_ids[0], description=where)


def one_round(cast: Cast) -> Round:
    """Everybody averages once; what that took, of the machine as well."""
    cast.all("refill")
    cpu, busy, loopback, began = (
        meters.cpu_of(cast.pids),
        meters.busy(),
        meters.sent_bytes(),
        time.monotonic(),
    )
    times = [Times(**told) for told in cast.all("average")]
    loopback, wall = meters.sent_bytes() - loopback, time.monotonic() - began
    cpu, busy = meters.cpu_of(cast.pids) - cpu, meters.busy() - busy
    foreign = max(0.0, busy - cpu) / (wall * (psutil.cpu_count() or 1))
    return Round(times, cpu, min(1.0, foreign), loopback)


def table_of(rows: Sequence[Row]) -> Table:
    """The rows as people read them; figures but times are per peer."""
    table = Table(
        title="seconds: first standing group to last average · CPU, memory, bytes: per peer",
        title_justify="left",
    )
    for name in ("cell", "codec", "system"):
        table.add_column(name)
    for name in (
        "seconds",
        "group s",
        "whole s",
        "CPU s",
        "MB sent",
        "PSS MB",
        "RSS MB",
        "error",
        "failed",
        "foreign",
    ):
        table.add_column(name, justify="right")
    ordered = sorted(
        rows,
        key=lambda row: (
            row.peers,
            row.parameters,
            list(dict.fromkeys(r.codec for r in rows)).index(row.codec),
        ),
    )
    for before, row in zip([None, *ordered], ordered, strict=False):
        if before and (before.peers, before.parameters, before.codec) != (
            row.peers,
            row.parameters,
            row.codec,
        ):
            table.add_section()
        table.add_row(
            cell_name(row.peers, row.parameters),
            row.codec,
            row.system,
            f"{row.seconds:.3f}",
            f"{row.assembly_seconds:.3f}",
            f"{row.whole_seconds:.3f}",
            f"{row.cpu_seconds:.2f}",
            f"{row.bytes / 1e6:.2f}",
            f"{row.memory_mb:.0f}",
            f"{row.peak_rss_mb:.0f}",
            f"{row.error:.1e}",
            str(row.failed),
            f"{row.foreign_cpu:.0%}",
        )
    return table


def ratio_table(rows: Sequence[Row]) -> Table:
    """The ratios, a line per cell."""
    table = Table(title="ratios of seconds", title_justify="left")
    table.add_column("cell")
    for name in RATIOS:
        table.add_column(name.replace("_over_", " / "), justify="right")
    for cell, found in ratios(rows).items():
        table.add_row(cell, *(f"{found[name]:.2f}" if name in found else "" for name in RATIOS))
    return table


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def _words(text: str) -> list[str]:
    return text.split(",")


def _chosen() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="4 peers, 1 and 10 million parameters, fp32 and int8, few rounds"
    )
    parser.add_argument("--peers", type=_numbers, help="2,4,8")
    parser.add_argument("--parameters", type=_numbers, help="in millions: 1,10,50")
    parser.add_argument(
        "--codecs", type=_words, help="fp32,fp16,int8,int4; any of the manifest's for ours alone"
    )
    parser.add_argument("--systems", type=_words, default=list(SYSTEMS), help=",".join(SYSTEMS))
    parser.add_argument("--rounds", type=int, help="timed averagings per cell and system")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    usual = (
        ([4], [1, 10], ["fp32", "int8"], 2)
        if chosen.quick
        else ([2, 4, 8], [1, 10, 50], ["fp32", "fp16", "int8", "int4"], 5)
    )
    for name, value in zip(("peers", "parameters", "codecs", "rounds"), usual, strict=True):
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    return chosen


def _cells(chosen: argparse.Namespace) -> Iterator[tuple[int, str]]:
    for parameters in chosen.parameters:
        for codec in chosen.codecs:
            yield round(parameters * 1e6), codec


def main() -> int:
    """The command."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # also where a shell started us in the background, deaf to it
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _measure(_chosen())
        return 0
    except NotMeasured as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: no process is left", file=sys.stderr)
        return 130


def _measure(chosen: argparse.Namespace) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PAGE)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        speakers = [
            system
            for codec in chosen.codecs
            for system in chosen.systems
            if codec in SPEAKS.get(system, {codec})
        ]
        progress.add_task(
            "", total=len(chosen.peers) * len(chosen.parameters) * len(speakers) * (chosen.rounds + 1)
        )
        stage = Stage(console, progress, chosen.rounds)
        for peers in map(int, chosen.peers):
            with ExitStack() as stack:
                casts = [
                    stack.enter_context(Cast(system, SYSTEMS[system], peers)) for system in chosen.systems
                ]
                for parameters, codec in _cells(chosen):
                    told = len(stage.rows)
                    stage.play(casts, parameters, codec)
                    for row in stage.rows[told:]:
                        where = f"{cell_name(row.peers, row.parameters):>6} {row.codec:5} {row.system:9}"
                        progress.console.print(
                            f"{where} {row.seconds:8.3f} s {row.cpu_seconds:7.2f} CPU s per peer"
                        )
                    if chosen.json:
                        chosen.json.write_text(json.dumps(document(stage.rows), indent=1))
    console.print(table_of(stage.rows), ratio_table(stage.rows))


if __name__ == "__main__":
    sys.exit(main())
