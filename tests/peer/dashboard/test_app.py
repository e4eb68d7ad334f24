"""The viewer reads keys, says whether the peer is well, and leaves the terminal as it found it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import json
import os
import pty
import signal
import struct
import sys
import termios
import threading

import pytest

from peer.dashboard.app import DEGRADED, UNREACHABLE, WELL, pressed, report_of, split_keys, watch
from peer.dashboard.panels import SORTS
from peer.dashboard.view import Look
from peer.observe.snapshot import decode
from swarm.errors import Unreachable
from tests.peer.dashboard.pictures import a_snapshot


def source_of(*answers):
    """A source that gives each of ``answers`` once, the last one for ever; errors are raised."""
    waiting = list(answers)

    async def source():
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return source


def shown(*answers, **options):
    """The exit status of `watch` without a terminal, and what it writes."""
    out = io.StringIO()
    return asyncio.run(watch(source_of(*answers), out=out, **options)), out.getvalue()


# --- without a terminal -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("health", "status"),
    [("HEALTHY", WELL), ("WAITING", WELL), ("DEGRADED", DEGRADED), ("SYNCING", WELL)],
)
def test_once_ends_with_the_health_as_its_status(health, status):
    assert shown(a_snapshot(health=health), once=True)[0] == status


def test_once_draws_one_picture(monkeypatch):
    for name in ("COLUMNS", "LINES"):  # the tests may run in a terminal that sets them
        monkeypatch.delenv(name, raising=False)
    _, text = shown(a_snapshot(), once=True, ascii=True)
    assert text.isascii()
    assert text.count("\n") == 33
    assert "tiny-gpt-30m" in text


@pytest.mark.parametrize(
    ("columns", "lines", "shape"),
    [("80", "24", (80, 23)), ("junk", "", (120, 33)), ("0", "-1", (120, 33)), ("48", "14", (48, 13))],
)
def test_without_a_terminal_the_environment_says_how_large_the_picture_is(columns, lines, shape, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", lines)
    _, text = shown(a_snapshot(), once=True, ascii=True)
    rows = text.splitlines()
    assert (max(map(len, rows)), len(rows)) == shape


def test_once_says_why_nobody_answers():
    assert shown(Unreachable("nobody answers", "start it"), once=True) == (
        UNREACHABLE,
        "nobody answers; start it\n",
    )


def test_once_as_json_is_the_snapshot():
    snapshot = a_snapshot(run_name="Jürgen", ticket="")
    status, text = shown(snapshot, once=True, json_lines=True)
    assert status == WELL
    assert text.isascii()
    assert decode(text.encode()) == snapshot


def test_lines_are_one_per_round_until_the_run_is_finished(monkeypatch):
    monkeypatch.setattr("peer.dashboard.app._PERIOD", 0.0)
    answers = [
        a_snapshot(round=1),
        a_snapshot(round=1),
        Unreachable("gone"),
        a_snapshot(round=2),
        a_snapshot(round=3, health="FINISHED"),
    ]
    status, text = shown(*answers)
    said = [line.split(" ", 1)[1].split("  ")[0] for line in text.splitlines()]
    assert status == WELL
    assert said == ["HEALTHY", "round 1", "no answer: gone", "round 2", "FINISHED", "round 3"]


def test_json_lines_are_snapshots_and_nothing_else(monkeypatch):
    monkeypatch.setattr("peer.dashboard.app._PERIOD", 0.0)
    _, text = shown(
        Unreachable("gone"),
        a_snapshot(round=1),
        a_snapshot(round=1),
        a_snapshot(round=2, health="FINISHED"),
        json_lines=True,
    )
    assert [json.loads(line)["round"] for line in text.splitlines()] == [1, 2]


def test_a_reader_that_has_gone_ends_the_viewer_quietly():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as out:
        assert asyncio.run(watch(source_of(a_snapshot()), out=out, json_lines=True)) == WELL


@pytest.mark.parametrize("json_lines", [False, True])
@pytest.mark.parametrize(("health", "status"), [("HEALTHY", WELL), ("DEGRADED", DEGRADED)])
def test_on_a_full_disk_one_look_still_says_whether_the_peer_is_well(health, status, json_lines, capsys):
    with open("/dev/full", "w") as out:
        source = source_of(a_snapshot(health=health))
        assert asyncio.run(watch(source, out=out, once=True, json_lines=json_lines)) == status
    assert "/dev/full" in capsys.readouterr().err


@pytest.mark.parametrize("json_lines", [False, True])
def test_on_a_full_disk_lines_end_and_it_is_told_once(json_lines, capsys):
    with open("/dev/full", "w") as out:
        assert asyncio.run(watch(source_of(a_snapshot()), out=out, json_lines=json_lines)) == WELL
    assert capsys.readouterr().err.count("No space left") == 1


def test_traffic_in_a_report_is_what_was_added_since_the_last_one():
    before, now = a_snapshot(bytes_up=10), a_snapshot(round=813, bytes_up=25)
    assert report_of(now, before).bytes_up == 15
    assert report_of(now, None).bytes_up == 0
    assert report_of(a_snapshot(losses=(), evaluations=()), None).bits_per_byte is None


# --- keys ---------------------------------------------------------------------------------------------------


def test_keys_that_arrive_together_are_told_apart():
    assert split_keys("s\x1b[B\x1b[5~q") == ["s", "\x1b[B", "\x1b[5~", "q"]
    assert split_keys("") == ["q"]


def test_each_key_does_what_the_legend_says():
    look = Look()
    assert pressed(look, "q") is None
    assert pressed(look, "s").sort == SORTS[1]
    assert pressed(look, " ").frozen
    assert [pressed(look, key).panel for key in "gi?"] == ["sample", "invite", "help"]
    assert pressed(pressed(look, "g"), "g").panel == "events"
    assert pressed(pressed(look, "i"), "\x1b").panel == "events"
    assert pressed(look, "\x1b[B").page == 1
    assert pressed(look, "\x1b[A").page == 0
    assert pressed(look, "é") == look


# --- on a terminal ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def a_terminal(width, height, monkeypatch):
    """A pseudo-terminal as standard input and output; yields its keyboard and what was written to it."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    screen = bytearray()

    def listen():
        with contextlib.suppress(OSError):  # the end of a pseudo-terminal is an error on Linux
            while piece := os.read(master, 65536):
                screen.extend(piece)

    listening = threading.Thread(target=listen)
    listening.start()
    monkeypatch.setenv("TERM", "xterm-256color")
    with os.fdopen(os.dup(slave), "w", encoding="utf-8") as out, os.fdopen(os.dup(slave)) as keyboard:
        monkeypatch.setattr(sys, "stdin", keyboard)
        before = termios.tcgetattr(slave)
        yield out, master, screen
        assert termios.tcgetattr(slave) == before
    os.close(slave)
    listening.join(10)
    os.close(master)
    assert screen.count(b"\x1b[?1049h") == screen.count(b"\x1b[?1049l") == 1
    assert screen.rstrip().endswith((b"\x1b[?25h", b"\x1b[?1049l"))


@pytest.mark.parametrize(("width", "height"), [(120, 34), (48, 14)])
def test_the_screen_is_drawn_and_left_with_q(width, height, monkeypatch):
    asked = []

    async def source():
        if asked:
            os.write(master, b"gq")
        asked.append(True)
        return a_snapshot()

    monkeypatch.setattr("peer.dashboard.app._PERIOD", 0.0)
    with a_terminal(width, height, monkeypatch) as (out, master, screen):
        assert asyncio.run(watch(source, out=out)) == WELL
    assert b"tiny-gpt-30m" in screen
    assert b"HEALTHY" in screen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_in_order_and_the_handlers_as_they_were(number, monkeypatch):
    before = signal.getsignal(number)

    async def source():
        signal.raise_signal(number)
        return a_snapshot()

    with a_terminal(80, 24, monkeypatch) as (out, _, _):
        assert asyncio.run(watch(source, out=out)) == WELL
    assert signal.getsignal(number) == before


def test_a_failing_source_is_shown_and_asked_again(monkeypatch):
    monkeypatch.setattr("peer.dashboard.app._PERIOD", 0.0)
    asked = []

    async def source():
        asked.append(True)
        if len(asked) > 3:
            os.write(master, b"q")
        raise Unreachable("nobody answers at 127.0.0.1:7")

    with a_terminal(80, 24, monkeypatch) as (out, master, screen):
        assert asyncio.run(watch(source, out=out)) == WELL
    assert b"nobody answers at 127.0.0.1:7" in screen


def test_a_bug_in_the_source_is_raised_after_the_terminal_is_restored(monkeypatch):
    async def source():
        raise KeyError("bug")

    with a_terminal(80, 24, monkeypatch) as (out, _, _), pytest.raises(ExceptionGroup):
        asyncio.run(watch(source, out=out))


def test_no_colour_is_used_where_the_person_does_not_want_any(monkeypatch):
    async def source():
        if asked:
            os.write(master, b"q")
        asked.append(True)
        return a_snapshot()

    asked = []
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("peer.dashboard.app._PERIOD", 0.0)
    with a_terminal(80, 24, monkeypatch) as (out, master, screen):
        asyncio.run(watch(source, out=out))
    assert b"\x1b[9" not in screen
    assert b"HEALTHY" in screen
