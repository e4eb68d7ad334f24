"""The list of what liars lie about is complete, and a liar is a peer that can be rehearsed again."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from averaging.messages import MESSAGES
from peer.config.run import RunSettings
from peer.peer import Peer
from peer.simulation import liars
from peer.simulation.lies import FORMS
from peer.simulation.run import rehearse
from peer.simulation.scenario import SMALLEST_MODEL, Scenario
from swarm.simulation.network import SimulatedTransport
from swarm.transport import Route


def listed(title: str) -> set[str]:
    """The names that the docstring of `peer.simulation.liars` lists under ``title``."""
    found = re.search(rf"^    {title}  +((?:.+\n)(?:     +.+\n)*)", liars.__doc__ or "", re.MULTILINE)
    assert found, title
    return set(re.findall(r"[a-z-]+", found[1]))


def scenario(peers: int = 4, seed: int = 0, **strategies: str) -> Scenario:
    """A small rehearsal in which the named peers lie."""
    return Scenario(peers=peers, rounds=2, seed=seed, model=SMALLEST_MODEL, patience=900.0, liars=strategies)


def test_the_list_has_every_kind_of_message() -> None:
    assert listed("messages") == {form.kind.name.lower() for form in MESSAGES}
    assert listed("other frames") == {form.kind.name.lower() for form in FORMS if form not in MESSAGES}


def test_the_list_has_every_route_that_a_peer_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    served: set[str] = set()
    serve = SimulatedTransport.serve

    def note(transport: SimulatedTransport, route: Route) -> None:
        served.add(route.name)
        serve(transport, route)

    monkeypatch.setattr(SimulatedTransport, "serve", note)
    rehearse(scenario(peers=1))
    assert listed("routes") == served


def test_the_list_has_the_bulk_items_of_both_exchanges() -> None:
    shipped: set[str] = set()
    for exchange in ("butterfly", "gather"):
        settings = RunSettings(model="tiny", max_steps=1, round_seconds=5.0, exchange=exchange)
        result = rehearse(replace(scenario(p1="staller"), settings=settings), listen=True)
        shipped |= {heard.what for heard in result.heard if heard.what not in listed("messages")}
    items = shipped - listed("routes")
    assert {"part", "result", "update"} <= items <= listed("bulk items")


def test_a_liar_that_does_nothing_but_the_truth_is_an_honest_peer_among_others() -> None:
    result = rehearse(scenario(p2="honest"))
    assert result.notebooks["p2"].lies == ["honest"]
    assert list(result.honest) == ["p0", "p1", "p3"]
    assert [report.members for report in result.notebooks["p0"].rounds] == [4, 4]
    assert (result.forks, result.uncertified, result.leftovers) == (0, [], ())
    assert result.decided_rounds == {0, 1}


def test_the_same_seed_makes_the_same_liar() -> None:
    one, again, other = (rehearse(scenario(seed=seed, p1="chaos")).transcript for seed in (5, 5, 6))
    assert one == again != other


def test_a_liar_has_a_part_in_the_rounds_about_which_it_lies() -> None:
    result = rehearse(scenario(p1="two ballots", p3="poisoner"))
    assert result.notebooks["p1"].rounds[0].members == 4, "until it is shown to lie"


def test_a_liar_whose_honest_half_fails_lies_on(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Peer.run

    async def fail(peer: Peer) -> None:
        if repr(peer).startswith("Peer(p2,"):
            raise ZeroDivisionError("by its own lies")
        await run(peer)

    monkeypatch.setattr(Peer, "run", fail)
    result = rehearse(scenario(p2="chaos"))
    assert result.notebooks["p2"].lies[1:] == ["gave up: ZeroDivisionError('by its own lies')"]
    assert len(result.decided_rounds) == 2


def test_honest_peers_do_not_wait_for_a_liar_that_never_ends() -> None:
    result = rehearse(scenario(p3="mute"))
    assert result.leftovers == ()
    assert result.virtual_seconds < 600.0
    assert result.most_tasks > 0


def test_without_liars_nobody_counts_tasks() -> None:
    assert rehearse(scenario()).most_tasks == 0
