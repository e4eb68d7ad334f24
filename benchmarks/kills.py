"""Sixteen processes, five of them killed at random moments of a round, again and again; hivemind likewise.

    python -m benchmarks.kills [--seeds 20] [--peers 16] [--victims 5] [--rival-seeds 1] [--json FILE]

``first`` and ``all``: seconds from the last kill until the first and until every survivor has decided a
further round (that of the kill, or the next one); ``next``: until all have decided one more. ``equal``: no
round of the survivors has two state roots. ``gather``: seconds until all peers, newcomers too, had been in
one average before the kill. After each seed as many newcomers join as were killed. For hivemind
(`DecentralizedAverager`, all peers in one group, the kill at a random moment of the all-reduce): how many
survivors had an answer within a minute, and how many different averages they had.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.peer_processes import POLL_SECONDS, PeerProcess, PeerProcesses, divergent, errors_of
from benchmarks.worker_pool import Worker

RUN = (
    "--model",
    "tiny",
    "--rounds",
    "1000000",
    "--round-seconds",
    "0.5",
    "--steps",
    "5",
    "--evaluate-every",
    "1000000",
)
GATHER_SECONDS = 60.0
"""How long all peers may take to be in one round, before each kill."""
SURVIVE_SECONDS = 120.0
"""How long the survivors are watched after a kill."""
RIVAL_SECONDS = 60.0
RIVAL_PARAMETERS = 16_000_000
"""So many that the all-reduce is still running at the kill: its beginning cannot be seen from outside."""
Row = dict[str, Any]


class SwarmUnderTest:
    """One run; it has ``peers`` peers before each kill."""

    def __init__(self, processes: PeerProcesses, peers: int) -> None:
        self._processes = processes
        self._peers = peers
        founder, self._ticket = processes.new("p0", *RUN)
        self.living: list[PeerProcess] = [founder]
        self._started = 1

    def refill(self) -> None:
        """Start newcomers in place of the killed peers, with the latest ticket of a living peer."""
        tickets = [
            event["ticket"] for peer in self.living for event in peer.events if event["event"] == "ticket"
        ]
        if tickets:
            self._ticket = tickets[-1]
        while len(self.living) < self._peers:
            self.living.append(self._processes.join(f"p{self._started}", self._ticket))
            self._started += 1

    def poll(self) -> None:
        """Read what all peers have written."""
        for peer in self.living:
            peer.poll()

    def gather(self) -> float:
        """Wait until all peers (all but one in sixteen, which may be late) are in one average.

        Returns the seconds of a round. Raises `TimeoutError`.
        """
        enough = self._peers - self._peers // 16
        since = time.monotonic()
        while time.monotonic() < since + GATHER_SECONDS:
            self.poll()
            latest = [(peer.decided(since) or [{"members": 0}])[-1] for peer in self.living]
            inside = [event["seconds"] for event in latest if event["members"] >= enough]
            if len(inside) >= enough:
                return float(statistics.median(inside))
            time.sleep(POLL_SECONDS)
        seen = sorted(event["members"] for event in latest)
        raise TimeoutError(
            f"not all {self._peers} were in one round within {GATHER_SECONDS:g} s: {seen}\n"
            f"{errors_of(self.living)}"
        )

    def strike(self, chance: random.Random, victims: int, round_seconds: float) -> Row:
        """Kill ``victims`` peers, each at a random moment within one round; when the others went on."""
        start = time.monotonic()
        self._kill(chance, chance.sample(self.living, victims), round_seconds)
        killed = time.monotonic()
        self.poll()
        last = max((event["round"] for peer in self.living for event in peer.decided()), default=-1)
        firsts: list[float] = []
        nexts: list[float] = []
        while len(nexts) < len(self.living) and time.monotonic() < killed + SURVIVE_SECONDS:
            self.poll()
            firsts = self._seconds_until(last + 1, killed)
            nexts = self._seconds_until(last + 2, killed)
            time.sleep(POLL_SECONDS)
        survivors = len(self.living)
        return {
            "survivors": survivors,
            "answered": len(nexts),
            "first_seconds": min(firsts, default=None),
            "all_seconds": max(firsts) if len(firsts) == survivors else None,
            "next_seconds": max(nexts) if len(nexts) == survivors else None,
            "equal": not divergent(self.living, start),
        }

    def _kill(self, chance: random.Random, victims: Sequence[PeerProcess], round_seconds: float) -> None:
        by_name = {victim.name: victim for victim in victims}
        start = time.monotonic()
        for moment, name in sorted((chance.random() * round_seconds, name) for name in by_name):
            time.sleep(max(0.0, start + moment - time.monotonic()))
            by_name[name].kill()
        self.living = [peer for peer in self.living if peer not in victims]

    def _seconds_until(self, round_: int, since: float) -> list[float]:
        """Seconds from ``since`` until a peer decided ``round_`` or a later one, for each peer that has."""
        times = [
            [event["at"] for event in peer.decided(since) if event["round"] >= round_] for peer in self.living
        ]
        return [found[0] - since for found in times if found]


def ours(seeds: range, peers: int, victims: int) -> list[Row]:
    """All seeds, one after the other, with one run of Swarm."""
    rows = []
    with PeerProcesses() as processes:
        swarm = SwarmUnderTest(processes, peers)
        for seed in seeds:
            swarm.refill()
            began = time.monotonic()
            round_seconds = swarm.gather()
            row = {
                "seed": seed,
                "gather_seconds": time.monotonic() - began,
                "round_seconds": round_seconds,
                **swarm.strike(random.Random(seed), victims, round_seconds),
            }
            rows.append(row)
            _print_row(row)
        if errors := errors_of(processes.all):
            print(errors, file=sys.stderr)
    return rows


def _print_row(row: Row) -> None:
    spans = [row[f"{name}_seconds"] for name in ("first", "all", "next")]
    texts = " ".join(f"{'never' if span is None else format(span, '.2f'):>8}" for span in spans)
    answered = f"{row['answered']}/{row['survivors']}"
    before = f"{row['gather_seconds']:7.1f} {row['round_seconds']:8.2f}"
    print(f"swarm     {row['seed']:4} {before} {answered:>9} {texts} {row['equal']!s:>6}", flush=True)


def rival(seed: int, peers: int, victims: int) -> Row:
    """The same kill against hivemind: one step of all peers without a kill, then one with it."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="swarm-kills-") as folder, ExitStack() as stack:
        workers = []
        for seat in range(peers):
            workers.append(Worker("benchmarks.rivals.hivemind_peer", Path(folder) / f"{seat}.log"))
            stack.callback(workers[-1].end)
        calm = _first_step(workers, folder, f"kill{seed}")
        doomed = chance.sample(range(peers), victims)
        answers: dict[int, Any] = {}
        for seat, worker in enumerate(workers):
            worker.order("average")
            threading.Thread(target=_wait_for_answer, args=(seat, worker, answers), daemon=True).start()
        time.sleep(_moment_of_kill(calm, chance))
        for seat in doomed:
            workers[seat].end()
        killed = time.monotonic()
        survivors = [seat for seat in range(peers) if seat not in doomed]
        while time.monotonic() < killed + RIVAL_SECONDS and any(seat not in answers for seat in survivors):
            time.sleep(POLL_SECONDS)
        answered = [seat for seat in survivors if isinstance(answers.get(seat), dict)]
        errors = [_order_all([workers[seat]], "check")[0]["error"] for seat in answered]
        times = [answers[seat] for seat in answered]
        return {"seed": seed, "survivors": len(survivors), **_figures(times, errors, killed)}


def _figures(times: Sequence[Mapping[str, Any]], errors: Sequence[float], killed: float) -> Row:
    """The figures of the survivors that answered, from their times and their averages' distances from the
    mean."""
    ends = [each["ended"] for each in times]
    return {
        "answered": len(times),
        "already_over": sum(end < killed for end in ends),
        "without_fault": sum(not each["fault"] for each in times),
        "all_seconds": max(ends) - killed if ends else None,
        "different_averages": len({round(error, 7) for error in errors}),
    }


def _first_step(workers: Sequence[Worker], folder: str, name: str) -> list[Any]:
    """Connect all workers and average once; their times."""
    for seat, worker in enumerate(workers):
        trial = {"name": name, "parameters": RIVAL_PARAMETERS, "codec": "fp32", "share": 0}
        worker.order("prepare", seat=seat, peers=len(workers), folder=folder, **trial)
    contacts = [worker.answer() for worker in workers]
    _order_all(workers, "connect", contacts=contacts)
    times = _order_all(workers, "average")
    _order_all(workers, "reset")
    return times


def _moment_of_kill(calm: Sequence[Mapping[str, float]], chance: random.Random) -> float:
    """Seconds after the call: the matchmaking of the step before, and up to half of its all-reduce."""
    matchmaking = statistics.median(times["began"] - times["called"] for times in calm)
    all_reduce = max(times["ended"] for times in calm) - max(times["began"] for times in calm)
    return matchmaking + chance.random() * all_reduce / 2


def _order_all(workers: Sequence[Worker], do: str, **arguments: Any) -> list[Any]:
    for worker in workers:
        worker.order(do, **arguments)
    return [worker.answer() for worker in workers]


def _wait_for_answer(seat: int, worker: Worker, answers: dict[int, Any]) -> None:
    try:
        answers[seat] = worker.answer()
    except RuntimeError as error:
        answers[seat] = str(error)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--peers", type=int, default=16)
    parser.add_argument("--victims", type=int, default=5)
    parser.add_argument("--rival-seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    print("          seed  gather  round/s  answered  first/s    all/s   next/s  equal")
    rows = ours(range(chosen.seeds), chosen.peers, chosen.victims)
    rivals = []
    for seed in range(chosen.rival_seeds):
        row = rival(seed, chosen.peers, chosen.victims)
        rivals.append(row)
        print(
            f"hivemind  {seed:4}: {row['answered']} of {row['survivors']} survivors answered within "
            f"{RIVAL_SECONDS:g} s, {row['already_over']} of them before it, "
            f"{row['without_fault']} without a fault, {row['different_averages']} different averages",
            flush=True,
        )
    if chosen.json:
        chosen.json.write_text(json.dumps({"swarm": rows, "hivemind": rivals}, indent=1) + "\n")


if __name__ == "__main__":
    main()
