"""Who has come, who is gone, who leads: as one peer of an assembly sees it."""

from __future__ import annotations

import math
from dataclasses import replace

from averaging.hierarchy import Hierarchy
from averaging.presence import DEPUTIES, Presence, SignsOfLife
from tests.averaging.assemblies import RUN, A, B, C, D, E, F, plan_for, ready, terms_for


def test_a_peer_that_may_lead_tells_everybody_and_the_others_tell_the_leaders() -> None:
    everybody = [A, B, C, D, E]
    assert Presence(plan_for(B, terms_for(everybody))).audience() == [A, C, D, E]
    assert Presence(plan_for(E, terms_for(everybody))).audience() == [A, B, C]


def test_in_a_level2_group_everybody_tells_everybody() -> None:
    plan = replace(plan_for(E, terms_for([A, B, C, D])), hierarchy=Hierarchy(RUN, 0, 8))
    assert Presence(plan).audience() == [A, B, C, D]


def test_a_peer_that_is_gone_neither_leads_nor_counts_as_here_or_missing() -> None:
    peers = Presence(plan_for(D, terms_for([A, B, C, D, E])))
    peers.ready[B] = ready(B)
    peers.gone |= {A, B}
    assert peers.reachable == [C, D, E]
    assert peers.leading == [C, D, E]
    assert [signed.signer for signed in peers.here] == [D]
    assert peers.missing == {C, E}
    assert peers.before_us == {C}
    assert peers.others() == ()


def test_leaders_are_told_once() -> None:
    peers = Presence(plan_for(E, terms_for([A, B, C, D])))
    peers.audience()
    assert peers.untold_leaders() == ()
    peers.gone.add(A)
    assert peers.untold_leaders() == (D,)
    assert peers.untold_leaders() == ()


def test_an_unexpected_peer_is_noted_only_if_it_is_among_the_first() -> None:
    peers = Presence(plan_for(D, terms_for([B, C])))
    assert peers.add_if_leading(A)
    assert peers.order == [A, B, C, D]
    assert not peers.add_if_leading(F)
    assert peers.order == [A, B, C, D]
    assert len(peers.leading) == DEPUTIES


def test_after_an_attempt_that_failed_everybody_tells_everybody() -> None:
    """Each must know who has come: no list may lack one of them."""
    terms = replace(terms_for([A, B, C, D]), is_lowered=True)
    assert Presence(plan_for(E, terms)).audience() == [A, B, C, D]


def test_an_unexpected_peer_that_has_let_us_down_does_not_lead() -> None:
    peers = Presence(plan_for(D, replace(terms_for([B, C]), unawaited=frozenset({A}))))
    assert not peers.add_if_leading(A)
    assert peers.order == [B, C, D]


def test_a_peer_is_asked_for_a_sign_of_life_once() -> None:
    peers = Presence(plan_for(D, terms_for([A, B, C, D])))
    assert peers.to_ask({A, D}) == (A,)
    assert peers.to_ask({A, B}) == (B,)


# --- signs of life ------------------------------------------------------------------------------------------


def test_each_pause_between_signs_of_life_is_twice_as_long() -> None:
    signs = SignsOfLife(pause=1.0)
    assert signs.due_at == math.inf
    signs.start(10.0)
    asked = [now for now in range(10, 30) if signs.is_due(now)]
    assert asked == [11, 13, 17, 25]
