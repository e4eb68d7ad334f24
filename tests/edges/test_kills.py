"""The benchmark of kills in small: real processes, two of six killed at random moments of a round; the others agree and go on."""

from __future__ import annotations

from benchmarks.kills import ours


def test_survivors_of_kills_agree_and_go_on() -> None:
    (row,) = ours(range(1), peers=6, victims=2)
    assert (row["survivors"], row["answered"]) == (4, 4)
    assert row["equal"]
