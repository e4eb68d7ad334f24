"""Real peers as processes: started like a person starts them, read line by line with deadlines, and never left behind."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
"""Seconds that a test waits for something that should take one or two: the machine may be busy."""

Event = dict[str, Any]


def environment(**more: str) -> dict[str, str]:
    """What the processes see."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **more}


def swarm(*words: str, cwd: Path, seconds: float = PATIENCE, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "peer", *words]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**more),
        timeout=seconds,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def events_of(text: str) -> list[Event]:
    """Standard output with ``--json``. Raises `ValueError` where it is anything but JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


class PeerProcess:
    """One ``swarm new`` or ``swarm join`` with ``--json``; ``events`` is what it has printed so far."""

    def __init__(self, words: Sequence[str], home: Path, before: Sequence[str] = ("-m", "peer")) -> None:
        self.home = home
        self.words = list(words)
        self.events: list[Event] = []
        self._before = list(before)
        self._news: queue.Queue[Event | None] = queue.Queue()
        self._errors = home.with_name(f"{home.name}.stderr")
        command = [sys.executable, *before, *words, "--home", str(home), "--json"]
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
            self._news.put(json.loads(line))
        self._news.put(None)

    def wait(self, fits: Callable[[Event], bool], seconds: float = PATIENCE, *, after: int = 0) -> Event:
        """The first event from number ``after`` on that fits. Raises `AssertionError` with what came instead."""
        deadline = time.monotonic() + seconds
        while True:
            found = next((event for event in self.events[after:] if fits(event)), None)
            if found is not None:
                return found
            try:
                event = self._news.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(
                    f"{self}: did not come within {seconds:g} s, but {self._tail()}"
                ) from None
            if event is None:
                raise AssertionError(f"{self} ended with {self.process.wait()} after {self._tail()}")
            self.events.append(event)

    def catch_up(self) -> int:
        """Take what has been printed already; how many events there are."""
        while True:
            try:
                event = self._news.get_nowait()
            except queue.Empty:
                return len(self.events)
            if event is not None:
                self.events.append(event)

    def event(self, name: str, *, after: int = 0, seconds: float = PATIENCE) -> Event:
        """The first event called ``name``."""
        return self.wait(lambda event: event["event"] == name, seconds, after=after)

    def round(
        self, fits: Callable[[Event], bool] = lambda event: True, *, after: int = 0, seconds: float = PATIENCE
    ) -> Event:
        """The first round line that fits."""
        return self.wait(lambda event: event["event"] == "round" and fits(event), seconds, after=after)

    @property
    def rounds(self) -> dict[int, str]:
        """State root by round. Raises `AssertionError` where this peer has told two for one."""
        self.catch_up()
        roots: dict[int, str] = {}
        for event in self.events:
            if event["event"] == "round":
                assert roots.setdefault(event["round"], event["state_root"]) == event["state_root"]
        return roots

    @property
    def stderr(self) -> str:
        """All that this peer, and its earlier lives, wrote to standard error."""
        return self._errors.read_text()

    def again(self) -> PeerProcess:
        """The same command once more."""
        return PeerProcess(self.words, self.home, self._before)

    def kill(self) -> None:
        """As a power cut."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: int = signal.SIGINT, seconds: float = PATIENCE) -> int:
        """Ask it to leave; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def _tail(self) -> str:
        return f"{self.events[-3:]}; stderr: {self.stderr[-2000:]!r}"


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """A place for processes, all of which are gone when the block is left."""
    place = Stage(folder)
    try:
        yield place
    finally:
        place.clear()


class Stage:
    """Starts peers and keeps track of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.peers: list[PeerProcess] = []

    def new(self, name: str, *words: str) -> PeerProcess:
        """Found a run."""
        return self._add(PeerProcess(["new", "--listen", "127.0.0.1:0", *words], self.folder / name))

    def join(
        self,
        name: str,
        ticket: str,
        *words: str,
        listen: str = "127.0.0.1:0",
        before: Sequence[str] = ("-m", "peer"),
    ) -> PeerProcess:
        """Join a run."""
        return self._add(
            PeerProcess(["join", ticket, "--listen", listen, *words], self.folder / name, before)
        )

    def again(self, peer: PeerProcess) -> PeerProcess:
        """A peer that has ended comes back by the same command."""
        self.peers.remove(peer)
        return self._add(peer.again())

    def _add(self, peer: PeerProcess) -> PeerProcess:
        self.peers.append(peer)
        return peer

    @property
    def alive(self) -> list[PeerProcess]:
        """Those that run."""
        return [peer for peer in self.peers if peer.process.poll() is None]

    def clear(self) -> None:
        """Kill what is left."""
        for peer in self.peers:
            peer.process.send_signal(signal.SIGCONT)
            peer.kill()


def roots_agree(*peers: PeerProcess) -> set[int]:
    """The rounds that at least two of ``peers`` have told. Raises `AssertionError` where they differ in a state root."""
    told = [peer.rounds for peer in peers]
    shared = {round_ for rounds in told for round_ in rounds if sum(round_ in other for other in told) > 1}
    for round_ in shared:
        assert len({rounds[round_] for rounds in told if round_ in rounds}) == 1, f"round {round_}: {told}"
    return shared
