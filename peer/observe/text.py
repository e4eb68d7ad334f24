"""Texts and numbers for people: strangers' text made harmless, and quantities with their units.

A peer's name, its errors and a generated sample come from strangers. On a terminal such text can move the
cursor, recolour the screen, reverse the line or imitate another line. So every text of a stranger passes
through `clean` before it is shown, and stands between quotation marks (`quoted`) beside the name of the peer
that says it: nobody must take it for a word of this program.
"""

from __future__ import annotations

import math
import re
import unicodedata
from functools import lru_cache

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b\x9c]{0,4096}(?:\x07|\x1b\\|\x9c)"  # OSC: titles, links, the clipboard
    r"|\x1b[PX^_][^\x1b]{0,4096}\x1b\\"  # DCS, SOS, PM, APC
    r"|(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"  # CSI: colours and cursor movements
    r"|\x1b[ -/]{0,8}[0-~]"  # the other two-character escapes
)
_DISPUTED = re.compile(
    "[\u115f-\u11ff\u17b4\u17b5\u2630-\u2637\u268a-\u268f\u2800\u302e\u302f\u3164\u4dc0-\u4dff"
    "\ud7b0-\ud7ff\uffa0"
    "\U0001d300-\U0001d37f\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff]"
)
"""Characters of harmless categories that are invisible, or that terminals draw with different widths."""
_DROPPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Mc", "Me"})
"""Unicode categories that `clean` removes: controls, formats, surrogates, private and unassigned ones,
separators, wide marks."""
QUOTE = '"'
"""The quotation mark around a stranger's words."""
_MARKS = 2
"""Combining marks kept on one letter: enough for every living script that stacks them, too few to reach into
other lines."""


def clean(text: str, at_most: int = 200) -> str:
    """Return ``text`` as one printable line of at most ``at_most`` cells, cut with ``…`` where it is longer.

    Removes terminal escapes, control and format characters (bidirectional overrides, zero-width ones,
    variation selectors), surrogates, and characters whose width terminals disagree about; every kind of blank
    becomes one space.
    """
    head = text[: 8 * at_most + 256]  # a name of a million characters costs as much as one of a thousand
    kept: list[str] = []
    marks = 0
    for character in unicodedata.normalize("NFC", _DISPUTED.sub("", _ESCAPES.sub("", head))):
        if character.isspace():
            character = " "
        category = unicodedata.category(character)
        marks = marks + 1 if category == "Mn" else 0
        if category in _DROPPED or marks > _MARKS or _selects_a_variant(character):
            continue
        if character == " " and kept[-1:] in ([], [" "]):
            continue
        kept.append(character)
    return shorten("".join(kept).rstrip(), at_most)


def quoted(words: str, at_most: int = 120) -> str:
    """Return a stranger's words, clean, between quotation marks that they cannot leave.

    ``at_most`` is the number of cells, marks included.
    """
    inside = clean(words.replace(QUOTE, "'"), max(0, at_most - 2))
    return QUOTE + inside + QUOTE


def encodable(text: str) -> str:
    """Return ``text`` with a question mark for each byte that is not UTF-8 (in a path, a surrogate)."""
    return text.encode(errors="replace").decode()


def _selects_a_variant(character: str) -> bool:
    """Whether the character only changes the one before it: a variation selector, or in plane 14."""
    return 0xFE00 <= ord(character) <= 0xFE0F or ord(character) >= 0xE0000


@lru_cache(maxsize=1 << 12)
def _cell(character: str) -> int:
    """Return the columns of one character: 0 for a combining mark, 2 for a wide one."""
    if unicodedata.category(character) == "Mn":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cells(text: str) -> int:
    """Return the columns that ``text``, already clean, takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_cell, text))


def shorten(text: str, width: int, mark: str = "…") -> str:
    """Return ``text``, already clean, in at most ``width`` cells; ``mark`` stands where the rest was."""
    if cells(text) <= width:
        return text
    if width <= 0:
        return ""
    left = width - cells(mark)
    kept = 0
    for character in text:
        left -= _cell(character)
        if left < 0:
            break
        kept += 1
    return text[:kept] + mark


def wrapped(text: str, width: int) -> list[str]:
    """Return ``text``, already clean, as lines of at most ``width`` cells.

    Lines are broken at blanks; a longer word is cut at the line's end.
    """
    lines: list[str] = []
    if width <= 0:
        return lines
    for word in text.split(" "):
        if lines and cells(lines[-1]) + 1 + cells(word) <= width:
            lines[-1] += f" {word}"
            continue
        while cells(word) > width:
            head = shorten(word, width, "")
            if not head:  # one wide character in a single column
                return lines
            lines.append(head)
            word = word[len(head) :]
        lines.append(word)
    return lines


# --- numbers with their units -------------------------------------------------------------------------------

_PREFIXES = "kMGTPE"
"""Powers of a thousand, from kilo to exa."""


def number(value: float, digits: int = 2) -> str:
    """Return a number such as ``3.41``; ``-`` where it is not finite, ``1.2e+05`` where it is large."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 10_000 else f"{value:.1e}"


def count(value: float) -> str:
    """Return an amount in at most five characters: ``812``, ``11.4k``, ``1.24M``."""
    return _scaled(value, "")


def size(value: float) -> str:
    """Return bytes in decimal units: ``31 MB``, ``4.2 GB``."""
    return _scaled(value, " ") + ("B" if _is_amount(value) else "")


def rate(value: float) -> str:
    """Return bytes per second: ``4.2 MB/s``."""
    return f"{size(value)}/s" if _is_amount(value) else "-"


def _is_amount(value: float) -> bool:
    """Whether ``value`` can be written with the prefixes there are."""
    return math.isfinite(value) and 0 <= value < 1e21


def _scaled(value: float, gap: str) -> str:
    """Return ``value`` with a decimal prefix after ``gap``; ``-`` where it is no amount.

    With a gap there is one decimal less.
    """
    if not _is_amount(value):
        return "-"
    power = 0
    while value >= 999.5 and power < len(_PREFIXES):
        value /= 1000
        power += 1
    if power == 0:
        return f"{value:.0f}{gap}"
    if value >= 99.95:
        digits = 0
    elif value >= 9.95 or gap:
        digits = 1
    else:
        digits = 2
    return f"{value:.{digits}f}{gap}{_PREFIXES[power - 1]}"


def percent(share: float) -> str:
    """Return a share of one in at most six characters: ``36.9 %``, ``100 %``."""
    if not (math.isfinite(share) and 0 <= share < 9.99):
        return "-"
    digits = 1 if share < 0.9995 else 0
    return f"{100 * share:.{digits}f} %"


def duration(seconds: float, *, whole: bool = False) -> str:
    """Return a span of time in at most seven characters: ``0.03 s``, ``45 s``, ``3h16m``, ``5d04h``.

    With ``whole``, short ones are whole seconds too: ``0 s``.
    """
    if not (math.isfinite(seconds) and 0 <= seconds < 8.64e9):
        return "-"
    if seconds < 9.95 and not whole:
        digits = 2 if 0 < seconds < 0.095 else 1
        return f"{seconds:.{digits}f} s"
    total = round(seconds)
    if total < 100:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02d}s"
    if total < 100 * 3600:
        return f"{total // 3600}h{total % 3600 // 60:02d}m"
    days = total // 86400
    return f"{days}d{total % 86400 // 3600:02d}h" if days < 1000 else f"{days}d"
