"""What the fork server of `benchmarks.peer_processes` loads once, before it forks the first peer."""

from __future__ import annotations

import peer.app.node
import peer.commands.main
import peer.config.run
from benchmarks.peer_processes import die_with_parent
from swarm.dht.node import load_hivemind

__all__ = ["peer"]

die_with_parent()  # Python's fork server ends when no process holds a certain pipe, and every peer holds it
load_hivemind()  # else each peer does it when it opens its DHT: a second of work that delays all others
