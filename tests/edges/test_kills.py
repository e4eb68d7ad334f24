"""A small benchmark of kills: two of six real peers are killed in a round; the others agree and go on."""

from __future__ import annotations

import pytest

from benchmarks.kills import ours

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.slow]


def test_survivors_of_kills_agree_and_go_on() -> None:
    (row,) = ours(range(1), peers=6, victims=2)
    assert (row["survivors"], row["answered"]) == (4, 4)
    assert row["equal"]
