"""A network falls in two for a minute, and becomes one again: what each side does meanwhile, and who goes over to whom."""

from __future__ import annotations

from functools import cache

import pytest

from peer.simulation.peers import Notebook, RehearsalResult
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from swarm.simulation.faults import Faults
from tests.stories.promises import check

PEERS, APART, ROUNDS = 16, (24.0, 84.0), 32
NAMES = [f"p{number}" for number in range(PEERS)]
UNDER_WAY = 6.0
"""Seconds in which a round that had been decided when the network fell apart may still come to its end."""
HEALED_IN = 45.0
"""Virtual seconds after which nobody may be in a camp of its own any more."""


@cache
def story(here: int) -> RehearsalResult:
    """The first ``here`` peers, the organiser p0 among them, and the others do not see each other for a minute."""
    faults = Faults().split(NAMES[:here], NAMES[here:], between=APART)
    return rehearse(
        Scenario(peers=PEERS, rounds=ROUNDS, seed=2, step_seconds=0.6, faults=faults, patience=1000)
    )


def averaged(book: Notebook, begin: float, end: float) -> list[int]:
    """Members of each average that this peer had between two times."""
    told = zip(book.rounds, book.told_at, strict=True)
    return [report.members for report, at in told if begin < at <= end and report.round not in book.missed]


def sides(here: int) -> tuple[list[Notebook], list[Notebook]]:
    books = story(here).notebooks
    return [books[name] for name in NAMES[:here]], [books[name] for name in NAMES[here:]]


@pytest.mark.parametrize("here", [8, 12])
def test_in_the_end_all_are_one_again_with_one_model(here: int) -> None:
    told = story(here)
    parted = {
        report.round
        for book in told.notebooks.values()
        for report, at in zip(book.rounds, book.told_at, strict=True)
        if at > APART[0]
    }
    check(told, ROUNDS - 1, parted=parted)
    for book in told.notebooks.values():
        assert set(averaged(book, APART[1] + HEALED_IN, 1000)) == {PEERS}


@pytest.mark.parametrize("here", [8, 12])
def test_meanwhile_each_side_is_by_itself_and_a_half_or_more_trains_on_as_one(here: int) -> None:
    """A quarter waits in vain for the many that it knows and cannot reach: it averages in pairs now and then, until it is found."""
    for side, size in zip(sides(here), (here, PEERS - here), strict=True):
        for book in side:
            assert averaged(book, 0, APART[0])[0] == PEERS
            alone = averaged(book, APART[0] + UNDER_WAY, APART[1])
            assert max(alone, default=0) <= size
            if size >= PEERS / 2:
                assert len(alone) >= 5
                assert set(alone) == {size}


def test_the_side_with_two_thirds_decides_even_the_round_in_which_it_happened() -> None:
    large, _ = sides(12)
    for book in large:
        assert not book.missed


def test_of_two_halves_the_one_without_the_organiser_goes_over_as_a_whole() -> None:
    here, there = ([models(book) for book in side] for side in sides(8))
    only_there = set().union(*there) - set().union(*here)
    assert only_there, "two halves had two models"
    for book in sides(8)[0]:
        assert not taken(book) & only_there, "nobody has gone the other way"
    organisers = set().union(
        *(models(book, until=APART[1] + HEALED_IN) for book in sides(8)[0])
    ) - set().union(*there)
    for book in sides(8)[1]:
        assert taken(book) & organisers, "the other side has taken the organiser's model"


def models(book: Notebook, until: float = APART[1]) -> set[str]:
    """The state roots after the rounds that this peer told of from the moment when the network fell apart."""
    return {
        report.state_root
        for report, at in zip(book.rounds, book.told_at, strict=True)
        if APART[0] < at <= until
    }


def taken(book: Notebook) -> set[str]:
    """The state roots that this peer has had from others."""
    return {fields["state_root"] for name, fields in book.events if name == "synced"}
