"""Charts out of characters: curves in braille or ASCII, sparklines, bars.

Every function returns text of exactly the width and height asked for, whatever the numbers: values that are not finite are left
out, and a series that is empty or constant still gives a chart.
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
_STEPS = ".:-=+*%#"
_HUGE = 1e100


def finite(pairs: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The pairs that can be drawn, far outliers pulled in to where arithmetic stays finite."""
    return [(_bounded(x), _bounded(y)) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def _bounded(value: float) -> float:
    return value if not math.isfinite(value) else max(-_HUGE, min(_HUGE, value))


def span(values: Sequence[float]) -> tuple[float, float]:
    """The range of y worth looking at: from the 2nd to the 95th percentile, and always the newest value.

    A loss falls steeply at first; scaled to its maximum the later part, where people look, would be a flat line.
    """
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered:
        return 0.0, 1.0
    newest = next(value for value in reversed(values) if math.isfinite(value))
    last = len(ordered) - 1
    low, high = ordered[int(0.02 * last)], ordered[math.ceil(0.95 * last)]
    low, high = min(low, newest), max(high, newest)
    margin = max(
        0.0, 1e-3 * max(abs(low), abs(high), 1e-6) - (high - low)
    )  # a constant gets a little room on both sides
    return low - margin, high + margin


def curve(pairs: Pairs, width: int, height: int, *, ascii_only: bool = False) -> list[str]:
    """``pairs`` as a connected line in ``height`` rows of ``width`` cells; where several fall into one column, their mean.

    What lies outside `span` leaves the picture at the edge instead of running along it.
    """
    if width < 1 or height < 1:
        return [""] * max(0, height)
    columns, rows = (width, height) if ascii_only else (2 * width, 4 * height)
    drawable = finite(pairs)
    low, high = span([y for _, y in drawable])
    dots = _dots(_columns(drawable, columns), low, high, rows)
    if ascii_only:
        return [
            "".join("*" if (row, column) in dots else " " for column in range(width)) for row in range(height)
        ]
    grid = [[0] * width for _ in range(height)]
    for row, column in dots:
        grid[row // 4][column // 2] |= _BRAILLE[row % 4][column % 2]
    return ["".join(chr(0x2800 + bits) if bits else " " for bits in line) for line in grid]


def _columns(pairs: list[tuple[float, float]], columns: int) -> list[float | None]:
    """The mean of y in each column, interpolated where a column between two others has none."""
    sums, counts = [0.0] * columns, [0] * columns
    if pairs:
        first, last = pairs[0][0], pairs[-1][0]
        for x, y in pairs:
            column = int((x - first) / (last - first) * (columns - 1)) if last > first else columns - 1
            column = max(0, min(columns - 1, column))
            sums[column] += y
            counts[column] += 1
    values: list[float | None] = [total / n if n else None for total, n in zip(sums, counts, strict=True)]
    known = [column for column, value in enumerate(values) if value is not None]
    for left, right in pairwise(known):
        start, end = values[left] or 0.0, values[right] or 0.0
        for column in range(left + 1, right):
            values[column] = start + (end - start) * (column - left) / (right - left)
    return values


def _dots(values: list[float | None], low: float, high: float, rows: int) -> set[tuple[int, int]]:
    """(row, column) of each dot, row 0 on top; neighbouring columns are joined by a vertical stroke in the right one."""
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
    """The column left of a curve: the upper and lower end of `span`, and ``name`` between them where there is room."""
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
    """The newest ``width`` values as one line of bars, right-aligned. Scaled from 0, or from the smallest, to the largest value."""
    shown = [_bounded(value) for value in list(values)[-width:]] if width > 0 else []
    good = [value for value in shown if math.isfinite(value)]
    low = 0.0 if from_zero or not good else min(good)
    reach = max(good, default=0.0) - low
    steps = _STEPS if ascii_only else _BLOCKS
    levels = (min(1.0, max(0.0, (value - low) / reach)) if reach > 0 else 0.0 for value in shown)
    bars = (
        steps[int(7.999 * level)] if math.isfinite(value) else " "
        for value, level in zip(shown, levels, strict=True)
    )
    return "".join(bars).rjust(max(0, width))


def thin(values: Sequence[float], width: int) -> list[float]:
    """At most ``width`` values for a sparkline over the whole of ``values``: the mean of each of ``width`` equal stretches."""
    good = [_bounded(value) for value in values if math.isfinite(value)]
    if len(good) <= width:
        return good
    edges = [round(index * len(good) / width) for index in range(width + 1)] if width > 0 else []
    return [sum(good[a:b]) / (b - a) for a, b in pairwise(edges)]


def bar(share: float, width: int, *, ascii_only: bool = False) -> tuple[str, str]:
    """The filled and the empty part of a bar, together ``width`` cells. Anything but a share between 0 and 1 is pulled in."""
    part = max(0.0, min(1.0, share)) if math.isfinite(share) else 0.0
    full = round(part * max(0, width))
    done, rest = ("#", "-") if ascii_only else ("━", "╌")
    return done * full, rest * (max(0, width) - full)
