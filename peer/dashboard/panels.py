"""The parts of the picture: each function turns a snapshot into lines of a given width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from rich.text import Text

from swarm.identity import PeerId, petname

from ..observe.snapshot import BY_INVITATION, LoggedEvent, PeerRow, Point, Snapshot
from ..observe.text import QUOTE, cells, count, duration, number, percent, rate, shorten, size, wrapped
from . import plots
from .frame import Block, Piece, block, fit, flow, line, spread
from .theme import FRESH, GOOD, HEALTH, QUIET, SEVERITIES, STATES, STRONG, Theme

SORTS = ("share", "speed", "name", "trouble")
"""The orders of the table of peers; this peer comes first in each."""

KEYS = (("q", "quit"), ("s", "sort"), ("g", "sample"), ("i", "invite"), ("space", "freeze"), ("?", "help"))
"""Each key and what it does."""

_AWAY = frozenset({"left", "banned", "unreachable"})
"""States of peers that do not count as present."""
_BY_TROUBLE = (
    "banned",
    "unreachable",
    "slow",
    "left",
    "starting",
    "syncing",
    "following",
    "waiting",
    "averaging",
    "training",
)
"""States from the most to the least troubled: the order "trouble" of the table."""


# --- the run ------------------------------------------------------------------------------------------------


def health(snapshot: Snapshot, theme: Theme) -> tuple[str, str]:
    """Return the health with its glyph, and its colour."""
    glyph, style = theme.glyph(HEALTH, snapshot.health)
    return f" {glyph} {theme.clean(snapshot.health, 12)} ", style


def header(snapshot: Snapshot, width: int, theme: Theme) -> Block:
    """Show the run's name, its health, its peers and the uptime; below them the reason of the health."""
    here = sum(row.state not in _AWAY for row in snapshot.peers)
    syncing = sum(row.state == "syncing" for row in snapshot.peers)
    at_least = "+" if snapshot.more_peers > 0 else ""
    present = f"  {here}{at_least} peer{'s' * (here != 1)}"
    peers = present + (f" ({syncing} syncing)" if syncing else "")
    up = f"up {duration(snapshot.uptime, whole=True)}"
    facts = [up, f"{count(snapshot.parameters)} parameters", f"v{theme.clean(snapshot.version, 12)}"]
    preset = theme.clean(snapshot.relaxation.partition(":")[0], 12)
    all_facts = [preset, *facts] if preset else facts
    name = line(
        (" swarm  ", QUIET),
        (theme.clean(snapshot.run_name, max(8, width // 3)), STRONG),
        "  ",
        health(snapshot, theme),
    )
    ends = [
        (peers, theme.dot.join(all_facts)),
        (peers, theme.dot.join(facts)),
        (peers, up),
        (peers, ""),
        (present, ""),
    ]
    top = _longest_that_fits(name, ends, width, theme)
    if not snapshot.reason:
        return [top]
    _, style = theme.glyph(HEALTH, snapshot.health)
    return [top, fit(line((" " + theme.clean(snapshot.reason, width - 2), style)), width, theme)]


def _longest_that_fits(start: Text, ends: Sequence[tuple[str, str]], width: int, theme: Theme) -> Text:
    """Return ``start`` and the first of ``ends`` that fits on the line.

    Each of them is a text next to ``start`` and a text on the far right.
    """
    for near, far in ends:
        if start.cell_len + len(near) + (len(far) + 3 if far else 0) <= width:
            return spread(start.copy().append(near), line((f"{far} " if far else "", QUIET)), width, theme)
    return fit(start, width, theme)


def progress(snapshot: Snapshot, width: int, theme: Theme) -> Block:
    """Show two bars of the same length: how far the run is, and how far the round."""
    short = width < 70
    run_share, run_words = _run_progress(snapshot, short)
    round_share, round_words = _round_progress(snapshot, short, theme)
    longest = max(len(run_words), len(round_words))
    words_width = math.ceil(longest / 6) * 6  # in steps of 6: else the bars would change with every digit
    length = max(4, width - words_width - 10)
    return [
        fit(line((f" {label:<6}", QUIET), *_bar(share, length, theme), f"  {words}"), width, theme)
        for label, share, words in (("run", run_share, run_words), ("round", round_share, round_words))
    ]


def _run_progress(snapshot: Snapshot, short: bool) -> tuple[float, str]:
    """Return how much of the run is done, 0 to 1, and the words for it."""
    left = f"  {duration(snapshot.seconds_left)} left" if snapshot.seconds_left > 0 else ""
    if snapshot.rounds > 0:
        share = snapshot.round / snapshot.rounds
        if short:
            return share, f"{snapshot.round}/{snapshot.rounds}{left}"
        return share, f"round {snapshot.round} of {snapshot.rounds}  {percent(share)}{left}"
    if snapshot.tokens_goal > 0:
        share = snapshot.tokens / snapshot.tokens_goal
        tokens = f"{count(snapshot.tokens)}/{count(snapshot.tokens_goal)} tokens"
        return share, tokens + ("" if short else f"  {percent(share)}") + left
    tokens = "" if short else f"  {count(snapshot.tokens)} tokens, no end set"
    return 0.0, f"round {snapshot.round}{tokens}{left}"


def _round_progress(snapshot: Snapshot, short: bool, theme: Theme) -> tuple[float, str]:
    """Return how much of the local steps is done, 0 to 1, and the words for the phase."""
    left = duration(snapshot.phase_left, whole=True) if snapshot.phase_left > 0 else ""
    if snapshot.phase != "training":
        words = theme.clean(snapshot.phase, 12) + (f"  {left} left" if left else "")
        return (1.0 if snapshot.phase == "averaging" else 0.0), words
    share = snapshot.step / snapshot.max_steps if snapshot.max_steps > 0 else 0.0
    step = f"{snapshot.step:>{len(str(snapshot.max_steps))}}"
    if short:
        return share, f"step {step}/{snapshot.max_steps}" + (f"  {left}" if left else "")
    words = f"training  step {step} of {snapshot.max_steps}"
    return share, words + (f"  averages in {left}" if left else "")


def _bar(share: float, length: int, theme: Theme) -> tuple[Piece, Piece]:
    done, rest = plots.bar(share, length, ascii_only=theme.ascii_only)
    return (done, GOOD), (rest, QUIET)


# --- loss ---------------------------------------------------------------------------------------------------


def loss_words(snapshot: Snapshot, *, long: bool) -> list[Piece]:
    """Return the newest loss and evaluation, as the title of their chart."""
    loss = number(snapshot.losses[-1].value) if snapshot.losses else "-"
    words: list[Piece] = [("loss ", GOOD), (loss, STRONG), " nats/token" if long else ""]
    if not snapshot.evaluations:
        return words
    words += [
        ("  eval ", FRESH),
        (number(snapshot.evaluations[-1].value), STRONG),
        " bits/byte" if long else "",
    ]
    if long:
        finite = [point.value for point in snapshot.evaluations if math.isfinite(point.value)]
        words.append((f" (best {number(min(finite, default=math.nan))})", QUIET))
    return words


def chart(snapshot: Snapshot, width: int, height: int, theme: Theme) -> Block:
    """Draw the loss over the rounds, and below it the evaluations where there is space for both."""
    if not snapshot.losses and not snapshot.evaluations:
        return block([line(), line((" the first round is not finished yet", QUIET))], width, height, theme)
    lower = height // 3 if height >= 9 and len(snapshot.evaluations) > 1 else 0
    axis = 1 if height >= 5 else 0
    lines = _curve(snapshot.losses or snapshot.evaluations, "loss", GOOD, width, height - lower - axis, theme)
    lines += _curve(_since(snapshot.evaluations, snapshot.losses), "eval", FRESH, width, lower, theme)
    return block(lines + [_axis(snapshot.losses or snapshot.evaluations, width)] * axis, width, height, theme)


def _since(points: Sequence[Point], like: Sequence[Point]) -> list[Point]:
    """Return ``points`` with a NaN at both ends, so that they cover the same rounds as ``like``.

    A NaN is not drawn.
    """
    if not points or not like:
        return list(points)
    return [
        Point(min(like[0].round, points[0].round), math.nan),
        *points,
        Point(max(like[-1].round, points[-1].round), math.nan),
    ]


def _curve(points: Sequence[Point], name: str, style: str, width: int, height: int, theme: Theme) -> Block:
    values = [point.value for point in points]
    rows = plots.curve(
        [(point.round, point.value) for point in points],
        max(0, width - 8),
        height,
        ascii_only=theme.ascii_only,
    )
    edge = "|" if theme.ascii_only else "┤"
    names = plots.labels(values, height, 6, name)
    return [
        line((label, style if label.strip() == name else QUIET), (edge, QUIET), (row, style))
        for label, row in zip(names, rows, strict=True)
    ]


def _axis(points: Sequence[Point], width: int) -> Text:
    first = f"round {points[0].round}"
    last = str(points[-1].round)
    return line((f"       {first}{last:>{max(1, width - 8 - len(first))}}", QUIET))


# --- this computer and the network --------------------------------------------------------------------------


def machine(snapshot: Snapshot, width: int, theme: Theme) -> Block:
    """Show what this computer gives and what it has, the most important lines first."""
    given = (
        duration(snapshot.given_seconds),
        f"{count(snapshot.given_tokens)} tokens",
        f"{count(snapshot.given_rounds)} rounds",
    )
    memory = snapshot.memory / snapshot.memory_total if snapshot.memory_total > 0 else 0.0
    cpu = snapshot.cpu / snapshot.cores if snapshot.cores > 0 else 0.0
    return [
        _meter("cpu", cpu, f"{number(snapshot.cpu, 1)} of {snapshot.cores} cores", width, theme),
        _meter("mem", memory, f"{size(snapshot.memory)} of {size(snapshot.memory_total)}", width, theme),
        line(("given ", QUIET), theme.dot.join(given)),
    ]


def _meter(label: str, share: float, words: str, width: int, theme: Theme) -> Text:
    return line((f"{label:<6}", QUIET), *_bar(share, max(4, width - 26), theme), f"{words:>20}")


def network(snapshot: Snapshot, width: int, theme: Theme) -> Block:
    """Show what this computer sends and receives, and what averaging costs, most important lines first."""
    group_size = snapshot.members + snapshot.missing
    group = f"{snapshot.members} of {group_size} peers averaged in {duration(snapshot.average_seconds)}"
    share = snapshot.average_seconds / snapshot.round_seconds if snapshot.round_seconds > 0 else math.nan
    cost = f"{percent(share)} of a {duration(snapshot.round_seconds)} round"
    if snapshot.codec:
        cost += theme.dot + theme.clean(snapshot.codec, 16)
    state = theme.clean(snapshot.state_root, 64)[:12] or "-"
    if snapshot.checkpoint:
        state += theme.dot + theme.clean(snapshot.checkpoint, width)
    return [
        _traffic("up", snapshot.up, width, theme),
        _traffic("down", snapshot.down, width, theme),
        line(("group ", QUIET), group),
        line(("cost  ", QUIET), cost),
        line(("total ", QUIET), f"{size(snapshot.bytes_up)} up{theme.dot}{size(snapshot.bytes_down)} down"),
        line(("state ", QUIET), state),
    ]


def _traffic(label: str, values: Sequence[float], width: int, theme: Theme) -> Text:
    return line(
        (f"{label:<6}", QUIET),
        (plots.sparkline(values, max(4, width - 18), ascii_only=theme.ascii_only), GOOD),
        f"{_newest(values):>12}",
    )


def _newest(rates: Sequence[float]) -> str:
    """Return the newest of some bytes per second in words; ``-`` before the first."""
    return rate(rates[-1]) if rates else "-"


def machine_line(snapshot: Snapshot, width: int, theme: Theme) -> Text:
    """Show `machine` and `network` in one line, for terminals without space for their boxes."""
    facts = (
        f"cpu {number(snapshot.cpu, 1)} of {snapshot.cores}",
        f"up {_newest(snapshot.up)}",
        f"down {_newest(snapshot.down)}",
        f"given {duration(snapshot.given_seconds, whole=True)}",
        f"{count(snapshot.given_rounds)} rounds",
        f"mem {size(snapshot.memory)}",
    )
    words = facts[0]
    for fact in facts[1:]:
        longer = words + theme.dot + fact
        if len(longer) + 9 <= width:
            words = longer
    return fit(line((" you   ", QUIET), words), width, theme)


# --- peers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """One column of figures, right-aligned in ``width`` cells.

    In a narrow table, columns with the lowest ``rank`` go first.
    """

    head: str
    width: int
    rank: int
    cell: Callable[[PeerRow], str]


_COLUMNS = (
    Column("round", 7, 6, lambda row: str(row.round) if abs(row.round) < 10_000_000 else count(row.round)),
    Column("tok/s", 5, 4, lambda row: count(row.tokens_per_second) if row.tokens_per_second else "-"),
    Column("up/s", 7, 3, lambda row: size(row.up) if row.up else "-"),
    Column("down/s", 7, 3, lambda row: size(row.down) if row.down else "-"),
    Column("share", 6, 5, lambda row: percent(row.share)),
    Column("loss", 6, 0, lambda row: number(row.loss) if row.loss else "-"),
    Column("seen", 6, 1, lambda row: "now" if row.is_me else duration(row.seen_seconds, whole=True)),
)
_STATE = 13
"""Cells of the column with a peer's state."""
_NAME = 16
"""Least cells of the column with a peer's name; it takes what the others leave."""
_DEVICE = 12
"""Cells of the column with a peer's device."""
_GAP = 2
"""Cells between two columns."""


def ordered(rows: Sequence[PeerRow], sort: str) -> list[PeerRow]:
    """Return ``rows`` in one of the `SORTS`, this peer first."""

    def key(row: PeerRow) -> tuple[object, ...]:
        return not row.is_me, _rank(row, sort), row.name, row.peer

    return sorted(rows, key=key)


def _rank(row: PeerRow, sort: str) -> float:
    """Return the place of ``row``, lowest first; rows with the same place are sorted by name."""
    if sort == "name":
        return 0.0
    if sort == "trouble":
        return float(_BY_TROUBLE.index(row.state)) if row.state in _BY_TROUBLE else -1.0
    amount = row.tokens_per_second if sort == "speed" else row.share
    return -amount if math.isfinite(amount) else 0.0


def peers_title(snapshot: Snapshot, sort: str, page: int, pages: int, theme: Theme) -> Text:
    """Return the title of the table: the peers by state, the order, and the page."""
    states = [row.state for row in snapshot.peers]
    words = [f"peers {sum(state not in _AWAY for state in states)}"]
    words += [f"{states.count(state)} {state}" for state in ("unreachable", "banned") if state in states]
    if snapshot.more_peers > 0:
        words.append(f"{count(snapshot.more_peers)} more not listed")
    words.append(f"sorted by {sort}")
    if pages > 1:
        words.append(f"page {page + 1} of {pages} {'(up, down)' if theme.ascii_only else '↑↓'}")
    return line((theme.dot.join(words), STRONG))


def pages_of(snapshot: Snapshot, height: int) -> int:
    """Return how many pages the peers take in a table of ``height`` lines, its head among them."""
    mine = sum(row.is_me for row in snapshot.peers)
    return max(1, math.ceil((len(snapshot.peers) - mine) / max(1, height - 1 - mine)))


def peers_table(snapshot: Snapshot, width: int, height: int, look: tuple[str, int], theme: Theme) -> Block:
    """Draw the table in exactly ``height`` lines.

    ``look`` is the order and the page; this peer is on top of every page.
    """
    sort, page = look
    layout = _table_layout(width)
    rows = ordered(snapshot.peers, sort)
    mine = [row for row in rows if row.is_me]
    others = rows[len(mine) :]
    per_page = max(1, height - 1 - len(mine))
    start = page % pages_of(snapshot, height) * per_page
    shown = [*mine, *others[start : start + per_page]]
    return block([_table_head(layout), *(_row(row, layout, theme) for row in shown)], width, height, theme)


@dataclass(frozen=True, slots=True)
class TableLayout:
    """The columns of the table of peers that fit: cells for the name and the device, and the figures.

    A device of 0 cells means that there is no such column.
    """

    name: int
    device: int
    figures: Sequence[Column]


def _table_layout(width: int) -> TableLayout:
    """Drop columns, the least important first, until the table fits into ``width`` cells."""
    figures: Sequence[Column] = _COLUMNS
    device = _DEVICE
    for rank in range(7):
        if _taken(device, figures) + _NAME <= width:
            break
        figures = [column for column in figures if column.rank != rank]
        if rank >= 2:
            device = 0
    return TableLayout(max(4, width - _taken(device, figures)), device, figures)


def _taken(device: int, figures: Sequence[Column]) -> int:
    """Return the cells of all columns but the name's, gaps included."""
    taken = _STATE + _GAP + sum(column.width + _GAP for column in figures)
    return taken + device + _GAP if device else taken


def _table_head(layout: TableLayout) -> Text:
    head = f"{'  state':<{_STATE}}  {'peer':<{layout.name}}"
    if layout.device:
        head += f"  {'device':<{layout.device}}"
    return line((head + "".join(f"  {column.head:>{column.width}}" for column in layout.figures), QUIET))


def _row(row: PeerRow, layout: TableLayout, theme: Theme) -> Text:
    glyph, style = theme.glyph(STATES, row.state)
    if row.is_me:
        name = theme.clean(row.name, layout.name) or theme.clean(row.peer, 8)
        who = line((f"you ({name})", STRONG))
    else:
        who = line(_name_of(row, layout.name, theme))
    text = line((f"{glyph} {theme.clean(row.state, 11):<11}", style), "  ")
    text.append_text(fit(who, layout.name, theme))
    if layout.device:
        device = line(theme.clean(row.device, layout.device))
        text.append("  ").append_text(fit(device, layout.device, theme))
    figures = "".join("  " + _figure(column, row, theme) for column in layout.figures)
    return text.append(figures, QUIET if row.state in _AWAY else None)


def _name_of(row: PeerRow, width: int, theme: Theme) -> str:
    """Return the name of another peer, in at most ``width`` cells.

    That is the animal that follows from its id. A name that it gives itself is a stranger's word: it stands
    in quotation marks before the end of the animal's name, so that nobody is taken for somebody else.
    """
    try:
        animal = petname(PeerId(row.peer))
    except ValueError:
        animal = theme.clean(row.peer, 8)
    tag = animal[-4:]
    room = max(0, width - len(tag) - 3)
    name = "" if row.name == animal else theme.clean(row.name.replace(QUOTE, "'"), room)
    return f"{QUOTE}{name}{QUOTE} {tag}" if name else animal


def _figure(column: Column, row: PeerRow, theme: Theme) -> str:
    """Return one figure in the width of its column; an ellipsis where it does not fit."""
    figure = column.cell(row)
    if len(figure) > column.width:
        figure = theme.ellipsis
    return figure.rjust(column.width)


# --- events, and what a key shows ---------------------------------------------------------------------------


def events(
    happened: Sequence[LoggedEvent], width: int, height: int, zone: tzinfo | None, theme: Theme
) -> Block:
    """Show the newest events first, one line each."""
    newest = sorted(happened, key=_time_of, reverse=True)[: max(0, height)]
    lines = []
    for event in newest:
        glyph, style = theme.glyph(SEVERITIES, event.severity)
        text = theme.clean(event.text, max(0, width - 11))
        lines.append(line((_clock(event.time, zone), QUIET), (f" {glyph} ", style), (text, style)))
    return block(lines, width, height, theme)


def _time_of(event: LoggedEvent) -> float:
    return event.time if math.isfinite(event.time) else -math.inf


def _clock(time: float, zone: tzinfo | None) -> str:
    """Return the time of day; dashes for a time that no calendar has."""
    try:
        return datetime.fromtimestamp(time, UTC).astimezone(zone).strftime("%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "--:--:--"


def sample(snapshot: Snapshot, width: int, theme: Theme) -> Block:
    """Show text that the shared model has generated."""
    text = theme.clean(snapshot.sample, 4000)
    if not text:
        return [line(("the model has not generated any text yet", QUIET))]
    return [line(part) for part in wrapped(text, width)]


def invite(snapshot: Snapshot, width: int, theme: Theme) -> Block:
    """Show the command that lets a friend join. A shell joins lines that end with ``\\``."""
    if not snapshot.ticket:
        return [line(("this run has no ticket to show", QUIET))]
    if snapshot.ticket == BY_INVITATION:
        return [line(("this run is by invitation: ask the organiser for a ticket", QUIET))]
    rest = f"swarm join {theme.clean(snapshot.ticket, 4000)}"
    lines = [line(("a friend who runs this command trains with you:", QUIET)), line()]
    while cells(rest) > width > 2:
        head = shorten(rest, width - 1, "")
        lines.append(line(head, "\\"))
        rest = rest[len(head) :]
    return [*lines, line(rest)]


def helping(width: int, theme: Theme) -> Block:
    """Show what the keys do and what the glyphs mean."""
    keys = [*KEYS, ("up down" if theme.ascii_only else "↑ ↓", "page through the peers")]
    states = [(*theme.glyph(STATES, state), state) for state in STATES]
    return [
        *flow([line((key, STRONG), f" {does}") for key, does in keys], 3, width),
        line(("quitting closes this view only: the peer keeps running", QUIET)),
        line(),
        *flow([line((f"{glyph} {state}", style)) for glyph, style, state in states], 3, width),
    ]
