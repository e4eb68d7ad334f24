"""A swarm of real processes on the loopback interface: they find each other, lose each other, and come back.

All tests of this file use one swarm, in the order of the file; each test leaves four running peers behind.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator

import pytest

from tests.edges.processes import LocalSwarm, PeerProcess, assert_roots_agree

pytestmark = pytest.mark.xdist_group("processes")

ROUND_SECONDS = 1.0
"""About as long as a round takes; the moments of kills are drawn from it."""
TEXT = "".join(f"def f{n}(x):\n    return x * {n} + {n * n}\n" for n in range(3000))


class FourPeers:
    """The swarm under test: ``founder`` and three ``others``, later whoever has taken their places."""

    def __init__(self, swarm: LocalSwarm) -> None:
        self.swarm = swarm
        (swarm.folder / "text").mkdir()
        (swarm.folder / "text" / "one.py").write_text(TEXT)
        words = "--data text --model tiny --rounds 100000 --steps 3 --round-seconds 2".split()
        self.founder = swarm.new("a", *words)
        self.ticket: str = self.founder.event("ticket")["ticket"]
        self.others = [
            swarm.join("b", self.ticket),
            swarm.join("c", self.ticket, "--name", "\x1b[31m[bold]c\u202e", listen="127.0.0.2:0"),
            swarm.join("d", self.ticket),
        ]

    @property
    def running(self) -> list[PeerProcess]:
        """The peers whose process has not ended."""
        return self.swarm.running

    def wait_for_a_round_of(self, members: int) -> None:
        """Wait until each running peer has printed a new round with so many members."""
        counts = [(peer, peer.count_events()) for peer in self.running]
        for peer, count in counts:
            peer.round_of(members, after=count)

    def start_again(self, peer: PeerProcess) -> PeerProcess:
        """Run the command of one of ``others`` once more, and put the new process into its place."""
        started = self.swarm.start_again(peer)
        self.others[self.others.index(peer)] = started
        return started

    def assert_silent(self) -> None:
        """Nobody has written anything to standard error."""
        assert {peer.home.name: peer.stderr for peer in self.swarm.peers if peer.stderr} == {}


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FourPeers]:
    with LocalSwarm(tmp_path_factory.mktemp("four")) as swarm:
        yield FourPeers(swarm)


def test_a_newcomer_with_nothing_but_the_ticket_contributes(four: FourPeers) -> None:
    for peer in [four.founder, *four.others]:
        peer.round(lambda event: event["members"] > 1 and event["local_steps"] > 0)
    four.wait_for_a_round_of(4)
    assert four.founder.events[0]["event"] == "ticket"
    assert four.others[1].event("joined")["listen"].startswith("127.0.0.2:")
    assert len(assert_roots_agree(four.founder, *four.others)) >= 1
    (corpus,) = (four.founder.home / "data").glob("*.corpus")
    for peer in four.others:
        assert "--data" not in peer.words
        assert (peer.home / "data" / corpus.name).read_bytes() == corpus.read_bytes()
    four.assert_silent()


def kill_one_and_start_it_again(four: FourPeers, chance: random.Random) -> None:
    """Kill a peer at a random moment of a round; the others go on, and the same command brings it back."""
    victim = chance.choice(four.others)
    rest = [peer for peer in four.running if peer is not victim]
    four.founder.round(after=four.founder.count_events())
    time.sleep(chance.random() * ROUND_SECONDS)  # not a wait: it chooses the moment of the kill
    counts = [peer.count_events() for peer in rest]
    victim.kill()
    for peer, count in zip(rest, counts, strict=True):
        peer.round_of(3, after=count)
    assert_roots_agree(*rest)
    last_round = max(victim.roots, default=0)
    has_checkpoint = any(victim.home.glob("checkpoints/*.safetensors"))
    back = four.start_again(victim)
    assert back.round_of(4)["round"] > last_round
    if has_checkpoint:
        assert any(event["event"] == "resumed" for event in back.events)
    four.wait_for_a_round_of(4)
    assert_roots_agree(*four.running)
    four.assert_silent()


def test_the_others_go_on_after_kill_minus_9_and_the_same_command_comes_back(four: FourPeers) -> None:
    four.wait_for_a_round_of(4)
    kill_one_and_start_it_again(four, random.Random(7))


@pytest.mark.slow
def test_kill_minus_9_again_and_again(four: FourPeers) -> None:
    chance = random.Random(8)
    four.wait_for_a_round_of(4)
    for _ in range(5):
        kill_one_and_start_it_again(four, chance)


def test_a_peer_that_was_suspended_for_a_while_goes_on_with_the_others(four: FourPeers) -> None:
    four.wait_for_a_round_of(4)
    suspended = four.others[-1]
    rest = [peer for peer in four.running if peer is not suspended]
    suspended.process.send_signal(signal.SIGSTOP)
    counts = [peer.count_events() for peer in rest]
    for peer, count in zip(rest, counts, strict=True):
        peer.round_of(3, after=count)
    suspended.process.send_signal(signal.SIGCONT)
    four.wait_for_a_round_of(4)
    assert_roots_agree(*four.running)
    four.assert_silent()


def test_the_run_goes_on_without_its_founder_and_takes_newcomers_by_the_ticket_of_anybody(
    four: FourPeers,
) -> None:
    four.wait_for_a_round_of(4)
    four.founder.kill()
    host = four.others[0]
    host.round_of(3, after=host.count_events())
    of_host = host.wait_for(lambda event: event["event"] == "ticket" and event["ticket"] != four.ticket)
    newcomer = four.swarm.join("e", of_host["ticket"])
    newcomer.round_of(4)
    four.others.append(newcomer)
    four.wait_for_a_round_of(4)
    assert_roots_agree(*four.running)
    four.assert_silent()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_peer_that_is_asked_to_stop_leaves_cleanly_and_the_others_note_it(
    four: FourPeers, number: signal.Signals
) -> None:
    leaver = four.others[0]
    peer_id = leaver.event("joined")["peer"]
    rest = [peer for peer in four.running if peer is not leaver]
    four.wait_for_a_round_of(4)  # a peer only notes that members of its group leave
    counts = [peer.count_events() for peer in rest]
    assert leaver.stop(number) == 0
    left = leaver.wait_for(lambda event: event["event"] == "left" and "peer" not in event)
    assert left["reason"] == "asked to stop"
    for peer, count in zip(rest, counts, strict=True):
        peer.wait_for(lambda event: event["event"] == "left" and event["peer"] == peer_id, after=count)
    assert not (leaver.home / "status").exists()
    four.start_again(leaver).round_of(4)
    four.assert_silent()
