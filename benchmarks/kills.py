"""Sixteen processes, five of them killed at random moments of a round, again and again; and the same kill against hivemind.

    python -m benchmarks.kills [--seeds 20] [--peers 16] [--victims 5] [--rival-seeds 1] [--json FILE]

``first`` and ``all``: seconds from the last kill until the first, and until every survivor has a further round decided (the one
in which it happened, or the next); ``next``: until all have one more. ``equal``: no round of the survivors has two state roots.
``gather``: seconds until all, newcomers too, had been in one average before. After each seed as many newcomers join. For hivemind
(`DecentralizedAverager`, all peers in one group, the kill at a random moment of the all-reduce): how many survivors had an answer
within a minute, and how many different averages they had.
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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.cast import Actor
from benchmarks.nursery import POLL_SECONDS, Nursery, Nursling, complaints, divergent

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
"""Patience until all are in one round, before each kill."""
SURVIVE_SECONDS = 120.0
"""Patience with the survivors."""
RIVAL_SECONDS = 60.0
RIVAL_PARAMETERS = 16_000_000
"""So many that the kill finds the all-reduce under way: nobody outside can see when it begins."""
Row = dict[str, Any]


class Band:
    """The run under test, always ``peers`` strong before a kill."""

    def __init__(self, nursery: Nursery, peers: int) -> None:
        self._nursery, self._peers = nursery, peers
        founder, self._ticket = nursery.found("p0", *RUN)
        self.living: list[Nursling] = [founder]
        self._named = 1

    def fill(self) -> None:
        """Newcomers in the places of the dead, by the latest ticket that a living peer has told."""
        told = [
            event["ticket"] for peer in self.living for event in peer.events if event["event"] == "ticket"
        ]
        self._ticket = told[-1] if told else self._ticket
        while len(self.living) < self._peers:
            self.living.append(self._nursery.join(f"p{self._named}", self._ticket))
            self._named += 1

    def poll(self) -> None:
        """Hear all."""
        for peer in self.living:
            peer.poll()

    def gather(self) -> float:
        """Wait until all (of sixteen, one may be late) are in one average; how long a round took. Raises `TimeoutError`."""
        enough = self._peers - self._peers // 16
        since, deadline = time.monotonic(), time.monotonic() + GATHER_SECONDS
        while time.monotonic() < deadline:
            self.poll()
            latest = [(peer.decided(since) or [{"members": 0}])[-1] for peer in self.living]
            inside = [event["seconds"] for event in latest if event["members"] >= enough]
            if len(inside) >= enough:
                return float(statistics.median(inside))
            time.sleep(POLL_SECONDS)
        seen = sorted(event["members"] for event in latest)
        raise TimeoutError(
            f"not all {self._peers} were in one round within {GATHER_SECONDS:g} s: {seen}\n{complaints(self.living)}"
        )

    def strike(self, chance: random.Random, victims: int, round_seconds: float) -> Row:
        """Kill, each at a moment of its own within a round, and see how the others get on."""
        doomed = chance.sample(self.living, victims)
        start = time.monotonic()
        for moment, victim in sorted((chance.random() * round_seconds, victim.name) for victim in doomed):
            time.sleep(max(0.0, start + moment - time.monotonic()))
            next(peer for peer in doomed if peer.name == victim).kill()
        killed = time.monotonic()
        self.living = [peer for peer in self.living if peer not in doomed]
        self.poll()
        firsts: list[float] = []
        last = max((event["round"] for peer in self.living for event in peer.decided()), default=-1)
        nexts: list[float] = []
        while len(nexts) < len(self.living) and time.monotonic() < killed + SURVIVE_SECONDS:
            self.poll()
            firsts, nexts = self._reached(last + 1, killed), self._reached(last + 2, killed)
            time.sleep(POLL_SECONDS)
        everybody = len(self.living)
        return {
            "survivors": everybody,
            "answered": len(nexts),
            "first_seconds": min(firsts, default=None),
            "all_seconds": max(firsts) if len(firsts) == everybody else None,
            "next_seconds": max(nexts) if len(nexts) == everybody else None,
            "equal": not divergent(self.living, start),
        }

    def _reached(self, round_: int, since: float) -> list[float]:
        """Seconds from ``since`` until each of those who have decided ``round_`` or a later one had done so."""
        times = [
            [event["at"] for event in peer.decided(since) if event["round"] >= round_] for peer in self.living
        ]
        return [found[0] - since for found in times if found]


def ours(seeds: range, peers: int, victims: int) -> list[Row]:
    """All seeds, one swarm."""
    rows = []
    with Nursery() as nursery:
        band = Band(nursery, peers)
        for seed in seeds:
            band.fill()
            began = time.monotonic()
            took = band.gather()
            row = {
                "seed": seed,
                "gather_seconds": time.monotonic() - began,
                "round_seconds": took,
                **band.strike(random.Random(seed), victims, took),
            }
            rows.append(row)
            spans = [row[f"{what}_seconds"] for what in ("first", "all", "next")]
            told = " ".join(f"{'never' if span is None else format(span, '.2f'):>8}" for span in spans)
            tally = f"{row['answered']}/{row['survivors']}"
            print(
                f"swarm     {seed:4} {row['gather_seconds']:7.1f} {took:8.2f} {tally:>9} {told} {row['equal']!s:>6}",
                flush=True,
            )
        if said := complaints(nursery.everybody):
            print(said, file=sys.stderr)
    return rows


def rival(seed: int, peers: int, victims: int) -> Row:
    """The same kill against hivemind: one calm step of all, then one with a kill in it."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="swarm-kills-") as folder, ExitStack() as stack:
        actors = []
        for seat in range(peers):
            actors.append(Actor("benchmarks.rivals.hivemind_peer", Path(folder) / f"{seat}.log"))
            stack.callback(actors[-1].end)
        for seat, actor in enumerate(actors):
            scene = {"name": f"kill{seed}", "parameters": RIVAL_PARAMETERS, "codec": "fp32", "share": 0}
            actor.tell("prepare", seat=seat, peers=peers, folder=folder, **scene)
        cards = [actor.answer() for actor in actors]
        _all(actors, "meet", cards=cards)
        calm = _all(actors, "average")
        took = max(times["ended"] for times in calm) - max(times["began"] for times in calm)
        _all(actors, "refill")
        doomed = chance.sample(range(peers), victims)
        answers: dict[int, Any] = {}
        for seat, actor in enumerate(actors):
            actor.tell("average")
            threading.Thread(target=_listen, args=(seat, actor, answers), daemon=True).start()
        time.sleep(
            statistics.median(times["began"] - times["called"] for times in calm) + chance.random() * took / 2
        )
        for seat in doomed:
            actors[seat].end()
        killed, living = time.monotonic(), [seat for seat in range(peers) if seat not in doomed]
        while time.monotonic() < killed + RIVAL_SECONDS and any(seat not in answers for seat in living):
            time.sleep(POLL_SECONDS)
        back = [seat for seat in living if isinstance(answers.get(seat), dict)]
        whole = [seat for seat in back if not answers[seat]["fault"]]
        errors = {round(_all([actors[seat]], "check")[0]["error"], 7) for seat in back}
        return {
            "seed": seed,
            "survivors": len(living),
            "answered": len(back),
            "already_over": sum(answers[seat]["ended"] < killed for seat in back),
            "without_fault": len(whole),
            "all_seconds": max((answers[seat]["ended"] - killed for seat in back), default=None),
            "different_averages": len(errors),
        }


def _all(actors: list[Actor], do: str, **what: Any) -> list[Any]:
    for actor in actors:
        actor.tell(do, **what)
    return [actor.answer() for actor in actors]


def _listen(seat: int, actor: Actor, answers: dict[int, Any]) -> None:
    try:
        answers[seat] = actor.answer()
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
        rivals.append(row := rival(seed, chosen.peers, chosen.victims))
        print(
            f"hivemind  {seed:4}: {row['answered']} of {row['survivors']} survivors answered within {RIVAL_SECONDS:g} s, "
            f"{row['already_over']} of them before it, "
            f"{row['without_fault']} without a fault, {row['different_averages']} different averages",
            flush=True,
        )
    if chosen.json:
        chosen.json.write_text(json.dumps({"swarm": rows, "hivemind": rivals}, indent=1) + "\n")


if __name__ == "__main__":
    main()
