"""All-reduce against its rivals: time, CPU, memory and bytes of N processes that average M parameters here.

    python -m benchmarks.allreduce [--quick] [--peers 2,4,8] [--parameters 1,10,50] [--rounds 5]
                                   [--codecs fp32,fp16,int8,int4]
                                   [--systems swarm,hivemind,gloo,floor] [--json FILE]

    swarm      ours: mutual TLS 1.3, signed commits and receipts, every byte hashed, ballots, error feedback
    hivemind   stock `DecentralizedAverager` with its p2pd: encrypted, no hashes, no decision
    gloo       ``torch.distributed``: neither, and one dead member ends it for all
    floor      the same bytes over bare TLS 1.3 sockets in threads: the least for any encrypted exchange

Each peer is a process of its own with one thread for arithmetic. ``seconds`` runs from the first complete
group to the last average: forming the group is in no system's seconds, it has a column of its own. The
systems take turns, round by round, so noise hits all alike. A first round warms up and a last one watches the
memory; neither is timed. A rival that fails or hangs is left out from there on; where Swarm fails, the
benchmark ends.
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
from benchmarks.figures import RATIOS, Round, Row, Usage, cell_name, document, ratios, summary
from benchmarks.worker import Times
from benchmarks.worker_pool import NotMeasured, WorkerPool
from swarm.manifest import Codec

T = TypeVar("T")

SYSTEMS = {
    "swarm": "benchmarks.rivals.swarm_peer",
    "hivemind": "benchmarks.rivals.hivemind_peer",
    "gloo": "benchmarks.rivals.gloo_peer",
    "floor": "benchmarks.rivals.tls_peer",
}
RIVAL_CODECS = {
    "hivemind": {"fp32", "fp16", "int8"},
    "gloo": {"fp32"},
    "floor": {"fp32", "fp16", "int8", "int4"},
}
"""The codecs that each rival has; Swarm has all those of the manifest."""
TOLERANCE = {"fp32": 2e-3, "bf16": 0.02, "fp16": 4e-3, "int8": 0.05, "int4": 0.4}
"""Relative distance from the plain mean beyond which something is broken: Swarm clips an update of more than
the median norm, and random ones differ by a thousandth. The codecs that are not listed leave numbers out
on purpose."""
PAGE_WIDTH = 140
"""Characters of a line where the output is no terminal."""
BYTES_PER_NUMBER = 48
"""About what a peer takes of memory per parameter at its peak. All systems stay in memory while they take
turns, if there is room."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """One system in a cell: its processes, and the codec that they use there."""

    pool: WorkerPool
    codec: str


class Runner:
    """Measures cells (peers × parameters × codec) and keeps their rows."""

    def __init__(self, console: Console, progress: Progress, rounds: int) -> None:
        self._console = console
        self._progress = progress
        self._rounds = rounds
        self._trials = 0
        self.rows: list[Row] = []

    def run(self, pools: Sequence[WorkerPool], parameters: int, codec: str) -> None:
        """One cell: all ``pools`` that have ``codec`` take turns, or run singly if memory is short."""
        entrants = [
            Entrant(pool, codec)
            for pool in pools
            if pool.is_running and codec in RIVAL_CODECS.get(pool.system, {codec})
        ]
        needed = sum(entrant.pool.peers * parameters * BYTES_PER_NUMBER for entrant in entrants)
        fits = needed < psutil.virtual_memory().available
        for together in [entrants] if fits else [[entrant] for entrant in entrants]:
            if together:
                self._run(together, parameters)

    def _run(self, entrants: Sequence[Entrant], parameters: int) -> None:
        self._trials += 1
        for entrant in entrants:
            self._show(entrant, parameters, "prepares")
            self._attempt(entrant, partial(self._start, entrant, parameters))

        rounds = self._timed_rounds(entrants, parameters)

        for entrant in entrants:
            self._show(entrant, parameters, "memory")
            if row := self._attempt(entrant, partial(self._row, entrant, parameters, rounds[entrant])):
                self.rows.append(row)
        for entrant in entrants:
            self._attempt(entrant, partial(entrant.pool.all, "release"))

    def _timed_rounds(self, entrants: Sequence[Entrant], parameters: int) -> dict[Entrant, list[Round]]:
        """A round that warms up, then the timed ones; in each round another system begins."""
        rounds: dict[Entrant, list[Round]] = {entrant: [] for entrant in entrants}
        for number in range(self._rounds + 1):
            first = number % len(entrants)
            for entrant in (*entrants[first:], *entrants[:first]):
                activity = f"round {number} of {self._rounds}" if number else "warms up"
                self._show(entrant, parameters, activity)
                round_ = self._attempt(entrant, partial(one_round, entrant.pool))
                self._progress.advance(self._progress.task_ids[0])
                if number and round_:
                    rounds[entrant].append(round_)
        return rounds

    def _start(self, entrant: Entrant, parameters: int) -> None:
        codec = codec_of(Codec[entrant.codec.upper()])
        share = 2 * codec.size(-(-parameters // entrant.pool.peers))
        entrant.pool.start(
            name=f"trial {self._trials}", parameters=parameters, codec=entrant.codec, share=share
        )
        meters.forget_peaks(entrant.pool.pids)

    def _attempt(self, entrant: Entrant, act: Callable[[], T]) -> T | None:
        """The result of ``act``; None where a rival fails, which is then left out.

        Raises `NotMeasured` where Swarm fails.
        """
        if not entrant.pool.is_running:
            return None
        try:
            return act()
        except NotMeasured as error:
            entrant.pool.end()
            if entrant.pool.system == "swarm":
                raise
            self._progress.console.print(f"{entrant.pool.system} is out: {error}", markup=False)
            return None

    def _row(self, entrant: Entrant, parameters: int, rounds: Sequence[Round]) -> Row:
        pool = entrant.pool
        with meters.MemoryWatch(pool.pids) as watch:
            one_round(pool)
        memory = sum(watch.peaks.values()) / pool.peers
        rss = sum(meters.peak_rss_of(pid) for pid in pool.pids) / pool.peers
        checks = pool.all("check")
        error = max(check["error"] for check in checks)
        if len({check["digest"] for check in checks}) > 1:
            raise NotMeasured(f"{pool.system} {entrant.codec}: the peers do not hold the same bits")
        is_close = error <= TOLERANCE.get(entrant.codec, float("inf"))
        if not is_close and pool.system != "hivemind":
            raise NotMeasured(f"{pool.system} {entrant.codec}: the average is {error:.3g} away from the mean")
        usage = Usage(memory_mb=round(memory, 1), peak_rss_mb=round(rss, 1), error=error)
        return Row(
            system=pool.system,
            peers=pool.peers,
            parameters=parameters,
            codec=entrant.codec,
            timing=summary(rounds),
            usage=usage,
        )

    def _show(self, entrant: Entrant, parameters: int, activity: str) -> None:
        where = (
            f"{cell_name(entrant.pool.peers, parameters)} {entrant.codec} {entrant.pool.system}: {activity}"
        )
        self._progress.update(self._progress.task_ids[0], description=where)


def one_round(pool: WorkerPool) -> Round:
    """All peers average once; their times, and what the machine used meanwhile."""
    pool.all("reset")
    cpu_before = meters.cpu_of(pool.pids)
    busy_before = meters.busy()
    sent_before = meters.sent_bytes()
    began = time.monotonic()
    times = [Times(**answer) for answer in pool.all("average")]
    sent = meters.sent_bytes() - sent_before
    wall = time.monotonic() - began
    cpu = meters.cpu_of(pool.pids) - cpu_before
    busy = meters.busy() - busy_before
    foreign = max(0.0, busy - cpu) / (wall * (psutil.cpu_count() or 1))
    return Round(times, cpu, min(1.0, foreign), sent)


# --- on the terminal --------------------------------------------------------------------------------------

COLUMNS: dict[str, Callable[[Row], str]] = {
    "seconds": lambda row: f"{row.timing.seconds:.3f}",
    "group s": lambda row: f"{row.timing.assembly_seconds:.3f}",
    "whole s": lambda row: f"{row.timing.whole_seconds:.3f}",
    "CPU s": lambda row: f"{row.timing.cpu_seconds:.2f}",
    "MB sent": lambda row: f"{row.timing.bytes / 1e6:.2f}",
    "PSS MB": lambda row: f"{row.usage.memory_mb:.0f}",
    "RSS MB": lambda row: f"{row.usage.peak_rss_mb:.0f}",
    "error": lambda row: f"{row.usage.error:.1e}",
    "failed": lambda row: str(row.timing.failed),
    "foreign": lambda row: f"{row.timing.foreign_cpu:.0%}",
}


def table_of(rows: Sequence[Row]) -> Table:
    """The rows as people read them, a section for each cell; figures but times are per peer."""
    title = "seconds: first complete group to last average · CPU, memory, bytes: per peer"
    table = Table(title=title, title_justify="left")
    for name in ("cell", "codec", "system"):
        table.add_column(name)
    for name in COLUMNS:
        table.add_column(name, justify="right")

    codecs = list(dict.fromkeys(row.codec for row in rows))
    previous = None
    for row in sorted(rows, key=lambda row: (row.peers, row.parameters, codecs.index(row.codec))):
        cell = (row.peers, row.parameters, row.codec)
        if previous not in (None, cell):
            table.add_section()
        previous = cell
        figures = [text_of(row) for text_of in COLUMNS.values()]
        table.add_row(cell_name(row.peers, row.parameters), row.codec, row.system, *figures)
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


# --- the command ------------------------------------------------------------------------------------------


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def _words(text: str) -> list[str]:
    return text.split(",")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="4 peers, 1 and 10 million parameters, fp32 and int8, few rounds"
    )
    parser.add_argument("--peers", type=_numbers, help="2,4,8")
    parser.add_argument("--parameters", type=_numbers, help="in millions: 1,10,50")
    parser.add_argument(
        "--codecs", type=_words, help="fp32,fp16,int8,int4; any of the manifest's for Swarm alone"
    )
    parser.add_argument("--systems", type=_words, default=list(SYSTEMS), help=",".join(SYSTEMS))
    parser.add_argument("--rounds", type=int, help="timed averagings per cell and system")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    quick = {"peers": [4], "parameters": [1, 10], "codecs": ["fp32", "int8"], "rounds": 2}
    usual = {
        "peers": [2, 4, 8],
        "parameters": [1, 10, 50],
        "codecs": ["fp32", "fp16", "int8", "int4"],
        "rounds": 5,
    }
    for name, value in (quick if chosen.quick else usual).items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    return chosen


def _cells(chosen: argparse.Namespace) -> Iterator[tuple[int, str]]:
    for parameters in chosen.parameters:
        for codec in chosen.codecs:
            yield round(parameters * 1e6), codec


def main() -> int:
    """The command."""
    # a shell that starts us in the background has us ignore SIGINT
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _measure(_arguments())
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
        console = Console(width=PAGE_WIDTH)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task("", total=_count_rounds(chosen))
        runner = Runner(console, progress, chosen.rounds)
        for peers in map(int, chosen.peers):
            _measure_group(chosen, peers, runner, progress.console)
    console.print(table_of(runner.rows), ratio_table(runner.rows))


def _count_rounds(chosen: argparse.Namespace) -> int:
    """The rounds of all systems in all cells, with those that warm up."""
    pairs = [(system, codec) for codec in chosen.codecs for system in chosen.systems]
    systems = sum(codec in RIVAL_CODECS.get(system, {codec}) for system, codec in pairs)
    return len(chosen.peers) * len(chosen.parameters) * systems * (int(chosen.rounds) + 1)


def _measure_group(chosen: argparse.Namespace, peers: int, runner: Runner, console: Console) -> None:
    """All cells of ``peers`` peers. The file is written after each of them."""
    with ExitStack() as stack:
        pools = [stack.enter_context(WorkerPool(system, SYSTEMS[system], peers)) for system in chosen.systems]
        for parameters, codec in _cells(chosen):
            before = len(runner.rows)
            runner.run(pools, parameters, codec)
            for row in runner.rows[before:]:
                where = f"{cell_name(row.peers, row.parameters):>6} {row.codec:5} {row.system:9}"
                figures = f"{row.timing.seconds:8.3f} s {row.timing.cpu_seconds:7.2f} CPU s per peer"
                console.print(f"{where} {figures}")
            if chosen.json:
                chosen.json.write_text(json.dumps(document(runner.rows), indent=1))


if __name__ == "__main__":
    sys.exit(main())
