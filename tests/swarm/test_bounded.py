"""A dictionary with a limit forgets what was not written or touched for longest."""

import pytest

from swarm.bounded import LeastRecentlyUsed


def test_the_oldest_entry_is_dropped_beyond_the_limit() -> None:
    known: LeastRecentlyUsed[str, int] = LeastRecentlyUsed(2)
    for number, name in enumerate("abc"):
        known[name] = number
    assert list(known.items()) == [("b", 1), ("c", 2)]


def test_writing_an_entry_again_makes_it_the_newest() -> None:
    known: LeastRecentlyUsed[str, int] = LeastRecentlyUsed(2)
    known["a"] = 1
    known["b"] = 2
    known["a"] = 3
    known["c"] = 4
    assert dict(known) == {"a": 3, "c": 4}


def test_reading_does_not_make_it_newer_but_touching_does() -> None:
    known: LeastRecentlyUsed[str, int] = LeastRecentlyUsed(2)
    known["a"] = 1
    known["b"] = 2
    assert known.get("a") == 1
    known.touch("a")
    known["c"] = 3
    assert dict(known) == {"a": 1, "c": 3}


def test_what_is_not_there_cannot_be_touched() -> None:
    with pytest.raises(KeyError):
        LeastRecentlyUsed[str, int](1).touch("a")
