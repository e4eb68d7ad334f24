"""The dashboard's glyphs and colours.

A state is always a glyph and a word; the colour only repeats what they say.

Blue and cyan are good, yellow asks for attention, bright red is trouble: no pair that colour-blind people
confuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..observe.text import clean, shorten

GOOD = "bright_blue"
FRESH = "cyan"
WARN = "yellow"
BAD = "bold bright_red"
QUIET = "bright_black"
STRONG = "bold"

STATES: Mapping[str, tuple[str, str, str]] = {
    "training": ("●", "o", GOOD),
    "averaging": ("◆", "A", STRONG),
    "syncing": ("◐", "S", FRESH),
    "starting": ("◌", "s", FRESH),
    "waiting": ("◇", "w", FRESH),
    "following": ("◈", "f", FRESH),
    "slow": ("○", "-", WARN),
    "unreachable": ("?", "?", WARN),
    "left": ("_", "_", QUIET),
    "banned": ("✗", "X", BAD),
}
"""Glyph, ASCII glyph and colour of a peer's state."""

HEALTH: Mapping[str, tuple[str, str, str]] = {
    "HEALTHY": ("●", "o", "bold bright_blue"),
    "SYNCING": ("◐", "S", "bold cyan"),
    "WAITING": ("◇", "w", "bold cyan"),
    "FINISHED": ("✓", "*", "bold bright_blue"),
    "DEGRADED": ("!", "!", "bold yellow reverse"),
}
"""Glyph, ASCII glyph and colour of a peer's health."""

SEVERITIES: Mapping[str, tuple[str, str, str]] = {
    "info": ("·", ".", ""),
    "warning": ("!", "!", WARN),
    "error": ("✗", "X", BAD),
}
"""Glyph, ASCII glyph and colour of an event's severity."""

_UNKNOWN = ("?", "?", WARN)


class Box(NamedTuple):
    """The characters that a box is drawn with."""

    top_left: str
    top_right: str
    bottom_left: str
    bottom_right: str
    horizontal: str
    vertical: str


_ROUND_BOX = Box("╭", "╮", "╰", "╯", "─", "│")
_ASCII_BOX = Box("+", "+", "+", "+", "-", "|")


@dataclass(frozen=True, slots=True)
class Theme:
    """Which characters may be used.

    ``ascii_only`` allows printable ASCII alone, in the whole frame, strangers' names included.
    """

    ascii_only: bool = False

    @property
    def ellipsis(self) -> str:
        """The mark where a text was cut."""
        return "~" if self.ascii_only else "…"

    @property
    def dot(self) -> str:
        """The separator between two facts on one line."""
        return " | " if self.ascii_only else " · "

    @property
    def box(self) -> Box:
        """The characters that boxes are drawn with."""
        return _ASCII_BOX if self.ascii_only else _ROUND_BOX

    def glyph(self, marks: Mapping[str, tuple[str, str, str]], word: str) -> tuple[str, str]:
        """Return the glyph and colour of ``word``; a question mark for an unknown one."""
        unicode_glyph, ascii_glyph, style = marks.get(word, _UNKNOWN)
        return (ascii_glyph if self.ascii_only else unicode_glyph), style

    def clean(self, text: str, at_most: int) -> str:
        """Return a stranger's text, safe to show with these characters in at most ``at_most`` cells."""
        # Twice as long at first: in ASCII, a wide character becomes one narrow question mark.
        safe = clean(text, 2 * max(at_most, 0) + 2)
        if self.ascii_only:
            safe = safe.encode("ascii", "replace").decode("ascii")
        return shorten(safe, at_most, self.ellipsis)


def fitting(environ: Mapping[str, str], encoding: str, ascii_only: bool = False) -> Theme:
    """Return the theme for a terminal.

    It is ASCII where asked for, where the locale is not UTF-8, or where glyphs may be too wide.

    Colour is not decided here: the console leaves it out where ``NO_COLOR`` is set.
    """
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""
    has_poor_font = environ.get("TERM", "") in ("dumb", "linux")
    # their fonts draw box and braille characters in two cells
    has_wide_glyphs = locale[:2] in ("zh", "ja", "ko")
    is_utf8 = encoding.lower().replace("-", "").replace("_", "") == "utf8"
    return Theme(ascii_only or has_poor_font or has_wide_glyphs or not is_utf8)
