"""What a peer writes without a dashboard: one short line per round for people, or JSON lines for programs.

    21:14:07 round 812  loss 3.41  eval 1.62 bits/byte  peers 5/6  averaged in 0.3 s  up 31 MB
    {"event":"round","round":812,"state_root":"3fa9…","members":5,"missing":1,"loss":3.41,…}

With JSON, standard output is JSON lines and nothing else: one object with the key ``event`` per line, flushed
at once.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from typing import TextIO

import msgspec

from swarm.errors import SwarmError

from .text import clean, duration, number, rate, size

_LONGEST = 4096
"""Most cells of one text in a line; a ticket with eight entries has fewer than 2000."""

_SENTENCES: Mapping[str, Sequence[str]] = {
    "ticket": ("invite a friend: swarm join {ticket}",),
    "joined": ('joined the run "{run_name}" as {name}; listening on {listen}', "{name} joined"),
    "left": ("left the run: {reason}", "{name} left"),
    "resumed": ("going on from round {round}: {checkpoint}",),
    "synced": ("fetched the model of round {round}; donors: {donors}",),
    "checkpoint": ("saved a checkpoint of round {round}: {path}",),
    "model": ("the run is over after round {round}; its model: {path}",),
    "rehearsing": ("rehearsing {rounds} rounds of {peers} peers; seed {seed}, processes: {processes}",),
    "rehearsal": (
        "rehearsed {virtual_seconds} virtual seconds in {seconds} s; crashes: {crashes}; "
        "all state roots equal: {state_roots_equal}; per peer and round: {messages_per_peer_per_round} "
        "messages, {bytes_per_peer_per_round}; transcript {transcript}",
    ),
    "violation": ("seed {seed}: {code}: {fact}; to repeat it: {replay}",),
    "rehearsals": (
        "rehearsed {seeds} seeds in {seconds} s; seeds that failed: {failed} ({violations})",
        "rehearsed {seeds} seeds in {seconds} s; nothing was wrong with any of them",
    ),
    "chaos": ("{fault} process {pid} after {after} s",),
}
"""What people read for an event: the first sentence whose fields are all there. Other events are lists of
names and values."""

_LABELS = {"bytes_per_second": "at"}
"""What people read in such a list for a field, where its name would not do."""


class RoundOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one round gave: the average and the quality of the model."""

    round: int
    state_root: str
    """Hexadecimal root of the model after the round: equal on every member."""
    members: int
    """Peers whose updates are in the average, this one included."""
    missing: int
    """Members of the group whose updates are not in the average."""
    loss: float
    """Mean training loss of this peer's own local steps, nats per token. ``null`` where training has
    diverged."""
    bits_per_byte: float | None = None
    """On held-out text; ``null`` where this round was not evaluated."""


class RoundReport(RoundOutcome, frozen=True, kw_only=True, tag_field="event", tag="round"):
    """One finished round: its outcome, and what it cost this peer.

    The names of all fields are an interface that scripts read: they never change.
    """

    tokens: int = 0
    """Tokens that this peer has trained on, whole run."""
    local_steps: int = 0
    seconds: float = 0.0
    average_seconds: float = 0.0
    bytes_up: int = 0
    """Bytes that this peer sent in this round."""
    bytes_down: int = 0


def round_line(report: RoundReport) -> str:
    """Return the line that people read, without the time of day."""
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
    """Writes what happens to ``out``, for people or as JSON lines.

    When the reader of ``out`` has gone, or ``out`` is a file on a full disk, it stops writing, and the peer
    trains on.

    ``clock`` gives seconds since 1970.
    """

    def __init__(self, out: TextIO, json_lines: bool = False, clock: Callable[[], float] = time.time) -> None:
        self._out = out
        self._json = json_lines
        self._clock = clock
        self.silenced = False
        """True once a line could not be written."""

    def __repr__(self) -> str:
        form = "JSON lines" if self._json else "lines"
        return f"Reporter({form}{', silenced' if self.silenced else ''})"

    def round_finished(self, report: RoundReport) -> None:
        """Write one line for a finished round."""
        self._write(json_line(report) if self._json else self._dated(round_line(report)))

    def event(self, name: str, /, **fields: object) -> None:
        """Write one line for any other event: ``ticket``, ``joined``, ``left``, ``checkpoint``, ….

        People read a sentence (`told`); of a warning, the fact and the advice.
        """
        if self._json:
            self._write(json_line({"event": name, **fields}))
        elif name in ("warning", "error") and "fact" in fields:
            code = str(fields.get("code", name))
            self._write_warning(name, code, str(fields["fact"]), str(fields.get("advice", "")))
        else:
            self._write(self._dated(told(name, fields)))

    def error(self, error: SwarmError) -> None:
        """Write one line for what went wrong; for people, a second one with the advice."""
        if self._json:
            advice = {"advice": error.advice} if error.advice else {}
            self.event("error", code=error.code, fact=error.fact, **advice)
        else:
            self._write_warning("error", error.code, error.fact, error.advice)

    def _write_warning(self, name: str, code: str, fact: str, advice: str) -> None:
        self._write(self._dated(f"{name}: {clean(fact, _LONGEST)} [{clean(code, 40)}]"))
        if advice:
            self._write(f"         try: {clean(advice, _LONGEST)}")

    def _dated(self, words: str) -> str:
        return f"{time.strftime('%H:%M:%S', time.localtime(self._clock()))} {words}"

    def _write(self, line: str) -> None:
        if self.silenced:
            return
        encoding = self._out.encoding or "utf-8"
        try:
            self._out.write(line.encode(encoding, "replace").decode(encoding) + "\n")
            self._out.flush()
        except (OSError, ValueError) as error:  # ValueError: the stream was closed in this process
            self.silenced = True
            stop_writing(self._out, error)


def told(name: str, fields: Mapping[str, object]) -> str:
    """Return the line that people read for an event: a sentence, or the names and values of its fields."""
    texts = {key: _text_of(key, value) for key, value in fields.items()}
    for sentence in _SENTENCES.get(name, ()):
        if all(texts.get(key) for key in _fields_of(sentence)):
            return sentence.format_map(texts)
    return _listed(name, texts)


def _fields_of(sentence: str) -> list[str]:
    return [key for _, key, _, _ in Formatter().parse(sentence) if key]


def _listed(name: str, texts: Mapping[str, str]) -> str:
    """Return the event's name, its first value, then each further value after its name. A fact stands alone.

    Long ids are left out: a peer's where its name is there.
    """
    ids = {"run", "state_root"}
    if texts.get("name"):
        ids.add("peer")
    words = [] if "fact" in texts else [clean(name, 40)]
    for key, text in texts.items():
        if key in ids or not text:
            continue
        has_label = key != "fact" and len(words) != 1
        label = _LABELS.get(key, key.replace("_", " "))
        words.append(f" {label} {text}" if has_label else text)
    return " ".join(words)


def _text_of(key: str, value: object) -> str:
    """Return one value as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text_of(str(name), each)}" for name, each in value.items())
    if isinstance(value, int | float) and key == "bytes_per_second":
        return rate(value)
    if isinstance(value, int) and key.startswith("bytes_"):
        return size(value)
    return number(value) if isinstance(value, float) else clean(str(value), _LONGEST)


def json_line(value: object) -> str:
    """Return ``value`` as JSON on one line of ASCII: texts cleaned, ``null`` for infinite numbers and NaN."""
    plain = json.loads(msgspec.json.encode(_cleaned(msgspec.to_builtins(value, enc_hook=str))))
    return json.dumps(plain, separators=(",", ":"))


def _cleaned(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in value]
    return clean(value, _LONGEST) if isinstance(value, str) else value


def stop_writing(out: TextIO, error: OSError | ValueError) -> None:
    """Give ``out`` up after ``error``. A full disk is told on standard error, if that can be written."""
    is_told = _has_reader(out, error) and out is not sys.stderr
    discard_buffered(out)
    if is_told:
        name = "standard output" if out is sys.stdout else str(getattr(out, "name", "the output"))
        fact = f"cannot write to {name} any more: {getattr(error, 'strerror', '') or error}"
        advice = "free some space, and start again where the lines matter; all else goes on without them"
        Reporter(sys.stderr).event("warning", code="disk", fact=fact, advice=advice)


def _has_reader(out: TextIO, error: OSError | ValueError) -> bool:
    """Whether somebody may still read ``out``: ``error`` is not the end of a pipe or of a terminal."""
    if isinstance(error, BrokenPipeError | ValueError):
        return False
    if error.errno != errno.EIO:
        return True
    try:
        return stat.S_ISREG(os.fstat(out.fileno()).st_mode)  # of all others, a terminal that was closed
    except (OSError, ValueError):
        return False


def discard_buffered(out: TextIO) -> None:
    """Point ``out`` at the null device.

    Else Python would write what is still buffered when it exits, and fail noisily.
    """
    try:
        descriptor = out.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except (OSError, ValueError):
        return  # not a file of the system: nothing will be flushed later
    try:
        os.dup2(nowhere, descriptor)
    finally:
        os.close(nowhere)
