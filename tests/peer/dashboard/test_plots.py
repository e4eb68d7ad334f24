"""A chart has exactly the size asked for and shows what is so, whatever the numbers."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from peer.dashboard.plots import bar, curve, labels, span, sparkline, thin

NUMBERS = st.lists(st.floats(), max_size=60)
SIZES = st.integers(0, 40)


@given(NUMBERS, SIZES, SIZES, st.booleans())
def test_a_curve_has_exactly_its_width_and_height(values, width, height, ascii_only):
    rows = curve(list(enumerate(values)), width, height, ascii_only=ascii_only)
    assert [len(row) for row in rows] == [width] * height


@given(NUMBERS, SIZES, st.booleans(), st.booleans())
def test_a_sparkline_has_exactly_its_width(values, width, ascii_only, from_zero):
    assert len(sparkline(values, width, ascii_only=ascii_only, from_zero=from_zero)) == width


@given(NUMBERS, st.integers(1, 40), SIZES)
def test_labels_have_exactly_their_width_and_height(values, width, height):
    assert [len(row) for row in labels(values, height, width, "loss")] == [width] * height


@given(st.floats(), SIZES, st.booleans())
def test_a_bar_has_exactly_its_width(share, width, ascii_only):
    assert len("".join(bar(share, width, ascii_only=ascii_only))) == width


@given(NUMBERS, SIZES)
def test_a_thinned_series_has_at_most_its_width_and_only_finite_values(values, width):
    shown = thin(values, width)
    assert len(shown) <= width
    assert all(math.isfinite(value) for value in shown)


@given(NUMBERS)
def test_the_span_is_finite_not_empty_and_holds_the_newest_value(values):
    newest = [value for value in values if math.isfinite(value)]
    low, high = span([max(-1e100, min(1e100, value)) for value in newest])
    assert -math.inf < low < high < math.inf
    if newest:
        assert low <= max(-1e100, min(1e100, newest[-1])) <= high


def test_a_falling_line_falls():
    assert curve([(0, 4), (1, 3), (2, 2), (3, 1)], 4, 4, ascii_only=True) == ["*   ", " *  ", "  * ", "   *"]
    assert curve([(0, 7), (7, 0)], 2, 1) == ["⠑⢄"]


def test_a_steep_start_does_not_flatten_the_rest():
    loss = [11.0] * 5 + [3.5 - step / 400 for step in range(400)]
    low, high = span(loss)
    assert (low, high) < (3.0, 4.0)


def test_points_outside_the_range_leave_the_picture_instead_of_running_along_its_edge():
    rows = curve([(x, 100.0 if x < 2 else float(x % 5)) for x in range(100)], 100, 6, ascii_only=True)
    assert rows[0][:2] == "  "


def test_a_gap_is_bridged_and_an_undrawable_value_left_out():
    assert curve([(0, 1), (1, math.nan), (4, 1)], 5, 1, ascii_only=True) == ["*****"]
    assert curve([], 3, 1) == ["   "]


def test_a_constant_is_a_line():
    assert [row.strip() for row in curve([(0, 2.0), (9, 2.0)], 6, 3, ascii_only=True)] == ["", "******", ""]


def test_bars_grow_with_their_values():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 9) == " ▁▂▃▄▅▆▇█"
    assert bar(0.5, 8, ascii_only=True) == ("####", "----")
