"""What a peer keeps on disk: checkpoints now and then, the finished model at the end. Without a home it keeps nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

from averaging.averager import Averager
from swarm.errors import ConfigError, DiskTrouble
from swarm.machine import Arithmetic
from swarm.manifest import RunManifest

from ..observe.events import Events
from ..observe.metrics import Metrics
from ..training import checkpoint
from ..training.learner import Learner

SHORTEST_SECONDS = 10.0
FIRST_RETRY, LONGEST_RETRY = 10.0, 600.0
"""Bounds of the seconds between two attempts on a disk that refuses: each warns, so they become rarer."""
MOST_OF_THE_TIME = 0.05
"""Saving may take this share of the time; the distance between two checkpoints follows from what the last one took."""


class Checkpointer:
    """Saves and restores one peer: shared state, local optimiser, residual."""

    def __init__(
        self,
        home: Path | None,
        manifest: RunManifest,
        arithmetic: Arithmetic,
        metrics: Metrics,
        events: Events,
    ) -> None:
        self._home, self._manifest, self._arithmetic, self._metrics, self._events = (
            home,
            manifest,
            arithmetic,
            metrics,
            events,
        )
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + SHORTEST_SECONDS
        self._saved_round = -1
        self._retry = FIRST_RETRY

    async def restore(self, learner: Learner, averager: Averager) -> bool:
        """Put the newest whole checkpoint of this run into ``learner`` and ``averager``; False where there is none."""
        home = self._home
        if home is None:
            return False
        loaded, warnings = await self._arithmetic.run(lambda: checkpoint.load(home / "checkpoints"))
        for warning in warnings:
            self._events.warn("checkpoint", warning)
        if loaded is None:
            return False
        if loaded.meta.get("run") != self._manifest.run_id.hex():
            self._events.warn("checkpoint", f"{loaded.path.name} belongs to another run and was passed over")
            return False
        try:
            learner.adopt(loaded.state)
            learner.import_inner(loaded.inner)
        except ConfigError as error:
            self._events.warn(error.code, error.fact)
            return False
        if loaded.residual_P is not None:
            for fragment in learner.fragments:
                averager.restore(loaded.residual_P[fragment.place], fragment.index)
        self._metrics.run_tokens = int(loaded.meta.get("tokens", "0"))
        self._metrics.given_tokens = int(loaded.meta.get("given", "0"))
        self._saved_round = loaded.state.round
        self._events.say("resumed", round=loaded.state.round, checkpoint=str(loaded.path))
        return True

    async def save_if_due(self, learner: Learner, averager: Averager, *, now: bool) -> None:
        """A checkpoint where enough time has passed, or ``now``; never the same round twice."""
        if (
            self._home is None
            or learner.state.round == self._saved_round
            or not (now or self._loop.time() >= self._due)
        ):
            return
        began = self._loop.time()
        is_saved = await self._save(self._home, learner, averager)
        took = self._loop.time() - began
        self._retry = FIRST_RETRY if is_saved else min(LONGEST_RETRY, 2 * self._retry)
        self._due = self._loop.time() + (
            max(SHORTEST_SECONDS, took / MOST_OF_THE_TIME) if is_saved else self._retry
        )

    async def _save(self, home: Path, learner: Learner, averager: Averager) -> bool:
        """Write it; a full disk is told, and training goes on. Whether it is written."""
        residuals = [averager.residual(fragment.index) for fragment in learner.fragments]
        metrics = self._metrics
        meta = {
            "run": self._manifest.run_id.hex(),
            "tokens": str(metrics.run_tokens),
            "given": str(metrics.given_tokens),
        }
        try:
            path = await self._arithmetic.run(
                lambda: checkpoint.save(
                    home / "checkpoints", learner.state, learner.export_inner(), learner.owed(residuals), meta
                )
            )
        except DiskTrouble as error:
            self._events.warn(
                error.code, f"{error.fact}; the checkpoint before is still there", advice=error.advice
            )
            return False
        self._saved_round = learner.state.round
        metrics.checkpoint = str(path)
        self._events.say("checkpoint", path=str(path), round=learner.state.round)
        return True

    async def export(self, learner: Learner) -> None:
        """The finished model as a file for people."""
        if self._home is None:
            return
        path, round_ = self._home / "model.safetensors", learner.state.round
        meta = {"run": self._manifest.run_id.hex(), "name": self._manifest.name, "round": str(round_)}
        try:
            await self._arithmetic.run(
                lambda: checkpoint.export(path, learner.named(), self._manifest.model, meta)
            )
        except DiskTrouble as error:
            self._events.warn(error.code, error.fact, advice=error.advice)
            return
        self._events.say("model", path=str(path), round=round_)
