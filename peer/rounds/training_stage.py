"""The first stage of a round: local steps from the shared model, and the update that comes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from averaging.update import Update
from swarm.identity import PeerId

from ..network.uplink import Uplink
from ..observe.events import Events
from ..observe.metrics import TrainingFigures
from ..sync.activity import Activity
from ..sync.position import PositionTracker
from ..training.jobs import LocalCompute, LocalTraining
from ..training.learner import Assignment, Learner, LocalUpdate


class TrainingStage:
    """Trains one peer locally, round after round."""

    def __init__(
        self,
        learner: Learner,
        compute: LocalCompute,
        uplink: Uplink,
        position: PositionTracker,
        activity: Activity,
        observers: tuple[Events, TrainingFigures],
    ) -> None:
        self._learner = learner
        self._compute = compute
        self._uplink = uplink
        self._position = position
        self._activity = activity
        self._events, self._figures = observers
        self.is_stopping = False
        """Set when the peer leaves: the step under way is the last."""
        self.began = 0.0
        """When the round began, in the loop's clock."""
        self.work: LocalUpdate | None = None
        """What the last round of training gave."""

    async def learn(self, members: Sequence[PeerId]) -> Update:
        """As many local steps as fit before the round's deadline.

        ``members`` share the text of this round with us.
        """
        loop = asyncio.get_running_loop()
        self.began = loop.time()
        seconds = self._activity.begin_training()
        task = self._assignment(seconds, members)
        work = await self._compute.arithmetic.run(LocalTraining(self._learner, task))
        self.work = work
        if not work.is_usable:
            fact = "our local steps led to numbers that are not finite; this round has no update of ours"
            self._events.warn("diverged", fact)
        self._figures.trained(work.trained.tokens, loop.time() - self.began)
        return self._update(work, members)

    def _assignment(self, seconds: float, members: Sequence[PeerId]) -> Assignment:
        budget = self._compute.budget(seconds)
        most = self._activity.spec.max_steps - self._learner.steps_ahead
        return Assignment(
            members=tuple(members),
            max_steps=max(1, min(most, budget.steps)),
            until=lambda: self.is_stopping or budget.is_over(),
            on_step=self._figures.on_step,
        )

    def _update(self, work: LocalUpdate, members: Sequence[PeerId]) -> Update:
        spec = self._activity.spec
        position = self._position.now
        fragment = self._learner.fragment(position.round)
        codec = self._uplink.codec(spec, fragment.numbers, len(members))
        self._events.sends_as(codec, spec.codec)
        return Update(
            round=position.round,
            vector_P=work.update_N,
            tokens=work.trained.tokens,
            seed=self._learner.seed_of(position.round),
            state_root=position.state_root,
            tensors=fragment.tensors,
            fragment=fragment.index,
            codec=codec,
            link=self._uplink.claim(),
            parent=position.parent,
        )
