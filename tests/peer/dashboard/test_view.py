"""The picture is exactly as large as asked for, whatever strangers put into it."""

from __future__ import annotations

import io
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from peer.dashboard.theme import Theme
from peer.dashboard.view import PANELS, Look, unanswered, view
from peer.observe.snapshot import LoggedEvent, PeerRow, Point
from peer.observe.text import cells
from tests.peer.dashboard.pictures import FRAMES, GOLDEN, a_peer, a_snapshot, golden

NASTY = (
    "",
    "[red]markup[/red]",
    "[/]",
    "\x1b[31m\x1b[2Jclear\x9b1;1H",
    "two\r\nlines\ttab\x00",
    "\u202eright to left\u2066",
    "zero\u200b\u200d\ufeffwidth\ufe0f",
    "日本語のピア" * 4,
    "\U0001f468\u200d\U0001f469\U0001f1e9\U0001f1ea\U0001f44d\U0001f3fd",
    "z" + "\u0301" * 90,
    "x" * 10_000,
    "\ud800",
)
FLOATS = st.one_of(st.floats(), st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e308]))
WORDS = st.one_of(st.sampled_from(NASTY), st.text(max_size=20))
STATES = st.sampled_from(
    ["training", "averaging", "syncing", "slow", "banned", "unreachable", "left", "nonsense"]
)
ROWS = st.builds(
    PeerRow,
    peer=WORDS,
    name=WORDS,
    state=STATES,
    device=WORDS,
    round=st.integers(-5, 10**12),
    tokens_per_second=FLOATS,
    up=FLOATS,
    down=FLOATS,
    share=FLOATS,
    seen_seconds=FLOATS,
    loss=FLOATS,
    is_me=st.booleans(),
)
POINTS = st.lists(st.builds(Point, round=st.integers(0, 10**9), value=FLOATS), max_size=12).map(
    lambda points: tuple(sorted(points, key=lambda point: point.round))
)
SNAPSHOTS = st.fixed_dictionaries(
    {
        "run_name": WORDS,
        "version": WORDS,
        "health": st.sampled_from(["HEALTHY", "WAITING", "DEGRADED", "what"]),
        "reason": WORDS,
        "phase": WORDS,
        "uptime": FLOATS,
        "rounds": st.integers(-1, 10**9),
        "step": st.integers(-1, 10**9),
        "max_steps": st.integers(-1, 10**9),
        "phase_left": FLOATS,
        "seconds_left": FLOATS,
        "codec": WORDS,
        "losses": POINTS,
        "evaluations": POINTS,
        "average_seconds": FLOATS,
        "round_seconds": FLOATS,
        "up": st.lists(FLOATS, max_size=5).map(tuple),
        "cpu": FLOATS,
        "cores": st.integers(0, 512),
        "memory_total": st.integers(-1, 10**15),
        "given_seconds": FLOATS,
        "state_root": WORDS,
        "checkpoint": WORDS,
        "sample": WORDS,
        "ticket": WORDS,
        "peers": st.lists(ROWS, max_size=6).map(tuple),
        "events": st.lists(st.builds(LoggedEvent, time=FLOATS, severity=WORDS, text=WORDS), max_size=4).map(
            tuple
        ),
    }
)
LOOKS = st.builds(
    Look,
    sort=st.sampled_from(["share", "speed", "name", "trouble"]),
    page=st.integers(0, 2000),
    panel=st.sampled_from(PANELS),
    frozen=st.booleans(),
    silent_for=st.sampled_from([0.0, 3.0, math.inf]),
)


def printed(frame):
    out = io.StringIO()
    Console(file=out, width=600, color_system=None, legacy_windows=False).print(frame, end="")
    return out.getvalue().removesuffix("\n").split("\n")


@settings(max_examples=150)
@given(SNAPSHOTS, st.integers(1, 200), st.integers(1, 60), LOOKS, st.booleans())
def test_a_frame_is_exactly_as_wide_and_high_as_asked_for(changes, width, height, look, ascii_only):
    frame = view(a_snapshot(**changes), width, height, theme=Theme(ascii_only=ascii_only), look=look)
    lines = printed(frame)
    assert [cells(text) for text in lines] == [width] * height
    assert all(text.isprintable() for text in lines)
    assert not ascii_only or frame.plain.isascii()


@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 1), (39, 7), (40, 8), (69, 20), (70, 20), (109, 30), (110, 30), (200, 60), (500, 3), (5, 90)],
)
@pytest.mark.parametrize("panel", PANELS)
def test_every_layout_has_its_size_at_its_edges_with_a_thousand_peers(width, height, panel):
    population = a_snapshot(
        peers=tuple(a_peer(f"peer{number}", share=number / 1000) for number in range(1000))
    )
    for snapshot in (
        population,
        a_snapshot(peers=()),
        a_snapshot(health="DEGRADED", reason="no peer is here"),
    ):
        lines = printed(view(snapshot, width, height, look=Look(panel=panel)))
        assert [cells(text) for text in lines] == [width] * height


@pytest.mark.parametrize("name", FRAMES)
def test_the_frame_is_the_golden_one(name):
    assert golden(name) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8"), (
        "python -m tests.peer.dashboard.pictures redraws them"
    )


@pytest.mark.parametrize("size", [(120, 34), (80, 24), (48, 14), (30, 6)])
def test_the_reason_of_bad_health_is_in_every_layout(size):
    plain = view(a_snapshot(health="WAITING", reason="2 more peers needed"), *size).plain
    assert "WAITING" in plain
    assert "2 more peers needed" in plain


def test_the_last_known_state_stays_grey_under_a_warning():
    frame = view(a_snapshot(), 80, 24, look=Look(silent_for=12.4))
    assert frame.lines[0].plain.strip() == "no answer for 12 s: this is the last known state"
    assert "otter-7f3a" in frame.plain
    assert not any(text.spans for text in frame.lines[1:])


def test_before_the_first_answer_the_reason_is_shown():
    assert "nobody answers at 127.0.0.1:7 [x]" in unanswered("nobody answers at 127.0.0.1:7 [x]", 60, 8).plain
    assert [text.cell_len for text in unanswered("why " * 500, 9, 3).lines] == [9] * 3


def test_markup_in_a_name_is_shown_as_it_is():
    assert "[red]x[/]" in view(a_snapshot(peers=(a_peer("[red]x[/]"),)), 80, 24).plain


def test_the_same_picture_is_drawn_twice():
    first, second = (view(a_snapshot(), 120, 34, look=Look()) for _ in range(2))
    assert printed(first) == printed(second)
