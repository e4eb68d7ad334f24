"""A swarm of real processes that is never left alone: a peer comes or is killed every 0.5 to 2 seconds.

    python -m benchmarks.soak [--minutes 30] [--peers 8] [--seed 0] [--only churn|calm] [--json FILE]

A second run without any churn goes beside it, for the loss: at the same time, so that both find an equally
busy computer. Both train one fresh tiny model on the same text. A round is ``decided`` where two thirds of
the peers that reported it had its average.

``fd_growth`` and ``rss_growth``: how much a peer's open files, and its unshared memory,
grew over the second half, in percent. The number of peers stays the same (`SPREAD`), so a peer that keeps
nothing of those that left does not grow. Each peer is measured every second; the line through its
measurements (least squares) gives the figures at the middle and at the end, because a single measurement may
catch some connection by chance. Only peers that lived through the whole half count, and of these the median.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peer_processes import (
    POLL_SECONDS,
    Event,
    PeerProcess,
    PeerProcesses,
    die_with_parent,
    divergent,
    errors_of,
    wait_for,
)

RUN = (
    "--model",
    "tiny",
    "--rounds",
    "1000000",
    "--round-seconds",
    "2",
    "--steps",
    "20",
    "--evaluate-every",
    "5",
)
BETWEEN_SECONDS = (0.5, 2.0)
"""From one newcomer or kill to the next."""
SPREAD = 1
"""The most by which the peers may be more or fewer than usual: in a growing swarm every peer would grow."""
NEVER_KILLED = 2
"""Peers that live through the whole run, so that their growth can be measured."""
FIRST_ROUND_SECONDS = 120.0
"""How long a peer may take until its first round."""
PRINT_SECONDS = 10.0
MEASURE_SECONDS = 1.0
Measurements = list[tuple[float, int, int]]
"""Of one peer: seconds, open files, bytes of memory of its own."""


@dataclass(slots=True)
class Counts:
    """What one run has shown so far."""

    kills: int = 0
    spawns: int = 0
    measured: dict[str, Measurements] = field(default_factory=dict)
    """By peer, in the second half."""
    rounds: dict[int, list[bool]] = field(default_factory=dict)
    """For each round whether each peer that reported it had an average."""
    score: float = float("nan")
    """The latest held-out bits per byte."""

    @property
    def decided(self) -> int:
        """Rounds of which two thirds had an average."""
        return sum(3 * sum(had) >= 2 * len(had) for had in self.rounds.values())


class Soak:
    """One run of ``peers``, without churn where ``chance`` is None."""

    def __init__(self, processes: PeerProcesses, name: str, peers: int, chance: random.Random | None) -> None:
        self._processes = processes
        self._name = name
        self._peers = peers
        self._chance = chance
        self.counts = Counts()
        self._started: list[PeerProcess] = []
        self._living: list[PeerProcess] = []

    def run(self, seconds: float) -> dict[str, Any]:
        """The whole run; its figures."""
        founder, self._ticket = self._processes.new(f"{self._name}-0", *RUN, "--start-with", str(self._peers))
        self._add(founder)
        while len(self._living) < self._peers:
            self._spawn()
        for peer in self._living:
            wait_for(peer, "round", FIRST_ROUND_SECONDS)

        began = time.monotonic()
        halfway = began + seconds / 2
        next_churn = began + self._pause()
        next_print = began + PRINT_SECONDS
        next_measurement = halfway
        while (now := time.monotonic()) < began + seconds:
            self._read_events()
            if self._chance and now >= next_churn:
                self._churn(self._chance)
                next_churn = now + self._pause()
            if now >= next_measurement:
                next_measurement = now + MEASURE_SECONDS
                self._measure(now - halfway)
            if now >= next_print:
                next_print = now + PRINT_SECONDS
                self._print(now - began)
            time.sleep(POLL_SECONDS)
        self._read_events()
        return self._figures(seconds / 2)

    def _add(self, peer: PeerProcess) -> None:
        self._started.append(peer)
        self._living.append(peer)

    def _spawn(self) -> None:
        self._add(self._processes.join(f"{self._name}-{len(self._started)}", self._ticket))

    def _pause(self) -> float:
        return self._chance.uniform(*BETWEEN_SECONDS) if self._chance else 0.0

    def _churn(self, chance: random.Random) -> None:
        """Start a peer, or kill one (``kill -9``)."""
        surplus = len(self._living) - self._peers
        may_kill = len(self._living) > NEVER_KILLED
        if may_kill and (surplus >= SPREAD or (surplus > -SPREAD and chance.random() < 0.5)):
            victim = chance.choice(self._living[NEVER_KILLED:])
            self._living.remove(victim)
            victim.kill()
            self.counts.kills += 1
        else:
            self._spawn()
            self.counts.spawns += 1

    def _measure(self, seconds: float) -> None:
        for peer in self._living:
            if size := peer.size():
                self.counts.measured.setdefault(peer.name, []).append((seconds, *size))

    def _read_events(self) -> None:
        for peer in self._living:
            for event in peer.poll():
                self._count(peer, event)
        for peer in [peer for peer in self._living if not peer.is_alive]:
            self._living.remove(peer)
            print(
                f"{peer.name} has ended by itself: {peer.events[-1:]} {peer.stderr[-500:]}", file=sys.stderr
            )

    def _count(self, peer: PeerProcess, event: Event) -> None:
        if event["event"] == "round":
            self.counts.rounds.setdefault(event["round"], []).append(event["round"] not in peer.missed)
            if event["bits_per_byte"] is not None:
                self.counts.score = event["bits_per_byte"]

    def _print(self, seconds: float) -> None:
        counts = self.counts
        latest = max(counts.rounds, default=0)
        members = max((event["members"] for peer in self._living for event in peer.decided()[-1:]), default=0)
        print(
            f"{self._name} {seconds:5.0f} s  round {latest}  decided {counts.decided}/{len(counts.rounds)}  "
            f"peers {len(self._living)} ({members} in the last average)  "
            f"kills {counts.kills}  spawns {counts.spawns}  bits/byte {counts.score:.3f}",
            flush=True,
        )

    def _figures(self, half: float) -> dict[str, Any]:
        living = {peer.name for peer in self._living}
        whole_half = [
            measured
            for name, measured in self.counts.measured.items()
            if name in living and measured[0][0] < 2 * MEASURE_SECONDS
        ]
        files = [growth(measured, 1, half) for measured in whole_half]
        memory = [growth(measured, 2, half) for measured in whole_half]
        return {
            "rounds": len(self.counts.rounds),
            "decided": self.counts.decided,
            "divergent_roots": len(divergent(self._started)),
            "kills": self.counts.kills,
            "spawns": self.counts.spawns,
            "fd_growth": statistics.median(files) if files else None,
            "rss_growth": statistics.median(memory) if memory else None,
            "bits_per_byte": self.counts.score,
        }


def growth(measured: Measurements, column: int, seconds: float) -> float:
    """By how many percent ``column`` grows in ``seconds``, by the line through all measurements."""
    if len(measured) < 2:
        return 0.0
    times = [row[0] for row in measured]
    line = statistics.linear_regression(times, [float(row[column]) for row in measured])
    return 100 * line.slope * seconds / line.intercept


def soak(name: str, peers: int, seconds: float, chance: random.Random | None) -> dict[str, Any]:
    """One run, with a fork server of its own. Prints what its peers wrote to standard error."""
    with PeerProcesses() as processes:
        figures = Soak(processes, name, peers, chance).run(seconds)
        if errors := errors_of(processes.all):
            print(f"standard error of the peers of {name!r}:\n{errors}", file=sys.stderr)
    return figures


def churn_beside_calm(chosen: argparse.Namespace) -> dict[str, Any]:
    """Both runs at the same time: the figures of the one with churn, and the loss of the other."""
    seconds = 60 * chosen.minutes
    with tempfile.TemporaryDirectory(prefix="swarm-soak-") as folder:
        file = Path(folder) / "calm.json"
        calm = start_calm(chosen, file)
        try:
            figures = soak("churn", chosen.peers, seconds, random.Random(chosen.seed))
            calm.wait(seconds)
        finally:
            calm.terminate()
            calm.wait()
        calm_figures = json.loads(file.read_text())
    return {**figures, "bits_per_byte_without_churn": calm_figures["bits_per_byte"]}


def start_calm(chosen: argparse.Namespace, file: Path) -> subprocess.Popen[bytes]:
    """Start the run without churn in a process that ends with this one; it writes its figures to ``file``."""
    sizes = ["--minutes", str(chosen.minutes), "--peers", str(chosen.peers)]
    options = ["--only", "calm", "--beside", "--json", str(file)]
    return subprocess.Popen([sys.executable, "-m", "benchmarks.soak", *sizes, *options])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("churn", "calm"), help="only one of the two runs")
    parser.add_argument("--beside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.beside:
        die_with_parent()
    seconds = 60 * chosen.minutes
    result: dict[str, Any] = {"minutes": chosen.minutes}
    try:
        if chosen.only == "calm":
            result |= soak("calm", chosen.peers, seconds, None)
        elif chosen.only == "churn":
            result |= soak("churn", chosen.peers, seconds, random.Random(chosen.seed))
        else:
            result |= churn_beside_calm(chosen)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    print(json.dumps(result, indent=1))
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
