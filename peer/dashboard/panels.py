"""The parts of the picture: each turns a snapshot into lines of text that fit a given width and height."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from rich.text import Text

from ..observe.snapshot import LoggedEvent, PeerRow, Point, Snapshot
from ..observe.text import cells, count, duration, number, percent, rate, shorten, size, wrapped
from . import plots
from .frame import Block, Piece, block, fit, flow, line, spread
from .theme import FRESH, GOOD, HEALTH, QUIET, SEVERITIES, STATES, STRONG, Theme

SORTS = ("share", "speed", "name", "trouble")
"""The orders of the table of peers; this peer comes first in each."""

KEYS = (("q", "quit"), ("s", "sort"), ("g", "sample"), ("i", "invite"), ("space", "freeze"), ("?", "help"))

_AWAY = frozenset({"left", "banned", "unreachable"})
_TROUBLE = (
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


# --- how the run does ---------------------------------------------------------------------------------------


def health(snapshot: Snapshot, theme: Theme) -> tuple[str, str]:
    """The health word with its glyph."""
    glyph, style = theme.glyph(HEALTH, snapshot.health)
    return f" {glyph} {theme.clean(snapshot.health, 12)} ", style


def header(snapshot: Snapshot, width: int, theme: Theme) -> Block:
    """Which run, how it does, how many peers, for how long; where the health has a reason, the reason on a line of its own."""
    here = sum(row.state not in _AWAY for row in snapshot.peers)
    syncing = sum(row.state == "syncing" for row in snapshot.peers)
    short = f"  {here} peer{'s' * (here != 1)}"
    peers = short + (f" ({syncing} syncing)" if syncing else "")
    up = f"up {duration(snapshot.uptime, whole=True)}"
    facts = (f"{count(snapshot.parameters)} parameters", f"v{theme.clean(snapshot.version, 12)}")
    preset = theme.clean(snapshot.relaxation.partition(":")[0], 12)
    more, most = (
        theme.dot.join((up, *facts)),
        theme.dot.join((preset, up, *facts) if preset else (up, *facts)),
    )
    name = line(
        (" swarm  ", QUIET),
        (theme.clean(snapshot.run_name, max(8, width // 3)), STRONG),
        "  ",
        health(snapshot, theme),
    )
    top = _longest_that_fits(
        name, [(peers, most), (peers, more), (peers, up), (peers, ""), (short, "")], width, theme
    )
    if not snapshot.reason:
        return [top]
    _, style = theme.glyph(HEALTH, snapshot.health)
    return [top, fit(line((" " + theme.clean(snapshot.reason, width - 2), style)), width, theme)]


def _longest_that_fits(start: Text, ends: Sequence[tuple[str, str]], width: int, theme: Theme) -> Text:
    """``start``, then the first of the (next to it, far right) pairs that fit on the line."""
    for near, far in ends:
        if start.cell_len + len(near) + (len(far) + 3 if far else 0) <= width:
            return spread(start.copy().append(near), line((f"{far} " if far else "", QUIET)), width, theme)
    return fit(start, width, theme)


def progress(snapshot: Snapshot, width: int, theme: Theme) -> Block:
    """Two bars of the same length: how far the run is, and what the round is at."""
    short = width < 70
    run_share, run_words = _run_facts(snapshot, short)
    round_share, round_words = _round_facts(snapshot, short, theme)
    facts = (
        -(-max(len(run_words), len(round_words)) // 6) * 6
    )  # in steps of 6, so that the bars do not breathe with every digit
    length = max(4, width - facts - 10)
    return [
        fit(line((f" {label:<6}", QUIET), *_bar(share, length, theme), f"  {words}"), width, theme)
        for label, share, words in (("run", run_share, run_words), ("round", round_share, round_words))
    ]


def _run_facts(snapshot: Snapshot, short: bool) -> tuple[float, str]:
    left = f"  {duration(snapshot.seconds_left)} left" if snapshot.seconds_left > 0 else ""
    if snapshot.rounds > 0:
        share = snapshot.round / snapshot.rounds
        words = (
            f"{snapshot.round}/{snapshot.rounds}"
            if short
            else f"round {snapshot.round} of {snapshot.rounds}  {percent(share)}"
        )
    elif snapshot.tokens_goal > 0:
        share = snapshot.tokens / snapshot.tokens_goal
        words = f"{count(snapshot.tokens)}/{count(snapshot.tokens_goal)} tokens" + (
            "" if short else f"  {percent(share)}"
        )
    else:
        share, words = (
            0.0,
            f"round {snapshot.round}" + ("" if short else f"  {count(snapshot.tokens)} tokens, no end set"),
        )
    return share, words + left


def _round_facts(snapshot: Snapshot, short: bool, theme: Theme) -> tuple[float, str]:
    share = snapshot.step / snapshot.max_steps if snapshot.max_steps > 0 else 0.0
    phase = theme.clean(snapshot.phase, 12)
    if snapshot.phase == "training":
        step = f"{snapshot.step:>{len(str(snapshot.max_steps))}}"
        words = (
            f"step {step}/{snapshot.max_steps}" if short else f"training  step {step} of {snapshot.max_steps}"
        )
        left = "  {}" if short else "  averages in {}"
    else:
        share, words, left = (1.0 if snapshot.phase == "averaging" else 0.0), phase, "  {} left"
    return share, words + (
        left.format(duration(snapshot.phase_left, whole=True)) if snapshot.phase_left > 0 else ""
    )


def _bar(share: float, length: int, theme: Theme) -> tuple[Piece, Piece]:
    done, rest = plots.bar(share, length, ascii_only=theme.ascii_only)
    return (done, GOOD), (rest, QUIET)


# --- loss ---------------------------------------------------------------------------------------------------


def loss_words(snapshot: Snapshot, *, long: bool) -> list[Piece]:
    """The newest loss and evaluation, as the title of their chart."""
    loss = number(snapshot.losses[-1].value) if snapshot.losses else "-"
    words: list[Piece] = [("loss ", GOOD), (loss, STRONG), " nats/token" if long else ""]
    if snapshot.evaluations:
        best = min(
            (point.value for point in snapshot.evaluations if math.isfinite(point.value)), default=math.nan
        )
        words += [
            ("  eval ", FRESH),
            (number(snapshot.evaluations[-1].value), STRONG),
            " bits/byte" if long else "",
        ]
        words += [(f" (best {number(best)})", QUIET)] if long else []
    return words


def chart(snapshot: Snapshot, width: int, height: int, theme: Theme) -> Block:
    """The loss over the rounds, and below it, on the same rounds, the evaluations where there is room for both."""
    if not snapshot.losses and not snapshot.evaluations:
        return block([line(), line((" the first round is not finished yet", QUIET))], width, height, theme)
    lower = height // 3 if height >= 9 and len(snapshot.evaluations) > 1 else 0
    axis = 1 if height >= 5 else 0
    lines = _curve(snapshot.losses or snapshot.evaluations, "loss", GOOD, width, height - lower - axis, theme)
    lines += _curve(_since(snapshot.evaluations, snapshot.losses), "eval", FRESH, width, lower, theme)
    return block(lines + [_axis(snapshot.losses or snapshot.evaluations, width)] * axis, width, height, theme)


def _since(points: Sequence[Point], like: Sequence[Point]) -> list[Point]:
    """``points``, lengthened so that they cover the same rounds as ``like``: NaN draws nothing but holds the place."""
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
    first, last = f"round {points[0].round}", str(points[-1].round)
    return line((f"       {first}{last:>{max(1, width - 8 - len(first))}}", QUIET))


# --- this machine and the network ---------------------------------------------------------------------------


def machine(snapshot: Snapshot, width: int, theme: Theme) -> Block:
    """What this computer gives, against what it has. The most important lines first."""
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
    """What this computer sends and receives, and what averaging costs. The most important lines first."""
    cost = snapshot.average_seconds / snapshot.round_seconds if snapshot.round_seconds > 0 else math.nan
    group = f"{snapshot.members} of {snapshot.members + snapshot.missing} peers averaged in {duration(snapshot.average_seconds)}"
    price = f"{percent(cost)} of a {duration(snapshot.round_seconds)} round" + (
        theme.dot + theme.clean(snapshot.codec, 16) if snapshot.codec else ""
    )
    state = theme.clean(snapshot.state_root, 64)[:12] or "-"
    return [
        _traffic("up", snapshot.up, width, theme),
        _traffic("down", snapshot.down, width, theme),
        line(("group ", QUIET), group),
        line(("cost  ", QUIET), price),
        line(("total ", QUIET), f"{size(snapshot.bytes_up)} up{theme.dot}{size(snapshot.bytes_down)} down"),
        line(
            ("state ", QUIET),
            state + (theme.dot + theme.clean(snapshot.checkpoint, width) if snapshot.checkpoint else ""),
        ),
    ]


def _traffic(label: str, values: Sequence[float], width: int, theme: Theme) -> Text:
    now = rate(values[-1]) if values else "-"
    return line(
        (f"{label:<6}", QUIET),
        (plots.sparkline(values, max(4, width - 18), ascii_only=theme.ascii_only), GOOD),
        f"{now:>12}",
    )


def machine_line(snapshot: Snapshot, width: int, theme: Theme) -> Text:
    """`machine` and `network` in one line, for terminals without room for their boxes."""
    up, down = (rate(values[-1]) if values else "-" for values in (snapshot.up, snapshot.down))
    facts = (
        f"cpu {number(snapshot.cpu, 1)} of {snapshot.cores}",
        f"up {up}",
        f"down {down}",
        f"given {duration(snapshot.given_seconds, whole=True)}",
        f"{count(snapshot.given_rounds)} rounds",
        f"mem {size(snapshot.memory)}",
    )
    words = facts[0]
    for fact in facts[1:]:
        words += theme.dot + fact if len(words) + len(theme.dot) + len(fact) + 9 <= width else ""
    return fit(line((" you   ", QUIET), words), width, theme)


# --- peers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """One column of figures: right-aligned in ``width`` cells. Of all columns, those with the lowest ``rank`` go first."""

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
_STATE, _NAME, _DEVICE, _GAP = 13, 16, 12, 2


def ordered(rows: Sequence[PeerRow], sort: str) -> list[PeerRow]:
    """``rows`` in one of the `SORTS`, this peer first."""

    def key(row: PeerRow) -> tuple[object, ...]:
        place = _TROUBLE.index(row.state) if row.state in _TROUBLE else -1
        amount = row.tokens_per_second if sort == "speed" else row.share
        by = {"name": 0.0, "trouble": float(place)}.get(sort, -amount if math.isfinite(amount) else 0.0)
        return not row.is_me, by, row.name, row.peer

    return sorted(rows, key=key)


def peers_title(snapshot: Snapshot, sort: str, page: int, pages: int, theme: Theme) -> Text:
    """How many peers in which trouble, and which part of them is shown."""
    states = [row.state for row in snapshot.peers]
    words = [f"peers {sum(state not in _AWAY for state in states)}"]
    words += [f"{states.count(state)} {state}" for state in ("unreachable", "banned") if state in states]
    words.append(f"sorted by {sort}")
    if pages > 1:
        words.append(f"page {page + 1} of {pages} {'(up, down)' if theme.ascii_only else '↑↓'}")
    return line((theme.dot.join(words), STRONG))


def pages_of(snapshot: Snapshot, height: int) -> int:
    """How many pages a table of ``height`` lines, its head among them, makes of the peers."""
    mine = sum(row.is_me for row in snapshot.peers)
    return max(1, math.ceil((len(snapshot.peers) - mine) / max(1, height - 1 - mine)))


def peers_table(snapshot: Snapshot, width: int, height: int, look: tuple[str, int], theme: Theme) -> Block:
    """The table in exactly ``height`` lines; ``look`` is the order and the page. This peer heads every page."""
    sort, page = look
    device, columns = _fitting(width)
    name = max(
        4, width - _STATE - _GAP - sum(column.width + _GAP for column in columns) - (device and device + _GAP)
    )
    rows = ordered(snapshot.peers, sort)
    mine = [row for row in rows if row.is_me]
    others = rows[len(mine) :]
    per_page = max(1, height - 1 - len(mine))
    start = page % pages_of(snapshot, height) * per_page
    head = f"{'  state':<{_STATE}}  {'peer':<{name}}" + (f"  {'device':<{device}}" if device else "")
    head += "".join(f"  {column.head:>{column.width}}" for column in columns)
    body = [_row(row, name, device, columns, theme) for row in [*mine, *others[start : start + per_page]]]
    return block([line((head, QUIET)), *body], width, height, theme)


def _fitting(width: int) -> tuple[int, list[Column]]:
    """The width of the column of devices, 0 where it is dropped, and the columns of figures that fit."""
    device, columns = _DEVICE, list(_COLUMNS)

    def excess() -> int:
        taken = (
            _STATE
            + _GAP
            + _NAME
            + (device and device + _GAP)
            + sum(column.width + _GAP for column in columns)
        )
        return taken - width

    for rank in range(7):
        if excess() <= 0:
            break
        columns = [column for column in columns if column.rank != rank]
        device = 0 if rank >= 2 else device
    return device, columns


def _row(row: PeerRow, name: int, device: int, columns: Sequence[Column], theme: Theme) -> Text:
    glyph, style = theme.glyph(STATES, row.state)
    called = theme.clean(row.name, name) or theme.clean(row.peer, 8)
    who = fit(line((f"you ({called})" if row.is_me else called, STRONG if row.is_me else "")), name, theme)
    text = line((f"{glyph} {theme.clean(row.state, 11):<11}", style), "  ").append_text(who)
    if device:
        text.append("  ").append_text(fit(line(theme.clean(row.device, device)), device, theme))
    figures = ((column.cell(row), column.width) for column in columns)
    shown = "".join(
        f"  {figure if len(figure) <= width else theme.ellipsis:>{width}}" for figure, width in figures
    )
    return text.append(shown, QUIET if row.state in _AWAY else None)


# --- what happened, and what a key shows --------------------------------------------------------------------


def events(
    happenings: Sequence[LoggedEvent], width: int, height: int, zone: tzinfo | None, theme: Theme
) -> Block:
    """The newest events first, one line each."""
    newest = sorted(
        happenings, key=lambda each: each.time if math.isfinite(each.time) else -math.inf, reverse=True
    )[: max(0, height)]
    lines = []
    for each in newest:
        glyph, style = theme.glyph(SEVERITIES, each.severity)
        lines.append(
            line(
                (_clock(each.time, zone), QUIET),
                (f" {glyph} ", style),
                (theme.clean(each.text, max(0, width - 11)), style),
            )
        )
    return block(lines, width, height, theme)


def _clock(time: float, zone: tzinfo | None) -> str:
    try:
        return datetime.fromtimestamp(time, UTC).astimezone(zone).strftime("%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "--:--:--"


def sample(snapshot: Snapshot, width: int, theme: Theme) -> Block:
    """Text that the shared model has generated."""
    text = theme.clean(snapshot.sample, 4000)
    return (
        [line(part) for part in wrapped(text, width)]
        if text
        else [line(("the model has not written anything yet", QUIET))]
    )


def invite(snapshot: Snapshot, width: int, theme: Theme) -> Block:
    """The command that lets a friend join, to be copied: nothing stands beside it, and a shell joins lines that end with ``\\``."""
    if not snapshot.ticket:
        return [line(("this run has no ticket to show", QUIET))]
    rest = f"swarm join {theme.clean(snapshot.ticket, 4000)}"
    lines = [line(("whoever runs this command trains with you:", QUIET)), line()]
    while cells(rest) > width > 2:
        head = shorten(rest, width - 1, "")
        lines.append(line(head, "\\"))
        rest = rest[len(head) :]
    return [*lines, line(rest)]


def helping(width: int, theme: Theme) -> Block:
    """What the keys do and what the glyphs mean."""
    keys = [*KEYS, ("up down" if theme.ascii_only else "↑ ↓", "page through the peers")]
    states = [(*theme.glyph(STATES, state), state) for state in STATES]
    return [
        *flow([line((key, STRONG), f" {does}") for key, does in keys], 3, width),
        line(("quitting closes this view only: the peer goes on", QUIET)),
        line(),
        *flow([line((f"{glyph} {state}", style)) for glyph, style, state in states], 3, width),
    ]
