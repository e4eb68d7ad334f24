"""How a peer without a dashboard talks: one short line per round for people, or JSON lines for machines.

    21:14:07 round 812  loss 3.41  eval 1.62 bits/byte  peers 5/6  averaged in 0.3 s  up 31 MB
    {"event":"round","round":812,"state_root":"3fa9…","members":5,"missing":1,"loss":3.41,…}

With JSON, standard output is JSON lines and nothing else: one object with the key ``event`` per line, flushed at once.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from typing import TextIO

import msgspec

from swarm.errors import SwarmError

from .text import clean, duration, number, rate, size

_LONGEST = 4096
"""Cells of one text in a report; a ticket with eight entries has fewer than 2000."""

_WORDS = {
    "ticket": "invite a friend: swarm join",
    "run_name": "run",
    "listen": "listens on",
    "bytes_per_second": "at",
}


class RoundReport(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="round"):
    """What one finished round was. The names of the fields are an interface: scripts read them, so they never change."""

    round: int
    state_root: str
    """Hexadecimal root of the model after the round: equal on every member."""
    members: int
    """Peers whose work is in the average, this one included."""
    missing: int
    """Peers of the group whose work is not."""
    loss: float
    """Mean training loss of this peer's own local steps, nats per token. Not finite (training has diverged) reads ``null``."""
    bits_per_byte: float | None = None
    """On held-out text; ``null`` where this round was not evaluated."""
    tokens: int = 0
    """Trained on by this peer, whole run."""
    local_steps: int = 0
    seconds: float = 0.0
    average_seconds: float = 0.0
    bytes_up: int = 0
    """By this peer in this round."""
    bytes_down: int = 0


def round_line(report: RoundReport) -> str:
    """``report`` for people, without the time of day."""
    score = report.bits_per_byte
    parts = [
        f"round {report.round}",
        f"loss {number(report.loss)}",
        f"eval {number(score)} bits/byte" if score is not None and math.isfinite(score) else "",
        f"peers {report.members}/{report.members + report.missing}",
        f"averaged in {duration(report.average_seconds)}",
        f"up {size(report.bytes_up)}" if report.bytes_up else "",
    ]
    return "  ".join(part for part in parts if part)


class Reporter:
    """Writes what happens to ``out``. A reader that went away stops the writing, never the peer."""

    def __init__(self, out: TextIO, json_lines: bool = False, clock: Callable[[], float] = time.time) -> None:
        self._out = out
        self._json = json_lines
        self._clock = clock
        self.silenced = False
        """True once nobody reads ``out`` any more."""

    def __repr__(self) -> str:
        form = "JSON lines" if self._json else "lines"
        return f"Reporter({form}{', silenced' if self.silenced else ''})"

    def round_finished(self, report: RoundReport) -> None:
        """One line for a finished round."""
        self._write(json_line(report) if self._json else self._dated(round_line(report)))

    def event(self, name: str, /, **fields: object) -> None:
        """One line for anything else; ``name`` is ``ticket``, ``joined``, ``left``, ``banned``, ``synced``, ``checkpoint``….

        A person reads the values in the order given, the first one bare; of trouble, the fact and the ``advice``.
        """
        if self._json:
            self._write(json_line({"event": name, **fields}))
        elif name in ("warning", "error") and "fact" in fields:
            self._trouble(
                name, str(fields.get("code", name)), str(fields["fact"]), str(fields.get("advice", ""))
            )
        else:
            self._write(self._dated(told(name, fields)))

    def error(self, error: SwarmError) -> None:
        """One line for what went wrong, and for people another one for what to do about it where there is an advice."""
        if self._json:
            self.event(
                "error",
                code=error.code,
                fact=error.fact,
                **({"advice": error.advice} if error.advice else {}),
            )
        else:
            self._trouble("error", error.code, error.fact, error.advice)

    def _trouble(self, name: str, code: str, fact: str, advice: str) -> None:
        self._write(self._dated(f"{name}: {clean(fact, _LONGEST)} [{clean(code, 40)}]"))
        if advice:
            self._write(f"         try: {clean(advice, _LONGEST)}")

    def _dated(self, words: str) -> str:
        return f"{time.strftime('%H:%M:%S', time.localtime(self._clock()))} {words}"

    def _write(self, line: str) -> None:
        if self.silenced:
            return
        coding = self._out.encoding or "utf-8"
        try:
            self._out.write(line.encode(coding, "replace").decode(coding) + "\n")
            self._out.flush()
        except (
            BrokenPipeError,
            ValueError,
        ):  # the reader has gone; ValueError: the stream was closed on this side
            self.silenced = True
            point_at_nothing(self._out)


def told(name: str, fields: dict[str, object]) -> str:
    """An event for people: names instead of the long ids they belong to."""
    ids = {"run", "state_root"} | ({"peer"} if fields.get("name") else set())
    words = [] if "fact" in fields else [_WORDS.get(name, name)]
    for key, value in fields.items():
        shown = _shown(key, value)
        if key not in ids and shown:
            words.append(
                shown
                if key == "fact" or len(words) == 1
                else f" {_WORDS.get(key, key.replace('_', ' '))} {shown}"
            )
    return " ".join(words)


def _shown(key: str, value: object) -> str:
    if key == "bytes_per_second" and isinstance(value, int | float):
        return rate(value)
    return number(value) if isinstance(value, float) else clean(str(value), _LONGEST)


def json_line(value: object) -> str:
    """``value`` as JSON on one line of ASCII: texts cleaned, numbers that JSON cannot hold as ``null``."""
    plain = json.loads(msgspec.json.encode(_cleaned(msgspec.to_builtins(value, enc_hook=str))))
    return json.dumps(plain, separators=(",", ":"))


def _cleaned(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in value]
    return clean(value, _LONGEST) if isinstance(value, str) else value


def point_at_nothing(out: TextIO) -> None:
    """Send what is still buffered for a reader that has gone to nowhere, so that the flush when Python exits stays silent."""
    try:
        descriptor = out.fileno()
    except (OSError, ValueError):
        return  # not a file of the system: nothing will be flushed later
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, descriptor)
    finally:
        os.close(nowhere)
