"""Rows and ratios: what a benchmark of all-reduce has to say, without measuring anything.

A row is one system in one cell (peers × parameters × codec); every figure but seconds is per peer. A ratio divides the seconds
of two rows of one cell, which were measured in turns, round by round.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.rivals.stage import Times

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
class Row:
    """One system in one cell. ``seconds``: from the first standing group to the last average, median of the rounds."""

    system: str
    peers: int
    parameters: int
    codec: str
    seconds: float
    cpu_seconds: float
    """Of one peer in one averaging, forming the group included."""
    memory_mb: float
    """Proportional set size of one peer (all its processes) at its peak, in 10⁶ bytes."""
    bytes: int
    """Sent by one peer in one averaging."""
    assembly_seconds: float = 0.0
    """From the last call to the first standing group: what comes before ``seconds``."""
    whole_seconds: float = 0.0
    """From the first call to the last average."""
    peak_rss_mb: float = 0.0
    """Resident set of one peer at its peak; what its processes share counts once for each of them."""
    error: float = 0.0
    """Relative L2 distance of the average from the true mean, the worst peer's."""
    rounds: int = 0
    failed: int = 0
    """Rounds without a complete average; they are in none of the figures."""
    foreign_cpu: float = 0.0
    """Share of all cores that other work on the machine took meanwhile."""


@dataclass(frozen=True, slots=True)
class Round:
    """One averaging of all peers: what each of them said, and what the machine used."""

    times: Sequence[Times]
    cpu_seconds: float
    foreign_cpu: float
    loopback_bytes: int

    @property
    def is_complete(self) -> bool:
        """Whether everybody got the average of everybody."""
        return not any(times.fault for times in self.times)

    @property
    def seconds(self) -> float:
        """From the first standing group to the last average."""
        return max(times.ended for times in self.times) - min(times.began for times in self.times)

    @property
    def assembly(self) -> float:
        """From the last call to the first standing group, which may stand before the last one has called where it need not."""
        return max(0.0, min(times.began for times in self.times) - max(times.called for times in self.times))

    @property
    def whole(self) -> float:
        """From the first call to the last average."""
        return max(times.ended for times in self.times) - min(times.called for times in self.times)


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """The figures of a `Row` that come from its rounds: medians; means of CPU, whose clock ticks every 10 ms.

    Where no peer counts its own bytes, those of the loopback interface stand in for them: the least of the rounds, because other
    programs may use it too, and it counts packet heads (about 0.1 %) as well.
    """
    complete = [round_ for round_ in rounds if round_.is_complete]
    if not complete:
        faults = sorted({times.fault for round_ in rounds for times in round_.times if times.fault})
        raise ValueError(f"no round was complete: {'; '.join(faults)}")
    peers = len(complete[0].times)
    return {
        "seconds": statistics.median(round_.seconds for round_ in complete),
        "cpu_seconds": statistics.fmean(round_.cpu_seconds for round_ in complete) / peers,
        "bytes": sent_by_one(rounds),
        "assembly_seconds": statistics.median(round_.assembly for round_ in complete),
        "whole_seconds": statistics.median(round_.whole for round_ in complete),
        "foreign_cpu": statistics.fmean(round_.foreign_cpu for round_ in complete),
        "rounds": len(complete),
        "failed": len(rounds) - len(complete),
    }


def sent_by_one(rounds: Sequence[Round]) -> int:
    """Bytes that one peer sends in one averaging: by the peers' own counters where they keep one."""
    totals = [sum(times.sent for times in round_.times) for round_ in rounds]
    peers = len(rounds[0].times)
    if totals[0] and len(totals) > 1:
        return round((totals[-1] - totals[0]) / (len(totals) - 1) / peers)
    return round(min(round_.loopback_bytes for round_ in rounds) / peers)


def cell_name(peers: int, parameters: int) -> str:
    """``4x10M``; parameters in millions, with as many digits as they need."""
    return f"{peers}x{parameters / 1e6:g}M"


def ratios(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """Every ratio of `RATIOS` whose two rows are there, by cell."""
    seconds = {(row.peers, row.parameters, row.system, row.codec): row.seconds for row in rows}
    found: dict[str, dict[str, float]] = {}
    for peers, parameters in dict.fromkeys((peers, parameters) for peers, parameters, _, _ in seconds):
        cell = {
            name: round(seconds[peers, parameters, *over] / seconds[peers, parameters, *under], 3)
            for name, (over, under) in RATIOS.items()
            if (peers, parameters, *over) in seconds and (peers, parameters, *under) in seconds
        }
        if cell:
            found[cell_name(peers, parameters)] = cell
    return found


def document(rows: Sequence[Row]) -> dict[str, Any]:
    """What is written as JSON."""
    return {"rows": [asdict(row) for row in rows], "ratios": ratios(rows)}
