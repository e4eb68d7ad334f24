"""The story of a round. Read this first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .peer import Peer


async def train(peer: Peer) -> None:
    """Round after round until the manifest says enough. Every line is one stage of the data's path."""
    await peer.catch_up()
    while not peer.is_finished:
        update = await peer.learn()
        averaged = await peer.average(update)
        await peer.conclude(update, averaged)
        await peer.save_if_due()
