"""The picture as a pure function: `view(snapshot, width, height)` is the same `Frame` for the same arguments, and never larger.

110 × 30 and more   everything
70 × 20             one column: chart, this machine in a line, peers, two events
40 × 8              bars, sparkline, a short table, one event
smaller             plain facts, the most important first
"""

from __future__ import annotations

import math
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
    """Time zone of the events; None is this machine's."""


def view(
    snapshot: Snapshot, width: int, height: int, *, theme: Theme | None = None, look: Look | None = None
) -> Frame:
    """The picture of ``snapshot`` in exactly ``width`` × ``height`` cells, both at least 1.

    A peer that does not answer leaves its last picture, grey, under a line that says for how long.
    """
    theme, look = theme or Theme(), look or Look()
    if look.silent_for <= 0:
        return Frame.of(_lines(snapshot, width, height, theme, look), width, height, theme)
    warning = f" no answer for {duration(look.silent_for, whole=True)}: this is what was last known"
    last = Frame.of(_lines(snapshot, width, height - 1, theme, look), width, height - 1, theme).greyed()
    return Frame.of(
        [fit(line((warning, f"{WARN} reverse")), width, theme), *last.lines], width, height, theme
    )


def unanswered(reason: str, width: int, height: int, *, theme: Theme | None = None) -> Frame:
    """The picture before the first answer: why there is none."""
    theme = theme or Theme()
    words = [
        line((" swarm", STRONG)),
        line(),
        *(line((f" {part}", WARN)) for part in wrapped(theme.clean(reason, 1000), width - 2)),
    ]
    return Frame.of([*words, line(), line((" trying again; q quits", QUIET))], width, height, theme)


def _lines(snapshot: Snapshot, width: int, height: int, theme: Theme, look: Look) -> Block:
    if width >= 110 and height >= 30:
        return _full(snapshot, width, height, theme, look)
    if width >= 70 and height >= 20:
        return _medium(snapshot, width, height, theme, look)
    if width >= 40 and height >= 8:
        return _compact(snapshot, width, height, theme, look)
    return _plain(snapshot, width, theme)


def _full(snapshot: Snapshot, width: int, height: int, theme: Theme, look: Look) -> Block:
    head = [*panels.header(snapshot, width, theme), *panels.progress(snapshot, width, theme)]
    room = height - len(head) - 1
    lower = min(max(6, len(_shown(snapshot, width, theme, look)) + 1), room // 3)
    upper = max(11, (room - lower) * 9 // 20)
    spare = room - lower - upper - (len(snapshot.peers) + 4)
    upper += max(0, min(spare, 18 - upper))
    side = width * 5 // 12
    chart = boxed(
        line(*panels.loss_words(snapshot, long=True)),
        panels.chart(snapshot, width - side - 4, upper - 2, theme),
        width - side,
        upper,
        theme,
    )
    return [
        *head,
        *beside(chart, _side(snapshot, side, upper, theme)),
        *_peers(snapshot, width, room - lower - upper, theme, look),
        *_lower(snapshot, width, lower, theme, look),
        _legend(width, theme, look),
    ]


def _side(snapshot: Snapshot, width: int, height: int, theme: Theme) -> Block:
    mine = panels.machine(snapshot, width - 4, theme)
    upper = len(mine) + 2
    return [
        *boxed(line(("this machine", STRONG)), mine, width, upper, theme),
        *boxed(
            line(("network", STRONG)),
            panels.network(snapshot, width - 4, theme),
            width,
            height - upper,
            theme,
        ),
    ]


def _medium(snapshot: Snapshot, width: int, height: int, theme: Theme, look: Look) -> Block:
    head = [*panels.header(snapshot, width, theme), *panels.progress(snapshot, width, theme)]
    room = height - len(head) - 2
    upper = max(6, room * 2 // 5)
    lines = [
        *head,
        *boxed(
            line(*panels.loss_words(snapshot, long=True)),
            panels.chart(snapshot, width - 4, upper - 2, theme),
            width,
            upper,
            theme,
        ),
        panels.machine_line(snapshot, width, theme),
    ]
    if look.panel == "events":
        lines += _peers(snapshot, width, room - upper - 2, theme, look)
        lines += [
            line(" ").append_text(text)
            for text in panels.events(snapshot.events, width - 1, 2, look.zone, theme)
        ]
    else:
        lines += _lower(snapshot, width, room - upper, theme, look)
    return [*lines, _legend(width, theme, look)]


def _compact(snapshot: Snapshot, width: int, height: int, theme: Theme, look: Look) -> Block:
    loss = line(" ", *panels.loss_words(snapshot, long=False), "  ")
    values = plots.thin([point.value for point in snapshot.losses], width - loss.cell_len - 1)
    loss.append(
        plots.sparkline(values, width - loss.cell_len - 1, ascii_only=theme.ascii_only, from_zero=False), GOOD
    )
    head = [
        *panels.header(snapshot, width, theme),
        *panels.progress(snapshot, width, theme),
        fit(loss, width, theme),
    ]
    room = height - len(head)
    if look.panel != "events":
        return [*head, *_lower(snapshot, width, room, theme, look)]
    return [
        *head,
        *panels.peers_table(snapshot, width, room - 1, (look.sort, look.page), theme),
        *panels.events(snapshot.events, width, 1, look.zone, theme),
    ]


def _plain(snapshot: Snapshot, width: int, theme: Theme) -> Block:
    """Facts, as many on a line as fit."""
    up = rate(snapshot.up[-1]) if snapshot.up else "-"
    score = snapshot.evaluations[-1].value if snapshot.evaluations else math.nan
    facts = [
        panels.health(snapshot, theme),
        (theme.clean(snapshot.reason, width), theme.glyph(HEALTH, snapshot.health)[1]),
        (f"round {snapshot.round}" + (f"/{snapshot.rounds}" if snapshot.rounds else ""), ""),
        (f"loss {number(snapshot.losses[-1].value)}" if snapshot.losses else "", ""),
        (f"eval {number(score)}" if snapshot.evaluations else "", ""),
        (f"peers {snapshot.members}/{snapshot.members + snapshot.missing}", ""),
        (f"{theme.clean(snapshot.phase, 12)} {snapshot.step}/{snapshot.max_steps}", ""),
        (f"up {up}", ""),
        (theme.clean(snapshot.run_name, width), QUIET),
    ]
    return flow([line((words.strip(), style)) for words, style in facts if words], 2, width)


def _peers(snapshot: Snapshot, width: int, height: int, theme: Theme, look: Look) -> Block:
    pages = panels.pages_of(snapshot, height - 2)
    title = panels.peers_title(snapshot, look.sort, look.page % pages, pages, theme)
    return boxed(
        title,
        panels.peers_table(snapshot, width - 4, height - 2, (look.sort, look.page), theme),
        width,
        height,
        theme,
    )


def _lower(snapshot: Snapshot, width: int, height: int, theme: Theme, look: Look) -> Block:
    if look.panel == "events":
        return boxed(
            line(("events", STRONG)),
            panels.events(snapshot.events, width - 4, height - 2, look.zone, theme),
            width,
            height,
            theme,
        )
    title = "sample of the shared model" if look.panel == "sample" else look.panel
    return _ruled(title, _shown(snapshot, width, theme, look), width, height, theme)


def _shown(snapshot: Snapshot, width: int, theme: Theme, look: Look) -> Block:
    """What a key has asked for; nothing where the events are shown."""
    if look.panel == "sample":
        return panels.sample(snapshot, width - 2, theme)
    if look.panel == "invite":
        return panels.invite(snapshot, width, theme)
    return panels.helping(width, theme) if look.panel == "help" else []


def _ruled(title: str, lines: Sequence[Text], width: int, height: int, theme: Theme) -> Block:
    """Lines under a rule, with nothing beside them: they can be copied."""
    rule = line(
        (f"{theme.box[4]} ", QUIET),
        (title, STRONG),
        (" " + theme.box[4] * max(0, width - len(title) - 3), QUIET),
    )
    return block([rule, *lines], width, height, theme)


def _legend(width: int, theme: Theme, look: Look) -> Text:
    keys = line(" ")
    for key, does in panels.KEYS:
        keys.append_text(line((key, STRONG), (f" {does}   ", QUIET)))
    return spread(keys, line(("frozen ", "reverse") if look.frozen else ""), width, theme)
