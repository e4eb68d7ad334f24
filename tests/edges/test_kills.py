"""The benchmark of kills in small: real processes, killed at random moments of a round, cost the others no agreement."""

from __future__ import annotations

from benchmarks.kills import ours
from benchmarks.soak import soak


def test_survivors_of_kills_agree_and_go_on() -> None:
    rows = ours(range(1), peers=5, victims=2)
    assert [row["answered"] for row in rows] == [3]
    assert all(row["equal"] for row in rows)


def test_a_calm_soak_decides_its_rounds_and_grows_by_nothing_to_speak_of() -> None:
    told = soak("calm", 3, 8.0, None)
    assert told["rounds"] > 2
    assert told["decided"] >= told["rounds"] - 1
    assert (told["divergent_roots"], told["kills"], told["spawns"]) == (0, 0, 0)
    assert told["fd_growth"] is not None
