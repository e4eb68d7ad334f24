"""How a peer learns what others have decided: which peers it asks for a record, and when a record counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from averaging.record import Record, UpdateShape
from peer.rounds.round_follower import ASKED, OTHERS_ASKED, PAUSE_SECONDS, RoundFollower, known_members
from peer.sync.head import Head
from peer.sync.position import Position
from peer.training.state import SharedState, state_root
from swarm.errors import Malformed
from swarm.identity import PeerId, digest_of
from swarm.simulation.clock import simulate
from swarm.wire import Signed
from tests.peer.company import MANIFEST, head_of, key, soon

PEERS = [key(number).peer_id for number in range(20)]
DECIDERS = PEERS[10:16]
STRANGER = key(99).peer_id
"""On nobody's roster."""
STATE = SharedState(3, torch.zeros(4))
AFTER = SharedState(4, torch.ones(4))
OTHER = SharedState(4, torch.zeros(4))
"""Another state than the one to which the record leads."""
SHAPE = UpdateShape(spec=MANIFEST.round, tensors=(4,))
RECORD = Record(3, tuple(digest_of(peer) for peer in (*DECIDERS, STRANGER)), 80, 8000, (4,), (b"something",))


def heads_at(*states: SharedState, tokens: int = 9000, population: int = 80) -> list[Signed[Head]]:
    """One head for each of ``states``."""
    return [
        head_of(number, state.round, state_root(state), tokens=tokens, population=population)
        for number, state in enumerate(states, 10)
    ]


@dataclass(eq=False)
class Around:
    """Everything around a follower: membership, heads, round log, and what was asked of them."""

    heads_now: list[Signed[Head]] = field(default_factory=lambda: heads_at(AFTER))
    found: tuple[Record, PeerId] | None = (RECORD, DECIDERS[0])
    is_malformed: bool = False
    tokens: int = 1000
    is_quick: bool = True
    round: int = 0
    asked: list[tuple[PeerId, ...]] = field(default_factory=list)
    """For their heads."""
    followed: int = 0
    """How often the leaders of the next round were told."""

    def follower(self) -> RoundFollower:
        """The follower."""
        everything: Any = self
        membership: Any = SimpleNamespace(roster=set(PEERS), some=self.some)
        position: Any = SimpleNamespace(now=Position(round=self.round, tokens=self.tokens))
        return RoundFollower(membership, everything, everything, position, everything, everything)

    def some(self, at_most: int, among: Sequence[PeerId] | None = None) -> tuple[PeerId, ...]:
        """The first of ``among``, or of all."""
        return tuple(PEERS if among is None else among)[:at_most]

    async def heads(self, deadline: float, peers: Sequence[PeerId]) -> list[Signed[Head]]:
        """What the others claim."""
        self.asked.append(tuple(peers))
        await asyncio.sleep(0.1)
        return self.heads_now

    def follow(self) -> None:
        """Tell the leaders of the next round."""
        self.followed += 1

    # --- the round log --------------------------------------------------------------------------------------

    shape = SHAPE

    async def record(
        self, root: bytes, donors: Sequence[PeerId], deadline: float
    ) -> tuple[Record, PeerId] | None:
        """The record, and its donor."""
        assert (root, list(donors), deadline) == (state_root(STATE), PEERS[:2], 5.0)
        return self.found

    async def after(self, record: Record) -> SharedState:
        """The state to which ``record`` leads."""
        if self.is_malformed:
            raise Malformed("the record has not one item for each part")
        return AFTER

    def confirmed(self, seconds: float = 10.0) -> int | None:
        """The tokens of the round, if the record is believed."""

        async def main() -> int | None:
            return await self.follower().confirm(RECORD, soon(seconds))

        return simulate(main())


# --- records ------------------------------------------------------------------------------------------------


def test_a_record_comes_from_the_peer_that_should_have_it_first_and_then_from_some_others() -> None:
    follower = Around().follower()
    assert list(follower.donors(PEERS[7])) == [PEERS[7], *PEERS[:ASKED]]
    assert list(follower.donors(PEERS[7], PEERS[10:12])) == [PEERS[7], *PEERS[10:12]]
    assert follower.shape is SHAPE


def test_the_record_is_that_of_the_round_log() -> None:
    for found, record in (((RECORD, PEERS[1]), RECORD), (None, None)):
        follower = Around(found=found).follower()
        assert simulate(follower.record(state_root(STATE), PEERS[:2], 5.0)) is record


def test_of_the_members_of_a_record_those_on_the_roster_are_known() -> None:
    roster: Any = set(PEERS)
    assert known_members(RECORD, roster) == tuple(sorted(DECIDERS))


# --- announcing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("round_", "is_quick", "is_announced"),
    [
        pytest.param(3, True, True, id="our round"),
        pytest.param(2, True, True, id="an earlier one"),
        pytest.param(4, True, False, id="the run is further than we are"),
        pytest.param(3, False, False, id="we are too slow for the others to wait"),
    ],
)
def test_the_leaders_of_the_next_round_are_told_if_we_will_be_there(
    round_: int, is_quick: bool, is_announced: bool
) -> None:
    around = Around(round=3, is_quick=is_quick)
    around.follower().announce(round_)
    assert around.followed == is_announced


# --- confirming ---------------------------------------------------------------------------------------------


def test_a_record_counts_if_the_others_have_the_state_to_which_it_leads() -> None:
    around = Around()
    assert around.confirmed() == 9000 - 1000


def test_those_who_should_have_decided_are_asked_and_some_others() -> None:
    around = Around()
    around.confirmed()
    (asked,) = around.asked
    assert set(asked[:ASKED]) <= set(DECIDERS)
    assert set(asked) == {*sorted(DECIDERS)[:ASKED], *PEERS[:OTHERS_ASKED]}


@pytest.mark.parametrize(
    ("heads", "is_confirmed"),
    [
        pytest.param(heads_at(AFTER, AFTER, OTHER), True, id="two of three"),
        pytest.param(heads_at(AFTER, OTHER), False, id="half of them are not more than half"),
        pytest.param(heads_at(STATE, OTHER), False, id="those that are not yet as far do not count"),
        pytest.param(heads_at(STATE, STATE, AFTER), True, id="of those that are as far all"),
        pytest.param(heads_at(AFTER, population=79), False, id="another population is another decision"),
    ],
)
def test_more_than_half_of_the_first_that_are_as_far_decide(
    heads: list[Signed[Head]], is_confirmed: bool
) -> None:
    assert (Around(heads_now=heads).confirmed() is not None) == is_confirmed


def test_while_no_peer_is_as_far_they_are_asked_again() -> None:
    around = Around(heads_now=heads_at(STATE, STATE))

    async def main() -> tuple[int | None, float]:
        loop = asyncio.get_running_loop()
        loop.call_at(3.0, lambda: setattr(around, "heads_now", heads_at(AFTER)))
        return await around.follower().confirm(RECORD, soon(10)), soon(0)

    tokens, seconds = simulate(main())
    assert tokens is not None
    assert 3.0 <= seconds <= 3.0 + PAUSE_SECONDS + 0.2


@pytest.mark.parametrize("heads", [[], heads_at(STATE, STATE)], ids=["no peer answers", "no peer is as far"])
def test_a_record_that_nobody_confirms_in_time_does_not_count(heads: list[Signed[Head]]) -> None:
    around = Around(heads_now=heads)
    assert around.confirmed(5.0) is None
    assert len(around.asked) > 1


def test_the_tokens_of_the_round_are_the_median_of_what_the_others_count_beyond_ours() -> None:
    heads = [heads_at(AFTER, tokens=tokens)[0] for tokens in (1500, 1700, 1 << 60)]
    assert Around(heads_now=heads).confirmed() == 700
    assert Around(heads_now=heads, tokens=5000).confirmed() == 0, "never negative"


def test_a_record_that_no_group_can_have_decided_is_refused() -> None:
    with pytest.raises(Malformed, match="not one item for each part"):
        Around(is_malformed=True).confirmed()
