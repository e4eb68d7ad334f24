"""The viewer: asks for snapshots, draws them, reads keys, and leaves the terminal as it found it.

    terminal        the picture on the alternate screen: asked for twice a second, drawn when it has changed
    no terminal     one line per round, for people or as JSON
    once            one picture, and an exit status for scripts: 0 well, 1 degraded, 2 no answer

It is a process of its own, next to the peer: drawing does not slow down training, and quitting never stops
the peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import TextIO

from rich.console import Console
from rich.live import Live

from swarm.errors import SwarmError

from ..observe.reporter import Reporter, RoundReport, stop_writing
from ..observe.snapshot import Snapshot, encode, is_well
from ..observe.text import clean
from .frame import Frame
from .panels import SORTS
from .theme import Theme, fitting
from .view import Look, unanswered, view

Source = Callable[[], Awaitable[Snapshot]]
"""Gives the newest snapshot; raises a `SwarmError` where there is none at the moment."""

WELL = 0
"""Exit status: the peer is well."""
DEGRADED = 1
"""Exit status: the peer answers, and is not well."""
UNREACHABLE = 2
"""Exit status: no answer."""

_PERIOD = 0.5
"""Seconds between two questions."""
_PATIENCE = 12.0
"""Seconds until a source without a deadline of its own counts as silent."""
_DEFAULT_SIZE = (120, 34)
"""Width and height of a picture without a terminal."""
_SMALL_SIZE = (80, 24)
"""Width and height for a terminal that does not know its own."""
_LARGEST = 10_000
"""Columns or lines that $COLUMNS and $LINES may ask for, below this."""


async def watch(
    source: Source,
    *,
    once: bool = False,
    json_lines: bool = False,
    ascii: bool = False,
    out: TextIO | None = None,
) -> int:
    """Show the snapshots of ``source`` until the person quits; return the exit status.

    Without a terminal, or with ``json_lines``, it writes lines until the run is finished or ``out`` takes no
    more: its reader has gone, or its disk is full. A source that fails is asked again for ever, except with
    ``once``. ``out`` is standard output where not given.
    """
    out = out or sys.stdout
    status = WELL
    try:
        if once:
            answer = await _ask(source)
            status = _status_of(answer)
            _write_once(answer, out, json_lines, ascii)
        elif json_lines or not out.isatty() or os.environ.get("TERM") == "dumb":
            status = await _lines(source, out, json_lines)
        else:
            status = await _Screen(source, out, fitting(os.environ, out.encoding or "", ascii)).run()
    except* OSError as errors:  # only writing to `out` raises it here
        error = _first(errors)
        stop_writing(out, error)
        if isinstance(error, BrokenPipeError):
            status = WELL
    return status


def _first(errors: ExceptionGroup[OSError]) -> OSError:
    """Return the first error of the group."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


async def _ask(source: Source) -> Snapshot | str:
    """Return the next snapshot, or the reason why there is none."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await source()
    except TimeoutError:
        return f"the peer did not answer within {_PATIENCE:.0f} s"
    except SwarmError as error:
        return f"{error.fact}; {error.advice}" if error.advice else error.fact


# --- without a screen ---------------------------------------------------------------------------------------


def _status_of(answer: Snapshot | str) -> int:
    """Return the exit status for scripts."""
    if isinstance(answer, str):
        return UNREACHABLE
    return WELL if is_well(answer) else DEGRADED


def _write_once(answer: Snapshot | str, out: TextIO, json_lines: bool, ascii_only: bool) -> None:
    """Write one picture or one JSON line, or why there is none."""
    if isinstance(answer, str):
        out.write(f"{clean(answer, 1000)}\n")
    elif json_lines:
        out.write(_as_json(answer))
    else:
        width, height = _size(out)
        theme = fitting(os.environ, out.encoding or "", ascii_only)
        console = Console(file=out, width=width, height=height, highlight=False)
        # One line less than the terminal has: the shell's prompt needs the last one.
        console.print(view(answer, width, max(1, height - 1), theme=theme), end="")
    out.flush()


async def _lines(source: Source, out: TextIO, json_lines: bool) -> int:
    """Write what is new in each snapshot, until the run is finished or ``out`` takes no more."""
    reporter = Reporter(out)
    before: Snapshot | None = None
    is_silent = False
    while not reporter.silenced:
        answer = await _ask(source)
        if isinstance(answer, str):
            if not is_silent and not json_lines:
                reporter.event("no answer:", reason=answer)
            is_silent = True
        else:
            if json_lines:
                _write_json(out, answer, before)
            else:
                _report_news(reporter, answer, before)
            before = answer
            is_silent = False
            if answer.health == "FINISHED":
                return WELL
        await asyncio.sleep(_PERIOD)
    return WELL


def _news(snapshot: Snapshot) -> tuple[int, str, str]:
    """What is worth a line when it changes."""
    return snapshot.round, snapshot.health, snapshot.reason


def _write_json(out: TextIO, snapshot: Snapshot, before: Snapshot | None) -> None:
    """Write ``snapshot`` as a line, where it has news since ``before``."""
    if before is None or _news(snapshot) != _news(before):
        out.write(_as_json(snapshot))
        out.flush()


def _report_news(reporter: Reporter, snapshot: Snapshot, before: Snapshot | None) -> None:
    """Write what is new since ``before``, for people."""
    if before is None or _news(snapshot)[1:] != _news(before)[1:]:
        reporter.event(snapshot.health, reason=snapshot.reason)
    if snapshot.losses and (before is None or snapshot.round != before.round):
        reporter.round_finished(report_of(snapshot, before))


def _as_json(snapshot: Snapshot) -> str:
    """Return ``snapshot`` as one line of ASCII, which every locale can show."""
    return json.dumps(json.loads(encode(snapshot)), separators=(",", ":")) + "\n"


def report_of(snapshot: Snapshot, before: Snapshot | None) -> RoundReport:
    """Return the last round of ``snapshot`` as the peer would report it.

    Traffic is counted from the snapshot ``before``.
    """
    score = snapshot.evaluations[-1].value if snapshot.evaluations else None
    bytes_up = snapshot.bytes_up - before.bytes_up if before else 0
    bytes_down = snapshot.bytes_down - before.bytes_down if before else 0
    return RoundReport(
        round=snapshot.round,
        state_root=snapshot.state_root,
        members=snapshot.members,
        missing=snapshot.missing,
        loss=snapshot.losses[-1].value if snapshot.losses else math.nan,
        bits_per_byte=score,
        tokens=snapshot.given_tokens,
        local_steps=snapshot.max_steps,
        seconds=snapshot.round_seconds,
        average_seconds=snapshot.average_seconds,
        bytes_up=max(0, bytes_up),
        bytes_down=max(0, bytes_down),
    )


def _size(out: TextIO) -> tuple[int, int]:
    """Return width and height of the terminal; without one, $COLUMNS and $LINES, or `_DEFAULT_SIZE`."""
    try:
        size = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        width, height = _DEFAULT_SIZE
        return _number_in("COLUMNS") or width, _number_in("LINES") or height
    if size.columns <= 0 or size.lines <= 0:
        return _SMALL_SIZE
    return size.columns, size.lines


def _number_in(variable: str) -> int:
    """Return the number in an environment variable, 0 where there is no usable one."""
    text = os.environ.get(variable, "")
    number = int(text) if text.isascii() and text.isdigit() else 0
    return number if number < _LARGEST else 0


# --- the screen ---------------------------------------------------------------------------------------------


_QUIT = frozenset({"q", "Q", "\x03", "\x04"})
_PANEL_OF = {"g": "sample", "i": "invite", "?": "help"}
_PAGE_UP = frozenset({"\x1b[A", "\x1bOA", "k", "\x1b[5~"})
_PAGE_DOWN = frozenset({"\x1b[B", "\x1bOB", "j", "\x1b[6~"})
_ESCAPE = "\x1b"


def pressed(look: Look, key: str) -> Look | None:
    """Return the look after ``key`` was pressed; None for a key that quits. Unknown keys change nothing."""
    if key in _QUIT:
        return None
    if key in _PANEL_OF:
        panel = _PANEL_OF[key]
        return replace(look, panel="events" if look.panel == panel else panel)
    if key == _ESCAPE:
        return replace(look, panel="events")
    if key == "s":
        following = (SORTS.index(look.sort) + 1) % len(SORTS)
        return replace(look, sort=SORTS[following], page=0)
    if key == " ":
        return replace(look, frozen=not look.frozen)
    if key in _PAGE_UP:
        return replace(look, page=max(0, look.page - 1))
    if key in _PAGE_DOWN:
        return replace(look, page=look.page + 1)
    return look


@dataclass(frozen=True, slots=True)
class _Shown:
    """Everything that a frame depends on: where it is the same as before, nothing needs to be drawn."""

    snapshot: Snapshot | None
    reason: str
    look: Look
    size: tuple[int, int]

    def frame(self, theme: Theme) -> Frame:
        """Draw it."""
        width, height = self.size
        if self.snapshot is None:
            return unanswered(self.reason, width, height, theme=theme)
        return view(self.snapshot, width, height, theme=theme, look=self.look)


class _Screen:
    """The viewer on a terminal: one task asks for snapshots, and a loop draws when something has changed."""

    def __init__(self, source: Source, out: TextIO, theme: Theme) -> None:
        self._source = source
        self._out = out
        self._theme = theme
        self._look = Look()
        self._latest: Snapshot | None = None
        self._reason = "asking the peer for its status"
        self._answered_at = time.monotonic()
        self._changed = asyncio.Event()
        self._quit = False

    async def run(self) -> int:
        """Draw until the person quits."""
        console = Console(file=self._out, force_terminal=True, highlight=False)
        with (
            _keys(self._on_input),
            _signals(self._on_quit, self._changed.set),
            Live(
                console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            ) as live,
        ):
            async with asyncio.TaskGroup() as tasks:
                asking = tasks.create_task(self._keep_asking(), name="viewer: ask")
                await self._draw(console, live)
                asking.cancel()
        return WELL

    async def _keep_asking(self) -> None:
        """Ask for a snapshot every `_PERIOD`, until cancelled."""
        while True:
            answer = await _ask(self._source)
            if isinstance(answer, str):
                self._reason = answer
                seconds = max(1.0, math.floor(time.monotonic() - self._answered_at))
                self._look = replace(self._look, silent_for=seconds)
            else:
                self._answered_at = time.monotonic()
                self._look = replace(self._look, silent_for=0.0)
                if self._latest is None or not self._look.frozen:
                    self._latest = answer
            self._changed.set()
            await asyncio.sleep(_PERIOD)

    async def _draw(self, console: Console, live: Live) -> None:
        """Draw whenever something has changed, until the person quits."""
        drawn: _Shown | None = None
        while not self._quit:
            self._changed.clear()
            reason = self._reason if self._latest is None else ""
            now = _Shown(self._latest, reason, self._look, _size(self._out))
            if now != drawn:
                console.size = now.size
                live.update(now.frame(self._theme), refresh=True)
                drawn = now
            await self._changed.wait()

    def _on_input(self, keys: str) -> None:
        for key in split_keys(keys):
            look = pressed(self._look, key)
            if look is None:
                self._on_quit()
            else:
                self._look = look
        self._changed.set()

    def _on_quit(self) -> None:
        self._quit = True
        self._changed.set()


def split_keys(typed: str) -> list[str]:
    """Split what one read of the keyboard gave into keys.

    An escape sequence is one key; the end of the input is ``q``.
    """
    keys: list[str] = []
    while typed:
        length = _sequence_length(typed) if typed[:2] in ("\x1b[", "\x1bO") else 1
        keys.append(typed[:length])
        typed = typed[length:]
    return keys or ["q"]


def _sequence_length(typed: str) -> int:
    """Return the length of the escape sequence at the start of ``typed``: it ends with a letter."""
    for at in range(2, len(typed)):
        if "@" <= typed[at] <= "~":
            return at + 1
    return len(typed)


@contextlib.contextmanager
def _keys(on_input: Callable[[str], None]) -> Iterator[None]:
    """Give key presses to ``on_input`` inside the block; without a POSIX terminal there are none."""
    if sys.platform == "win32" or not sys.stdin or sys.stdin.closed or not sys.stdin.isatty():
        yield
        return
    import termios  # POSIX only

    keyboard = sys.stdin.fileno()
    loop = asyncio.get_running_loop()
    before = termios.tcgetattr(keyboard)
    raw = termios.tcgetattr(keyboard)
    raw[3] &= ~(termios.ECHO | termios.ICANON)
    raw[6][termios.VMIN] = 1
    raw[6][termios.VTIME] = 0
    raw[6][termios.VSUSP] = b"\x00"  # no Ctrl-Z: it would leave the shell on our screen
    try:
        termios.tcsetattr(keyboard, termios.TCSANOW, raw)
        loop.add_reader(keyboard, lambda: on_input(_typed(keyboard)))
        yield
    finally:
        loop.remove_reader(keyboard)
        # TCSAFLUSH: keys that were typed for the viewer do not reach the shell.
        termios.tcsetattr(keyboard, termios.TCSAFLUSH, before)


def _typed(keyboard: int) -> str:
    """Return what was typed; nothing at the end of the input."""
    try:
        return os.read(keyboard, 256).decode("utf-8", "replace")
    except OSError:  # the terminal was closed: the same as the end of the input
        return ""


@contextlib.contextmanager
def _signals(on_quit: Callable[[], None], on_resize: Callable[[], None]) -> Iterator[None]:
    """Inside the block, signals to end call ``on_quit``, a new size of the terminal ``on_resize``."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH)
    }
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, on_quit)
        loop.add_signal_handler(signal.SIGWINCH, on_resize)
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
