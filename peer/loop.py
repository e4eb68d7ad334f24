"""The story of a round. Read this first."""

from __future__ import annotations

from typing import Protocol

from averaging.averager import Averaged, Update


class Stages(Protocol):
    """What a peer does in a round, stage by stage; `peer.peer.Peer` is the one that really does it."""

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its end."""

    async def catch_up(self) -> None:
        """Begin where the run stands."""

    async def learn(self) -> Update:
        """Local steps from the shared model: start − end is the update."""

    async def average(self, update: Update) -> Averaged:
        """The group's average of everybody's update, the same bits for all."""

    async def conclude(self, update: Update, averaged: Averaged) -> None:
        """The outer step: the shared model of the next round."""

    async def save_if_due(self) -> None:
        """A checkpoint now and then."""


async def train(peer: Stages) -> None:
    """Round after round until the manifest says enough. Every line is one stage of the data's path."""
    await peer.catch_up()
    while not peer.is_finished:
        update = await peer.learn()
        averaged = await peer.average(update)
        await peer.conclude(update, averaged)
        await peer.save_if_due()
