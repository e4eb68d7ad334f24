"""What a peer tells as things happen: downloads, its codec, peers that come and go, the line of a round."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from averaging.certificate import Origin
from averaging.groups import Group
from averaging.outcome import (
    Alone,
    Decided,
    Declined,
    Missed,
    NotMerged,
    TooFew,
    Unanswered,
    Undecided,
    Void,
)
from peer.observe.events import FETCHING_SECONDS, Events, RoundSummary
from peer.observe.metrics import About, Metrics
from peer.observe.reporter import RoundReport, told
from peer.observe.snapshot import Fetching, LoggedEvent
from swarm.identity import petname
from swarm.machine import Report
from swarm.manifest import Codec
from tests.peer.company import MANIFEST, in_virtual_time, key

ME = key(1).peer_id
PEERS = tuple(key(number).peer_id for number in range(1, 5))
GROUP = Group(bytes(32), 7, PEERS, bytes(32))
ORIGIN = Origin(GROUP.id, 7, PEERS, b"")
DECIDED = Decided(
    average_P=torch.zeros(4),
    group=GROUP,
    missing=PEERS[3:],
    tokens=200,
    population=4,
    seconds=1.25,
    origin=ORIGIN,
)
ROOT = bytes([7]) * 32


class Notes:
    """An event sink that remembers."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.rounds: list[RoundReport] = []

    def round_finished(self, report: RoundReport) -> None:
        """Note the round."""
        self.rounds.append(report)

    def event(self, name: str, /, **fields: object) -> None:
        """Note the event."""
        self.events.append({"event": name, **fields})


class Told:
    """The events of `ME`, and where they go."""

    def __init__(self) -> None:
        clock = asyncio.get_running_loop().time
        self.notes = Notes()
        self.metrics = Metrics(MANIFEST, About(ME, "", "1", 9000), clock)
        self.wire: Any = SimpleNamespace(bytes_up=0, bytes_down=0)
        self.events = Events(self.metrics, self.notes, self.wire, ME)

    @property
    def lines(self) -> tuple[LoggedEvent, ...]:
        """What the screens list."""
        return self.metrics.snapshot([]).events

    @property
    def texts(self) -> list[str]:
        """The texts of `lines`."""
        return [line.text for line in self.lines]


def summary(round_: int = 7, bits_per_byte: float | None = None) -> RoundSummary:
    """A round of this peer."""
    return RoundSummary(
        round=round_, state_root=ROOT, loss=2.5, steps=30, seconds=12.3456, bits_per_byte=bits_per_byte
    )


# --- events -------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_an_event_goes_to_the_screens_and_to_the_sink() -> None:
    here = Told()
    here.events.say("synced", round=3)
    here.events.warn("disk", "the disk is full", advice="make room")
    here.events.note(Report("malformed", "that is no record", PEERS[1]))
    here.events.note(Report("malformed", "that is no record"))
    assert here.notes.events == [
        {"event": "synced", "round": 3},
        {"event": "warning", "code": "disk", "fact": "the disk is full", "advice": "make room"},
        {"event": "warning", "code": "malformed", "fact": f"{petname(PEERS[1])}: that is no record"},
        {"event": "warning", "code": "malformed", "fact": "that is no record"},
    ]
    assert [line.severity for line in here.lines] == ["info", "warning", "warning", "warning"]
    assert here.texts[0] == told("synced", {"round": 3})


@in_virtual_time
async def test_a_download_is_told_now_and_then_and_at_its_end() -> None:
    here = Told()
    for chunks in range(41):
        fetching = Fetching(what="model", here=chunks, whole=40, bytes_per_second=2.5e6, donors=3)
        here.events.fetching(fetching)
        assert here.metrics.snapshot([]).fetching == fetching, "the screens show every step"
        await asyncio.sleep(FETCHING_SECONDS / 10)
    counts = [event["chunks"] for event in here.notes.events]
    assert counts[0] == 1, "the first sign of life"
    assert counts[-1] == 40
    assert 4 <= len(counts) <= 6
    last = here.notes.events[-1]
    assert last == {
        "event": "fetching",
        "what": "model",
        "chunks": 40,
        "of": 40,
        "bytes_per_second": 2_500_000,
    }
    line = told("fetching", {name: value for name, value in last.items() if name != "event"})
    assert line == "fetching model  chunks 40  of 40  at 2.5 MB/s"


@in_virtual_time
async def test_it_is_told_once_that_a_slow_link_sends_less() -> None:
    here = Told()
    usual = MANIFEST.round.codec
    for codec in (usual, Codec.FP16, Codec.FP16, usual, usual):
        here.events.sends_as(codec, usual)
    assert here.texts == [
        f"this link is slow for the run: its updates go as fp16 instead of {usual.name.lower()}",
        f"updates go as {usual.name.lower()} again",
    ]
    assert here.notes.events == []


@in_virtual_time
async def test_peers_that_come_and_go_are_told_once_and_never_we_ourselves() -> None:
    here = Told()
    for missing in (PEERS[3:], PEERS[3:], PEERS[1:2], PEERS[1:]):
        group = Decided(
            average_P=torch.zeros(4),
            group=GROUP,
            missing=missing,
            tokens=1,
            population=4,
            origin=ORIGIN,
        )
        here.events.members(group)
    said = [(event["event"], event["peer"]) for event in here.notes.events]
    first = sorted(PEERS[1:3])
    last = sorted([PEERS[2], PEERS[3]])
    assert said == [
        *(("joined", peer) for peer in first),
        ("joined", PEERS[3]),
        ("left", PEERS[1]),
        *(("left", peer) for peer in last),
    ]
    assert {event["name"] for event in here.notes.events} == {petname(peer) for peer in PEERS[1:]}


# --- rounds -------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_every_round_gets_a_line_and_a_report() -> None:
    here = Told()
    here.metrics.training.given_tokens = 640
    here.wire.bytes_up = 5_000_000
    here.wire.bytes_down = 3_000_000
    here.events.round_finished(summary(bits_per_byte=1.5), DECIDED)
    assert here.notes.rounds == [
        RoundReport(
            round=7,
            state_root=ROOT.hex(),
            members=3,
            missing=1,
            loss=2.5,
            bits_per_byte=1.5,
            tokens=640,
            local_steps=30,
            seconds=12.346,
            average_seconds=1.25,
            bytes_up=5_000_000,
            bytes_down=3_000_000,
        )
    ]
    assert here.texts == ["round 7 averaged with 3 of 4 peers in 1.2 s (5.0 MB up)"]
    snapshot = here.metrics.snapshot([])
    assert [point.value for point in snapshot.losses] == [2.5]
    assert [point.value for point in snapshot.evaluations] == [1.5]
    assert snapshot.round_seconds == 12.3456


@in_virtual_time
async def test_the_bytes_of_a_round_are_those_since_the_round_before() -> None:
    here = Told()
    for round_, total in enumerate((1000, 1500, 4000)):
        here.wire.bytes_up = total
        here.wire.bytes_down = 2 * total
        here.events.round_finished(summary(round_), DECIDED)
    sent = [(report.bytes_up, report.bytes_down) for report in here.notes.rounds]
    assert sent == [(1000, 2000), (500, 1000), (2500, 5000)]
    assert here.metrics.snapshot([]).evaluations == (), "none of these rounds was evaluated"


UNDECIDED = Undecided("too few of the group answered", GROUP, PEERS[2:])


@pytest.mark.parametrize(
    ("outcome", "members", "missing", "group"),
    [
        (UNDECIDED, 2, 2, "2 of 4 peers"),
        (Undecided("too few of the group answered", GROUP, PEERS), 1, 4, "1 of 5 peers"),
        (Void("the group has split", GROUP, ()), 4, 0, "4 of 4 peers"),
        (NotMerged(UNDECIDED), 1, 0, "nobody"),
        (Declined("the group is formed", 7), 1, 0, "nobody"),
        (TooFew("too few came", 7), 1, 0, "nobody"),
        (Alone("nobody else came", 7), 1, 0, "nobody"),
        (Unanswered("too few voted", 7), 1, 0, "nobody"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Missed) else None,
)
def test_without_an_average_a_peer_counts_itself_and_says_why(
    outcome: Missed, members: int, missing: int, group: str
) -> None:
    @in_virtual_time
    async def story() -> None:
        here = Told()
        here.events.round_finished(summary(), outcome)
        (report,) = here.notes.rounds
        assert (report.members, report.missing, report.average_seconds) == (members, missing, 0.0)
        (text,) = here.texts
        assert text.startswith(f"round 7 averaged with {group} in 0.0 s")
        assert here.metrics.group.reason == outcome.reason

    story()


@in_virtual_time
async def test_a_round_with_an_average_clears_the_reason_of_the_one_before() -> None:
    here = Told()
    here.events.round_finished(summary(6), UNDECIDED)
    here.events.round_finished(summary(7), DECIDED)
    assert here.metrics.group.reason == ""
