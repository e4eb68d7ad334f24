"""The dashboard's glyphs and colours. A state is always a glyph and a word; the colour only repeats what they say.

Blue and cyan are good, yellow asks for attention, reversed bright red is trouble: no pair that colour-blind people confuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..observe.text import clean, shorten

GOOD = "bright_blue"
FRESH = "cyan"
WARN = "yellow"
BAD = "bold bright_red"
ALARM = "bold bright_red reverse"
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
    "STALLED": ("✗", "X", ALARM),
}

SEVERITIES: Mapping[str, tuple[str, str, str]] = {
    "info": ("·", ".", ""),
    "warning": ("!", "!", WARN),
    "error": ("✗", "X", BAD),
}

_UNKNOWN = ("?", "?", WARN)


@dataclass(frozen=True, slots=True)
class Theme:
    """Which characters may be used. ``ascii_only`` restricts the whole frame to printable ASCII, strangers' names included."""

    ascii_only: bool = False

    @property
    def ellipsis(self) -> str:
        """Stands where a text was cut."""
        return "~" if self.ascii_only else "…"

    @property
    def dot(self) -> str:
        """Separates two facts on one line."""
        return " | " if self.ascii_only else " · "

    @property
    def box(self) -> str:
        """Six characters: the four corners (top left, top right, bottom left, bottom right), horizontal, vertical."""
        return "++++-|" if self.ascii_only else "╭╮╰╯─│"

    def glyph(self, marks: Mapping[str, tuple[str, str, str]], word: str) -> tuple[str, str]:
        """The glyph and colour of ``word``; a question mark where nobody knows it."""
        fine, plain, style = marks.get(word, _UNKNOWN)
        return (plain if self.ascii_only else fine), style

    def clean(self, text: str, at_most: int) -> str:
        """A stranger's text, safe to show with these characters in at most ``at_most`` cells."""
        safe = clean(
            text, 2 * max(at_most, 0) + 2
        )  # twice: a wide character becomes one narrow question mark
        if self.ascii_only:
            safe = safe.encode("ascii", "replace").decode("ascii")
        return shorten(safe, at_most, self.ellipsis)


def fitting(environ: Mapping[str, str], encoding: str, ascii_only: bool = False) -> Theme:
    """The theme for a terminal: ASCII where asked for, where the locale is not UTF-8, or where the font is known to be poor.

    Colour is not decided here: the console leaves it out where ``NO_COLOR`` is set.
    """
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""
    poor = environ.get("TERM", "") in ("dumb", "linux") or locale[:2] in (
        "zh",
        "ja",
        "ko",
    )  # there the glyphs may take two cells
    return Theme(ascii_only or poor or encoding.lower().replace("-", "").replace("_", "") != "utf8")
