"""The screen uses only characters that the terminal can show."""

from __future__ import annotations

import pytest

from peer.dashboard.theme import HEALTH, SEVERITIES, STATES, Theme, fitting


@pytest.mark.parametrize(
    ("environ", "encoding", "ascii_only"),
    [
        ({"TERM": "xterm-256color", "LANG": "en_US.UTF-8"}, "utf-8", False),
        ({"TERM": "xterm-256color"}, "UTF_8", False),
        ({"TERM": "xterm-256color"}, "ascii", True),
        ({"TERM": "xterm-256color"}, "", True),
        ({"TERM": "linux"}, "utf-8", True),
        ({"TERM": "dumb"}, "utf-8", True),
        ({"TERM": "xterm", "LC_ALL": "ja_JP.UTF-8"}, "utf-8", True),
        ({"TERM": "xterm", "LC_ALL": "", "LANG": "de_DE.UTF-8"}, "utf-8", False),
    ],
)
def test_ascii_is_chosen_where_the_terminal_may_not_show_more(environ, encoding, ascii_only):
    assert fitting(environ, encoding).ascii_only is ascii_only
    assert fitting(environ, encoding, ascii_only=True).ascii_only


@pytest.mark.parametrize("marks", [STATES, HEALTH, SEVERITIES])
def test_states_can_be_told_apart_without_colour(marks):
    for column in (0, 1):
        glyphs = [mark[column] for mark in marks.values()]
        assert len(set(glyphs)) == len(glyphs)
        assert all(len(glyph) == 1 for glyph in glyphs)
    assert "".join(mark[1] for mark in marks.values()).isascii()


def test_an_unknown_state_is_a_question_mark():
    assert Theme().glyph(STATES, "daydreaming")[0] == "?"


def test_a_strangers_text_is_ascii_where_only_ascii_is_allowed():
    assert Theme(ascii_only=True).clean("日本 \x1b[31mwörld and more", 10) == "?? w?rld ~"
