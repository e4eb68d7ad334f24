"""One liar among real processes: four others have one model, rounds go on, and nothing is a liar's work.

The liar is `tests.edges.lying`: a process with a key and a ticket of its own, on real sockets.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.ticket import Ticket
from tests.edges.processes import LocalSwarm, assert_roots_agree
from tests.edges.test_processes import TEXT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

HONEST = 4
ROUNDS = 6
"""That honest peers decide beside the liar."""
ROUND = "--model tiny --rounds 100000 --steps 3 --round-seconds 2"


@pytest.mark.parametrize(
    ("strategy", "lie"),
    [
        pytest.param(
            "forger", "a record whose only member is itself, and the state that fits it", id="row 1"
        ),
        pytest.param("decliner", "declines in every round", id="row 2"),
        pytest.param("two lists", "two lists of members, and two votes", id="row 3"),
        pytest.param("two votes", "a vote for each of two groups", id="row 3, votes"),
        pytest.param("boaster", "the largest numbers in every message", id="row 4"),
        pytest.param("two ballots", "two ballots", id="row 5"),
    ],
)
def test_honest_processes_agree_and_go_on_beside_a_liar(strategy: str, lie: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    (text / "one.py").write_text(TEXT)
    with LocalSwarm(tmp_path) as swarm:
        founder = swarm.new("a", "--data", str(text), *ROUND.split())
        ticket = founder.event("ticket")["ticket"]
        honest = [founder, *(swarm.join(name, ticket) for name in "bcd"[: HONEST - 1])]
        for peer in honest:
            peer.round_of(HONEST)
        ids = [peer.event("joined")["peer"] for peer in honest[1:]]
        ids.append(Ticket.unpack(ticket).entries[0].peer)
        python = ("-m", "tests.edges.lying", strategy, ",".join(ids), str(text))
        liar = swarm.join("liar", ticket, python=python)
        liar.event("joined")
        counts = [(peer, peer.count_events()) for peer in honest]
        for _ in range(ROUNDS):
            for number, (peer, count) in enumerate(counts):
                peer.round(lambda event: event["members"] > 1, after=count)
                counts[number] = (peer, len(peer.events))
        assert len(assert_roots_agree(*honest)) >= ROUNDS, lie
        assert all(peer.process.poll() is None for peer in honest), "nobody was brought to its end"
        assert {peer.home.name: peer.stderr for peer in honest if peer.stderr} == {}
