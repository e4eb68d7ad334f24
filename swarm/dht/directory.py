"""The port to the DHT: put and get of signed records. Nothing security-relevant is ever decided by what comes out of it.

Behind it: `HivemindDirectory` (`swarm.dht.node`, real runs), `SimulatedDirectory` (`swarm.simulation.directory`, rehearsals).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from ..identity import PeerId
from ..wire import Message, Signed

RECORD_LIMIT = 4096
"""Bytes of the largest record."""

M = TypeVar("M", bound=Message)


class Directory(Protocol):
    """Keeps one record per (topic, signer): the one with the highest (round, seq)."""

    async def put(self, topic: str, record: bytes, *, seconds: float, deadline: float) -> bool:
        """Publish a sealed ``record`` of ours for ``seconds``. False where no peer took it (weather: try again later)."""

    async def get(self, topic: str, form: type[M], *, deadline: float) -> list[Signed[M]]:
        """The newest valid record of every signer under ``topic``, in the order of peer ids. Empty where nobody answers."""


def newest(records: Iterable[Signed[M]]) -> list[Signed[M]]:
    """One record per signer, the one with the highest (round, seq), in the order of peer ids."""
    best: dict[PeerId, Signed[M]] = {}
    for record in records:
        known = best.get(record.signer)
        if known is None or (record.stamp.round, record.stamp.seq) > (known.stamp.round, known.stamp.seq):
            best[record.signer] = record
    return [best[peer] for peer in sorted(best)]
