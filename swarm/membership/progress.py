"""The signed record that each peer publishes about itself a few times per round.

The roster, the dashboard and the leader of a round read it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from ..wire import Kind, Message, finite, sized


class Phase(IntEnum):
    """What a peer is doing."""

    STARTING = 0
    SYNCING = 1
    TRAINING = 2
    AVERAGING = 3
    WAITING = 4
    LEAVING = 5
    FOLLOWING = 6
    """It is not in a group of this round. It will take the result of one, and join the next round."""


class Activity(Message, frozen=True):
    """What a peer is doing and how fast: the first fields of `Progress`."""

    phase: Phase
    state_root: bytes
    """State root at the start of the stamp's round; 32 zero bytes where the peer has no model yet."""
    tokens: int
    """Tokens that this peer has trained on in this run, in all rounds."""
    tokens_per_second: float
    up: float
    """Bytes per second sent, recently."""
    down: float
    """Bytes per second received, recently."""
    loss: float
    """Mean training loss of the last round in nats per token; 0 before the first."""


class Progress(Activity, frozen=True):
    """A peer's claims about itself. The frame's stamp carries its round and seq.

    A claim may be false, so no result of training depends on it.
    """

    kind: ClassVar[Kind] = Kind.PROGRESS

    name: str
    """The volunteer's name for the peer. It is a stranger's text: clean it before you print it."""
    device: str
    version: str
    contact: bytes
    """The peer's sealed `Contact`, so that all that read this record can dial the peer."""

    def __post_init__(self) -> None:
        sized("state_root", self.state_root, 32)
        for name in ("tokens_per_second", "up", "down"):
            finite(name, getattr(self, name), 0, 1e15)
        finite("loss", self.loss, 0, 1e6)
        if not (0 <= self.tokens < 1 << 62 and len(self.contact) <= 2048):
            raise ValueError("progress: numbers out of range")
        if max(len(self.name), len(self.device), len(self.version)) > 40:
            raise ValueError("progress: texts have at most 40 characters")
