"""The peers of one system under test, each a process of its own: the parent's end of `benchmarks.worker`.

Each process leads a session: a Ctrl-C at the terminal reaches the parent alone, which then ends each worker
with all its descendants. Workers watch their standard input, so they also end where the parent is killed.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from benchmarks.leftovers import remove, sockets_of
from benchmarks.meters import family

ROOT = Path(__file__).parents[1]
ANSWER_SECONDS = 300.0
"""How long a worker may take to answer an order: above every timeout of the systems under test."""
ENDING_ORDERS = {"release", "close"}
"""Orders after which a worker may have fewer descendants, whose files stay behind."""
LOG_LINES = 12
"""Lines at the end of a worker's log that are shown with its error."""
KILL_SECONDS = 10.0
"""How long killed processes may take to disappear."""


class NotMeasured(RuntimeError):
    """A measurement that failed, and why."""


class Worker:
    """One peer in a process of its own: ``python -m module``.

    ``log`` is the file of its standard error; ``through`` is put before the command that starts it.
    """

    def __init__(self, module: str, log: Path, *, through: Sequence[str] = (), **environment: str) -> None:
        self._log = log
        self._module = module
        usual = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "HIVEMIND_LOGLEVEL": "ERROR"}
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [*through, sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=os.environ | usual | environment,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._pids: set[int] = set()
        self._answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read_answers, daemon=True).start()

    def _read_answers(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(b"")

    def order(self, do: str, **arguments: Any) -> None:
        """Send an order; `answer` waits for its result. Raises `NotMeasured` where the process has ended."""
        assert self._process.stdin
        if do in ENDING_ORDERS:
            self._pids.update(member.pid for member in family(self.pid))
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failed("the process has ended") from error

    def answer(self) -> Any:
        """The result of the last order.

        Raises `NotMeasured`, with the end of the log, where the order failed, the process ended or does not
        answer.
        """
        try:
            line = self._answers.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise self._failed(f"no answer for {ANSWER_SECONDS:g} s") from None
        found = json.loads(line) if line else {"error": "the process has ended"}
        if "error" in found:
            raise self._failed(found["error"])
        return found["ok"]

    def _failed(self, reason: str) -> NotMeasured:
        last = self._log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return NotMeasured("\n".join((f"{self._module}: {reason}", *last)))

    def end(self) -> None:
        """Kill the process and its descendants, also those outside its group, and remove their files.

        Does nothing the second time: by then the process id may be another program's.
        """
        if self._process.returncode is not None:
            return
        members = family(self.pid)
        self._pids.update(member.pid for member in members)
        sockets = sockets_of(members)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for member in members:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        self._process.wait()
        psutil.wait_procs(members[1:], timeout=KILL_SECONDS)
        remove(self._pids, sockets)
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # bytes that could not be written to a process that has ended
                if pipe:
                    pipe.close()


def order_all(workers: Sequence[Worker], do: str, orders: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Send each worker its order, then collect all answers. Raises `NotMeasured` for the first that fails."""
    for worker, order in zip(workers, orders, strict=True):
        worker.order(do, **order)
    return [worker.answer() for worker in workers]


class WorkerPool:
    """All peers of one system. A context manager: no process is left after it."""

    def __init__(self, system: str, module: str, peers: int) -> None:
        self.system = system
        self.peers = peers
        self._folder = tempfile.TemporaryDirectory(prefix="swarm-benchmark-")
        folder = Path(self._folder.name)
        self._workers = [Worker(module, folder / f"{system}-{seat}.log") for seat in range(peers)]
        self.is_running = True
        """False from the first `end` on."""

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None and self.is_running:
                self.all("close")
        finally:
            self.end()
            self._folder.cleanup()

    def end(self) -> None:
        """Kill all workers, for good."""
        self.is_running = False
        for worker in self._workers:
            worker.end()

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers, without those of their descendants."""
        return [worker.pid for worker in self._workers]

    def all(self, do: str, **arguments: Any) -> list[Any]:
        """Send all workers the same order, at the same time; their answers by seat."""
        return order_all(self._workers, do, [arguments] * self.peers)

    def start(self, **trial: Any) -> None:
        """Start a trial: all workers prepare, then all connect. The pool adds seat, peers and folder."""
        common = {"peers": self.peers, "folder": self._folder.name, **trial}
        contacts = order_all(
            self._workers, "prepare", [{"seat": seat, **common} for seat in range(self.peers)]
        )
        self.all("connect", contacts=contacts)
