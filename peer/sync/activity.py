"""What this peer is doing, and until when: the phase of its round, and how much of the round is left."""

from __future__ import annotations

from collections.abc import Callable

from swarm.manifest import RoundSpec
from swarm.membership.progress import Phase

Listener = Callable[[Phase, float], None]
"""(phase, when it should end): called with every new phase."""


class Activity:
    """The phase of one peer. Times are in the clock that is handed in."""

    def __init__(self, spec: RoundSpec, clock: Callable[[], float], listener: Listener) -> None:
        self.spec = spec
        self.phase = Phase.STARTING
        self.train_until = 0.0
        """When this round's local training ends."""
        self.seconds_left: float | None = None
        """What the others have left of the round that we joined in its middle; None in a round of our own."""
        self._clock = clock
        self._listener = listener

    def enter(self, phase: Phase, seconds: float = 0.0) -> None:
        """A new phase, which should take ``seconds``."""
        self.phase = phase
        self._listener(phase, self._clock() + seconds)

    def begin_training(self) -> float:
        """A round of local training begins: the seconds that it may take.

        None are left if we joined when the others were done with theirs; then one step is taken, to be in
        time for the next round.
        """
        seconds = self.spec.seconds if self.seconds_left is None else self.seconds_left
        self.seconds_left = None
        self.train_until = self._clock() + seconds
        self.enter(Phase.TRAINING, seconds)
        return seconds

    @property
    def training_left(self) -> float:
        """Seconds of local training that are left in this round: all of it before the round begins, none
        while we average."""
        match self.phase:
            case Phase.TRAINING:
                return max(0.0, self.train_until - self._clock())
            case Phase.WAITING:
                return max(0.0, self.spec.seconds)
        return 0.0
