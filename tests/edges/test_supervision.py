"""A peer whose life ends before its time starts again by itself; and one that is asked to leave does, whatever it is doing."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest

from peer.storage.home import open_home
from swarm.errors import HomeInUse
from tests.edges.processes import PeerProcess, stage

WORDS = ["--model", "tiny", "--rounds", "100000", "--steps", "3", "--round-seconds", "1"]
LEAVE_SECONDS = 5.0
BUG_AFTER_THREE_ROUNDS = """
import weakref
from peer.peer import Peer
from peer.rounds.stages import RoundStages

run_peer = Peer.run
save_if_due = RoundStages.save_if_due
peers = []
told = []

async def run(self):
    peers.append(weakref.ref(self))
    await run_peer(self)

async def save(self):
    if len(told) < len(peers):
        told.append(sum(peer() is not None for peer in peers))
        print('{"event": "life", "peers_in_memory": %d}' % told[-1], flush=True)
    await save_if_due(self)
    if len(peers) == 1 and peers[0]().position.round >= 3:
        raise KeyError("a bug")

Peer.run = run
RoundStages.save_if_due = save
from peer.commands.cli import main
main()
"""
A_STEP_WITHOUT_END = """
import time
import peer.training.learner as module

def work(self, task):
    print('{"event": "working"}', flush=True)
    time.sleep(600)

module.Learner.work = work
from peer.commands.cli import main
main()
"""


def founder(folder: Path, program: str) -> PeerProcess:
    return PeerProcess(["new", "--listen", "127.0.0.1:0", *WORDS], folder / "a", before=("-c", program))


def test_a_bug_ends_a_life_and_the_next_one_goes_on_where_it_was(tmp_path: Path) -> None:
    with stage(tmp_path) as place:
        peer = place._add(founder(tmp_path, BUG_AFTER_THREE_ROUNDS))
        warning = peer.wait(lambda event: event["event"] == "warning" and event["code"] == "restart")
        assert "KeyError" in warning["fact"]
        assert "again in 1.0 s" in warning["fact"]
        assert warning["advice"]
        mark = peer.catch_up()
        with pytest.raises(HomeInUse):
            open_home(peer.home, b"")
        assert peer.event("resumed", after=mark - 1)["round"] >= 3
        assert peer.round(after=mark)["round"] >= 3
        assert peer.event("life", after=mark - 1)["peers_in_memory"] == 1
        assert len({event["peer"] for event in peer.events if event["event"] == "joined"}) == 1
        assert "a bug" in peer.stderr, "the traceback is there for whoever wants to mend it"
        assert psutil.Process(peer.process.pid).children(recursive=True) == []
        began = time.monotonic()
        assert peer.stop() == 0
        assert time.monotonic() - began < LEAVE_SECONDS + 1
        with open_home(peer.home, b""):
            assert not (peer.home / "status").exists()


def test_asked_to_leave_in_the_middle_of_a_step_without_end_it_does(tmp_path: Path) -> None:
    with stage(tmp_path) as place:
        peer = place._add(founder(tmp_path, A_STEP_WITHOUT_END))
        peer.event("working")
        assert peer.stop(seconds=LEAVE_SECONDS + 2) == 0
        assert "still under way" in peer.event("left", seconds=1)["reason"]


def test_what_a_person_must_change_is_told_once_and_ends_it(tmp_path: Path) -> None:
    with stage(tmp_path) as place, open_home(tmp_path / "a", b""):
        peer = place._add(PeerProcess(["new", "--listen", "127.0.0.1:0", *WORDS], tmp_path / "a"))
        assert peer.process.wait(60) == 3
        peer.catch_up()
        (error,) = peer.events
        assert (error["event"], error["code"]) == ("error", "home"), json.dumps(error)
