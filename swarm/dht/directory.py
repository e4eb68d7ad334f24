"""The port to the DHT: put and get of signed records.

Real runs use `swarm.dht.node.HivemindDirectory`, simulations `swarm.simulation.directory.SimulatedDirectory`.
The DHT may hide records, so nothing that concerns security depends on what a get returns.
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
    """A store of one record per topic and signer: the one with the highest (round, seq)."""

    async def put(self, topic: str, record: bytes, *, seconds: float, deadline: float) -> bool:
        """Publish our sealed ``record`` for ``seconds``. False where no peer stored it: try again later."""

    async def get(self, topic: str, form: type[M], *, deadline: float) -> list[Signed[M]]:
        """The newest valid record of every signer under ``topic``, in the order of peer ids.

        Empty where no peer answers before ``deadline``.
        """


def newest(records: Iterable[Signed[M]]) -> list[Signed[M]]:
    """One record per signer, the one with the highest (round, seq), in the order of peer ids."""
    best: dict[PeerId, Signed[M]] = {}
    for record in records:
        known = best.get(record.signer)
        if known is None or (record.stamp.round, record.stamp.seq) > (known.stamp.round, known.stamp.seq):
            best[record.signer] = record
    return [best[peer] for peer in sorted(best)]
