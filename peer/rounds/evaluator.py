"""How good the shared model is: scored on held-out text every so many rounds; now and then it writes a few
lines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swarm.bounded import LeastRecentlyUsed
from swarm.machine import Arithmetic
from swarm.manifest import RunManifest

from ..observe.metrics import Metrics
from ..training.learner import Learner

SAMPLE_SECONDS = 30.0
"""Between two samples: they cost as much as several local steps."""
REMEMBERED = 16
"""Models whose score is known."""
_scores: LeastRecentlyUsed[tuple[bytes, bytes], float] = LeastRecentlyUsed(REMEMBERED)


class Evaluator:
    """Evaluates for one peer. ``has_screen``: whether anybody can read what the model writes."""

    def __init__(
        self, manifest: RunManifest, arithmetic: Arithmetic, metrics: Metrics, *, has_screen: bool
    ) -> None:
        self._manifest = manifest
        self._arithmetic = arithmetic
        self._metrics = metrics
        self._has_screen = has_screen
        self._sampled_at: float | None = None

    async def score_if_due(self, learner: Learner, state_root: bytes, *, now: bool) -> float | None:
        """Bits per byte of the shared model, whose root is ``state_root``, if its round is to be scored, or
        ``now``; else None."""
        if learner.state.round % self._manifest.evaluate_every and not now:
            return None
        key = (self._manifest.run_id, state_root)
        score = await self._arithmetic.run(lambda: _remembered(key, learner.evaluate))
        time = asyncio.get_running_loop().time()
        if self._has_screen and (self._sampled_at is None or time >= self._sampled_at + SAMPLE_SECONDS):
            self._sampled_at = time
            self._metrics.shown.sample = await self._arithmetic.run(learner.sample)
        return score


def _remembered(key: tuple[bytes, bytes], evaluate: Callable[[], float]) -> float:
    """One model of one run has one score, even if hundreds of rehearsed peers of a process ask for it."""
    if key not in _scores:
        _scores[key] = evaluate()
    return _scores[key]
