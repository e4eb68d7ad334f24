"""The soak in small: real processes that are left alone decide their rounds, agree, and grow by nothing to speak of."""

from __future__ import annotations

from benchmarks.soak import soak

GROWTH = 20
"""Percent in four seconds, of the median peer: calm runs have 2 to 5 for files, below 1 for memory."""


def test_a_calm_soak_decides_its_rounds_and_grows_by_nothing_to_speak_of() -> None:
    told = soak("calm", 3, 8.0, None)
    assert told["rounds"] > 2
    assert told["decided"] >= told["rounds"] - 1
    assert (told["divergent_roots"], told["kills"], told["spawns"]) == (0, 0, 0)
    assert told["fd_growth"] < GROWTH
    assert told["rss_growth"] < GROWTH
