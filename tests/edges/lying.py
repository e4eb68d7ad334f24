"""The `swarm` command of a liar: a real process with a key and a ticket of its own, between lying ports.

    python -m tests.edges.lying STRATEGY PEERS TEXT WORDS...

STRATEGY is one of `peer.simulation.strategies`, PEERS are the ids of the honest peers with commas between,
TEXT is the folder with the run's text. WORDS are those of ``swarm``.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any, cast

import peer.app.node
from peer.commands.main import main
from peer.data import corpus as corpora
from peer.peer import Peer
from peer.ports import LocalPeer, Ports
from peer.simulation.liars import Liar
from peer.simulation.mind import Mind
from peer.simulation.strategies import Temper
from swarm.identity import PeerId
from swarm.manifest import RunManifest


class LyingPeer(Peer):
    """A peer that, instead of following the protocol, does what a strategy says at every opportunity."""

    strategy = ""
    others: tuple[PeerId, ...] = ()
    text = Path()

    def __init__(self, manifest: RunManifest, sealed: bytes, me: LocalPeer, ports: Ports) -> None:
        temper = Temper(random.Random(1), self.strategy, lambda told: None)
        everybody = sorted({*self.others, me.key.peer_id})
        mind = Mind(manifest, corpora.build(self.text), me.key, everybody, temper)
        self._liar = Liar(mind, ports.network.transport)
        super().__init__(manifest, sealed, me, self._liar.ports(ports))

    async def run(self) -> None:
        """Lie until the process ends."""
        await self._liar.live(cast(Peer, _HonestHalf(self)))


class _HonestHalf:
    """What a liar would do if it did not lie."""

    def __init__(self, whole: LyingPeer) -> None:
        self._whole = whole

    def subscribe(self, subscriber: Any) -> None:
        """See `Peer.subscribe`."""
        self._whole.subscribe(subscriber)

    async def run(self) -> None:
        """See `Peer.run`."""
        await Peer.run(self._whole)


if __name__ == "__main__":
    LyingPeer.strategy = sys.argv[1]
    LyingPeer.others = tuple(PeerId(name) for name in sys.argv[2].split(","))
    LyingPeer.text = Path(sys.argv[3])
    peer.app.node.Peer = LyingPeer  # type: ignore[misc]
    sys.argv = ["swarm", *sys.argv[4:]]
    main()
