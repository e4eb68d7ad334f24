"""The order of a round's stages."""

from __future__ import annotations

from typing import Any

from averaging.outcome import Outcome
from averaging.update import Update
from peer.loop import train
from swarm.simulation.clock import simulate

UPDATE: Any = "update"
OUTCOME: Any = "outcome"


class NotingStages:
    """Stages that note in which order they are called, until ``rounds`` are done."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.calls: list[str] = []

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its end."""
        return self.calls.count("conclude") >= self.rounds

    async def catch_up(self, *, is_founder: bool) -> None:
        """Begin where the run is."""
        self.calls.append("catch up as the founder" if is_founder else "catch up")

    async def learn(self) -> Update:
        """Local steps."""
        self.calls.append("learn")
        return UPDATE

    async def average(self, update: Update) -> Outcome:
        """The average of the group."""
        assert update is UPDATE
        self.calls.append("average")
        return OUTCOME

    async def conclude(self, update: Update, outcome: Outcome) -> None:
        """The outer step."""
        assert (update, outcome) == (UPDATE, OUTCOME)
        self.calls.append("conclude")

    async def save_if_due(self) -> None:
        """A checkpoint."""
        self.calls.append("save")


def test_round_after_round_until_the_run_is_finished() -> None:
    stages = NotingStages(2)
    simulate(train(stages, is_founder=True))
    one_round = ["learn", "average", "conclude", "save"]
    assert stages.calls == ["catch up as the founder", *one_round, *one_round]


def test_a_run_that_is_over_is_only_caught_up_with() -> None:
    stages = NotingStages(0)
    simulate(train(stages, is_founder=False))
    assert stages.calls == ["catch up"]
