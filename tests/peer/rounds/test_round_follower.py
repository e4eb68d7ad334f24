"""How a peer learns what others have decided: which peers it asks for a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from averaging.record import Judge, Record, UpdateShape, VerifiedRecord
from peer.rounds.round_follower import ASKED, RoundFollower, known_members
from peer.sync.position import Position
from peer.training.state import SharedState, state_root
from swarm.identity import PeerId, digest_of
from swarm.simulation.clock import simulate
from tests.peer.company import MANIFEST, key

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


@dataclass(eq=False)
class Around:
    """Everything around a follower: membership, heads, round log, and what was asked of them."""

    found: VerifiedRecord | None = None
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

    def follow(self) -> None:
        """Tell the leaders of the next round."""
        self.followed += 1

    # --- the round log --------------------------------------------------------------------------------------

    shape = SHAPE

    async def decided(
        self, root: bytes, donors: Sequence[PeerId], judge: Judge, deadline: float
    ) -> VerifiedRecord | None:
        """The record that is believed."""
        assert (root, list(donors), deadline) == (state_root(STATE), PEERS[:2], 5.0)
        assert judge is believe
        return self.found


def believe(record: Record) -> VerifiedRecord:
    raise NotImplementedError


# --- records ------------------------------------------------------------------------------------------------


def test_a_record_comes_from_the_peer_that_should_have_it_first_and_then_from_some_others() -> None:
    follower = Around().follower()
    assert list(follower.donors(PEERS[7])) == [PEERS[7], *PEERS[:ASKED]]
    assert list(follower.donors(PEERS[7], PEERS[10:12])) == [PEERS[7], *PEERS[10:12]]
    assert follower.shape is SHAPE


def test_the_record_is_that_of_the_round_log() -> None:
    decision: Any = None
    for found in (VerifiedRecord(RECORD, decision), None):
        follower = Around(found=found).follower()
        assert simulate(follower.record(state_root(STATE), PEERS[:2], believe, 5.0)) is found


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
