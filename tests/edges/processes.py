"""Real peers as processes: started as a person starts them, read line by line, and ended with the test.

Every wait here is for an event: a line that a peer prints, or the end of a process. `LIMIT_SECONDS` is for
tests that hang.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 240.0
"""Real seconds after which a test gives up. What it waits for takes seconds, on a busy computer a minute."""
MODULE = ("-m", "peer")
"""The arguments with which Python runs the command line."""

Event = dict[str, Any]
"""One line of JSON that a peer has printed."""


def environment(**more: str) -> dict[str, str]:
    """Return the environment variables for a process of a test; ``more`` is added to them."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **more}


def run_swarm(
    *words: str, cwd: Path, python: Sequence[str] = MODULE, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run ``swarm WORDS`` to its end. ``python``: what Python runs; ``more``: environment variables."""
    return subprocess.run(
        [sys.executable, *python, *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**more),
        timeout=LIMIT_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def events_of(text: str) -> list[Event]:
    """Parse the output of a command with ``--json``. Raises `ValueError` where a line is not JSON."""
    return [json.loads(line) for line in text.splitlines()]


def commands_left_in(folder: Path) -> list[str]:
    """Wait until no process works in ``folder``. Return the commands of the processes that do not end."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while found := _processes_in(folder):
        _, alive = psutil.wait_procs(found, timeout=max(0.0, deadline - time.monotonic()))
        if alive:
            return [str(process.info["cmdline"]) for process in alive]
    return []


def _processes_in(folder: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if process.info["cwd"] == str(folder) and process.is_running()
    ]


class PeerProcess:
    """One ``swarm new`` or ``swarm join`` with ``--json``. ``events`` is what has been read of its output."""

    def __init__(self, words: Sequence[str], home: Path, python: Sequence[str] = MODULE) -> None:
        self.home = home
        self.words = list(words)
        self.events: list[Event] = []
        self._python = list(python)
        self._printed: queue.Queue[Event | None] = queue.Queue()
        """Events that have not been moved to ``events`` yet; None stands for the end of standard output."""
        self._errors = home.with_name(f"{home.name}.stderr")
        command = [sys.executable, *python, *words, "--home", str(home), "--json"]
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                text=True,
                cwd=home.parent,
                env=environment(),
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __repr__(self) -> str:
        return f"PeerProcess({self.home.name}, {len(self.events)} events, {self.process.poll()})"

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._printed.put(json.loads(line))
        self._printed.put(None)

    def wait_for(self, fits: Callable[[Event], bool], *, after: int = 0) -> Event:
        """Wait for the first event from number ``after`` on for which ``fits`` is true.

        Raises `AssertionError` with the last events and standard error where the peer ends without it.
        """
        deadline = time.monotonic() + LIMIT_SECONDS
        for event in self.events[after:]:
            if fits(event):
                return event
        while True:
            try:
                event = self._printed.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(
                    f"{self}: nothing that fits in {LIMIT_SECONDS:g} s; last: {self._tail()}"
                ) from None
            if event is None:
                self._printed.put(None)
                raise AssertionError(f"{self} ended with {self.process.wait()}; last: {self._tail()}")
            self.events.append(event)
            if len(self.events) > after and fits(event):
                return event

    def count_events(self) -> int:
        """Read what has been printed so far. Return the number of events, for ``after`` of a later wait."""
        while True:
            try:
                event = self._printed.get_nowait()
            except queue.Empty:
                return len(self.events)
            if event is None:
                self._printed.put(None)
                return len(self.events)
            self.events.append(event)

    def event(self, name: str, *, after: int = 0) -> Event:
        """Wait for the first event called ``name``."""
        return self.wait_for(lambda event: event["event"] == name, after=after)

    def round(self, fits: Callable[[Event], bool] = lambda event: True, *, after: int = 0) -> Event:
        """Wait for the first round that fits."""
        return self.wait_for(lambda event: event["event"] == "round" and fits(event), after=after)

    def round_of(self, members: int, *, after: int = 0) -> Event:
        """Wait for the first round with exactly so many members."""
        return self.round(lambda event: event["members"] == members, after=after)

    @property
    def roots(self) -> dict[int, str]:
        """State root by round. Raises `AssertionError` where this peer has printed two for one round."""
        self.count_events()
        roots: dict[int, str] = {}
        for event in self.events:
            if event["event"] == "round":
                assert roots.setdefault(event["round"], event["state_root"]) == event["state_root"]
        return roots

    @property
    def stderr(self) -> str:
        """Everything that this peer has written to standard error, also before it was started again."""
        return self._errors.read_text()

    def start_again(self) -> PeerProcess:
        """Run the same command once more."""
        return PeerProcess(self.words, self.home, self._python)

    def kill(self) -> None:
        """End it with SIGKILL, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal that asks it to leave. Return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(LIMIT_SECONDS)

    def _tail(self) -> str:
        return f"{self.events[-3:]}; stderr: {self.stderr[-2000:]!r}"


class LocalSwarm:
    """Starts peers with homes in one folder. A context manager: its end kills the peers that still run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.peers: list[PeerProcess] = []

    def __enter__(self) -> LocalSwarm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for peer in self.peers:
            peer.process.send_signal(signal.SIGCONT)
            peer.kill()

    def new(self, name: str, *words: str, python: Sequence[str] = MODULE) -> PeerProcess:
        """Start a run; ``name`` is the name of the home folder."""
        return self._add(PeerProcess(["new", "--listen", "127.0.0.1:0", *words], self.folder / name, python))

    def join(
        self,
        name: str,
        ticket: str,
        *words: str,
        listen: str = "127.0.0.1:0",
        python: Sequence[str] = MODULE,
    ) -> PeerProcess:
        """Start a peer that joins a run; ``name`` is the name of the home folder."""
        return self._add(
            PeerProcess(["join", ticket, "--listen", listen, *words], self.folder / name, python)
        )

    def start_again(self, peer: PeerProcess) -> PeerProcess:
        """Run the command of a peer that has ended once more."""
        self.peers.remove(peer)
        return self._add(peer.start_again())

    def _add(self, peer: PeerProcess) -> PeerProcess:
        self.peers.append(peer)
        return peer

    @property
    def running(self) -> list[PeerProcess]:
        """The peers whose process has not ended."""
        return [peer for peer in self.peers if peer.process.poll() is None]


def assert_roots_agree(*peers: PeerProcess) -> set[int]:
    """Return the rounds that at least two of ``peers`` have printed.

    Raises `AssertionError` where their state roots of such a round differ.
    """
    printed = [peer.roots for peer in peers]
    shared = {
        round_ for rounds in printed for round_ in rounds if sum(round_ in other for other in printed) > 1
    }
    for round_ in shared:
        assert len({rounds[round_] for rounds in printed if round_ in rounds}) == 1, (
            f"round {round_}: {printed}"
        )
    return shared
