"""Killed processes leave files behind, and the pool removes them."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.leftovers import SHARED, sockets_of
from benchmarks.worker import Check, Times, Trial, serve
from benchmarks.worker_pool import WorkerPool


def socket_of(pid: int) -> Path:
    return Path(tempfile.gettempdir()) / f"hivemind-test-{pid}.sock"


class Untidy:
    """A system that never removes its socket and its shared memory."""

    def prepare(self, trial: Trial) -> Any:
        self._line = socket.socket(socket.AF_UNIX)
        self._line.bind(str(socket_of(os.getpid())))
        (SHARED / f"torch_{os.getpid()}_1_0").write_bytes(b"numbers")
        return os.getpid()

    def connect(self, contacts: list[Any]) -> None:
        pass

    def reset(self) -> None:
        pass

    def average(self) -> Times:
        raise AssertionError

    def check(self) -> Check:
        raise AssertionError

    def release(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared memory in the file system here")
def test_files_of_ended_processes_are_removed_and_those_of_others_stay() -> None:
    other = SHARED / f"torch_{os.getpid()}_1_0"
    with socket.socket(socket.AF_UNIX) as line, WorkerPool("untidy", __name__, 2) as pool:
        line.bind(str(socket_of(os.getpid())))
        other.write_bytes(b"")
        pool.start(name="usual", parameters=1, codec="fp32", share=1)
        pids = pool.pids
        assert sockets_of([psutil.Process(pid) for pid in pids]) == [socket_of(pid) for pid in pids]
    assert not any(path.exists() for pid in pids for path in (socket_of(pid), SHARED / f"torch_{pid}_1_0"))
    for path in (other, socket_of(os.getpid())):
        assert path.exists()
        path.unlink()


if __name__ == "__main__":
    serve(Untidy())
