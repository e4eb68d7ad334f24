"""In every phase of a round, whoever it is: a peer that dies or stands still costs the others a round at most, and no agreement.

When the accident must happen is taken from the same story without it: the seed makes both the same up to that moment.
"""

from __future__ import annotations

import math
from functools import cache

import pytest

from peer.config.run import RunSettings
from peer.simulation.peers import RehearsalResult
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from swarm.simulation.faults import Faults
from tests.stories.promises import check

PEERS, OWNERS, ROUND = 6, 2, 1
"""Fewer owners than peers, so that some only send; the accident happens in round `ROUND`."""
RECIPE = RunSettings(model="tiny", max_steps=2, round_seconds=5.0, average_seconds=20.0)
SLEEP_SECONDS = 30.0
LONG = 18
"""Rounds of a story in which somebody stands still: enough for it to come back and be one of all again."""
AWHILE = 300.0
"""Virtual seconds in which any story here must be over."""
SAYS = {
    "assembly": ("ready", 1),
    "commit": ("commit", 2),
    "exchange": ("part", 1),
    "results": ("receipt", 2),
    "decide": ("holdings", 2),
    "apply": ("ballot", PEERS - 1),
}
"""What the victim has just said when it happens, and how many have heard it: some know it then, and the others never will."""


@cache
def calm(rounds: int, step_seconds: float) -> RehearsalResult:
    return rehearse(scenario(rounds, step_seconds), listen=True)


def scenario(rounds: int, step_seconds: float, faults: Faults | None = None) -> Scenario:
    faults = faults or Faults()
    return Scenario(
        peers=PEERS,
        rounds=rounds,
        seed=5,
        settings=RECIPE,
        owners=OWNERS,
        step_seconds=step_seconds,
        faults=faults,
        patience=AWHILE,
    )


def cast(story: RehearsalResult, role: str) -> str:
    """Who plays ``role`` in the round of the accident."""
    leader = next(
        heard.sender for heard in story.heard if heard.time > begin(story) and heard.what == "proposal"
    )
    ends = min(book.told_at[ROUND] for book in story.notebooks.values())
    owners = {
        heard.sender for heard in story.heard if begin(story) < heard.time <= ends and heard.what == "receipt"
    }
    senders = sorted(story.notebooks.keys() - owners - {leader})
    return {"leader": leader, "owner": min(owners - {leader}), "sender": senders[0]}[role]


def begin(story: RehearsalResult) -> float:
    """When all have ended the round before."""
    return max(book.told_at[ROUND - 1] for book in story.notebooks.values())


def moment(story: RehearsalResult, role: str, phase: str) -> tuple[str, float]:
    """(victim, when): right after so many have heard its word, and before anybody hears it once more."""
    who, (what, times) = cast(story, role), SAYS[phase]
    if (role, phase) == ("leader", "assembly"):
        what, times = "proposal", 2
    later = [heard for heard in story.heard if heard.time > begin(story)]
    said = [heard.time for heard in later if heard.sender == who and heard.what == what]
    if what == "receipt" and (
        not said or said[0] > min(book.told_at[ROUND] for book in story.notebooks.values())
    ):
        said, times = (
            [heard.time for heard in later if heard.receiver == who and heard.what == "result"],
            1,
        )  # it has none to give
    return who, math.nextafter(said[times - 1], math.inf)


@pytest.mark.parametrize("role", ["sender", "owner", "leader"])
@pytest.mark.parametrize("phase", SAYS)
def test_a_peer_that_dies_is_missed_by_nobody_for_long(phase: str, role: str) -> None:
    before = calm(4, 0.05)
    victim, at = moment(before, role, phase)
    story = rehearse(scenario(4, 0.05, Faults().crash(victim, at=at)))
    check(story, 3, gone=[victim])
    survivors = {name: book for name, book in story.notebooks.items() if name != victim}
    assert all(book.missed <= {ROUND} for book in survivors.values()), (
        "another round than this one was missed"
    )
    assert all(book.rounds[-1].members == PEERS - 1 for book in survivors.values())
    assert story.virtual_seconds < before.virtual_seconds + RECIPE.average_seconds


@pytest.mark.parametrize("role", ["sender", "owner", "leader"])
@pytest.mark.parametrize("phase", SAYS)
def test_a_peer_that_stands_still_is_left_behind_and_catches_up(phase: str, role: str) -> None:
    victim, at = moment(calm(3, 0.6), role, phase)
    story = rehearse(scenario(LONG, 0.6, Faults().stop(victim, between=(at, at + SLEEP_SECONDS))))
    check(story, LONG - 1)
    others = [book for name, book in story.notebooks.items() if name != victim]
    assert all(len(book.missed) <= 1 for book in others), "the others lose a round at most"
    assert all(book.rounds[-1].members == PEERS for book in story.notebooks.values())
