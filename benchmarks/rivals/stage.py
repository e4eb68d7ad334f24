"""A peer on the stage of a benchmark: one JSON line in, one JSON line out.

    prepare(scene) ──► card      meet(cards)      refill, average ──► `Times`, check ──► `Verdict`     drop     close

The parent holds the other end of standard input. When it closes, for whatever reason, the whole process group is killed at once:
a benchmark that was interrupted, or killed itself, leaves nobody behind.
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
class Scene:
    """One cell of the grid, for one peer. ``folder`` is empty at first and shared by the peers of one system.

    ``share``: bytes that one peer sends to one other in a butterfly of ours, its share of the update and of the result.
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

    ``called``: the peer asked for it; ``began``: its group stood; ``ended``: it had the average. ``sent``: bytes that this peer has
    sent since it was prepared, 0 where it cannot know. ``fault`` says in words why there is no average.
    """

    called: float
    began: float
    ended: float
    sent: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Of the last average: relative L2 distance from the true mean, and a hash of its bits (empty where peers may differ)."""

    error: float
    digest: str = ""


class Rival(Protocol):
    """One system, as one peer. Called from one thread, one method at a time; what raises is told to the parent."""

    def prepare(self, scene: Scene) -> Any:
        """Get ready for a scene; what the others have to know of this peer, as JSON."""

    def meet(self, cards: list[Any]) -> None:
        """Hear the cards of all peers, in the order of their seats."""

    def refill(self) -> None:
        """Before every averaging: the same numbers as at first. Not timed."""

    def average(self) -> Times:
        """Average once with all the others."""

    def check(self) -> Verdict:
        """What the last average was worth. Not timed."""

    def drop(self) -> None:
        """The scene is over: let go of its memory and its connections."""

    def close(self) -> None:
        """The last scene is over: leave nothing behind that outlives the process."""


def act(rival: object) -> None:
    """Do what the parent says until it says no more: call the methods that it names. Never returns."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to the log, not among the answers
    orders = _orders()
    while True:
        order = orders.get()
        try:
            answers.write(json.dumps({"ok": _obey(rival, **order)}) + "\n")
        except Exception as error:  # noqa: BLE001 - the parent decides what an error of a rival means
            traceback.print_exc()
            answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")


def _obey(rival: Any, do: str, **what: Any) -> Any:
    match do:
        case "prepare":
            return rival.prepare(Scene(**what))
        case "average":
            return asdict(rival.average())
        case "check":
            return asdict(rival.check())
        case _:
            return getattr(rival, do)(**what)


def _orders() -> queue.Queue[dict[str, Any]]:
    """Standard input as a queue. Read below Python's own buffers: a rival may fork, and a fork must not inherit a held lock."""
    found: queue.Queue[dict[str, Any]] = queue.Queue()
    source = os.dup(0)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)

    def read() -> None:
        for line in _lines(source):
            found.put(json.loads(line))
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=read, daemon=True, name="orders").start()
    return found


def _lines(source: int) -> Iterator[bytes]:
    kept = b""
    while chunk := os.read(source, 1 << 16):
        *lines, kept = (kept + chunk).split(b"\n")
        yield from lines


def note(text: str) -> None:
    """A line for the log of this peer."""
    print(text, file=sys.stderr, flush=True)
