"""The rows and ratios of the benchmark of all-reduce, computed from its measurements.

A row is one system in one cell (peers × parameters × codec); every figure but seconds is per peer. A ratio
divides the seconds of two rows of one cell, whose systems were measured in turns, round by round.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.worker import Times

RATIOS: Mapping[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "hivemind_over_swarm": (("hivemind", "fp32"), ("swarm", "fp32")),
    "hivemind16_over_swarm16": (("hivemind", "fp16"), ("swarm", "fp16")),
    "hivemind8_over_swarm8": (("hivemind", "int8"), ("swarm", "int8")),
    "swarm_over_floor": (("swarm", "fp32"), ("floor", "fp32")),
    "swarm8_over_floor8": (("swarm", "int8"), ("floor", "int8")),
    "swarm_over_gloo": (("swarm", "fp32"), ("gloo", "fp32")),
}
"""Name of a ratio: (system, codec) over (system, codec)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What the timed rounds of a system took.

    ``seconds``: from the first complete group to the last average, median of the rounds.
    """

    seconds: float
    cpu_seconds: float
    """Of one peer in one averaging, forming the group included."""
    bytes: int
    """Sent by one peer in one averaging."""
    assembly_seconds: float = 0.0
    """From the last call to the first complete group: what comes before ``seconds``."""
    whole_seconds: float = 0.0
    """From the first call to the last average."""
    rounds: int = 0
    failed: int = 0
    """Rounds without a complete average; they are in none of the figures."""
    foreign_cpu: float = 0.0
    """Share of all cores that other work on the machine took meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The memory of one peer, and how good its average is.

    ``memory_mb``: proportional set size (all its processes) at its peak.
    """

    memory_mb: float
    """In 10⁶ bytes."""
    peak_rss_mb: float = 0.0
    """Resident set of one peer at its peak; what its processes share counts once for each of them."""
    error: float = 0.0
    """Relative L2 distance of the average from the true mean, the worst peer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One system in one cell."""

    system: str
    peers: int
    parameters: int
    codec: str
    timing: Timing
    usage: Usage

    @property
    def cell(self) -> tuple[int, int]:
        """Peers and parameters."""
        return self.peers, self.parameters


@dataclass(frozen=True, slots=True)
class Round:
    """One averaging of all peers: what each of them reported, and what the machine used."""

    times: Sequence[Times]
    cpu_seconds: float
    foreign_cpu: float
    loopback_bytes: int

    @property
    def is_complete(self) -> bool:
        """Whether every peer got the average of all."""
        return not any(times.fault for times in self.times)

    @property
    def seconds(self) -> float:
        """From the first complete group to the last average."""
        return max(times.ended for times in self.times) - min(times.began for times in self.times)

    @property
    def assembly(self) -> float:
        """From the last call to the first complete group, 0 if a group was complete before it."""
        return max(0.0, min(times.began for times in self.times) - max(times.called for times in self.times))

    @property
    def whole(self) -> float:
        """From the first call to the last average."""
        return max(times.ended for times in self.times) - min(times.called for times in self.times)


def summary(rounds: Sequence[Round]) -> Timing:
    """Medians of the complete rounds; means of CPU seconds, which the kernel counts in steps of 10 ms.

    Raises `ValueError`, with the peers' faults, where no round is complete.
    """
    complete = [round_ for round_ in rounds if round_.is_complete]
    if not complete:
        faults = sorted({times.fault for round_ in rounds for times in round_.times if times.fault})
        raise ValueError(f"no round was complete: {'; '.join(faults)}")
    peers = len(complete[0].times)
    return Timing(
        seconds=statistics.median(round_.seconds for round_ in complete),
        cpu_seconds=statistics.fmean(round_.cpu_seconds for round_ in complete) / peers,
        bytes=sent_by_one(rounds),
        assembly_seconds=statistics.median(round_.assembly for round_ in complete),
        whole_seconds=statistics.median(round_.whole for round_ in complete),
        foreign_cpu=statistics.fmean(round_.foreign_cpu for round_ in complete),
        rounds=len(complete),
        failed=len(rounds) - len(complete),
    )


def sent_by_one(rounds: Sequence[Round]) -> int:
    """Bytes that one peer sends in one averaging, by the peers' own counters where they have one.

    Else those of the loopback interface, in the quietest round, because other programs may use it too. It
    counts packet heads as well (about 0.1 %).
    """
    totals = [sum(times.sent for times in round_.times) for round_ in rounds]
    peers = len(rounds[0].times)
    if totals[0] and len(totals) > 1:
        return round((totals[-1] - totals[0]) / (len(totals) - 1) / peers)
    return round(min(round_.loopback_bytes for round_ in rounds) / peers)


def cell_name(peers: int, parameters: int) -> str:
    """``4x10M``; parameters in millions, with as many digits as they need."""
    return f"{peers}x{parameters / 1e6:g}M"


def ratios(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """Every ratio of `RATIOS` of which both rows are there, by cell."""
    seconds = {(row.cell, row.system, row.codec): row.timing.seconds for row in rows}
    found: dict[str, dict[str, float]] = {}
    for cell in dict.fromkeys(cell for cell, _, _ in seconds):
        of_cell = {
            name: round(seconds[cell, *over] / seconds[cell, *under], 3)
            for name, (over, under) in RATIOS.items()
            if (cell, *over) in seconds and (cell, *under) in seconds
        }
        if of_cell:
            found[cell_name(*cell)] = of_cell
    return found


def document(rows: Sequence[Row]) -> dict[str, Any]:
    """What is written as JSON: flat rows, and the ratios."""
    return {"rows": [_flat(row) for row in rows], "ratios": ratios(rows)}


def _flat(row: Row) -> dict[str, Any]:
    cell = {"system": row.system, "peers": row.peers, "parameters": row.parameters, "codec": row.codec}
    return {**cell, **asdict(row.timing), **asdict(row.usage)}
