"""A peer votes once in a round, also across a restart."""

from __future__ import annotations

from averaging.signed_rounds import SignedInMemory, SignedRounds
from swarm.simulation.clock import simulate
from swarm.wire import LEVEL_2, NO_GROUP
from tests.averaging.averagers import Slow


def test_a_round_is_kept_before_anything_is_signed_and_once() -> None:
    async def scene() -> None:
        store = SignedInMemory()
        arithmetic = Slow()
        rounds = SignedRounds(store, arithmetic)
        assert await rounds.begin(3)
        assert store.last == 3
        assert await rounds.begin(3)
        assert await rounds.begin(2), "an earlier round of this process in which it has not voted"
        assert store.last == 3
        assert arithmetic.jobs[False] == {"KeepRound"}

    simulate(scene())


def test_after_a_restart_a_peer_stays_out_of_the_rounds_that_it_may_have_signed_for() -> None:
    async def scene() -> None:
        store = SignedInMemory()
        store.keep(5)
        rounds = SignedRounds(store, Slow())
        assert [await rounds.begin(round_) for round_ in (4, 5, 6)] == [False, False, True]

    simulate(scene())


def test_a_peer_votes_once_on_each_level_and_stays_out_of_a_round_to_which_it_comes_again() -> None:
    async def scene() -> None:
        rounds = SignedRounds(SignedInMemory(), Slow())
        assert await rounds.begin(3)
        assert rounds.may_vote(3, NO_GROUP)
        assert not rounds.may_vote(3, NO_GROUP)
        assert rounds.may_vote(3, LEVEL_2)
        assert not await rounds.begin(3)
        assert await rounds.begin(4)

    simulate(scene())
