"""What a peer keeps on disk: checkpoints now and then, the finished model at the end.

Without a home it keeps nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from averaging.averager import Averager
from averaging.certificate import unpacked_decision
from swarm.errors import ConfigError, DiskTrouble, TheirFault
from swarm.machine import Arithmetic
from swarm.manifest import RunManifest

from ..observe.events import Events
from ..observe.metrics import Metrics
from ..sync.position import Position, PositionTracker
from ..training import checkpoint
from ..training.checkpoint import Loaded
from ..training.learner import Learner

SHORTEST_SECONDS = 10.0
"""Between two checkpoints, at least."""
FIRST_RETRY = 10.0
"""Seconds until the next attempt on a disk that refuses ..."""
LONGEST_RETRY = 600.0
"""... which becomes twice as long each time, up to this: every attempt that fails is a warning."""
MOST_OF_THE_TIME = 0.05
"""Saving may take this share of the time; the distance between two checkpoints follows from what the last one
took."""


class Checkpointer:
    """Saves and restores one peer: shared state, local optimiser, residual."""

    def __init__(
        self,
        home: Path | None,
        manifest: RunManifest,
        arithmetic: Arithmetic,
        position: PositionTracker,
        metrics: Metrics,
        events: Events,
    ) -> None:
        self._home = home
        self._manifest = manifest
        self._arithmetic = arithmetic
        self._position = position
        self._metrics = metrics
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + SHORTEST_SECONDS
        self._saved_round = -1
        self._retry = FIRST_RETRY

    async def restore(self, learner: Learner, averager: Averager) -> Position | None:
        """Put the newest whole checkpoint of this run into ``learner`` and ``averager``.

        Returns where this peer stood when it was written; None if there is none.
        """
        home = self._home
        if home is None:
            return None
        loaded, warnings = await self._arithmetic.run(lambda: checkpoint.load(home / "checkpoints"))
        for warning in warnings:
            self._events.warn("checkpoint", warning)
        if loaded is None or not self._is_ours(loaded):
            return None
        try:
            learner.adopt(loaded.state)
            learner.import_inner(loaded.inner)
        except ConfigError as error:
            self._events.warn(error.code, error.fact)
            return None
        if loaded.residual_P is not None:
            for fragment in learner.fragments:
                averager.restore(loaded.residual_P[fragment.place], fragment.index)
        self._metrics.training.given_tokens = int(loaded.meta.get("given", "0"))
        self._saved_round = loaded.state.round
        self._events.say("resumed", round=loaded.state.round, checkpoint=str(loaded.path))
        return self._place(loaded.meta)

    def _place(self, meta: Mapping[str, str]) -> Position:
        """Where this peer stood, apart from the state itself."""
        origin = None
        if "origin" in meta:
            try:
                origin = unpacked_decision(bytes.fromhex(meta["origin"]), self._manifest.run_id).origin
            except (TheirFault, ValueError) as error:
                self._events.warn("checkpoint", f"the certificate of its state does not hold ({error})")
        return Position(
            tokens=int(meta.get("tokens", "0")),
            population=int(meta.get("population", "1")),
            is_participant=meta.get("participant") == "yes",
            origin=origin,
        )

    def _is_ours(self, loaded: Loaded) -> bool:
        is_ours = loaded.meta.get("run") == self._manifest.run_id.hex()
        if not is_ours:
            self._events.warn("checkpoint", f"{loaded.path.name} belongs to another run and was passed over")
        return is_ours

    async def save_if_due(self, learner: Learner, averager: Averager, *, now: bool) -> None:
        """Save if enough time has passed, or ``now``; never the same round twice."""
        is_due = now or self._loop.time() >= self._due
        if self._home is None or learner.state.round == self._saved_round or not is_due:
            return
        began = self._loop.time()
        is_saved = await self._save(self._home, learner, averager)
        took = self._loop.time() - began
        if is_saved:
            self._retry = FIRST_RETRY
            pause = max(SHORTEST_SECONDS, took / MOST_OF_THE_TIME)
        else:
            self._retry = min(LONGEST_RETRY, 2 * self._retry)
            pause = self._retry
        self._due = self._loop.time() + pause

    async def _save(self, home: Path, learner: Learner, averager: Averager) -> bool:
        """Write a checkpoint; whether it is written. A full disk is told, and training goes on."""
        residuals = [averager.residual(fragment.index) for fragment in learner.fragments]
        position = self._position.now
        meta = {
            "run": self._manifest.run_id.hex(),
            "tokens": str(position.tokens),
            "given": str(self._metrics.training.given_tokens),
            "population": str(position.population),
            "participant": "yes" if position.is_participant else "no",
        }
        if position.origin:
            meta["origin"] = position.origin.certificate.hex()
        try:
            path = await self._arithmetic.run(
                lambda: checkpoint.save(
                    home / "checkpoints",
                    learner.state,
                    learner.export_inner(),
                    learner.not_applied(residuals),
                    meta,
                )
            )
        except DiskTrouble as error:
            fact = f"{error.fact}; the checkpoint before is still there"
            self._events.warn(error.code, fact, advice=error.advice)
            return False
        self._saved_round = learner.state.round
        self._metrics.shown.checkpoint = str(path)
        self._events.say("checkpoint", path=str(path), round=learner.state.round)
        return True

    async def export(self, learner: Learner) -> None:
        """Write the finished model as a file for people."""
        if self._home is None:
            return
        path = self._home / "model.safetensors"
        round_ = learner.state.round
        meta = {"run": self._manifest.run_id.hex(), "name": self._manifest.name, "round": str(round_)}
        try:
            await self._arithmetic.run(
                lambda: checkpoint.export(path, learner.named_tensors(), self._manifest.model, meta)
            )
        except DiskTrouble as error:
            self._events.warn(error.code, error.fact, advice=error.advice)
            return
        self._events.say("model", path=str(path), round=round_)
