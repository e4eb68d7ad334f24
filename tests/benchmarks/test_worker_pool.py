"""Processes on the stage of a benchmark: orders and answers, errors with their cause, and nobody left
behind.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.meters import MemoryWatch, cpu_of, family, peak_rss_of, sent_bytes
from benchmarks.worker import Check, Times, Trial, serve
from benchmarks.worker_pool import NotMeasured, WorkerPool

FAR = 120
"""Seconds after which a process that should be gone is an error."""


class Dancer:
    """A rival that averages nothing, whose child leaves its process group, unless the scene is to die."""

    def prepare(self, trial: Trial) -> Any:
        self._trial = trial
        self._child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=trial.name != "die"
        )
        return [trial.seat, self._child.pid]

    def connect(self, contacts: list[Any]) -> None:
        self._contacts = contacts

    def reset(self) -> None:
        print("this goes to the log")

    def average(self) -> Times:
        if self._trial.name == "fall":
            raise ValueError("I fell")
        return Times(called=1.0, began=2.0, ended=3.0, sent=len(self._contacts))

    def check(self) -> Check:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def release(self) -> None:
        pass

    def close(self) -> None:
        pass


def pool_of(peers: int) -> WorkerPool:
    return WorkerPool("dancer", __name__, peers)


def enter(pool: WorkerPool, name: str = "dance") -> list[psutil.Process]:
    pool.start(name=name, parameters=1, codec="fp32", share=1)
    return [member for pid in pool.pids for member in family(pid)]


def assert_gone(members: list[psutil.Process]) -> None:
    assert members
    _, alive = psutil.wait_procs(members, timeout=FAR)
    assert not alive


def test_everybody_hears_of_everybody_and_answers_by_seat() -> None:
    with pool_of(3) as pool:
        members = enter(pool)
        pool.all("reset")
        assert (
            pool.all("average") == [{"called": 1.0, "began": 2.0, "ended": 3.0, "sent": 3, "fault": ""}] * 3
        )
        assert len(members) == 6
        assert cpu_of(pool.pids) > 0
        assert peak_rss_of(pool.pids[0]) > 1
        with MemoryWatch(pool.pids) as watch:
            pool.all("reset")
        assert all(watch.peaks[pid] > 1 for pid in pool.pids)
    assert_gone(members)


def test_an_error_of_a_peer_is_told_and_ends_them_all() -> None:
    members: list[psutil.Process] = []
    with pytest.raises(NotMeasured, match="ValueError: I fell"):
        play("fall", "average", members)
    assert_gone(members)


def test_the_death_of_a_peer_is_told_and_its_children_die_too() -> None:
    members: list[psutil.Process] = []
    with pytest.raises(NotMeasured, match="the process has ended"):
        play("die", "check", members)
    assert_gone(members)


def play(name: str, do: str, members: list[psutil.Process]) -> None:
    """A scene of two; ``members`` gets everybody who was there."""
    with pool_of(2) as pool:
        members += enter(pool, name)
        pool.all(do)


def test_peers_go_with_a_parent_that_is_killed() -> None:
    code = """
import time
from tests.benchmarks.test_worker_pool import pool_of
print(*pool_of(2).pids, flush=True)
time.sleep(600)
"""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root, text=True
    ) as parent:
        assert parent.stdout
        members = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert_gone(members)


def test_what_crosses_an_interface_is_counted_where_there_is_one() -> None:
    before = sent_bytes("lo")
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as line:
            line.sendall(bytes(1000))
        assert sent_bytes("lo") >= before + 1000
    with pytest.raises(ValueError, match="no interface nowhere"):
        sent_bytes("nowhere")


if __name__ == "__main__":
    serve(Dancer())
