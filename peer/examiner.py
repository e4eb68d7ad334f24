"""How good the shared model is: scored on held-out text every so many rounds, and now and then it writes a few lines."""

from __future__ import annotations

import asyncio

from swarm.machine import Arithmetic
from swarm.manifest import RunManifest

from .board import Board
from .learner import Learner

SAMPLE_SECONDS = 30.0
"""Between two samples: they cost as much as several local steps."""


class Examiner:
    """Of one peer. ``has_screen``: whether anybody can read what the model writes."""

    def __init__(self, manifest: RunManifest, arithmetic: Arithmetic, board: Board, *, has_screen: bool) -> None:
        self._manifest, self._arithmetic, self._board, self._has_screen = manifest, arithmetic, board, has_screen
        self._sampled_at: float | None = None

    async def score_if_due(self, learner: Learner, *, now: bool) -> float | None:
        """Bits per byte of the shared model where its round is one of those that are scored, or ``now``; else None."""
        if learner.state.round % self._manifest.evaluate_every and not now:
            return None
        score = await self._arithmetic.run(learner.evaluate)
        time = asyncio.get_running_loop().time()
        if self._has_screen and (self._sampled_at is None or time >= self._sampled_at + SAMPLE_SECONDS):
            self._sampled_at = time
            self._board.sample_text = await self._arithmetic.run(learner.sample)
        return score
