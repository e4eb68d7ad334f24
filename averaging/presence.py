"""Who has come to an assembly, who is gone, and who leads in which order, as one peer sees it."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass

from swarm.identity import PeerId
from swarm.wire import Signed

from .assembly_plan import AssemblyPlan
from .messages import Ready

DEPUTIES = 3
"""How many of the first in the order of leaders get every `Ready`."""


class Presence:
    """Which peers have come, which are out of reach, and whom we have told that we are ready."""

    def __init__(self, plan: AssemblyPlan) -> None:
        self._plan = plan
        self.order = plan.ordered({plan.me, *plan.terms.expected})
        """All peers that may come, in the order in which they lead."""
        self.ready: dict[PeerId, Signed[Ready]] = {plan.me: plan.ready}
        self.gone: set[PeerId] = set()
        self.told: set[PeerId] = set()
        self.asked: set[PeerId] = set()
        """Peers that we have asked for a sign of life, as a list lacks them or comes before their turn."""

    @property
    def deputies(self) -> int:
        """How many of the first hear of everybody.

        In a level-2 group all do: it is small, and nobody knows beforehand who of the other groups comes. And
        after an attempt that failed all do: then each must know who has come (rule 7).
        """
        is_for_all = self._plan.hierarchy or self._plan.terms.is_lowered
        return len(self.order) if is_for_all else DEPUTIES

    @property
    def reachable(self) -> list[PeerId]:
        """The peers that are not gone, in the order in which they lead."""
        return [peer for peer in self.order if peer not in self.gone]

    @property
    def leading(self) -> list[PeerId]:
        """The first peers that may lead now. (In a level-2 group all may, see `deputies`.)"""
        return self.reachable[:DEPUTIES]

    @property
    def here(self) -> list[Signed[Ready]]:
        """The peers that have come and are not gone."""
        return [signed for peer, signed in self.ready.items() if peer not in self.gone]

    @property
    def missing(self) -> set[PeerId]:
        """The peers that should come, have not, and are not gone."""
        return {self._plan.me, *self._plan.terms.expected} - self.ready.keys() - self.gone

    @property
    def before_us(self) -> set[PeerId]:
        """The peers that lead before us, as far as we know: they may have come, and died before they could
        propose."""
        return self.before(self._plan.me)

    def before(self, peer: PeerId) -> set[PeerId]:
        """The peers that lead before ``peer`` and are not gone; all of them if ``peer`` should not lead."""
        place = self.order.index(peer) if peer in self.order else len(self.order)
        return set(self.order[:place]) - self.gone

    def audience(self) -> list[PeerId]:
        """The peers that first hear that we are ready: the leaders, or, if we may lead, everybody (which
        shows who is gone)."""
        audience = [peer for peer in self.order if peer != self._plan.me]
        if self._plan.me not in self.order[: self.deputies]:
            audience = self.order[: self.deputies]
        self.told.update(audience)
        return audience

    def add_if_leading(self, peer: PeerId) -> bool:
        """A peer with our model that we did not expect: note it if it may lead.

        Others cost us nothing more.
        """
        if peer in self._plan.terms.unawaited:
            return False
        may_lead = peer in self._plan.ordered([*self.leading, peer])[:DEPUTIES]
        if may_lead:
            self.order = self._plan.ordered([*self.order, peer])
        return may_lead

    def untold_leaders(self) -> tuple[PeerId, ...]:
        """The peers that may lead now and have not heard of us. From here on they count as told."""
        untold = tuple(peer for peer in self.leading if peer not in self.told and peer != self._plan.me)
        self.told.update(untold)
        return untold

    def to_ask(self, peers: Set[PeerId]) -> tuple[PeerId, ...]:
        """Those of ``peers`` that we have not asked for a sign of life yet.

        From here on they count as asked.
        """
        unasked = tuple(sorted(peers - self.asked - {self._plan.me}))
        self.asked.update(unasked)
        return unasked

    def others(self) -> tuple[PeerId, ...]:
        """The others that have come and are not gone, sorted."""
        return tuple(sorted(self.ready.keys() - self.gone - {self._plan.me}))


@dataclass(slots=True)
class SignsOfLife:
    """When to ask the missing peers for the next sign of life, in the clock of ``now``."""

    pause: float
    due_at: float = math.inf

    def start(self, now: float) -> None:
        """Everybody has just been asked."""
        self.due_at = now + self.pause

    def is_due(self, now: float) -> bool:
        """Whether to ask now; the next pause is twice as long."""
        if now < self.due_at:
            return False
        self.pause *= 2
        self.due_at = now + self.pause
        return True
