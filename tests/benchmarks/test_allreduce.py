"""What becomes of a measurement in which somebody fails: a rival is out, and ours is the end."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from benchmarks.allreduce import Stage
from benchmarks.cast import Cast, NotMeasured
from benchmarks.rivals.stage import Scene, Times, Verdict, act

FAILS_AT_THE_END = "tests.benchmarks.test_cast"


class Steady:
    """A rival that averages nothing, and does so every time."""

    def prepare(self, scene: Scene) -> Any:
        return scene.seat

    def meet(self, cards: list[Any]) -> None:
        self._sent = 0

    def refill(self) -> None:
        pass

    def average(self) -> Times:
        self._sent += 100
        return Times(called=1.0, began=2.0, ended=3.0, sent=self._sent)

    def check(self) -> Verdict:
        return Verdict(error=0.0, digest="the same")

    def drop(self) -> None:
        pass

    def close(self) -> None:
        pass


def stage_of(said: io.StringIO) -> Stage:
    console = Console(file=said, width=300)
    progress = Progress(console=console, disable=True)
    progress.add_task("", total=None)
    return Stage(console, progress, rounds=2)


def test_a_rival_that_fails_is_out_and_the_others_go_on() -> None:
    said = io.StringIO()
    stage = stage_of(said)
    with Cast("dancer", FAILS_AT_THE_END, 2) as dancer, Cast("swarm", __name__, 2) as steady:
        for _ in range(2):
            stage.play([dancer, steady], 1, "fp32")
        assert not dancer.is_here
    assert [(row.system, row.seconds, row.peers) for row in stage.rows] == [("swarm", 1.0, 2)] * 2
    assert said.getvalue().count("dancer is out") == 1
    assert "the process has ended" in said.getvalue()


def test_where_ours_fails_nothing_is_measured() -> None:
    with (
        Cast("swarm", FAILS_AT_THE_END, 2) as ours,
        pytest.raises(NotMeasured, match="the process has ended"),
    ):
        stage_of(io.StringIO()).play([ours], 1, "fp32")
    assert not ours.is_here


if __name__ == "__main__":
    act(Steady())
