"""A peer without a dashboard writes lines that people can read and programs can rely on."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import sys
from pathlib import Path

import pytest

from peer.observe.reporter import Reporter, RoundReport, json_line, round_line, told
from swarm.errors import PortTaken, Unreachable

A_ROUND = RoundReport(
    round=812,
    state_root="3fa9",
    members=5,
    missing=1,
    loss=3.41,
    bits_per_byte=1.62,
    tokens=1_240_000,
    local_steps=100,
    seconds=12.4,
    average_seconds=0.31,
    bytes_up=31_400_000,
    bytes_down=30_000_000,
)


class FullDisk(io.TextIOWrapper):
    """A file to which nothing can be written: the disk is full, or has another trouble."""

    def __init__(self, path: Path | int, number: int = errno.ENOSPC) -> None:
        super().__init__(io.FileIO(path, "w"), write_through=True)
        self._number = number

    def write(self, text: str) -> int:
        """Refuse."""
        raise OSError(self._number, os.strerror(self._number))


def written(json_lines, *calls):
    out = io.StringIO()
    reporter = Reporter(out, json_lines, clock=lambda: 0.0)
    for name, *arguments in calls:
        getattr(reporter, name)(*arguments)
    return out.getvalue()


def test_a_round_in_json_has_exactly_the_promised_fields():
    assert json.loads(written(True, ("round_finished", A_ROUND))) == {
        "event": "round",
        "round": 812,
        "state_root": "3fa9",
        "members": 5,
        "missing": 1,
        "loss": 3.41,
        "bits_per_byte": 1.62,
        "tokens": 1_240_000,
        "local_steps": 100,
        "seconds": 12.4,
        "average_seconds": 0.31,
        "bytes_up": 31_400_000,
        "bytes_down": 30_000_000,
    }


def test_a_round_for_people_is_one_short_line():
    assert (
        round_line(A_ROUND)
        == "round 812  loss 3.41  eval 1.62 bits/byte  peers 5/6  averaged in 0.3 s  up 31.4 MB"
    )
    assert written(False, ("round_finished", A_ROUND)).count("\n") == 1


def test_a_round_without_evaluation_or_traffic_does_not_speak_of_them():
    quiet = RoundReport(round=1, state_root="", members=1, missing=0, loss=math.nan, bits_per_byte=math.nan)
    assert round_line(quiet) == "round 1  loss -  peers 1/1  averaged in 0.0 s"


def test_numbers_that_json_cannot_hold_are_null():
    diverged = RoundReport(
        round=1, state_root="", members=1, missing=0, loss=math.nan, bits_per_byte=math.inf
    )
    line = json.loads(written(True, ("round_finished", diverged)), parse_constant=pytest.fail)
    assert (line["loss"], line["bits_per_byte"]) == (None, None)


def test_events_carry_their_fields():
    out = io.StringIO()
    Reporter(out, True).event("ticket", ticket="swarm1abc", run="f00")
    Reporter(out, True).event("banned", peer="wasp-d00d", strikes=3, norm=math.inf, tags=("a", "b"))
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"event": "ticket", "ticket": "swarm1abc", "run": "f00"},
        {"event": "banned", "peer": "wasp-d00d", "strikes": 3, "norm": None, "tags": ["a", "b"]},
    ]


def test_the_ticket_for_people_is_a_command():
    out = io.StringIO()
    Reporter(out).event("ticket", ticket="swarm1abc", run="f00")
    assert "swarm join swarm1abc" in out.getvalue()


def test_a_warning_for_people_reads_like_an_error():
    out = io.StringIO()
    Reporter(out).event("warning", code="clock", fact="the clock is 5 minutes ahead", advice="set it")
    first, second = out.getvalue().splitlines()
    assert first.endswith(" warning: the clock is 5 minutes ahead [clock]")
    assert second.strip() == "try: set it"


@pytest.mark.parametrize(
    ("name", "fields", "line"),
    [
        (
            "joined",
            {
                "peer": "p" * 52,
                "name": "otter-7f3a",
                "run": "f" * 64,
                "run_name": "tiny",
                "listen": "0.0.0.0:7420",
            },
            'joined the run "tiny" as otter-7f3a; listening on 0.0.0.0:7420',
        ),
        ("joined", {"peer": "p" * 52, "name": "otter-7f3a"}, "otter-7f3a joined"),
        ("left", {"peer": "p" * 52, "name": "otter-7f3a"}, "otter-7f3a left"),
        ("left", {"reason": "asked to stop"}, "left the run: asked to stop"),
        (
            "synced",
            {"round": 0, "donors": 2, "state_root": "f" * 64},
            "fetched the model of round 0; donors: 2",
        ),
        ("resumed", {"round": 7, "checkpoint": "/c"}, "going on from round 7: /c"),
        ("chaos", {"fault": "kill", "pid": 7, "after": 0.3}, "kill process 7 after 0.30 s"),
        ("moved", {"bytes_up": 4_200_000, "is_whole": True}, "moved 4.2 MB  is whole yes"),
    ],
)
def test_people_read_sentences_with_names_instead_of_ids(name, fields, line):
    assert told(name, fields) == line


def test_an_event_without_a_sentence_is_a_list_of_its_values():
    out = io.StringIO()
    Reporter(out).event("banned", peer="p" * 52, name="otter-7f3a", run="f" * 64, strikes=3, loss=3.14159)
    assert out.getvalue().endswith(" banned otter-7f3a  strikes 3  loss 3.14\n")


def test_a_fact_stands_alone():
    assert told("stopped", {"fact": "stopped before the end"}) == "stopped before the end"


def test_an_error_says_what_is_so_and_what_to_do():
    error = PortTaken("port 7 is taken", "use --port 0")
    assert json.loads(written(True, ("error", error))) == {
        "event": "error",
        "code": "port",
        "fact": "port 7 is taken",
        "advice": "use --port 0",
    }
    assert written(False, ("error", error)).split("\n")[0].endswith(" error: port 7 is taken [port]")
    assert "try: use --port 0" in written(False, ("error", error))
    assert "advice" not in json.loads(written(True, ("error", Unreachable("gone"))))


def test_a_strangers_text_cannot_make_a_second_line_or_a_colour():
    hostile = 'x\n{"event":"round"}\r\x1b[31m\u202e\ud800'
    for json_lines in (True, False):
        out = io.StringIO()
        Reporter(out, json_lines).event("joined", peer=hostile)
        assert out.getvalue().count("\n") == 1
        assert "\x1b" not in out.getvalue()
        assert "\u202e" not in out.getvalue()


def test_the_name_of_an_event_is_cleaned_too():
    """`swarm top` writes the health of a peer on another computer as the name of an event."""
    out = io.StringIO()
    Reporter(out).event("\x1b[2J\nHEALTHY" + "x" * 500, reason="none")
    assert out.getvalue().count("\n") == 1
    assert "\x1b" not in out.getvalue()
    assert len(out.getvalue()) < 80


def test_json_is_ascii_and_on_one_line_for_every_locale():
    assert json_line({"name": "Jürgen 日本"}) == '{"name":"J\\u00fcrgen \\u65e5\\u672c"}'


def test_a_terminal_without_utf8_gets_question_marks():
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as out:
        Reporter(out).event("joined", peer="Jürgen")
        assert raw.getvalue().endswith(b" joined J?rgen\n")


def test_a_reader_that_went_away_silences_the_reporter_only():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as out:
        reporter = Reporter(out, True)
        reporter.event("joined", peer="heron")
        assert reporter.silenced
        reporter.round_finished(A_ROUND)
    closed = io.StringIO()
    closed.close()
    reporter = Reporter(closed)
    reporter.event("joined", peer="heron")
    assert reporter.silenced


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_full_disk_silences_the_reporter_and_is_told_once_on_standard_error(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FullDisk(tmp_path / "out", number) as out:
        reporter = Reporter(out, True)
        reporter.event("joined", peer="heron")
        reporter.round_finished(A_ROUND)
        assert reporter.silenced
    (fact, advice) = capsys.readouterr().err.splitlines()
    assert fact.endswith(f"out any more: {os.strerror(number)} [disk]")
    assert "free some space" in advice


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
def test_a_reader_or_a_terminal_that_has_gone_is_told_to_nobody(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    read, write = os.pipe()
    with os.fdopen(read), FullDisk(write, number) as out:
        reporter = Reporter(out)
        reporter.event("joined", peer="heron")
        assert reporter.silenced
    assert capsys.readouterr().err == ""


def test_where_standard_error_is_full_as_well_nobody_is_told_and_nothing_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FullDisk(tmp_path / "out") as out, FullDisk(tmp_path / "err") as errors:
        monkeypatch.setattr(sys, "stderr", errors)
        Reporter(out).event("joined", peer="heron")
        Reporter(errors).event("joined", peer="heron")
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("failed", "violations", "words"),
    [
        (2, {"fork": 1, "hang": 1}, "seeds that failed: 2 (fork 1, hang 1)"),
        (0, {}, "nothing was wrong with any of them"),
    ],
)
def test_a_sweep_ends_with_what_was_wrong_in_words(
    failed: int, violations: dict[str, int], words: str
) -> None:
    line = told("rehearsals", {"seeds": 9, "seconds": 1.5, "failed": failed, "violations": violations})
    assert line == f"rehearsed 9 seeds in 1.50 s; {words}"
