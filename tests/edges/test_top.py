"""A run of two peers, looked at with `swarm top` and joined under difficult circumstances."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from peer.observe.text import cells
from tests.edges.processes import LocalSwarm, PeerProcess, assert_roots_agree, events_of, run_swarm

pytestmark = pytest.mark.xdist_group("processes")

TEXT = "".join(f"def f{n}(x):\n    return x * {n} + {n * n}\n" for n in range(3000))
HOSTILE_NAME = "\x1b[31m[red]\u202eevil\u200b" + "x" * 23 + "end"
"""Has a terminal's colour code, markup, a change of writing direction, and a character without width."""
AN_HOUR_AHEAD = """
import runpy, time
true_time = time.time
time.time = lambda: true_time() + 3600
runpy.run_module("peer", run_name="__main__")
"""
"""The command line on a computer whose clock is an hour ahead."""


class Pair:
    """A founder, and a peer with a hostile name that has joined it."""

    def __init__(self, swarm: LocalSwarm) -> None:
        self.swarm = swarm
        self.folder = swarm.folder
        (self.folder / "text").mkdir()
        (self.folder / "text" / "one.py").write_text(TEXT)
        words = "--data text --model tiny --rounds 100000 --steps 3 --round-seconds 2".split()
        self.founder: PeerProcess = swarm.new("a", *words)
        self.ticket: str = self.founder.event("ticket")["ticket"]
        swarm.join("b", self.ticket, "--name", HOSTILE_NAME)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with LocalSwarm(tmp_path_factory.mktemp("pair")) as swarm:
        yield Pair(swarm)


def frame(source: str, pair: Pair, columns: int, lines: int) -> str:
    """One frame of `swarm top`, which fits into so many columns and lines."""
    done = run_swarm("top", "--once", source, cwd=pair.folder, COLUMNS=str(columns), LINES=str(lines))
    assert done.returncode == 0, done
    assert done.stderr == ""
    rows = done.stdout.splitlines()
    assert len(rows) <= lines
    assert max(map(cells, rows)) <= columns
    return done.stdout


def test_top_shows_a_peer_by_its_home_its_status_page_and_the_ticket(pair: Pair) -> None:
    pair.founder.round_of(2)
    page = (pair.founder.home / "status").read_text().partition("\n")[0]
    by_home = frame(str(pair.founder.home), pair, 120, 34)
    by_page = frame(page, pair, 80, 24)
    by_ticket = frame(pair.ticket, pair, 48, 14)
    for picture in (by_home, by_page, by_ticket):
        assert "HEALTHY" in picture
        assert "\x1b" not in picture
        assert "\u202e" not in picture
        assert "\u200b" not in picture
    assert "[red]evil" in by_home


def test_top_as_json_is_one_snapshot(pair: Pair) -> None:
    done = run_swarm("top", "--once", "--json", str(pair.founder.home), cwd=pair.folder)
    assert done.returncode == 0
    snapshot = json.loads(done.stdout)
    assert snapshot["peer"] == pair.founder.event("joined")["peer"]


def test_a_home_where_another_peer_lives(pair: Pair) -> None:
    done = run_swarm("join", pair.ticket, "--home", str(pair.founder.home), "--json", cwd=pair.folder)
    (error,) = events_of(done.stdout)
    assert (done.returncode, done.stderr) == (3, "")
    assert (error["event"], error["code"]) == ("error", "home")
    assert "--home" in error["advice"]
    assert pair.founder.process.poll() is None


def test_a_peer_whose_clock_is_an_hour_off_joins_all_the_same_and_is_told(pair: Pair) -> None:
    late = pair.swarm.join("late", pair.ticket, python=("-c", AN_HOUR_AHEAD))
    warning = late.wait_for(lambda event: event["event"] == "warning" and event["code"] == "clock")
    assert "60 minutes ahead" in warning["fact"]
    assert warning["advice"]
    late.round(lambda event: event["members"] >= 2)
    assert late.stop() == 0
    assert late.stderr == ""
    assert_roots_agree(pair.founder, late)
