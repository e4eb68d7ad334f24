"""Worker processes of a benchmark: orders, answers, errors with their cause, no process left behind."""

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

GONE_SECONDS = 120
"""How long a killed process may take to disappear."""


class FakeSystem:
    """It averages nothing. Its child process leaves its process group, unless the trial is called "die"."""

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
        if self._trial.name == "fail":
            raise ValueError("as asked")
        return Times(called=1.0, began=2.0, ended=3.0, sent=len(self._contacts))

    def check(self) -> Check:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def release(self) -> None:
        pass

    def close(self) -> None:
        pass


def pool_of(peers: int) -> WorkerPool:
    return WorkerPool("fake", __name__, peers)


def start(pool: WorkerPool, name: str = "usual") -> list[psutil.Process]:
    pool.start(name=name, parameters=1, codec="fp32", share=1)
    return [member for pid in pool.pids for member in family(pid)]


def assert_gone(members: list[psutil.Process]) -> None:
    assert members
    _, alive = psutil.wait_procs(members, timeout=GONE_SECONDS)
    assert not alive


def test_all_workers_get_all_contacts_and_answer_by_seat() -> None:
    with pool_of(3) as pool:
        members = start(pool)
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


def test_an_error_of_a_worker_is_raised_and_ends_them_all() -> None:
    members: list[psutil.Process] = []
    with pytest.raises(NotMeasured, match="ValueError: as asked"):
        run_trial("fail", "average", members)
    assert_gone(members)


def test_the_death_of_a_worker_is_raised_and_its_children_die_too() -> None:
    members: list[psutil.Process] = []
    with pytest.raises(NotMeasured, match="the process has ended"):
        run_trial("die", "check", members)
    assert_gone(members)


def run_trial(name: str, do: str, members: list[psutil.Process]) -> None:
    """Run a trial of two workers; ``members`` gets their processes."""
    with pool_of(2) as pool:
        members += start(pool, name)
        pool.all(do)


def test_workers_end_with_a_parent_that_is_killed() -> None:
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
    serve(FakeSystem())
