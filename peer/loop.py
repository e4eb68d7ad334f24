"""The story of a round.

Read this first; `peer.peer` composes a peer, and `peer.rounds.stages` has the stages.
"""

from __future__ import annotations

from typing import Protocol

from averaging.outcome import Outcome
from averaging.update import Update


class Stages(Protocol):
    """What a peer does in a round, stage by stage."""

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its end."""

    async def catch_up(self, *, is_founder: bool) -> None:
        """Begin where the run is."""

    async def learn(self) -> Update:
        """Local steps from the shared model: start − end is the update (the pseudo-gradient)."""

    async def average(self, update: Update) -> Outcome:
        """The average of the group's updates, the same bits on all peers."""

    async def conclude(self, update: Update, outcome: Outcome) -> None:
        """The outer step: the shared model of the next round."""

    async def save_if_due(self) -> None:
        """A checkpoint now and then."""


async def train(peer: Stages, *, is_founder: bool) -> None:
    """Round after round until the manifest says enough. Every line is one stage of the data's path."""
    await peer.catch_up(is_founder=is_founder)
    while not peer.is_finished:
        update = await peer.learn()
        outcome = await peer.average(update)
        await peer.conclude(update, outcome)
        await peer.save_if_due()
