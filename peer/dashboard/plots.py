"""Charts made of characters: curves in braille or ASCII, sparklines, bars.

Every function returns text of exactly the width and height asked for, whatever the numbers are: values that
are not finite are left out, and a series that is empty or constant still gives a chart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from ..observe.text import number
from ..observe.text import shorten as _shorten

Pairs = Sequence[tuple[float, float]]
"""A series: (x, y), x rising."""

_BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each of the 4 × 2 dots of a cell, by row and column (Unicode 16, chapter 21)."""
_BLOCKS = "▁▂▃▄▅▆▇█"
"""The heights of a sparkline's bars."""
_ASCII_BLOCKS = ".:-=+*%#"
_HUGE = 1e100
"""Values are limited to this: sums and differences of them stay finite."""


def finite(pairs: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the pairs that can be drawn, limited to `_HUGE`."""
    return [(_bounded(x), _bounded(y)) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def _bounded(value: float) -> float:
    """Limit a finite value to `_HUGE`; NaN and infinity stay."""
    if not math.isfinite(value):
        return value
    return max(-_HUGE, min(_HUGE, value))


def span(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of y to show: from the 2nd to the 95th percentile, and always the newest value.

    A loss falls steeply at first; scaled to its maximum, the later part, which people look at, would be a
    flat line.
    """
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered:
        return 0.0, 1.0
    newest = next(value for value in reversed(values) if math.isfinite(value))
    last = len(ordered) - 1
    low = min(ordered[int(0.02 * last)], newest)
    high = max(ordered[math.ceil(0.95 * last)], newest)
    # A constant gets a margin on both sides.
    least = 1e-3 * max(abs(low), abs(high), 1e-6)
    margin = max(0.0, least - (high - low))
    return low - margin, high + margin


def curve(pairs: Pairs, width: int, height: int, *, ascii_only: bool = False) -> list[str]:
    """Draw ``pairs`` as a connected line in ``height`` rows of ``width`` cells.

    Points in the same column are averaged.

    The line leaves the picture where it is outside of `span`, instead of running along the edge.
    """
    if width < 1 or height < 1:
        return [""] * max(0, height)
    columns = width if ascii_only else 2 * width
    rows = height if ascii_only else 4 * height
    drawable = finite(pairs)
    low, high = span([y for _, y in drawable])
    dots = _dots(_columns(drawable, columns), low, high, rows)
    return _as_stars(dots, width, height) if ascii_only else _as_braille(dots, width, height)


def _as_stars(dots: set[tuple[int, int]], width: int, height: int) -> list[str]:
    """Draw each dot as a star in a cell of its own."""
    return [
        "".join("*" if (row, column) in dots else " " for column in range(width)) for row in range(height)
    ]


def _as_braille(dots: set[tuple[int, int]], width: int, height: int) -> list[str]:
    """Draw 4 × 2 dots in each cell."""
    grid = [[0] * width for _ in range(height)]
    for row, column in dots:
        grid[row // 4][column // 2] |= _BRAILLE[row % 4][column % 2]
    return ["".join(chr(0x2800 + bits) if bits else " " for bits in cells) for cells in grid]


def _columns(pairs: list[tuple[float, float]], columns: int) -> list[float | None]:
    """Return the mean of y in each column, interpolated where a column between two others has none."""
    values = _means(pairs, columns)
    known = [column for column, value in enumerate(values) if value is not None]
    for left, right in pairwise(known):
        start = values[left] or 0.0
        end = values[right] or 0.0
        for column in range(left + 1, right):
            values[column] = start + (end - start) * (column - left) / (right - left)
    return values


def _means(pairs: list[tuple[float, float]], columns: int) -> list[float | None]:
    """Return the mean of y in each column; None where a column has no point."""
    sums = [0.0] * columns
    counts = [0] * columns
    if pairs:
        first = pairs[0][0]
        last = pairs[-1][0]
        for x, y in pairs:
            column = int((x - first) / (last - first) * (columns - 1)) if last > first else columns - 1
            column = max(0, min(columns - 1, column))
            sums[column] += y
            counts[column] += 1
    return [total / n if n else None for total, n in zip(sums, counts, strict=True)]


def _dots(values: list[float | None], low: float, high: float, rows: int) -> set[tuple[int, int]]:
    """Return (row, column) of each dot, row 0 on top.

    A vertical stroke in the right one joins two neighbouring columns.
    """
    dots: set[tuple[int, int]] = set()
    before: int | None = None
    for column, value in enumerate(values):
        if value is None:
            before = None
            continue
        place = (high - value) / (high - low) * (rows - 1)
        row = round(max(-1.0, min(float(rows), place)))
        start = row if before is None else before + (row > before) - (row < before)
        for step in range(min(start, row), max(start, row) + 1):
            if 0 <= step < rows:
                dots.add((step, column))
        before = row
    return dots


def labels(values: Sequence[float], height: int, width: int, name: str = "") -> list[str]:
    """Return the labels left of a curve: the two ends of `span`, and ``name`` between them."""
    low, high = span(values)
    rows = [""] * height
    if height > 2:
        rows[height // 2] = name
    if height:
        rows[-1] = number(low)
        rows[0] = number(high) if height > 1 else number(low)
    return [_shorten(row, width, "").rjust(width) for row in rows]


def sparkline(
    values: Sequence[float], width: int, *, ascii_only: bool = False, from_zero: bool = True
) -> str:
    """Draw the newest ``width`` values as one line of bars, right-aligned.

    The largest value is a full bar; an empty one is 0, or the smallest value unless ``from_zero``.
    """
    shown = [_bounded(value) for value in list(values)[-width:]] if width > 0 else []
    drawable = [value for value in shown if math.isfinite(value)]
    low = 0.0 if from_zero or not drawable else min(drawable)
    reach = max(drawable, default=0.0) - low
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    bars = "".join(_block(value, low, reach, blocks) for value in shown)
    return bars.rjust(max(0, width))


def _block(value: float, low: float, reach: float, blocks: str) -> str:
    """Return the bar of one value between ``low`` and ``low + reach``; a blank where it is not finite."""
    if not math.isfinite(value):
        return " "
    level = min(1.0, max(0.0, (value - low) / reach)) if reach > 0 else 0.0
    return blocks[int(7.999 * level)]


def thin(values: Sequence[float], width: int) -> list[float]:
    """Return at most ``width`` values for a sparkline of all ``values``: means of equal stretches."""
    drawable = [_bounded(value) for value in values if math.isfinite(value)]
    if len(drawable) <= width:
        return drawable
    edges = [round(index * len(drawable) / width) for index in range(width + 1)] if width > 0 else []
    return [sum(drawable[a:b]) / (b - a) for a, b in pairwise(edges)]


def bar(share: float, width: int, *, ascii_only: bool = False) -> tuple[str, str]:
    """Return the filled and the empty part of a bar, together ``width`` cells.

    A share below 0 or above 1 is limited.
    """
    limited = max(0.0, min(1.0, share)) if math.isfinite(share) else 0.0
    filled = round(limited * max(0, width))
    full, empty = ("#", "-") if ascii_only else ("━", "╌")
    return full * filled, empty * (max(0, width) - filled)
