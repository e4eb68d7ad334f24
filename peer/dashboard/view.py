"""The picture as a pure function: `view(snapshot, width, height)` gives the same `Frame` each time.

110 × 30 and more   everything
70 × 20 and more    one column: chart, this computer in one line, peers, two events
40 × 8 and more     bars, sparkline, a short table, one event
smaller             plain facts, the most important first
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import tzinfo

from rich.text import Text

from ..observe.snapshot import Snapshot
from ..observe.text import duration, number, rate, wrapped
from . import panels, plots
from .frame import Block, Frame, beside, block, boxed, fit, flow, line, spread
from .theme import GOOD, HEALTH, QUIET, STRONG, WARN, Theme

PANELS = ("events", "sample", "invite", "help")
"""What the lowest part of the picture can show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the person at the screen has chosen, and whether the peer still answers."""

    sort: str = "share"
    page: int = 0
    panel: str = "events"
    frozen: bool = False
    silent_for: float = 0.0
    """Seconds since the peer last answered; 0 while it does."""
    zone: tzinfo | None = None
    """Time zone of the events' times; None is this computer's."""


def view(
    snapshot: Snapshot, width: int, height: int, *, theme: Theme | None = None, look: Look | None = None
) -> Frame:
    """Draw ``snapshot`` in exactly ``width`` × ``height`` cells, both at least 1.

    While the peer does not answer, its last picture is grey, under a line that says for how long.
    """
    theme = theme or Theme()
    look = look or Look()
    if look.silent_for <= 0:
        return Frame.of(_lines(snapshot, width, height, theme, look), width, height, theme)
    warning = f" no answer for {duration(look.silent_for, whole=True)}: this is the last known state"
    last = Frame.of(_lines(snapshot, width, height - 1, theme, look), width, height - 1, theme).greyed()
    top = fit(line((warning, f"{WARN} reverse")), width, theme)
    return Frame.of([top, *last.lines], width, height, theme)


def unanswered(reason: str, width: int, height: int, *, theme: Theme | None = None) -> Frame:
    """Draw the picture before the first answer: the reason why there is none yet."""
    theme = theme or Theme()
    reasons = [line((f" {part}", WARN)) for part in wrapped(theme.clean(reason, 1000), width - 2)]
    title = line((" swarm", STRONG))
    hint = line((" trying again; q quits", QUIET))
    return Frame.of([title, line(), *reasons, line(), hint], width, height, theme)


def _lines(snapshot: Snapshot, width: int, height: int, theme: Theme, look: Look) -> Block:
    if width >= 110 and height >= 30:
        return _full(snapshot, width, height, theme, look)
    if width >= 70 and height >= 20:
        return _medium(snapshot, width, height, theme, look)
    if width >= 40 and height >= 8:
        return _compact(snapshot, width, height, theme, look)
    return _plain(snapshot, width, theme)


def _full(snapshot: Snapshot, width: int, height: int, theme: Theme, look: Look) -> Block:
    """Everything: chart beside this computer and network, then peers, then events or what a key shows."""
    head = [*panels.header(snapshot, width, theme), *panels.progress(snapshot, width, theme)]
    body = height - len(head) - 1
    lower = min(max(6, len(_shown(snapshot, width, theme, look)) + 1), body // 3)
    upper = max(11, (body - lower) * 9 // 20)
    table_lines = len(snapshot.peers) + 4
    unused = body - lower - upper - table_lines
    upper += max(0, min(unused, 18 - upper))  # lines that the table does not need make the chart higher
    side = width * 5 // 12
    return [
        *head,
        *beside(_chart(snapshot, width - side, upper, theme), _side(snapshot, side, upper, theme)),
        *_peers(snapshot, width, body - lower - upper, theme, look),
        *_lower(snapshot, width, lower, theme, look),
        _legend(width, theme, look),
    ]


def _chart(snapshot: Snapshot, width: int, height: int, theme: Theme) -> Block:
    title = line(*panels.loss_words(snapshot, long=True))
    return boxed(title, panels.chart(snapshot, width - 4, height - 2, theme), width, height, theme)


def _side(snapshot: Snapshot, width: int, height: int, theme: Theme) -> Block:
    """This computer, and below it the network."""
    computer = panels.machine(snapshot, width - 4, theme)
    network = panels.network(snapshot, width - 4, theme)
    upper = len(computer) + 2
    return [
        *boxed(line(("this computer", STRONG)), computer, width, upper, theme),
        *boxed(line(("network", STRONG)), network, width, height - upper, theme),
    ]


def _medium(snapshot: Snapshot, width: int, height: int, theme: Theme, look: Look) -> Block:
    """One column: chart, this computer in one line, peers, two events or what a key shows."""
    head = [*panels.header(snapshot, width, theme), *panels.progress(snapshot, width, theme)]
    body = height - len(head) - 2
    upper = max(6, body * 2 // 5)
    lines = [
        *head,
        *_chart(snapshot, width, upper, theme),
        panels.machine_line(snapshot, width, theme),
    ]
    if look.panel == "events":
        lines += _peers(snapshot, width, body - upper - 2, theme, look)
        newest = panels.events(snapshot.events, width - 1, 2, look.zone, theme)
        lines += [line(" ").append_text(text) for text in newest]
    else:
        lines += _lower(snapshot, width, body - upper, theme, look)
    return [*lines, _legend(width, theme, look)]


def _compact(snapshot: Snapshot, width: int, height: int, theme: Theme, look: Look) -> Block:
    """Bars, a sparkline of the loss, a short table, one event or what a key shows."""
    head = [
        *panels.header(snapshot, width, theme),
        *panels.progress(snapshot, width, theme),
        fit(_loss_line(snapshot, width, theme), width, theme),
    ]
    body = height - len(head)
    if look.panel != "events":
        return [*head, *_lower(snapshot, width, body, theme, look)]
    return [
        *head,
        *panels.peers_table(snapshot, width, body - 1, (look.sort, look.page), theme),
        *panels.events(snapshot.events, width, 1, look.zone, theme),
    ]


def _loss_line(snapshot: Snapshot, width: int, theme: Theme) -> Text:
    """The newest loss, and a sparkline of all losses."""
    loss = line(" ", *panels.loss_words(snapshot, long=False), "  ")
    bars_width = width - loss.cell_len - 1
    values = plots.thin([point.value for point in snapshot.losses], bars_width)
    bars = plots.sparkline(values, bars_width, ascii_only=theme.ascii_only, from_zero=False)
    return loss.append(bars, GOOD)


def _plain(snapshot: Snapshot, width: int, theme: Theme) -> Block:
    """Facts, as many on a line as fit."""
    up = rate(snapshot.up[-1]) if snapshot.up else "-"
    facts = [
        panels.health(snapshot, theme),
        (theme.clean(snapshot.reason, width), theme.glyph(HEALTH, snapshot.health)[1]),
        (f"round {snapshot.round}" + (f"/{snapshot.rounds}" if snapshot.rounds else ""), ""),
        (f"loss {number(snapshot.losses[-1].value)}" if snapshot.losses else "", ""),
        (f"eval {number(snapshot.evaluations[-1].value)}" if snapshot.evaluations else "", ""),
        (f"peers {snapshot.members}/{snapshot.members + snapshot.missing}", ""),
        (f"{theme.clean(snapshot.phase, 12)} {snapshot.step}/{snapshot.max_steps}", ""),
        (f"up {up}", ""),
        (theme.clean(snapshot.run_name, width), QUIET),
    ]
    return flow([line((words.strip(), style)) for words, style in facts if words], 2, width)


def _peers(snapshot: Snapshot, width: int, height: int, theme: Theme, look: Look) -> Block:
    """The table of peers in a box."""
    pages = panels.pages_of(snapshot, height - 2)
    title = panels.peers_title(snapshot, look.sort, look.page % pages, pages, theme)
    table = panels.peers_table(snapshot, width - 4, height - 2, (look.sort, look.page), theme)
    return boxed(title, table, width, height, theme)


def _lower(snapshot: Snapshot, width: int, height: int, theme: Theme, look: Look) -> Block:
    """The lowest part of the picture: events in a box, or what a key shows under a rule."""
    if look.panel == "events":
        newest = panels.events(snapshot.events, width - 4, height - 2, look.zone, theme)
        return boxed(line(("events", STRONG)), newest, width, height, theme)
    title = "sample of the shared model" if look.panel == "sample" else look.panel
    return _ruled(title, _shown(snapshot, width, theme, look), width, height, theme)


def _shown(snapshot: Snapshot, width: int, theme: Theme, look: Look) -> Block:
    """What a key shows; nothing where the events are shown."""
    if look.panel == "sample":
        return panels.sample(snapshot, width - 2, theme)
    if look.panel == "invite":
        return panels.invite(snapshot, width, theme)
    if look.panel == "help":
        return panels.helping(width, theme)
    return []


def _ruled(title: str, lines: Sequence[Text], width: int, height: int, theme: Theme) -> Block:
    """Lines under a rule, with nothing beside them, so that they can be copied."""
    rule = line(
        (f"{theme.box.horizontal} ", QUIET),
        (title, STRONG),
        (" " + theme.box.horizontal * max(0, width - len(title) - 3), QUIET),
    )
    return block([rule, *lines], width, height, theme)


def _legend(width: int, theme: Theme, look: Look) -> Text:
    """The keys, in the last line."""
    keys = line(" ")
    for key, does in panels.KEYS:
        keys.append_text(line((key, STRONG), (f" {does}   ", QUIET)))
    return spread(keys, line(("frozen ", "reverse") if look.frozen else ""), width, theme)
