"""Rehearsals in which something may go wrong: one seed or many, each with its verdict.

    seed, seed + 1, … ──► one process per core ──► verdict by verdict, in the order of the seeds ──► a summary

Each seed is a rehearsal of its own (`verdict.judge`). For one that fails, the report has the command that
repeats it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..observe.reporter import Reporter
from .result import silent
from .run import summary_of
from .scenario import MANY_PEERS, Scenario, scenario_of, with_liars
from .strategies import first_strategy
from .verdict import Violation, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What to rehearse: as many rehearsals as ``seeds``, the first one with ``seed``."""

    peers: int
    rounds: int
    seed: int = 0
    seeds: int = 1
    liars: int = 0
    network: Mapping[str, float] = field(default_factory=dict)
    """The other options of `scenario_of`: churn, loss, jitter."""

    def scenario(self, seed: int) -> Scenario:
        """The rehearsal of one seed. Raises `ConfigError` for impossible options."""
        return with_liars(scenario_of(self.peers, self.rounds, seed, **self.network), self.liars)

    def replay(self, seed: int) -> str:
        """The command that repeats the rehearsal of one seed."""
        options = {"liars": self.liars, **self.network, "rounds": self.rounds, "seed": seed}
        words = [f"--{name} {value}" for name, value in options.items() if value or name == "seed"]
        return " ".join([f"swarm rehearse {self.peers}", *words])

    @property
    def processes(self) -> int:
        """How many seeds are rehearsed at a time: a large rehearsal has several processes of its own."""
        return 1 if self.peers > MANY_PEERS else min(self.seeds, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Judged:
    """One seed: the fields of its summary (empty where it has not come to its end), and what was wrong."""

    seed: int
    summary: dict[str, object]
    violations: list[Violation]


def sweep_and_report(sweep: Sweep, reporter: Reporter) -> bool:
    """Rehearse all seeds and report each; of several also a summary. Whether nothing was wrong with any."""
    began = time.perf_counter()
    sweep.scenario(sweep.seed)  # impossible options are refused before anything begins
    counts: Counter[str] = Counter()
    failed = 0
    reporter.event(
        "rehearsing", peers=sweep.peers, rounds=sweep.rounds, seed=sweep.seed, processes=sweep.processes
    )
    for judged in _judge_all(sweep, reporter):
        _report(sweep, judged, reporter)
        counts.update(violation.code for violation in judged.violations)
        failed += bool(judged.violations)
    if sweep.seeds > 1:
        reporter.event(
            "rehearsals",
            peers=sweep.peers,
            rounds=sweep.rounds,
            seed=sweep.seed,
            seeds=sweep.seeds,
            liars=sweep.liars,
            failed=failed,
            violations=dict(sorted(counts.items())),
            seconds=round(time.perf_counter() - began, 2),
        )
    return not failed


def _judge_all(sweep: Sweep, reporter: Reporter) -> Iterator[Judged]:
    """The verdicts in the order of the seeds. A single rehearsal also reports its rounds as they end."""
    jobs = ((sweep, seed) for seed in range(sweep.seed, sweep.seed + sweep.seeds))
    if sweep.seeds == 1:
        yield _judge(sweep, sweep.seed, reporter)
    elif sweep.processes == 1:
        yield from (_judge_job(job) for job in jobs)
    else:
        context = multiprocessing.get_context("spawn")
        with context.Pool(sweep.processes, initializer=_ignore_interrupts) as pool:
            yield from pool.imap(_judge_job, jobs)


def _ignore_interrupts() -> None:
    """Ctrl-C is for the first process alone, which then ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _judge_job(job: tuple[Sweep, int]) -> Judged:
    return _judge(*job)


def _judge(sweep: Sweep, seed: int, reporter: Reporter | None = None) -> Judged:
    began = time.perf_counter()
    scenario = sweep.scenario(seed)
    result, violations = judge(scenario, reporter.round_finished if reporter else silent)
    seconds = time.perf_counter() - began
    return Judged(seed, summary_of(scenario, result, seconds) if result else {}, violations)


def _report(sweep: Sweep, judged: Judged, reporter: Reporter) -> None:
    """First what was wrong, then the summary, if there is one."""
    liars = sweep.scenario(judged.seed).liars
    strategies = {name: first_strategy(judged.seed, name, fixed) for name, fixed in liars.items()}
    for violation in judged.violations:
        reporter.event(
            "violation",
            seed=judged.seed,
            code=violation.code,
            fact=violation.fact,
            strategies=strategies,
            replay=sweep.replay(judged.seed),
        )
    if judged.summary:
        reporter.event("rehearsal", **judged.summary)
