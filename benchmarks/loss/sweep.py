"""All curves of a benchmark: for each method its best learning rate, and every seed at that rate.

    rates r/2, r, 2r on the first seed ──► while the best is at an edge: one more beyond it
      ──► the other seeds at all rates that come close to the best on the first ──► the best mean

Where two rates differ by less than two seeds do, one seed alone cannot tell which is better: chosen by one
seed, half the methods had a better neighbouring rate.

Curves of an earlier run (read from a file) are not drawn again, so an interrupted sweep continues.
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
LOWEST = 5e-4
HIGHEST = 6.4e-2
CLOSE = 0.03
"""Rates are equally good for one seed where their losses differ by at most so many bits per byte."""
Show = Callable[[str], None]
Known = dict[Task, Curve]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which curves to draw. ``rates``: by method, the rate of those that are not swept."""

    methods: Sequence[str]
    seeds: Sequence[int]
    steps: int
    model: str
    rates: Mapping[str, float]


def best_rate(curves: Iterable[Curve]) -> float:
    """The learning rate with the lowest loss at the end; the smaller one of two equals.

    Raises `ValueError` for no curves.
    """
    return min(curves, key=lambda curve: (curve.final, curve.task.rate)).task.rate


def best_of(candidates: Sequence[Sequence[Curve]]) -> list[Curve]:
    """Of the curves of several rates those with the lowest mean; last those that lack a seed."""

    def rank(curves: Sequence[Curve]) -> tuple[int, float]:
        return -len(curves), statistics.fmean(curve.final for curve in curves)

    return list(min(candidates, key=rank))


def close_rates(curves: Iterable[Curve]) -> list[float]:
    """The learning rates whose loss at the end is at most `CLOSE` above the lowest, in order.

    Raises `ValueError` for no curves.
    """
    curves = list(curves)
    lowest = min(curve.final for curve in curves)
    return sorted(curve.task.rate for curve in curves if curve.final <= lowest + CLOSE)


def beyond(tried: Sequence[float], best: float) -> float | None:
    """The rate to try next, twice the largest or half the smallest; None where neither is the best."""
    if best == max(tried) and best * 2 <= HIGHEST:
        return best * 2
    if best == min(tried) and best / 2 >= LOWEST:
        return best / 2
    return None


@dataclass(frozen=True, slots=True)
class Reporter:
    """What a sweep does with its results:

    ``show`` a line for people, ``keep`` the curves that are known by now.
    """

    show: Show
    keep: Callable[[], None]


def sweep(wanted: Wanted, known: Known, jobs: int, reporter: Reporter) -> dict[str, list[Curve]]:
    """By method the curves of all seeds at its best rate, drawn by ``jobs`` processes.

    ``known`` gets every new curve.
    """
    ignore = signal.SIG_IGN
    with multiprocessing.get_context("spawn").Pool(jobs, signal.signal, (signal.SIGINT, ignore)) as pool:

        def draw_all(tasks: Iterable[Task]) -> None:
            todo = [task for task in dict.fromkeys(tasks) if task not in known]
            for number, (task, curve, fault) in enumerate(pool.imap_unordered(_draw, todo), 1):
                if curve:
                    known[task] = curve
                    reporter.keep()
                result = f"{curve.final:.3f} bits/byte" if curve else f"failed: {fault}"
                progress = f"{number:3}/{len(todo)}"
                reporter.show(
                    f"  {progress}  {task.method:28} seed {task.seed}  rate {task.rate:<7g} {result}"
                )

        return Sweep(wanted, known, draw_all).run()


class Sweep:
    """The search for the best rate of every method:

    ``draw_all`` adds the curves of tasks to ``known``, where they do not fail.
    """

    def __init__(self, wanted: Wanted, known: Known, draw_all: Callable[[Iterable[Task]], None]) -> None:
        self._wanted = wanted
        self._known = known
        self._draw_all = draw_all
        self._tried = {method: self._first_rates(method) for method in wanted.methods}

    def run(self) -> dict[str, list[Curve]]:
        """By method the curves of all seeds at its best rate."""
        first = self._wanted.seeds[0]
        self._draw([first], self._tried)
        while more := self._rates_beyond():
            for method, rates in more.items():
                self._tried[method] += rates
            self._draw([first], more)

        close = {
            method: close_rates(curves) for method in self._tried if (curves := self._first_curves(method))
        }
        self._draw(self._wanted.seeds, close)
        return {
            method: best_of([self._curves(method, self._wanted.seeds, rate) for rate in rates])
            for method, rates in close.items()
        }

    def _first_rates(self, method: str) -> list[float]:
        return [self._wanted.rates[method]] if method in self._wanted.rates else list(RATES)

    def _rates_beyond(self) -> dict[str, list[float]]:
        """One rate beyond the edge, by method, for swept methods that are best at an edge of their rates."""
        more: dict[str, list[float]] = {}
        for method, tried in self._tried.items():
            curves = self._first_curves(method)
            if method in self._wanted.rates or not curves:
                continue
            rate = beyond(tried, best_rate(curves))
            if rate is not None and rate not in tried:
                more[method] = [rate]
        return more

    def _draw(self, seeds: Sequence[int], rates: Mapping[str, Sequence[float]]) -> None:
        self._draw_all(
            self._task(method, seed, rate) for seed in seeds for method in rates for rate in rates[method]
        )

    def _first_curves(self, method: str) -> list[Curve]:
        """The curves of the first seed, at all rates that were tried."""
        first = self._wanted.seeds[:1]
        return [curve for rate in self._tried[method] for curve in self._curves(method, first, rate)]

    def _curves(self, method: str, seeds: Sequence[int], rate: float) -> list[Curve]:
        tasks = [self._task(method, seed, rate) for seed in seeds]
        return [self._known[task] for task in tasks if task in self._known]

    def _task(self, method: str, seed: int, rate: float) -> Task:
        wanted = self._wanted
        return Task(method=method, seed=seed, rate=rate, steps=wanted.steps, model=wanted.model)


def _draw(task: Task) -> tuple[Task, Curve | None, str]:
    """Draw a curve in a process of the pool. A method that cannot run must not end the others."""
    try:
        return task, draw(task), ""
    except Exception as error:  # noqa: BLE001 - the caller shows it to the user
        return task, None, f"{type(error).__name__}: {error}"


# --- files ------------------------------------------------------------------------------------------------


def save(path: Path, known: Known) -> None:
    """Write all curves, with the name of the text that they were drawn on."""
    rows = [{**asdict(curve.task), "points": curve.points} for curve in known.values()]
    unfinished = path.with_suffix(path.suffix + ".part")
    unfinished.write_text(json.dumps({"text": text_name(), "curves": rows}))
    unfinished.replace(path)


def load(path: Path, show: Show) -> Known:
    """The curves of a file; none where there is no file, or where they are of another text."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    if found["text"] != text_name():
        show(f"  {path} holds curves of another text (another version of Python): they are not used")
        return {}
    known: Known = {}
    for row in found["curves"]:
        points = [(step, bits) for step, bits in row.pop("points")]
        task = Task(**row)
        known[task] = Curve(task=task, points=points)
    return known
