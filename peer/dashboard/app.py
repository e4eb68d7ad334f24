"""The viewer: asks for snapshots, draws them, listens to keys, and leaves the terminal as it found it.

    terminal        the picture on the alternate screen, twice a second, redrawn only where something changed
    no terminal     one line per round, for people or as JSON
    once            one picture, and an exit status for scripts: 0 well, 1 degraded, 2 nobody answers

It is a process of its own, next to the peer: drawing costs the training nothing, and quitting it never stops the peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.live import Live

from swarm.errors import SwarmError

from ..observe.reporter import Reporter, RoundReport, discard_buffered
from ..observe.snapshot import Snapshot, encode, is_well
from ..observe.text import clean
from .frame import Frame
from .panels import SORTS
from .theme import Theme, fitting
from .view import Look, unanswered, view

Source = Callable[[], Awaitable[Snapshot]]
"""Where snapshots come from; raises a `SwarmError` where there is none just now."""

WELL, DEGRADED, UNREACHABLE = 0, 1, 2
"""Exit statuses."""

_PERIOD = 0.5
_PATIENCE = 12.0  # sources have deadlines of their own; this one only guards against a source without
_DRAWN_WITHOUT_TERMINAL = (120, 34)


async def watch(
    source: Source,
    *,
    once: bool = False,
    json_lines: bool = False,
    ascii: bool = False,
    out: TextIO | None = None,
) -> int:
    """Show what ``source`` gives until the person quits; the exit status.

    Without a terminal, or with ``json_lines``, writes lines until the run is finished or nobody reads them. A source that fails is
    asked again for ever, except ``once``. ``out`` is standard output where not given.
    """
    out = out or sys.stdout
    status = WELL
    try:
        if once:
            status = await _once(source, out, json_lines, ascii)
        elif json_lines or not out.isatty() or os.environ.get("TERM") == "dumb":
            status = await _lines(source, out, json_lines)
        else:
            status = await _Screen(source, out, fitting(os.environ, out.encoding or "", ascii)).run()
    except* (
        OSError
    ):  # writing is all that happens to the system here: whoever read `out`, or its terminal, has gone
        discard_buffered(out)
    return status


async def _ask(source: Source) -> Snapshot | str:
    """The next snapshot, or why there is none."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await source()
    except TimeoutError:
        return f"the peer did not answer within {_PATIENCE:.0f} s"
    except SwarmError as error:
        return f"{error.fact}; {error.advice}" if error.advice else error.fact


# --- without a screen -------------------------------------------------------------------------------------------------


async def _once(source: Source, out: TextIO, json_lines: bool, ascii_only: bool) -> int:
    answer = await _ask(source)
    if isinstance(answer, str):
        out.write(f"{clean(answer, 1000)}\n")
        return UNREACHABLE
    if json_lines:
        out.write(_as_json(answer))
    else:
        width, height = _size(out)
        theme = fitting(os.environ, out.encoding or "", ascii_only)
        console = Console(file=out, width=width, height=height, highlight=False)
        console.print(
            view(answer, width, max(1, height - 1), theme=theme), end=""
        )  # the prompt needs the last line
    out.flush()
    return WELL if is_well(answer) else DEGRADED


async def _lines(source: Source, out: TextIO, json_lines: bool) -> int:
    reporter = Reporter(out)
    before: Snapshot | None = None
    silent = False
    while not reporter.silenced:
        answer = await _ask(source)
        if isinstance(answer, str):
            if not silent and not json_lines:
                reporter.event("no answer:", reason=answer)
            silent = True
        else:
            if json_lines and (before is None or _news(answer) != _news(before)):
                out.write(_as_json(answer))
                out.flush()
            elif not json_lines:
                _tell(reporter, answer, before)
            before, silent = answer, False
            if answer.health == "FINISHED":
                return WELL
        await asyncio.sleep(_PERIOD)
    return WELL


def _news(snapshot: Snapshot) -> tuple[int, str, str]:
    return snapshot.round, snapshot.health, snapshot.reason


def _tell(reporter: Reporter, snapshot: Snapshot, before: Snapshot | None) -> None:
    """What is new since ``before``, for people."""
    if before is None or _news(snapshot)[1:] != _news(before)[1:]:
        reporter.event(snapshot.health, reason=snapshot.reason)
    if snapshot.losses and (before is None or snapshot.round != before.round):
        reporter.round_finished(report_of(snapshot, before))


def _as_json(snapshot: Snapshot) -> str:
    return json.dumps(json.loads(encode(snapshot)), separators=(",", ":")) + "\n"  # ASCII: fits every locale


def report_of(snapshot: Snapshot, before: Snapshot | None) -> RoundReport:
    """The last round of ``snapshot`` as a peer would report it; traffic is counted from the snapshot ``before``."""
    score = snapshot.evaluations[-1] if snapshot.evaluations else None
    return RoundReport(
        round=snapshot.round,
        state_root=snapshot.state_root,
        members=snapshot.members,
        missing=snapshot.missing,
        loss=snapshot.losses[-1].value if snapshot.losses else math.nan,
        bits_per_byte=score.value if score else None,
        tokens=snapshot.given_tokens,
        local_steps=snapshot.max_steps,
        seconds=snapshot.round_seconds,
        average_seconds=snapshot.average_seconds,
        bytes_up=max(0, snapshot.bytes_up - (before.bytes_up if before else snapshot.bytes_up)),
        bytes_down=max(0, snapshot.bytes_down - (before.bytes_down if before else snapshot.bytes_down)),
    )


def _size(out: TextIO) -> tuple[int, int]:
    """Width and height of the terminal behind ``out``; where there is none, $COLUMNS and $LINES, or those of a usual picture."""
    try:
        size = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        wanted = [os.environ.get(name, "") for name in ("COLUMNS", "LINES")]
        chosen = [
            int(text) if text.isascii() and text.isdigit() and 0 < int(text) < 10_000 else 0
            for text in wanted
        ]
        return chosen[0] or _DRAWN_WITHOUT_TERMINAL[0], chosen[1] or _DRAWN_WITHOUT_TERMINAL[1]
    return (size.columns, size.lines) if size.columns > 0 and size.lines > 0 else (80, 24)


# --- the screen -------------------------------------------------------------------------------------------------------


def pressed(look: Look, key: str) -> Look | None:
    """What ``key`` makes of ``look``; None for the key that quits."""
    if key in ("q", "Q", "\x03", "\x04"):
        return None
    panels = {"g": "sample", "i": "invite", "?": "help"}
    if key in panels:
        return replace(look, panel="events" if look.panel == panels[key] else panels[key])
    if key == "\x1b":
        return replace(look, panel="events")
    if key == "s":
        return replace(look, sort=SORTS[(SORTS.index(look.sort) + 1) % len(SORTS)], page=0)
    if key == " ":
        return replace(look, frozen=not look.frozen)
    step = {
        "\x1b[A": -1,
        "\x1bOA": -1,
        "k": -1,
        "\x1b[5~": -1,
        "\x1b[B": 1,
        "\x1bOB": 1,
        "j": 1,
        "\x1b[6~": 1,
    }.get(key, 0)
    return replace(look, page=max(0, look.page + step))


@dataclass(frozen=True, slots=True)
class _Shown:
    """Everything a frame depends on: the same again needs no drawing."""

    snapshot: Snapshot | None
    reason: str
    look: Look
    size: tuple[int, int]

    def frame(self, theme: Theme) -> Frame:
        """The picture of it."""
        width, height = self.size
        if self.snapshot is None:
            return unanswered(self.reason, width, height, theme=theme)
        return view(self.snapshot, width, height, theme=theme, look=self.look)


class _Screen:
    """One viewing on a terminal: a task that asks, and a loop that draws when something has changed."""

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
        while True:
            answer = await _ask(self._source)
            if isinstance(answer, str):
                self._reason = answer
                silent = max(1.0, math.floor(time.monotonic() - self._answered_at))
                self._look = replace(self._look, silent_for=silent)
            else:
                self._answered_at = time.monotonic()
                self._look = replace(self._look, silent_for=0.0)
                self._latest = self._latest if self._look.frozen and self._latest else answer
            self._changed.set()
            await asyncio.sleep(_PERIOD)

    async def _draw(self, console: Console, live: Live) -> None:
        drawn: _Shown | None = None
        while not self._quit:
            self._changed.clear()
            now = _Shown(
                self._latest, self._reason if self._latest is None else "", self._look, _size(self._out)
            )
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
    """What came from the keyboard in one read, key by key; an escape sequence is one key, the end of the input is ``q``."""
    keys: list[str] = []
    while typed:
        length = 1
        if typed[:2] in ("\x1b[", "\x1bO"):
            length = next((at + 1 for at in range(2, len(typed)) if "@" <= typed[at] <= "~"), len(typed))
        keys.append(typed[:length])
        typed = typed[length:]
    return keys or ["q"]


@contextlib.contextmanager
def _keys(on_input: Callable[[str], None]) -> Iterator[None]:
    """Single key presses from standard input go to ``on_input`` inside the block; without a POSIX terminal there, none do."""
    if sys.platform == "win32" or not sys.stdin or sys.stdin.closed or not sys.stdin.isatty():
        yield
        return
    import termios  # only where it exists

    keyboard = sys.stdin.fileno()
    loop = asyncio.get_running_loop()
    before = termios.tcgetattr(keyboard)
    quiet = termios.tcgetattr(keyboard)
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    quiet[6][termios.VMIN], quiet[6][termios.VTIME] = 1, 0
    quiet[6][termios.VSUSP] = b"\x00"  # suspended, the shell would be left on our screen
    try:
        termios.tcsetattr(keyboard, termios.TCSANOW, quiet)
        loop.add_reader(keyboard, lambda: on_input(_typed(keyboard)))
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(
            keyboard, termios.TCSAFLUSH, before
        )  # keys typed for the viewer do not reach the shell


def _typed(keyboard: int) -> str:
    try:
        return os.read(keyboard, 256).decode("utf-8", "replace")
    except OSError:  # the terminal was closed under us: the same as its end
        return ""


@contextlib.contextmanager
def _signals(quit_: Callable[[], None], resized: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C, a kill and a closed terminal quit in order, and a new size is noticed, inside the block."""
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
            loop.add_signal_handler(number, quit_)
        loop.add_signal_handler(signal.SIGWINCH, resized)
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def export_svg(snapshot: Snapshot, path: Path, width: int, height: int, *, look: Look | None = None) -> None:
    """Write the picture of ``snapshot`` as an SVG file that loads nothing from elsewhere: its font is the reader's monospace."""
    console = Console(
        record=True,
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(view(snapshot, width, height, look=look), end="")
    picture = console.export_svg(title="swarm top")
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL), encoding="utf-8")
