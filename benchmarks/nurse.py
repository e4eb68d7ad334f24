"""What the nurse process of a nursery has in memory before it forks the first peer, so that no peer needs to load it again."""

from __future__ import annotations

import peer.cli
import peer.launch
import peer.recipe
from swarm.dht.node import load_hivemind

__all__ = ["peer"]

load_hivemind()  # a peer does so when it opens its DHT: a second of work for each, while the others wait for the processor
