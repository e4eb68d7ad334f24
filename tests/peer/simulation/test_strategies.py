"""The table of strategies names what exists, and the seed decides what a liar does."""

from __future__ import annotations

import random

import pytest

from averaging.messages import MESSAGES
from peer.simulation.strategies import (
    CHAOS,
    STRATEGIES,
    Deed,
    Strategy,
    Temper,
    always,
    chance_of,
    first_strategy,
    weights_of,
)

KINDS = {form.kind.name.lower() for form in MESSAGES}
ITEMS = {"part", "update", "result", "copy"}
TOLD = {"progress", "hello"}
ASKED = {"offer", "record", "index", "chunk", "item"}


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES.keys())
def test_every_opportunity_of_the_table_exists(strategy: Strategy) -> None:
    for opportunity in strategy:
        verb, _, what = opportunity.partition(" ")
        assert verb in {"send", "hear", "answer", "publish", "encode", "reduce"}
        assert what in {"", *(ASKED if verb == "answer" else KINDS | ITEMS | TOLD)}, opportunity


def test_the_longest_beginning_counts() -> None:
    strategy = {"send": always(Deed.SILENCE), "send ready": always(Deed.DELAY)}
    assert weights_of(strategy, "send ready") == always(Deed.DELAY)
    assert weights_of(strategy, "send vote") == always(Deed.SILENCE)
    assert weights_of(strategy, "answer offer") == {}


def test_what_a_strategy_does_not_name_is_done_as_by_an_honest_peer() -> None:
    temper = Temper(random.Random(0), "decliner", [].append)
    assert temper.draw("answer offer") is Deed.TRUTH
    assert temper.draw("hear ready") is Deed.DECLINE


def test_chaos_does_everything_sooner_or_later() -> None:
    temper = Temper(random.Random(0), "chaos", [].append)
    done = {temper.draw(opportunity) for opportunity in CHAOS for _ in range(400)}
    assert done == set(Deed)


def test_a_liar_with_a_given_strategy_keeps_it() -> None:
    told: list[str] = []
    temper = Temper(random.Random(0), "forger", told.append)
    for _ in range(20):
        temper.turn()
    assert told == ["forger"]
    with pytest.raises(KeyError):
        Temper(random.Random(0), "no such strategy", told.append)


def test_about_half_of_the_liars_change_their_mind() -> None:
    changes = 0
    for seed in range(100):
        told: list[str] = []
        temper = Temper(random.Random(seed), "", told.append)
        for _ in range(3):
            temper.turn()
        changes += len(told) > 1
    assert 30 < changes < 70


def test_the_first_strategy_can_be_told_without_a_rehearsal() -> None:
    for seed in range(20):
        told: list[str] = []
        temper = Temper(chance_of(seed, "p3", 1), "", told.append)
        ending = "" if temper.is_steady else ", then others"
        assert first_strategy(seed, "p3", "") == told[0] + ending
