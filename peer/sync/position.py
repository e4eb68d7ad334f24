"""Where this peer stands in the run.

`PositionTracker` is the only place that changes the `Position`; everything else reads or subscribes.

    take_own        the state of our checkpoint, or one that no other peer has (the founder's)
    adopt           a state that the other peers have, fetched from them
    agree           the others have the state that we have; their population counts
    step            the state after a round, by its average
    skip            the same model in the next round: we have no average of this one
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from averaging.certificate import Origin
from averaging.hierarchy import Hierarchy
from swarm.identity import PeerId
from swarm.manifest import RunManifest
from swarm.wire import NO_GROUP

from ..training.state import SharedState, state_root
from .head import ChosenHead, Head

REMEMBERED_ROOTS = 64
"""States back for which we remember that we have gone on from them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a peer stands: the round that it trains for, and the state from which it trains."""

    round: int = 0
    state_root: bytes = bytes(32)
    """All zero before the peer has a state."""
    tokens: int = 0
    """Tokens of the whole run so far, by our own count."""
    population: int = 1
    """Peers that were ready for the last round. All who were in it know the same number."""
    is_participant: bool = False
    """Whether we had a part in the average that led to this state, or founded the run."""
    origin: Origin | None = None
    """That group, with the proof; None before the run's first average."""

    @property
    def parent(self) -> bytes:
        """The id of the group that led to this state; all zero before the run's first average."""
        return self.origin.group_id if self.origin else NO_GROUP


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a round's average adds to the position."""

    tokens: int
    """Behind the average."""
    population: int
    origin: Origin
    """The group that has decided it."""
    is_participant: bool
    """Whether we had a part in it."""


Subscriber = Callable[[Position, SharedState], None]
"""Called with every new position and its state."""


class PositionTracker:
    """Owns the `Position` of one peer."""

    def __init__(self, manifest: RunManifest) -> None:
        self._manifest = manifest
        self._now = Position()
        self.has_state = False
        """Whether this peer has had a state of the run."""
        self.same_head: tuple[PeerId, ...] = ()
        """Peers that said last that they have the very head that we have: they will come to its average."""
        self.companions: tuple[PeerId, ...] = ()
        """The members of our last average whose work is in it, us among them."""
        self.passed_roots: deque[bytes] = deque(maxlen=REMEMBERED_ROOTS)
        """States that we have gone on from. Peers that still have them are behind us."""
        self._subscribers: list[Subscriber] = []

    @property
    def now(self) -> Position:
        """The position now."""
        return self._now

    @property
    def hierarchy(self) -> Hierarchy:
        """Which peers average with which in the round that we are in."""
        population = self._now.population
        return Hierarchy.of(
            self._manifest.run_id, self._now.round, population, self._manifest.round.group_size
        )

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its end."""
        return self._manifest.is_finished(self._now.round, self._now.tokens)

    def would_finish(self, round_: int) -> bool:
        """Whether the run ends before ``round_``, as far as the tokens so far tell."""
        return self._manifest.is_finished(round_, self._now.tokens)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Have ``subscriber`` called with every new position."""
        self._subscribers.append(subscriber)

    def head(self, seconds_left: float) -> Head | None:
        """What we answer a peer that asks where the run stands; None while we have no state."""
        if not self.has_state:
            return None
        now = self._now
        return Head(now.state_root, now.tokens, seconds_left, now.population, now.parent)

    @property
    def participants(self) -> tuple[PeerId, ...]:
        """The members of the group that led to our state; before the first average the organiser."""
        origin = self._now.origin
        return origin.members if origin else (self._manifest.organiser_id,)

    # --- the verbs ------------------------------------------------------------------------------------------

    def take_own(self, state: SharedState, before: Position | None = None) -> None:
        """Begin with the state of our checkpoint, or with one that no other peer has: the founder's.

        ``before`` is where we stood when the checkpoint was written.
        """
        self._now = before or replace(self._now, is_participant=True)
        self._move(state)

    def adopt(self, state: SharedState, head: ChosenHead) -> None:
        """Go on from the state of other peers, whose ``head`` we have chosen."""
        self._now = replace(self._now, tokens=head.tokens, origin=head.origin, is_participant=False)
        self._move(state, head.population)
        self.same_head = head.donors

    def agree(self, head: ChosenHead) -> None:
        """Other peers have the state that we have; join their population."""
        self.same_head = head.donors
        self._now = replace(
            self._now, population=head.population, tokens=head.tokens, origin=head.origin or self._now.origin
        )

    def step(self, state: SharedState, taken: Step) -> None:
        """The state after a round, by an average."""
        self.passed_roots.append(self._now.state_root)
        self._now = replace(
            self._now,
            tokens=self._now.tokens + taken.tokens,
            origin=taken.origin,
            is_participant=taken.is_participant,
        )
        self._move(state, taken.population)

    def skip(self, state: SharedState) -> None:
        """The same model in the next round."""
        self._move(state)

    def _move(self, state: SharedState, population: int | None = None) -> None:
        now = self._now
        self._now = replace(
            now,
            round=state.round,
            state_root=state_root(state),
            population=now.population if population is None else population,
        )
        self.has_state = True
        self.same_head = ()
        for subscriber in self._subscribers:
            subscriber(self._now, state)
