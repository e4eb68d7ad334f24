"""What the nurse process of a nursery has in memory before it forks the first peer, so that no peer needs to load it again."""

from __future__ import annotations

import peer.app.node
import peer.commands.main
import peer.config.run
from benchmarks.nursery import die_with_parent
from swarm.dht.node import load_hivemind

__all__ = ["peer"]

die_with_parent()  # Python's own way is to ask whether anybody holds a pipe to it, and every peer does
load_hivemind()  # a peer does so when it opens its DHT: a second of work for each, while the others wait for the processor
