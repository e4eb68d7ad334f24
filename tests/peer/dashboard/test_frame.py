"""Blocks have exactly the size asked for, and nothing a frame holds can reach beyond it."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from peer.dashboard.frame import Frame, beside, block, boxed, fit, flow, line, spread
from peer.dashboard.theme import Theme
from peer.observe.text import clean

THEME = Theme()
TEXTS = st.lists(st.text(max_size=30).map(clean), max_size=6)


@given(st.text(max_size=40).map(clean), st.integers(0, 30))
def test_a_fitted_line_has_exactly_its_width(text, width):
    assert fit(line(text), width, THEME).cell_len == width


@given(TEXTS, st.integers(0, 40), st.integers(0, 9))
def test_blocks_and_boxes_have_exactly_their_size(texts, width, height):
    lines = [line(text) for text in texts]
    for made in (block(lines, width, height, THEME), boxed(line(*texts), lines, width, height, THEME)):
        assert [text.cell_len for text in made] == [width] * height


def test_a_box_has_its_title_on_the_edge():
    drawn = [text.plain for text in boxed(line("peers"), [line("one"), line("two, too long")], 12, 4, THEME)]
    assert drawn == ["╭─ peers ──╮", "│ one      │", "│ two, to… │", "╰──────────╯"]


def test_two_blocks_stand_side_by_side():
    left, right = block([line("a")], 2, 2, THEME), block([line("b"), line("c")], 1, 2, THEME)
    assert [text.plain for text in beside(left, right)] == ["a b", "  c"]


def test_the_right_end_of_a_line_is_shown_whole_or_not_at_all():
    assert spread(line("left"), line("right"), 12, THEME).plain == "left   right"
    assert spread(line("left"), line("right"), 10, THEME).plain == "left      "


def test_pieces_flow_onto_as_few_lines_as_they_need():
    assert [text.plain for text in flow([line("one"), line("two"), line("three")], 2, 8)] == [
        "one  two",
        "three",
    ]


def test_a_frame_prints_its_lines_and_nothing_as_markup():
    out = io.StringIO()
    Console(file=out, width=20, color_system=None).print(Frame.of([line("[red]no[/]")], 12, 2, THEME), end="")
    assert out.getvalue() == "[red]no[/]  \n            \n"


def test_a_greyed_frame_says_the_same():
    frame = Frame.of([line(("here", "red"))], 6, 1, THEME)
    assert frame.greyed().plain == frame.plain == "here"
    assert not frame.greyed().lines[0].spans
