"""All curves of a benchmark: for each method the learning rate that is best over all seeds, and every seed at that rate.

    rates r/2, r, 2r on the first seed ──► while the best is at an edge: one more beyond it
      ──► the other seeds at all rates that come close to the best on the first ──► the best mean

One seed alone cannot tell rates apart that are closer than two seeds are: chosen by it, half the methods had a better neighbour.

Curves that are there already (a file of an earlier run) are not drawn again, so an interrupted sweep goes on where it stood.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .curves import Curve, Task, draw, text_name

RATES = (2e-3, 4e-3, 8e-3)
LOWEST, HIGHEST = 5e-4, 6.4e-2
CLOSE = 0.03
"""Bits per byte between rates that one seed cannot tell apart."""
Tell = Callable[[str], None]
Known = dict[Task, Curve]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which curves. ``rates``: by method, for methods that are not to be swept; empty: all are."""

    methods: Sequence[str]
    seeds: Sequence[int]
    steps: int
    model: str
    rates: Mapping[str, float]


def best_rate(curves: Iterable[Curve]) -> float:
    """The learning rate with the lowest loss at the end; the smaller one of two equals. Raises `ValueError` for no curves."""
    return min(curves, key=lambda curve: (curve.final, curve.task.rate)).task.rate


def best_of(candidates: Sequence[Sequence[Curve]]) -> list[Curve]:
    """Of the curves of several rates, one per seed, those with the lowest mean; a rate that failed with some seed comes last."""
    return list(
        min(candidates, key=lambda drawn: (-len(drawn), statistics.fmean(curve.final for curve in drawn)))
    )


def close_rates(curves: Iterable[Curve]) -> list[float]:
    """The learning rates whose loss at the end is at most `CLOSE` above the lowest, in order. Raises `ValueError` for no curves."""
    curves = list(curves)
    lowest = min(curve.final for curve in curves)
    return sorted(curve.task.rate for curve in curves if curve.final <= lowest + CLOSE)


def beyond(tried: Sequence[float], best: float) -> float | None:
    """The rate to try next: twice the largest or half the smallest where that is the best, None where the best is inside."""
    if best == max(tried) and best * 2 <= HIGHEST:
        return best * 2
    if best == min(tried) and best / 2 >= LOWEST:
        return best / 2
    return None


def sweep(
    wanted: Wanted, known: Known, jobs: int, tell: Tell, keep: Callable[[], None]
) -> dict[str, list[Curve]]:
    """By method the curves of all seeds at its rate; ``known`` grows, and ``keep`` is called whenever it has."""
    ignore = signal.SIG_IGN
    with multiprocessing.get_context("spawn").Pool(jobs, signal.signal, (signal.SIGINT, ignore)) as pool:

        def draw_all(tasks: Iterable[Task]) -> None:
            todo = [task for task in dict.fromkeys(tasks) if task not in known]
            for number, (task, curve, fault) in enumerate(pool.imap_unordered(_draw, todo), 1):
                if curve:
                    known[task] = curve
                    keep()
                said = f"{curve.final:.3f} bits/byte" if curve else f"failed: {fault}"
                tell(
                    f"  {number:3}/{len(todo)}  {task.method:28} seed {task.seed}  rate {task.rate:<7g} {said}"
                )

        return _sweep(wanted, known, draw_all)


def _sweep(
    wanted: Wanted, known: Known, draw_all: Callable[[Iterable[Task]], None]
) -> dict[str, list[Curve]]:
    first = wanted.seeds[0]

    def task(method: str, seed: int, rate: float) -> Task:
        return Task(method=method, seed=seed, rate=rate, steps=wanted.steps, model=wanted.model)

    tried = {
        method: [wanted.rates[method]] if method in wanted.rates else list(RATES) for method in wanted.methods
    }
    draw_all(task(method, first, rate) for method, rates in tried.items() for rate in rates)
    while True:
        curves = {
            method: [known[t] for rate in rates if (t := task(method, first, rate)) in known]
            for method, rates in tried.items()
        }
        found = {method: best_rate(drawn) for method, drawn in curves.items() if drawn}
        more = {
            method: rate
            for method, best in found.items()
            if method not in wanted.rates
            and (rate := beyond(tried[method], best)) is not None
            and rate not in tried[method]
        }
        if not more:
            break
        for method, rate in more.items():
            tried[method].append(rate)
        draw_all(task(method, first, rate) for method, rate in more.items())
    close = {method: close_rates(drawn) for method, drawn in curves.items() if drawn}
    draw_all(
        task(method, seed, rate) for seed in wanted.seeds for method, rates in close.items() for rate in rates
    )
    drawn = {
        method: [
            [known[t] for seed in wanted.seeds if (t := task(method, seed, rate)) in known] for rate in rates
        ]
        for method, rates in close.items()
    }
    return {method: best_of(candidates) for method, candidates in drawn.items()}


def _draw(task: Task) -> tuple[Task, Curve | None, str]:
    """In a process of the pool. One method that cannot run must not end the others."""
    try:
        return task, draw(task), ""
    except Exception as error:  # noqa: BLE001 - told to the user by whoever asked for the curve
        return task, None, f"{type(error).__name__}: {error}"


# --- files --------------------------------------------------------------------------------------------------


def save(path: Path, known: Known) -> None:
    """Write all curves, with the name of the text they were drawn on."""
    rows = [{**asdict(curve.task), "points": curve.points} for curve in known.values()]
    unfinished = path.with_suffix(path.suffix + ".part")
    unfinished.write_text(json.dumps({"text": text_name(), "curves": rows}))
    unfinished.replace(path)


def load(path: Path, tell: Tell) -> Known:
    """The curves of a file; none where there is no file, or where it is of another text (another Python's standard library)."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    if found["text"] != text_name():
        tell(f"  {path} holds curves of another text (another version of Python): they are not used")
        return {}
    known: Known = {}
    for row in found["curves"]:
        points = [(step, bits) for step, bits in row.pop("points")]
        task = Task(**row)
        known[task] = Curve(task=task, points=points)
    return known
