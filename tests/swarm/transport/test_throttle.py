import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.transport.throttle import TokenBucket


def test_a_burst_passes_at_once_and_then_the_rate_holds() -> None:
    bucket = TokenBucket(rate=10, burst=5)
    assert [bucket.take(1, 100.0) for _ in range(7)] == [0, 0, 0, 0, 0, 0.1, 0.2]
    assert bucket.take(1, 100.5) == 0, "half a second has paid for the credit and one more"


def test_waiting_takes_nothing() -> None:
    bucket = TokenBucket(rate=2, burst=4)
    bucket.take(4, 0)
    assert [bucket.wait(1, 0), bucket.wait(1, 0), bucket.wait(1, 0.5)] == [0.5, 0.5, 0]


def test_more_than_the_burst_is_there_when_the_bucket_is_full() -> None:
    bucket = TokenBucket(rate=2, burst=4)
    assert bucket.wait(100, 0) == 0
    assert bucket.take(100, 0) == 48
    assert bucket.wait(100, 0) == 50


def test_an_idle_bucket_holds_no_more_than_its_burst() -> None:
    bucket = TokenBucket(rate=1, burst=3)
    bucket.take(3, 0)
    assert bucket.take(4, 1e9) == 1


def test_a_clock_that_goes_backwards_changes_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=1)
    assert [bucket.take(1, 10), bucket.take(1, 5), bucket.take(1, 10)] == [0, 1, 2]


@given(st.lists(st.tuples(st.floats(0.01, 50), st.floats(0, 5)), min_size=1, max_size=40))
def test_sleeping_as_take_says_never_exceeds_rate_and_burst(takes: list[tuple[float, float]]) -> None:
    bucket = TokenBucket(rate=10, burst=20)
    now = 0.0
    sent = 0.0
    for size, pause in takes:
        now += pause + bucket.take(size, now + pause)
        sent += size
        assert sent <= 20 + 10 * now + 1e-6


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (-1, 1)])
def test_a_bucket_that_never_fills_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        TokenBucket(rate, burst)


def test_a_bucket_shows_how_full_it_is() -> None:
    bucket = TokenBucket(rate=1, burst=3)
    bucket.take(1, 0)
    assert repr(bucket) == "TokenBucket(2 of 3, 1/s)"


def test_what_was_not_used_is_there_again_but_never_more_than_the_burst() -> None:
    bucket = TokenBucket(rate=1, burst=3)
    bucket.take(5, 0)
    bucket.give_back(4)
    assert bucket.wait(2, 0) == 0
    bucket.give_back(4)
    assert (bucket.wait(3, 0), bucket.take(4, 0)) == (0, 1)
