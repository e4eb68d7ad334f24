"""A short soak test: real peers that nobody disturbs decide their rounds, agree, and hardly grow."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from benchmarks.soak import soak
from tests.edges.processes import LIMIT_SECONDS

pytestmark = pytest.mark.xdist_group("processes")

GROWTH = 20
"""Percent in four seconds, of the median peer. Usual are 2 to 5 for open files, below 1 for memory."""


@pytest.mark.slow
def test_a_calm_soak_decides_its_rounds_and_hardly_grows() -> None:
    told = soak("calm", 3, 8.0, None)
    assert told["rounds"] > 2
    assert told["decided"] >= told["rounds"] - 1
    assert (told["divergent_roots"], told["kills"], told["spawns"]) == (0, 0, 0)
    assert told["fd_growth"] < GROWTH
    assert told["rss_growth"] < GROWTH


def test_nobody_outlives_a_benchmark_that_is_killed() -> None:
    told = """
import os, sys, time
from benchmarks.peer_processes import PeerProcesses
with PeerProcesses() as processes:
    peer, ticket = processes.new("alone", "--model", "tiny", "--rounds", "1000")
    import psutil
    print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", told], stdout=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stdout is not None
        family = [psutil.Process(int(pid)) for pid in benchmark.stdout.readline().split()]
        benchmark.kill()
    assert len(family) >= 2, "the fork server and the peer"
    _, alive = psutil.wait_procs(family, timeout=LIMIT_SECONDS)
    assert not alive
