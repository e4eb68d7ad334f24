"""A rival that fails is left out of the benchmark; where Swarm fails, the benchmark ends."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from benchmarks.allreduce import Runner
from benchmarks.worker import Check, Times, Trial, serve
from benchmarks.worker_pool import NotMeasured, WorkerPool

FAILING = "tests.benchmarks.test_worker_pool"


class Steady:
    """A system that averages nothing and never fails."""

    def prepare(self, trial: Trial) -> Any:
        return trial.seat

    def connect(self, contacts: list[Any]) -> None:
        self._sent = 0

    def reset(self) -> None:
        pass

    def average(self) -> Times:
        self._sent += 100
        return Times(called=1.0, began=2.0, ended=3.0, sent=self._sent)

    def check(self) -> Check:
        return Check(error=0.0, digest="the same")

    def release(self) -> None:
        pass

    def close(self) -> None:
        pass


def runner_of(output: io.StringIO) -> Runner:
    console = Console(file=output, width=300)
    progress = Progress(console=console, disable=True)
    progress.add_task("", total=None)
    return Runner(console, progress, rounds=2)


def test_a_rival_that_fails_is_out_and_the_others_go_on() -> None:
    output = io.StringIO()
    runner = runner_of(output)
    with WorkerPool("rival", FAILING, 2) as rival, WorkerPool("swarm", __name__, 2) as steady:
        for _ in range(2):
            runner.run([rival, steady], 1, "fp32")
        assert not rival.is_running
    assert [(row.system, row.timing.seconds, row.peers) for row in runner.rows] == [("swarm", 1.0, 2)] * 2
    assert output.getvalue().count("rival is out") == 1
    assert "the process has ended" in output.getvalue()


def test_where_swarm_fails_nothing_is_measured() -> None:
    with (
        WorkerPool("swarm", FAILING, 2) as ours,
        pytest.raises(NotMeasured, match="the process has ended"),
    ):
        runner_of(io.StringIO()).run([ours], 1, "fp32")
    assert not ours.is_running


if __name__ == "__main__":
    serve(Steady())
