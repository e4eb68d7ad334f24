"""Lines of exact width, boxes of exact height, and the frame that goes to the terminal: nothing outside it can be drawn.

A block is a list of lines of one width. Blocks are put below each other with ``+`` and beside each other with `beside`.
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
Piece = str | tuple[str, str]


def line(*pieces: Piece) -> Text:
    """One line out of texts and (text, style) pairs; texts are taken literally, never as markup."""
    whole = Text(no_wrap=True, end="")
    for piece in pieces:
        whole.append(piece) if isinstance(piece, str) else whole.append(piece[0], piece[1] or None)
    return whole


def fit(text: Text, width: int, theme: Theme) -> Text:
    """``text`` in exactly ``width`` cells: padded on the right, or cut with an ellipsis."""
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
    """``left`` and ``right`` at the two ends of a line of ``width``; ``right`` is left out where it does not fit whole."""
    if left.cell_len + 2 + right.cell_len > width:
        return fit(left, width, theme)
    gap = width - left.cell_len - right.cell_len
    return Text(no_wrap=True, end="").append_text(left).append(" " * gap).append_text(right)


def flow(pieces: Sequence[Text], gap: int, width: int) -> Block:
    """``pieces`` in reading order, as many on each line as fit with ``gap`` blanks between them."""
    lines: Block = []
    for piece in pieces:
        if lines and lines[-1].cell_len + gap + piece.cell_len <= width:
            lines[-1].append(" " * gap).append_text(piece)
        else:
            lines.append(piece.copy())
    return lines


def block(lines: Sequence[Text], width: int, height: int, theme: Theme) -> Block:
    """The first ``height`` of ``lines``, each in exactly ``width`` cells, with empty ones where there are fewer."""
    chosen = [*lines[: max(0, height)], *(line() for _ in range(height - len(lines)))]
    return [fit(text, width, theme) for text in chosen]


def boxed(title: Text, lines: Sequence[Text], width: int, height: int, theme: Theme) -> Block:
    """``lines`` in a box of exactly ``width`` × ``height`` with ``title`` on its upper edge."""
    corners, flat, upright = theme.box[:4], theme.box[4], theme.box[5]
    if width < 8 or height < 2:
        return block(lines, width, height, theme)
    head = title.copy()
    head.truncate(width - 6, overflow="crop")
    rest = width - 5 - head.cell_len
    top = (
        line((corners[0] + flat + " ", QUIET)).append_text(head).append(" " + flat * rest + corners[1], QUIET)
    )
    inside = [
        line((upright + " ", QUIET)).append_text(text).append(" " + upright, QUIET)
        for text in block(lines, width - 4, height - 2, theme)
    ]
    return [top, *inside, line((corners[2] + flat * (width - 2) + corners[3], QUIET))]


def beside(left: Block, right: Block) -> Block:
    """Two blocks of the same height next to each other."""
    return [one.copy().append_text(other) for one, other in zip(left, right, strict=True)]


@dataclass(frozen=True, slots=True)
class Frame:
    """A finished picture: ``height`` lines of ``width`` cells. It never wraps and never grows, whatever console prints it."""

    lines: tuple[Text, ...]
    width: int
    height: int

    @classmethod
    def of(cls, lines: Sequence[Text], width: int, height: int, theme: Theme) -> Frame:
        """``lines`` cut or filled up to exactly ``width`` × ``height``."""
        return cls(tuple(block(lines, width, height, theme)), width, height)

    @property
    def plain(self) -> str:
        """The characters alone, lines ended without trailing blanks."""
        return "\n".join(text.plain.rstrip() for text in self.lines)

    def greyed(self) -> Frame:
        """The same characters without their colours: what was true a while ago."""
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
