"""A swarm of real processes that is never left alone: somebody comes or is killed every 0.5 to 2 seconds.

    python -m benchmarks.soak [--minutes 30] [--peers 8] [--seed 0] [--only churn|calm] [--json FILE]

Beside it, at the same time and so on an equally busy computer, runs the same without anybody coming or going, for the loss; both
train one fresh tiny model on the same text. A round is ``decided`` where two thirds of those who told of it had an average of it.

``fd_growth`` and ``rss_growth``: how much the open files and the bytes of memory of its own of a peer grew over the second half, in
percent. The run is as strong all the time (`SPREAD`), so whoever keeps nothing of those who have left grows by nothing. A peer is
measured every second; the line through its measurements (least squares) says what it had at the middle and at the end, because
a single look would find this or that connection by chance. Counted are those that lived through the whole half, and of these the
median.
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

from benchmarks.nursery import (
    POLL_SECONDS,
    Event,
    Nursery,
    Nursling,
    complaints,
    die_with_parent,
    divergent,
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
"""From one spawn or kill to the next."""
SPREAD = 1
"""The most by which the living may be more or fewer than usual: who measures growth must not measure a growing swarm."""
ELDERS = 2
"""Peers that are never killed: somebody has to live through it all for its growth to be seen."""
TELL_SECONDS = 10.0
MEASURE_SECONDS = 1.0
Measured = list[tuple[float, int, int]]
"""Of one peer: seconds, open files, bytes of memory of its own."""


@dataclass(slots=True)
class Tally:
    """What one run came to."""

    kills: int = 0
    spawns: int = 0
    measured: dict[str, Measured] = field(default_factory=dict)
    """By peer, in the second half."""
    rounds: dict[int, list[bool]] = field(default_factory=dict)
    """For each round whether each peer that told of it had an average."""
    score: float = float("nan")

    @property
    def decided(self) -> int:
        """Rounds of which two thirds had an average."""
        return sum(3 * sum(had) >= 2 * len(had) for had in self.rounds.values())


class Soak:
    """One run of ``peers``, for ``seconds``; with ``chance`` somebody comes or goes all the time."""

    def __init__(self, nursery: Nursery, name: str, peers: int, chance: random.Random | None) -> None:
        self._nursery, self._name, self._peers, self._chance = nursery, name, peers, chance
        self.tally = Tally()
        self.everybody: list[Nursling] = []
        self._living: list[Nursling] = []

    def run(self, seconds: float) -> dict[str, Any]:
        """All of it; the figures."""
        founder, self._ticket = self._nursery.found(f"{self._name}-0", *RUN, "--start-with", str(self._peers))
        self._add(founder)
        while len(self._living) < self._peers:
            self._come()
        for peer in self._living:
            wait_for(peer, "round", 120)
        began = told = measured = time.monotonic()
        due, halfway = began + self._pause(), began + seconds / 2
        while (now := time.monotonic()) < began + seconds:
            self._hear()
            if self._chance and now >= due:
                self._disturb(self._chance)
                due = now + self._pause()
            if now >= max(halfway, measured + MEASURE_SECONDS):
                measured = now
                self._measure(now - halfway)
            if now >= told + TELL_SECONDS:
                told = now
                self._tell(now - began)
            time.sleep(POLL_SECONDS)
        self._hear()
        return self._figures(seconds / 2)

    def _add(self, peer: Nursling) -> None:
        self.everybody.append(peer)
        self._living.append(peer)

    def _come(self) -> None:
        self._add(self._nursery.join(f"{self._name}-{len(self.everybody)}", self._ticket))

    def _pause(self) -> float:
        return self._chance.uniform(*BETWEEN_SECONDS) if self._chance else 0.0

    def _disturb(self, chance: random.Random) -> None:
        """A spawn or a ``kill -9``."""
        more = len(self._living) - self._peers
        if len(self._living) > ELDERS and (more >= SPREAD or (more > -SPREAD and chance.random() < 0.5)):
            victim = chance.choice(self._living[ELDERS:])
            self._living.remove(victim)
            victim.kill()
            self.tally.kills += 1
        else:
            self._come()
            self.tally.spawns += 1

    def _measure(self, seconds: float) -> None:
        for peer in self._living:
            if size := peer.size():
                self.tally.measured.setdefault(peer.name, []).append((seconds, *size))

    def _hear(self) -> None:
        for peer in self._living:
            for event in peer.poll():
                self._note(peer, event)
        for peer in [peer for peer in self._living if not peer.is_alive]:
            self._living.remove(peer)
            print(
                f"{peer.name} has ended by itself: {peer.events[-1:]} {peer.stderr[-500:]}", file=sys.stderr
            )

    def _note(self, peer: Nursling, event: Event) -> None:
        if event["event"] == "round":
            self.tally.rounds.setdefault(event["round"], []).append(event["round"] not in peer.missed)
            if event["bits_per_byte"] is not None:
                self.tally.score = event["bits_per_byte"]

    def _tell(self, seconds: float) -> None:
        tally, latest = self.tally, max(self.tally.rounds, default=0)
        members = max((event["members"] for peer in self._living for event in peer.decided()[-1:]), default=0)
        print(
            f"{self._name} {seconds:5.0f} s  round {latest}  decided {tally.decided}/{len(tally.rounds)}  "
            f"peers {len(self._living)} ({members} in the last average)  "
            f"kills {tally.kills}  spawns {tally.spawns}  bits/byte {tally.score:.3f}",
            flush=True,
        )

    def _figures(self, half: float) -> dict[str, Any]:
        here = {peer.name for peer in self._living}
        whole = [
            all_
            for name, all_ in self.tally.measured.items()
            if name in here and all_[0][0] < 2 * MEASURE_SECONDS
        ]
        files, memory = ([growth(all_, what, half) for all_ in whole] for what in (1, 2))
        return {
            "rounds": len(self.tally.rounds),
            "decided": self.tally.decided,
            "divergent_roots": len(divergent(self.everybody)),
            "kills": self.tally.kills,
            "spawns": self.tally.spawns,
            "fd_growth": statistics.median(files) if files else None,
            "rss_growth": statistics.median(memory) if memory else None,
            "bits_per_byte": self.tally.score,
        }


def growth(measured: Measured, what: int, seconds: float) -> float:
    """By how many percent column ``what`` grows in ``seconds``, by the line through all of it."""
    if len(measured) < 2:
        return 0.0
    line = statistics.linear_regression([row[0] for row in measured], [float(row[what]) for row in measured])
    return 100 * line.slope * seconds / line.intercept


def soak(name: str, peers: int, seconds: float, chance: random.Random | None) -> dict[str, Any]:
    """One run, in a nursery of its own; what its peers wrote to standard error is shown."""
    with Nursery() as nursery:
        figures = Soak(nursery, name, peers, chance).run(seconds)
        if said := complaints(nursery.everybody):
            print(f"standard error of the peers of {name!r}:\n{said}", file=sys.stderr)
    return figures


def calm_beside(chosen: argparse.Namespace, file: Path) -> subprocess.Popen[bytes]:
    """The calm run, in a process of its own that goes with us; its figures come into ``file``."""
    sizes = ["--minutes", str(chosen.minutes), "--peers", str(chosen.peers)]
    command = [
        sys.executable,
        "-m",
        "benchmarks.soak",
        *sizes,
        "--only",
        "calm",
        "--beside",
        "--json",
        str(file),
    ]
    return subprocess.Popen(command)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("churn", "calm"), help="one of both runs")
    parser.add_argument("--beside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.beside:
        die_with_parent()
    seconds = 60 * chosen.minutes
    told: dict[str, Any] = {"minutes": chosen.minutes}
    try:
        if chosen.only == "calm":
            told |= soak("calm", chosen.peers, seconds, None)
        elif chosen.only == "churn":
            told |= soak("churn", chosen.peers, seconds, random.Random(chosen.seed))
        else:
            with tempfile.TemporaryDirectory(prefix="swarm-soak-") as folder:
                beside = calm_beside(chosen, Path(folder) / "calm.json")
                try:
                    told |= soak("churn", chosen.peers, seconds, random.Random(chosen.seed))
                    beside.wait(seconds)
                finally:
                    beside.terminate()
                    beside.wait()
                told["bits_per_byte_without_churn"] = json.loads((Path(folder) / "calm.json").read_text())[
                    "bits_per_byte"
                ]
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    print(json.dumps(told, indent=1))
    if chosen.json:
        chosen.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
