"""Many real peers on one computer, started in a moment: a nurse process loads everything once, and each peer is a fork of it.

    parent ──► fork server (all modules loaded) ──► peer, peer, peer …        each with its own home, stdout and stderr in files

A peer runs the command line like any other (``swarm join TICKET --json``), in a session of its own. Rule: nobody outlives the
parent, not even where it is killed: the kernel kills the peers when the fork server ends, and that ends with the parent.
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
LOADED = ["benchmarks.nurse"]
POLL_SECONDS = 0.02
_DIE_WITH_PARENT = 1


class Nursling:
    """One life of one peer. ``events`` is what it has told so far, as of the last `poll`."""

    def __init__(self, name: str, home: Path, process: ForkServerProcess) -> None:
        self.name, self.home = name, home
        self.events: list[Event] = []
        self._process = process
        self._out = _out_of(home).open("rb")
        self._rest = b""

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process.is_alive()

    @property
    def stderr(self) -> str:
        """All it has written to standard error."""
        return _errors_of(self.home).read_text(errors="replace")

    def poll(self) -> list[Event]:
        """Read what it has told since the last time; that alone."""
        *lines, self._rest = (self._rest + self._out.read()).split(b"\n")
        fresh = [{**json.loads(line), "at": time.monotonic()} for line in lines]
        self.events += fresh
        return fresh

    @property
    def missed(self) -> set[int]:
        """Rounds that it had no average of."""
        return {
            event["round"]
            for event in self.events
            if event["event"] == "warning" and event["code"] == "round-missed"
        }

    def decided(self, after: float = 0.0) -> list[Event]:
        """Rounds of which it had an average, told later than ``after``."""
        missed = self.missed
        return [
            event
            for event in self.events
            if event["event"] == "round" and event["at"] > after and event["round"] not in missed
        ]

    def size(self) -> tuple[int, int] | None:
        """(open files, bytes of memory of its own); None where it has just ended."""
        try:
            process = psutil.Process(self._process.pid)
            return process.num_fds(), process.memory_full_info().uss
        except psutil.Error:
            return None

    def kill(self) -> None:
        """As a power cut."""
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        """Kill it where it still lives, and read no more."""
        self.kill()
        self._process.close()
        self._out.close()


class Nursery:
    """Starts peers, in a folder that goes with it. A context manager: nobody is left when it is left."""

    def __init__(self) -> None:
        os.environ.setdefault(
            "PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker"
        )  # of those who are killed
        self._folder = tempfile.TemporaryDirectory(prefix="swarm-nursery-")
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(LOADED)
        self.folder = Path(self._folder.name)
        self.everybody: list[Nursling] = []

    def __enter__(self) -> Nursery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for nursling in self.everybody:
            nursling.close()
        self._folder.cleanup()

    def found(self, name: str, *options: str) -> tuple[Nursling, str]:
        """Found a run; the peer and its ticket."""
        peer = self._start(name, ["new", "--listen", "127.0.0.1:0", *options])
        return peer, str(wait_for(peer, "ticket")["ticket"])

    def join(self, name: str, ticket: str) -> Nursling:
        """One more peer of the run."""
        return self._start(name, ["join", ticket, "--listen", "127.0.0.1:0"])

    def _start(self, name: str, words: Sequence[str]) -> Nursling:
        home = self.folder / name
        _out_of(home).touch()
        _errors_of(home).touch()
        process = self._context.Process(
            target=_live, args=([*words, "--home", str(home), "--json"], home), name=name, daemon=True
        )
        with _without_main():
            process.start()
        nursling = Nursling(name, home, process)
        self.everybody.append(nursling)
        return nursling


def wait_for(peer: Nursling, event: str, seconds: float = 60.0) -> Event:
    """The first event called so. Raises `TimeoutError` with its standard error."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and (peer.is_alive or peer.poll()):
        peer.poll()
        for found in peer.events:
            if found["event"] == event:
                return found
        time.sleep(POLL_SECONDS)
    raise TimeoutError(
        f"{peer.name} told no {event} in {seconds:g} s, but {peer.events[-3:]}; {peer.stderr[-2000:]}"
    )


def divergent(peers: Sequence[Nursling], after: float = 0.0) -> list[int]:
    """The rounds, told later than ``after``, of which two of ``peers`` have different models."""
    roots: dict[int, set[str]] = {}
    for peer in peers:
        for event in peer.decided(after):
            roots.setdefault(event["round"], set()).add(event["state_root"])
    return sorted(round_ for round_, said in roots.items() if len(said) > 1)


def complaints(peers: Sequence[Nursling]) -> str:
    """What peers wrote to standard error, for people."""
    said = [(peer.name, peer.stderr.strip()) for peer in peers]
    return "\n".join(f"{name}: {text}" for name, text in said if text)


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _live(words: list[str], home: Path) -> None:
    """The peer's process, from its fork to its end."""
    die_with_parent()
    os.setsid()
    with _out_of(home).open("ab") as out, _errors_of(home).open("ab") as errors:
        os.dup2(out.fileno(), 1)
        os.dup2(errors.fileno(), 2)
    sys.argv = ["swarm", *words]
    from peer.commands.main import main

    main()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """A started process would import the parent's main module again, which is a benchmark and no business of a peer's."""
    module = sys.modules["__main__"]
    spec, file = getattr(module, "__spec__", None), module.__dict__.pop("__file__", None)
    module.__spec__ = None
    try:
        yield
    finally:
        module.__spec__ = spec
        if file is not None:
            module.__file__ = file


def _out_of(home: Path) -> Path:
    return home.with_name(f"{home.name}.out")


def _errors_of(home: Path) -> Path:
    return home.with_name(f"{home.name}.err")
