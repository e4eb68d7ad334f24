"""For whom nobody waits, and for how long; and how long an average may take."""

from __future__ import annotations

from averaging.reliability import (
    AVERAGES,
    FEWEST_AVERAGES,
    FEWEST_SECONDS,
    FORGIVEN_AFTER,
    LONGEST,
    Pace,
    Reliability,
)
from swarm.identity import PeerId

A = PeerId("a")
B = PeerId("b")


def waits(reliability: Reliability, round_: int) -> bool:
    """Whether anybody waits for A in ``round_``."""
    reliability.begin(round_)
    return A not in reliability.unawaited


def test_a_peer_that_lets_us_down_again_and_again_is_waited_for_in_ever_fewer_rounds() -> None:
    reliability = Reliability()
    waited = []
    for round_ in range(150):
        if waits(reliability, round_):
            waited.append(round_)
            reliability.let_down([A])
            reliability.let_down([A])
    assert waited == [0, 2, 5, 10, 19, 36, 69, 134]
    assert len(waited) * 15 < 150


def test_nothing_changes_in_the_round_itself_and_nobody_waits_longer_than_so() -> None:
    reliability = Reliability()
    reliability.let_down([A])
    assert waits(reliability, 0)
    assert not waits(reliability, 1)
    assert not reliability.unawaited & {B}
    for round_ in range(400):
        if waits(reliability, round_):
            last = round_
            reliability.let_down([A])
    assert not waits(reliability, last + LONGEST)
    assert waits(reliability, last + LONGEST + 1)


def test_a_peer_that_delivers_for_some_rounds_is_forgiven() -> None:
    reliability = Reliability()
    reliability.let_down([A])
    for round_ in range(2, 2 + FORGIVEN_AFTER):
        assert waits(reliability, round_)
        reliability.delivered([A, B])
    reliability.let_down([A])
    assert not waits(reliability, 2 + FORGIVEN_AFTER)
    assert waits(reliability, 3 + FORGIVEN_AFTER), "as after the first time"


def test_each_time_that_a_peer_has_let_us_down_is_forgiven_by_itself() -> None:
    reliability = Reliability()
    round_ = 0
    for _ in range(2):
        while not waits(reliability, round_):
            round_ += 1
        reliability.let_down([A])
        round_ += 1
    while not waits(reliability, round_):
        reliability.delivered([A])
        round_ += 1
    for later in range(round_, round_ + FORGIVEN_AFTER):
        assert waits(reliability, later)
        reliability.delivered([A])
    round_ += FORGIVEN_AFTER
    assert waits(reliability, round_)
    reliability.let_down([A])
    waited = [later for later in range(round_ + 1, round_ + 5) if waits(reliability, later)]
    assert waited[0] == round_ + 3, "two rounds, as after the second time: one was forgiven"


def test_an_average_may_take_a_few_times_as_long_as_the_last_ones() -> None:
    pace = Pace(30.0)
    pace.took(1.0, was_held_up=False)
    assert pace.seconds == 30.0
    for seconds in (1.0, 4.0):
        pace.took(seconds, was_held_up=False)
    assert pace.seconds == 5.0
    for _ in range(AVERAGES):
        pace.took(0.1, was_held_up=False)
    assert pace.seconds == FEWEST_SECONDS
    for _ in range(AVERAGES):
        pace.took(29.0, was_held_up=False)
    assert pace.seconds == 30.0


def test_a_member_that_holds_averages_up_does_not_get_more_time_by_that() -> None:
    pace = Pace(30.0)
    for _ in range(FEWEST_AVERAGES):
        pace.took(1.0, was_held_up=False)
    for _ in range(AVERAGES):
        pace.took(5.0, was_held_up=True)
    assert pace.seconds == 5.0


def test_after_averages_without_a_decision_there_is_twice_as_much_time_each_time() -> None:
    pace = Pace(30.0)
    for _ in range(FEWEST_AVERAGES):
        pace.took(1.0, was_held_up=False)
    for seconds in (10.0, 20.0, 30.0, 30.0):
        pace.failed()
        assert pace.seconds == seconds
    pace.took(8.0, was_held_up=True)
    assert pace.seconds == 5.0
