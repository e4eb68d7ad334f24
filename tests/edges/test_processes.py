"""A swarm of real processes on the loopback interface: they find each other, lose each other, and come back.

One swarm for all tests of this file, in the order of the file; each test leaves at least four peers behind.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edges.processes import Event, PeerProcess, Stage, roots_agree, stage

ROUND_SECONDS = 2.0
LEAVE_SECONDS = 5.0
"""What a person should have to wait after Ctrl-C, at most."""
AVERAGE_SECONDS = 30.0
"""The default of `swarm new`."""
TEXT = "".join(f"def f{n}(x):\n    return x * {n} + {n * n}\n" for n in range(3000))


def ticket_of(event: Event) -> str:
    return str(event["ticket"])


class Band:
    """The swarm under test: founder ``a``, joiners ``b``, ``c``, ``d``."""

    def __init__(self, place: Stage, text: Path) -> None:
        self.stage = place
        self.began = time.monotonic()
        self.founder = place.new(
            "a",
            "--data",
            str(text),
            "--model",
            "tiny",
            "--rounds",
            "100000",
            "--steps",
            "100000",
            "--round-seconds",
            str(ROUND_SECONDS),
        )
        self.ticket = ticket_of(self.founder.event("ticket"))
        self.others = [
            place.join("b", self.ticket),
            place.join("c", self.ticket, "--name", "\x1b[31m[bold]c\u202e", listen="127.0.0.2:0"),
            place.join("d", self.ticket),
        ]

    @property
    def peers(self) -> list[PeerProcess]:
        return self.stage.alive

    def together(self, count: int, *, seconds: float = 60.0) -> None:
        """Wait until all peers that live have told a round of ``count`` members from now on."""
        marks = [(peer, peer.catch_up()) for peer in self.peers]
        deadline = time.monotonic() + seconds
        for peer, mark in marks:
            peer.round(
                lambda event: event["members"] >= count,
                after=mark,
                seconds=max(0.1, deadline - time.monotonic()),
            )

    def silent(self) -> None:
        """Nobody has written anything to standard error."""
        assert {peer.home.name: peer.stderr for peer in self.stage.peers if peer.stderr} == {}


@pytest.fixture(scope="module")
def band(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Band]:
    folder = tmp_path_factory.mktemp("band")
    text = folder / "text"
    text.mkdir()
    (text / "one.py").write_text(TEXT)
    with stage(folder) as place:
        yield Band(place, text)


def test_a_newcomer_with_nothing_but_the_ticket_contributes_within_a_minute(band: Band) -> None:
    for peer in [band.founder, *band.others]:
        seconds = max(0.1, band.began + 60 - time.monotonic())
        peer.round(lambda event: event["members"] > 1 and event["local_steps"] > 0, seconds=seconds)
    band.together(4)
    assert band.founder.events[0]["event"] == "ticket"
    assert band.others[1].event("joined")["listen"].startswith("127.0.0.2:")
    assert len(roots_agree(band.founder, *band.others)) >= 1
    (corpus,) = (band.founder.home / "data").glob("*.corpus")
    for peer in band.others:
        assert "--data" not in peer.words
        assert (peer.home / "data" / corpus.name).read_bytes() == corpus.read_bytes()
    band.silent()


def test_kill_minus_9_costs_a_round_at_most_and_the_same_command_comes_back(band: Band) -> None:
    chance = random.Random(7)
    for _ in range(3):
        victim = chance.choice(band.others)
        rest = [peer for peer in band.peers if peer is not victim]
        band.founder.round(after=band.founder.catch_up())
        time.sleep(chance.random() * ROUND_SECONDS)  # not a wait: a random moment of the round
        marks = [peer.catch_up() for peer in rest]
        victim.kill()
        for peer, mark in zip(rest, marks, strict=True):
            peer.round(
                lambda event: event["members"] == 3, after=mark, seconds=2 * (ROUND_SECONDS + AVERAGE_SECONDS)
            )
        roots_agree(*rest)
        before = max(victim.rounds, default=0)
        back = band.stage.again(victim)
        band.others[band.others.index(victim)] = back
        assert back.round(lambda event: event["members"] == 4)["round"] > before
        if list(back.home.glob("checkpoints/*.safetensors")):
            back.event("resumed", seconds=0.1)
        band.together(4)
        roots_agree(*band.peers)
    band.silent()


def test_a_peer_that_stood_still_for_a_while_goes_on_with_the_others(band: Band) -> None:
    sleeper, *rest = band.others[::-1]
    sleeper.process.send_signal(signal.SIGSTOP)
    marks = [(peer, peer.catch_up()) for peer in (band.founder, *rest)]
    for peer, mark in marks:
        peer.round(
            lambda event: event["members"] == 3, after=mark, seconds=2 * (ROUND_SECONDS + AVERAGE_SECONDS)
        )
    sleeper.process.send_signal(signal.SIGCONT)
    band.together(4)
    roots_agree(*band.peers)
    band.silent()


def test_the_run_goes_on_without_its_founder_and_takes_newcomers_by_the_ticket_of_anybody(band: Band) -> None:
    band.founder.kill()
    host = band.others[0]
    host.round(
        lambda event: event["members"] == 3,
        after=host.catch_up(),
        seconds=2 * (ROUND_SECONDS + AVERAGE_SECONDS),
    )
    tickets = [ticket_of(event) for event in host.events if event["event"] == "ticket"]
    assert tickets
    assert tickets[-1] != band.ticket
    newcomer = band.stage.join("e", tickets[-1])
    newcomer.round(lambda event: event["members"] == 4)
    band.others.append(newcomer)
    band.together(4)
    roots_agree(*band.peers)
    band.silent()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_a_peer_leaves_within_seconds_and_the_others_note_it(
    band: Band, number: signal.Signals
) -> None:
    leaver = band.others[0]
    who = leaver.event("joined")["peer"]
    rest = [peer for peer in band.peers if peer is not leaver]
    for peer in rest:
        peer.round(lambda event: event["members"] == 4)  # only who was in the group can be missed in it
    marks = [peer.catch_up() for peer in rest]
    assert leaver.stop(number, seconds=LEAVE_SECONDS) == 0
    assert (
        leaver.wait(lambda event: event["event"] == "left" and "peer" not in event)["reason"]
        == "asked to stop"
    )
    for peer, mark in zip(rest, marks, strict=True):
        peer.wait(lambda event: event["event"] == "left" and event["peer"] == who, after=mark)
    assert not (leaver.home / "status").exists()
    band.others[0] = band.stage.again(leaver)
    band.others[0].round(lambda event: event["members"] == 4)
    band.silent()
