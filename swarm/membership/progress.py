"""What a peer says of itself, signed, a few times per round: the roster, the dashboard and the round's leader read it."""

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
    """The group of the stamp's round stands without it; it takes that group's result, and comes to the next round."""


class Progress(Message, frozen=True):
    """One peer's claim about itself. The frame's stamp carries round and seq; nothing here is believed where it matters."""

    kind: ClassVar[Kind] = Kind.PROGRESS

    phase: Phase
    state_root: bytes
    """Root of the model at the start of the stamp's round; 32 zero bytes where the peer has none yet."""
    tokens: int
    """Tokens trained on in this run, all rounds."""
    tokens_per_second: float
    up: float
    """Bytes per second sent, recently."""
    down: float
    loss: float
    """Mean training loss of the last round in nats per token; 0 before the first."""
    name: str
    """What the volunteer calls it. A stranger's text: clean it before it meets a terminal."""
    device: str
    version: str
    contact: bytes
    """The peer's sealed `Contact`, so that whoever hears of the peer can dial it."""

    def __post_init__(self) -> None:
        sized("state_root", self.state_root, 32)
        for name in ("tokens_per_second", "up", "down"):
            finite(name, getattr(self, name), 0, 1e15)
        finite("loss", self.loss, 0, 1e6)
        if not (0 <= self.tokens < 1 << 62 and len(self.contact) <= 2048):
            raise ValueError("progress: numbers out of range")
        if max(len(self.name), len(self.device), len(self.version)) > 40:
            raise ValueError("progress: texts have at most 40 characters")
