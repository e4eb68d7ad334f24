"""A worker process of a benchmark: it reads one JSON order a line, and writes one JSON answer a line.

    prepare(trial) ──► contact   connect(contacts)   reset   average ──► `Times`   check ──► `Check`   release

The parent (`benchmarks.worker_pool`) holds the other end of standard input. When it closes, for whatever
reason, the worker kills its whole process group at once: a benchmark that was interrupted, or killed itself,
leaves no process behind.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one worker averages, with whom. ``folder`` is shared by the workers of one system, empty at first.

    ``share``: bytes that one peer sends to one other in Swarm's butterfly, its share of the update and of the
    result.
    """

    name: str
    seat: int
    peers: int
    parameters: int
    codec: str
    share: int
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """One averaging in seconds of the monotonic clock, which all processes of a machine share.

    ``called``: the peer asked for it; ``began``: its group was complete; ``ended``: it had the average.
    ``sent``: bytes that this peer has sent since it was prepared, 0 where it cannot know. ``fault`` says why
    there is no average.
    """

    called: float
    began: float
    ended: float
    sent: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Of the last average: relative L2 distance from the true mean, a hash of its bits if they must agree."""

    error: float
    digest: str = ""


class System(Protocol):
    """One peer of a system under test.

    One thread calls one method at a time; the parent is told of every exception.
    """

    def prepare(self, trial: Trial) -> Any:
        """Get ready for ``trial``. Returns, as JSON, what the other peers need in order to reach this one."""

    def connect(self, contacts: list[Any]) -> None:
        """Take what `prepare` returned for each peer, in the order of their seats."""

    def reset(self) -> None:
        """Before every averaging: restore the numbers of the first one. Not timed."""

    def average(self) -> Times:
        """Average once with all the others."""

    def check(self) -> Check:
        """Compare the last average with the true mean. Not timed."""

    def release(self) -> None:
        """The trial is over: free its memory and close its connections."""

    def close(self) -> None:
        """The last trial is over: remove everything that would outlive the process."""


def serve(system: object) -> None:
    """Call the methods of ``system`` that the parent names, until the parent closes the pipe.

    Never returns.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints goes to the log, not among the answers
    orders = _orders()
    while True:
        order = orders.get()
        try:
            answers.write(json.dumps({"ok": _obey(system, **order)}) + "\n")
        except Exception as error:  # noqa: BLE001 - the parent decides what an error of a rival means
            traceback.print_exc()
            answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")


def _obey(system: Any, do: str, **arguments: Any) -> Any:
    match do:
        case "prepare":
            return system.prepare(Trial(**arguments))
        case "average":
            return asdict(system.average())
        case "check":
            return asdict(system.check())
        case _:
            return getattr(system, do)(**arguments)


def _orders() -> queue.Queue[dict[str, Any]]:
    """Standard input as a queue.

    Read below Python's own buffers: a rival may fork, and a fork must not inherit a held lock.
    """
    orders: queue.Queue[dict[str, Any]] = queue.Queue()
    source = os.dup(0)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)

    def read() -> None:
        for line in _lines(source):
            orders.put(json.loads(line))
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=read, daemon=True, name="orders").start()
    return orders


def _lines(source: int) -> Iterator[bytes]:
    rest = b""
    while chunk := os.read(source, 1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


def note(text: str) -> None:
    """Write a line to this worker's log."""
    print(text, file=sys.stderr, flush=True)
