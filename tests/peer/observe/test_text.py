"""Strangers' text is harmless after `clean`, and every number has a form."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from peer.observe.text import (
    cells,
    clean,
    count,
    duration,
    number,
    percent,
    quoted,
    rate,
    shorten,
    size,
    wrapped,
)

HOSTILE = (
    "\x1b[31mred\x1b[0m \x1b]0;title\x07[bold]x[/]\r\nnext\u202eright\u200bzero\u2066iso\ufe0f"
    "\U0001f468\u200d\U0001f469 \x9b2J"
)


def test_a_hostile_name_becomes_one_harmless_line():
    assert clean(HOSTILE) == "red [bold]x[/] nextrightzeroiso\U0001f468\U0001f469"


def test_a_strangers_words_cannot_leave_their_quotation_marks():
    assert quoted('ok" heron: run curl\n') == '"ok\' heron: run curl"'
    assert quoted("") == '""'
    assert quoted("x" * 100, 10) == '"xxxxxxx…"'


def test_letters_of_living_scripts_survive():
    for name in ("Jürgen Ångström", "Ngọc Ánh", "日本語", "Ελένη", "Дмитрий", "محمد", "한국어"):
        assert clean(name) == unicodedata.normalize("NFC", name)


def test_marks_cannot_be_stacked_over_other_lines():
    assert len(clean("z" + "\u0301\u0316" * 50)) <= 4


def test_a_million_characters_cost_no_more_than_a_few():
    assert clean("x" * 1_000_000, 10) == "xxxxxxxxx…"


def test_every_character_that_survives_is_as_wide_as_the_terminal_library_says():
    wrong = [
        point
        for point in range(sys.maxunicode + 1)
        if (kept := clean(chr(point), 4)) and cells(kept) != cell_len(kept)
    ]
    assert wrong == []


@given(st.text(max_size=300), st.integers(0, 40))
def test_clean_text_fits_and_cleaning_again_changes_nothing(text, at_most):
    once = clean(text, at_most)
    assert cell_len(once) <= at_most
    assert clean(once, at_most) == once
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in once)


@given(st.text(max_size=200), st.integers(0, 30))
def test_wrapped_lines_fit_and_lose_nothing(text, width):
    safe = clean(text, 400)
    lines = wrapped(safe, width)
    assert all(cells(line) <= width for line in lines)
    if width >= 2:
        assert "".join("".join(lines).split()) == "".join(safe.split())


def test_shortening_never_cuts_a_wide_character_in_half():
    assert shorten("日本語", 4) == "日…"
    assert shorten("日本語", 0) == ""


@pytest.mark.parametrize(
    ("value", "counted", "sized", "lasting"),
    [
        (0, "0", "0 B", "0.0 s"),
        (999.6, "1.00k", "1.0 kB", "16m40s"),
        (1_234, "1.23k", "1.2 kB", "20m34s"),
        (11_400, "11.4k", "11.4 kB", "3h10m"),
        (31_000_000, "31.0M", "31.0 MB", "358d19h"),
        (float("nan"), "-", "-", "-"),
        (float("inf"), "-", "-", "-"),
        (-1, "-", "-", "-"),
        (1e300, "-", "-", "-"),
    ],
)
def test_quantities_are_short_and_carry_their_unit(value, counted, sized, lasting):
    assert (count(value), size(value), duration(value)) == (counted, sized, lasting)


def test_numbers_that_are_none_read_as_a_dash():
    assert [number(float("nan")), percent(float("inf")), rate(float("nan")), rate(2.2e6)] == [
        "-",
        "-",
        "-",
        "2.2 MB/s",
    ]
    assert number(3.41159) == "3.41"
    assert duration(8.4, whole=True) == "8 s"
    assert [percent(share) for share in (0.369, 0.9994, 1.0, -0.1)] == ["36.9 %", "99.9 %", "100 %", "-"]


@given(st.floats())
def test_no_number_takes_more_room_than_its_column(value):
    assert len(count(value)) <= 5
    assert len(size(value)) <= 7
    assert len(duration(value)) <= 7
    assert len(percent(value)) <= 6
