"""The peers of one system, each a process of its own, and the parent's end of `rivals.stage`.

Each process leads a session: a Ctrl-C at the terminal reaches the parent alone, which then ends whole families, and a parent that
is killed takes them with it (they watch their standard input).
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

from benchmarks.leftovers import sockets_of, sweep
from benchmarks.meters import family

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 300.0
ENDS = {"drop", "close"}
"""Orders after which there may be fewer processes, whose files stay."""
_LAST_LINES = 12
_LAST_SECONDS = 10.0
"""For what has been killed to be gone."""


class NotMeasured(RuntimeError):
    """A measurement that did not come about, and why."""


class Actor:
    """One peer in a process of its own. ``log`` is where its standard error goes; ``through`` begins the command that starts it."""

    def __init__(self, module: str, log: Path, *, through: Sequence[str] = (), **environment: str) -> None:
        self._log, self._module = log, module
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
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(b"")

    def tell(self, do: str, **what: Any) -> None:
        """Give an order; `answer` waits for what comes of it. Raises `NotMeasured` where the process is gone."""
        assert self._process.stdin
        if do in ENDS:
            self._pids.update(member.pid for member in family(self.pid))
        try:
            self._process.stdin.write(json.dumps({"do": do, **what}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failed("the process has ended") from error

    def answer(self) -> Any:
        """What came of the last order. Raises `NotMeasured` with the end of its log where it failed, ended or hangs."""
        try:
            line = self._answers.get(timeout=PATIENCE_SECONDS)
        except queue.Empty:
            raise self._failed(f"no answer for {PATIENCE_SECONDS:g} s") from None
        found = json.loads(line) if line else {"error": "the process has ended"}
        if "error" in found:
            raise self._failed(found["error"])
        return found["ok"]

    def _failed(self, what: str) -> NotMeasured:
        last = self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        return NotMeasured("\n".join((f"{self._module}: {what}", *last)))

    def end(self) -> None:
        """Kill the whole family, also those of it that have left its process group, and sweep up behind it.

        Once: later its number may be another's.
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
        psutil.wait_procs(members[1:], timeout=_LAST_SECONDS)
        sweep(self._pids, sockets)
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was still to be written to a peer that is gone
                if pipe:
                    pipe.close()


def together(actors: Sequence[Actor], do: str, orders: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Give everybody its order, then hear everybody. Raises `NotMeasured` for the first that fails."""
    for actor, order in zip(actors, orders, strict=True):
        actor.tell(do, **order)
    return [actor.answer() for actor in actors]


class Cast:
    """All peers of one system. A context manager: whoever leaves it leaves no process behind."""

    def __init__(self, system: str, module: str, peers: int) -> None:
        self.system, self.peers = system, peers
        self._folder = tempfile.TemporaryDirectory(prefix="swarm-benchmark-")
        folder = Path(self._folder.name)
        self._actors = [Actor(module, folder / f"{system}-{seat}.log") for seat in range(peers)]
        self.is_here = True
        """Whether nobody has had to be sent away."""

    def __enter__(self) -> Cast:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None and self.is_here:
                self.all("close")
        finally:
            self.send_away()
            self._folder.cleanup()

    def send_away(self) -> None:
        """End all of them, for good."""
        self.is_here = False
        for actor in self._actors:
            actor.end()

    @property
    def pids(self) -> list[int]:
        """The heads of the families."""
        return [actor.pid for actor in self._actors]

    def all(self, do: str, **what: Any) -> list[Any]:
        """The same order to everybody, at the same time; their answers by seat."""
        return together(self._actors, do, [what] * self.peers)

    def enter(self, **scene: Any) -> None:
        """Begin a scene, whose other fields are ours: everybody prepares, then hears of everybody."""
        ours = {"peers": self.peers, "folder": self._folder.name}
        cards = together(
            self._actors, "prepare", [{"seat": seat, **ours, **scene} for seat in range(self.peers)]
        )
        self.all("meet", cards=cards)
