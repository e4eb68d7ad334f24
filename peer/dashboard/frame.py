"""Lines of exact width, boxes of exact height, and the frame that goes to the terminal.

Nothing reaches beyond the frame.

A block is a list of lines of one width. Two blocks are put below each other with ``+`` and beside each other
with `beside`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.segment import Segment
from rich.text import Text

from .theme import QUIET, Theme

Block = list[Text]
"""Lines of one width."""
Piece = str | tuple[str, str]
"""A text, or a text and its style."""


def line(*pieces: Piece) -> Text:
    """Join texts and (text, style) pairs to one line. Texts are taken literally, never as markup."""
    joined = Text(no_wrap=True, end="")
    for piece in pieces:
        if isinstance(piece, str):
            joined.append(piece)
        else:
            text, style = piece
            joined.append(text, style or None)
    return joined


def fit(text: Text, width: int, theme: Theme) -> Text:
    """Return ``text`` in exactly ``width`` cells: padded on the right, or cut with an ellipsis."""
    excess = text.cell_len - max(0, width)
    if excess > 0:
        text = text.copy()
        text.truncate(max(0, width - 1), overflow="crop")
        text.append(theme.ellipsis if width > 0 else "")
        excess = text.cell_len - width
    if excess < 0:
        text.pad_right(-excess)
    return text


def spread(left: Text, right: Text, width: int, theme: Theme) -> Text:
    """Put ``left`` and ``right`` at the two ends of a line of ``width``.

    ``right`` is left out where it does not fit whole.
    """
    if left.cell_len + 2 + right.cell_len > width:
        return fit(left, width, theme)
    gap = width - left.cell_len - right.cell_len
    return Text(no_wrap=True, end="").append_text(left).append(" " * gap).append_text(right)


def flow(pieces: Sequence[Text], gap: int, width: int) -> Block:
    """Put ``pieces`` in reading order, as many on each line as fit with ``gap`` blanks between them."""
    lines: Block = []
    for piece in pieces:
        if lines and lines[-1].cell_len + gap + piece.cell_len <= width:
            lines[-1].append(" " * gap).append_text(piece)
        else:
            lines.append(piece.copy())
    return lines


def block(lines: Sequence[Text], width: int, height: int, theme: Theme) -> Block:
    """Return exactly ``height`` lines of ``width`` cells: those given, then empty ones."""
    missing = [line() for _ in range(height - len(lines))]
    return [fit(text, width, theme) for text in [*lines[: max(0, height)], *missing]]


def boxed(title: Text, lines: Sequence[Text], width: int, height: int, theme: Theme) -> Block:
    """Draw a box of exactly ``width`` × ``height`` around ``lines``, with ``title`` on its upper edge."""
    box = theme.box
    if width < 8 or height < 2:
        return block(lines, width, height, theme)
    head = title.copy()
    head.truncate(width - 6, overflow="crop")
    rest = width - 5 - head.cell_len
    top = line((box.top_left + box.horizontal + " ", QUIET))
    top.append_text(head).append(" " + box.horizontal * rest + box.top_right, QUIET)
    inside = [
        line((box.vertical + " ", QUIET)).append_text(text).append(" " + box.vertical, QUIET)
        for text in block(lines, width - 4, height - 2, theme)
    ]
    return [top, *inside, line((box.bottom_left + box.horizontal * (width - 2) + box.bottom_right, QUIET))]


def beside(left: Block, right: Block) -> Block:
    """Put two blocks of the same height next to each other."""
    return [first.copy().append_text(second) for first, second in zip(left, right, strict=True)]


@dataclass(frozen=True, slots=True)
class Frame:
    """A finished picture: ``height`` lines of ``width`` cells.

    It never wraps and never grows, whatever console prints it.
    """

    lines: tuple[Text, ...]
    width: int
    height: int

    @classmethod
    def of(cls, lines: Sequence[Text], width: int, height: int, theme: Theme) -> Frame:
        """Cut ``lines``, or fill them up, to exactly ``width`` × ``height``."""
        return cls(tuple(block(lines, width, height, theme)), width, height)

    @property
    def plain(self) -> str:
        """The characters without colours, and without blanks at the end of lines."""
        return "\n".join(text.plain.rstrip() for text in self.lines)

    def greyed(self) -> Frame:
        """Return the same characters, all grey: for a picture that is no longer up to date."""
        return Frame(
            tuple(Text(text.plain, style=QUIET, no_wrap=True, end="") for text in self.lines),
            self.width,
            self.height,
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for text in self.lines:
            yield from text.render(console)
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(self.width, self.width)
