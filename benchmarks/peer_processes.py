"""Many real peers on one computer: a fork server loads all modules once, and each peer is a fork of it.

    parent ──► fork server (all modules loaded) ──► peer, peer, peer …
                                                    each with a home of its own, stdout and stderr in files

A peer runs the command line like any other (``swarm join TICKET --json``), in a session of its own. Rule: no
process outlives the parent, not even where the parent is killed: the kernel kills the peers when the fork
server ends, and that ends with the parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

Event = dict[str, Any]
"""A JSON line of a peer, with ``at``: seconds of the monotonic clock when it was read here."""
PRELOADED = ["benchmarks.preload"]
POLL_SECONDS = 0.02
"""Between two looks at what peers have written."""
PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that this process gets when its parent ends."""


class PeerProcess:
    """One peer, from its start to its end.

    ``events`` are the JSON lines it had written at the last `poll`.
    """

    def __init__(self, name: str, home: Path, process: ForkServerProcess) -> None:
        self.name = name
        self.home = home
        self.events: list[Event] = []
        self._process = process
        self._out = _stdout_file(home).open("rb")
        self._rest = b""

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process.is_alive()

    @property
    def stderr(self) -> str:
        """All that it has written to standard error."""
        return _stderr_file(self.home).read_text(errors="replace")

    def poll(self) -> list[Event]:
        """Read its new lines, and return those alone."""
        *lines, self._rest = (self._rest + self._out.read()).split(b"\n")
        new = [{**json.loads(line), "at": time.monotonic()} for line in lines]
        self.events += new
        return new

    @property
    def missed(self) -> set[int]:
        """Rounds of which it had no average."""
        return {
            event["round"]
            for event in self.events
            if event["event"] == "warning" and event["code"] == "round-missed"
        }

    def decided(self, after: float = 0.0) -> list[Event]:
        """The events of rounds of which it had an average, read later than ``after``."""
        missed = self.missed
        return [
            event
            for event in self.events
            if event["event"] == "round" and event["at"] > after and event["round"] not in missed
        ]

    def size(self) -> tuple[int, int] | None:
        """(open files, bytes of memory of its own); None where the process has just ended."""
        try:
            process = psutil.Process(self._process.pid)
            return process.num_fds(), process.memory_full_info().uss
        except psutil.Error:
            return None

    def kill(self) -> None:
        """Kill it without warning, as a power cut would."""
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        """Kill it if it still runs, and close its files."""
        self.kill()
        self._process.close()
        self._out.close()


class PeerProcesses:
    """Starts peers, whose homes are in a temporary folder. A context manager: no peer is left after it."""

    def __init__(self) -> None:
        # the resource tracker warns of every process that was killed
        os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")
        self._folder = tempfile.TemporaryDirectory(prefix="swarm-peers-")
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self.folder = Path(self._folder.name)
        self.all: list[PeerProcess] = []

    def __enter__(self) -> PeerProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for peer in self.all:
            peer.close()
        self._folder.cleanup()

    def new(self, name: str, *options: str) -> tuple[PeerProcess, str]:
        """Start a run (``swarm new``); its first peer, and its ticket."""
        peer = self._start(name, ["new", "--listen", "127.0.0.1:0", *options])
        return peer, str(wait_for(peer, "ticket")["ticket"])

    def join(self, name: str, ticket: str) -> PeerProcess:
        """Start one more peer of the run."""
        return self._start(name, ["join", ticket, "--listen", "127.0.0.1:0"])

    def _start(self, name: str, words: Sequence[str]) -> PeerProcess:
        home = self.folder / name
        _stdout_file(home).touch()
        _stderr_file(home).touch()
        process = self._context.Process(
            target=_run, args=([*words, "--home", str(home), "--json"], home), name=name, daemon=True
        )
        with _without_main():
            process.start()
        peer = PeerProcess(name, home, process)
        self.all.append(peer)
        return peer


def wait_for(peer: PeerProcess, event: str, seconds: float = 60.0) -> Event:
    """The first event of that name.

    Raises `TimeoutError`, with the peer's standard error, where none comes in ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and (peer.is_alive or peer.poll()):
        peer.poll()
        for found in peer.events:
            if found["event"] == event:
                return found
        time.sleep(POLL_SECONDS)
    raise TimeoutError(
        f"{peer.name} wrote no {event} in {seconds:g} s, but {peer.events[-3:]}; {peer.stderr[-2000:]}"
    )


def divergent(peers: Sequence[PeerProcess], after: float = 0.0) -> list[int]:
    """The rounds, read later than ``after``, of which two of ``peers`` have different models."""
    roots: dict[int, set[str]] = {}
    for peer in peers:
        for event in peer.decided(after):
            roots.setdefault(event["round"], set()).add(event["state_root"])
    return sorted(round_ for round_, different in roots.items() if len(different) > 1)


def errors_of(peers: Sequence[PeerProcess]) -> str:
    """What ``peers`` wrote to standard error, each text after the name of its peer."""
    texts = [(peer.name, peer.stderr.strip()) for peer in peers]
    return "\n".join(f"{name}: {text}" for name, text in texts if text)


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _run(words: list[str], home: Path) -> None:
    """Run the command line ``words`` in the forked process, until it ends."""
    die_with_parent()
    os.setsid()
    with _stdout_file(home).open("ab") as out, _stderr_file(home).open("ab") as errors:
        os.dup2(out.fileno(), 1)
        os.dup2(errors.fileno(), 2)
    sys.argv = ["swarm", *words]
    from peer.commands.main import main

    main()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the parent's main module, a benchmark, which a started process would import again."""
    module = sys.modules["__main__"]
    spec = getattr(module, "__spec__", None)
    file = module.__dict__.pop("__file__", None)
    module.__spec__ = None
    try:
        yield
    finally:
        module.__spec__ = spec
        if file is not None:
            module.__file__ = file


def _stdout_file(home: Path) -> Path:
    return home.with_name(f"{home.name}.out")


def _stderr_file(home: Path) -> Path:
    return home.with_name(f"{home.name}.err")
