"""A peer that fails starts again by itself; a peer that is asked to leave does so, whatever it is doing."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from peer.storage.home import open_home
from swarm.errors import HomeInUse
from tests.edges.processes import LIMIT_SECONDS, LocalSwarm

pytestmark = pytest.mark.xdist_group("processes")

WORDS = ["--model", "tiny", "--rounds", "100000", "--steps", "3", "--round-seconds", "1"]
BUG_AFTER_FOUR_ROUNDS = """
import runpy
import weakref
from peer.rounds.stages import RoundStages

save_if_due = RoundStages.save_if_due
lives = []
rounds = 0

async def save_and_fail(self):
    global rounds
    rounds += 1
    if not any(life() is self for life in lives):
        lives.append(weakref.ref(self))
        in_memory = sum(life() is not None for life in lives)
        print('{"event": "life", "peers_in_memory": %d}' % in_memory, flush=True)
    await save_if_due(self)
    if rounds == 4:
        raise KeyError("a bug")

RoundStages.save_if_due = save_and_fail
runpy.run_module("peer", run_name="__main__")
"""
"""The command line, but the peer fails after four rounds. It prints how many peers are in memory."""
A_STEP_WITHOUT_END = """
import runpy
import threading
from peer.training.learner import Learner

def work(self, task):
    print('{"event": "working"}', flush=True)
    threading.Event().wait()

Learner.work = work
runpy.run_module("peer", run_name="__main__")
"""
"""The command line, but the first local step never ends."""


def test_after_a_bug_a_peer_starts_again_and_resumes_where_it_was(tmp_path: Path) -> None:
    with LocalSwarm(tmp_path) as swarm:
        peer = swarm.new("a", *WORDS, python=("-c", BUG_AFTER_FOUR_ROUNDS))
        warning = peer.wait_for(lambda event: event["event"] == "warning" and event["code"] == "restart")
        after = peer.events.index(warning)
        assert "KeyError" in warning["fact"]
        assert "again in 1.0 s" in warning["fact"]
        assert warning["advice"]
        with pytest.raises(HomeInUse):
            open_home(peer.home, b"")
        assert peer.event("resumed", after=after)["round"] >= 3
        assert peer.round(after=after)["round"] >= 3
        assert peer.event("life", after=after)["peers_in_memory"] == 1
        assert len({event["peer"] for event in peer.events if event["event"] == "joined"}) == 1
        assert "a bug" in peer.stderr, "the traceback is on standard error"
        assert psutil.Process(peer.process.pid).children(recursive=True) == []
        assert peer.stop() == 0
        with open_home(peer.home, b""):
            assert not (peer.home / "status").exists()


def test_a_peer_that_is_asked_to_leave_in_a_step_without_end_does_so(tmp_path: Path) -> None:
    with LocalSwarm(tmp_path) as swarm:
        peer = swarm.new("a", *WORDS, python=("-c", A_STEP_WITHOUT_END))
        peer.event("working")
        assert peer.stop() == 0
        assert "still under way" in peer.event("left")["reason"]


def test_an_error_that_a_person_must_resolve_is_told_once_and_ends_the_peer(tmp_path: Path) -> None:
    with LocalSwarm(tmp_path) as swarm, open_home(tmp_path / "a", b""):
        peer = swarm.new("a", *WORDS)
        assert peer.process.wait(LIMIT_SECONDS) == 3
        error = peer.event("error")
        assert peer.events == [error]
        assert error["code"] == "home", json.dumps(error)
