"""What a peer needs from outside, as values: on sockets `peer.app.node` fills them, in a rehearsal
`peer.simulation`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from averaging.signed_rounds import SignedInMemory, SignedStore
from swarm.identity import KeyPair
from swarm.machine import Arithmetic

from .data.corpus import Corpus
from .network.membership import NetworkPorts
from .observe.events import EventSink
from .training.jobs import Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything a peer needs from outside."""

    network: NetworkPorts
    arithmetic: Arithmetic
    budget: Callable[[float], Budget]
    """Seconds of local training -> what fits into them."""
    event_sink: EventSink


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPeer:
    """This peer: its key, its name for people, where it keeps its files, and what it already has."""

    key: KeyPair
    name: str
    version: str
    contact: bytes
    """Our sealed `Contact`."""
    home: Path | None = None
    """The folder for checkpoints and downloads; None keeps nothing."""
    corpus: Corpus | None = None
    """The training text, if it is here already; else other peers are asked for it."""
    founder: bool = False
    """Whether it may begin with the fresh model if no other peer has a state yet."""
    signed: SignedStore = field(default_factory=SignedInMemory)
    """Where it keeps for which round it has signed."""
    first_seq: int = 0
    """Where the numbers of its progress records begin: they must grow from one start to the next."""
