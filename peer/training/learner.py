"""The model on this computer: local steps from the shared state, and the shared state from the group's average.

    θ ───────────────► end of the round ─────────────► ahead              what was trained while the average was under way
         update                            p = end − ahead, carried
    θ' = outer step    next round begins at θ' − p, and its update is θ' − end: so p is in the next average, once

Where a round averages one fragment of the model, what the others have learnt is carried in the same way until their turn.

Everything here is arithmetic without a clock, a socket or a file; it runs on the compute thread, one call at a time.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from averaging.fragments import Fragment, fragments_of
from averaging.layout import Layout
from swarm.identity import PeerId
from swarm.manifest import RunManifest
from swarm.seeds import derive, derive_bytes

from ..data.corpus import Corpus
from ..data.shards import assign, shard_count
from ..data.stream import batches, held_out
from ..models.registry import build
from .evaluate import bits_per_byte, sample
from .inner import Batches, Inner, Trained
from .outer import Outer
from .state import SharedState

HELD_OUT_BYTES = 10_240
"""Scored by an evaluation, so that it costs about as much as a few local steps whatever the model."""
SAMPLE_BYTES = 240
NEAR_ROUNDS = 3
"""Whoever is at most this far away from the others' round goes on training as if it had taken part."""


@dataclass(frozen=True, slots=True)
class Work:
    """What local training gave: ``update_P`` = start − end of the round, of the fragment whose turn it is."""

    trained: Trained
    update_P: Tensor
    is_usable: bool = True
    """False where training has diverged to numbers that are not finite; the update is then zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One round of local training: whose share of the text, and when to stop."""

    members: tuple[PeerId, ...]
    max_steps: int
    until: Callable[[], bool]
    on_step: Callable[[int, float], None]


class Learner:
    """Owns the model and its local optimiser; `state` is what all honest peers share."""

    def __init__(self, manifest: RunManifest, corpus: Corpus, me: PeerId) -> None:
        self._manifest, self._corpus, self._me = manifest, corpus, me
        self._draw = derive_bytes(
            manifest.data.root, "data", manifest.seed
        )  # not the run id: equal seeds, equal data, whatever else
        self._model = build(manifest.model, manifest.seed)
        self._named = dict(self._model.named_parameters())
        self._layout = Layout.of(self._named.items())
        self._inner = Inner(self._model, manifest.inner)
        self._outer = Outer(manifest.outer, self._layout.numbers)
        self.state = SharedState(0, self._layout.flatten(self._named), self._outer.momentum_P)
        self._stream: Batches = iter(())
        self._end_P: Tensor | None = None
        self._ahead: Trained | None = None
        self._carried_P: Tensor | None = None

    @property
    def numbers(self) -> int:
        """Parameters of the model."""
        return self._layout.numbers

    @property
    def tensors(self) -> tuple[int, ...]:
        """Lengths of the model's tensors, in the order of the vector."""
        return tuple(place.numbers for place in self._layout.places)

    @cached_property
    def fragments(self) -> tuple[Fragment, ...]:
        """What the rounds average in turn; one, the whole vector, in most runs."""
        return fragments_of(self.tensors, self._manifest.round.fragments)

    def fragment(self, round_: int) -> Fragment:
        """What ``round_`` averages."""
        return self.fragments[round_ % len(self.fragments)]

    @property
    def steps_ahead(self) -> int:
        """Local steps that the next round has already."""
        return self._ahead.steps if self._ahead else 0

    def adopt(self, state: SharedState) -> None:
        """Go on from ``state``, which came from other peers or a checkpoint. A newcomer's schedule begins where the run is.

        The local optimiser warms up again, unless the weights are from about the same time as ours: after one missed round they
        differ by as much as after any round, and 30 slow steps would cost more than the round did.
        """
        is_near = bool(self._inner.position) and abs(state.round - self.state.round) <= NEAR_ROUNDS
        self.state = state
        self._outer = Outer(self._manifest.outer, self.numbers, state.momentum_P)
        if not is_near:
            self._inner.rewarm(None if self._inner.position else state.round * self._manifest.round.max_steps)

    def work(self, task: Assignment) -> Work:
        """Train locally from the shared state on this round's shards."""
        state, draw = self.state, self._draw
        start_P = state.anchor_P if self._carried_P is None else state.anchor_P - self._carried_P
        self._layout.write(start_P, self._named)
        context = self._manifest.model.context
        shards = assign(draw, state.round, task.members, self._me, shard_count(self._corpus.spec, context))
        self._stream = batches(
            self._corpus, draw, state.round, shards, self._me, self._manifest.inner.batch, context
        )
        before, self._ahead, self._carried_P = self._ahead, None, None
        trained = self._inner.run(
            self._stream, max_steps=task.max_steps, until=task.until, on_step=task.on_step
        )
        end_P = self._layout.flatten(self._named)
        self._end_P = end_P if self._manifest.round.overlap else None
        update_P = state.anchor_P - end_P
        is_usable = _is_finite(update_P)
        if not is_usable:
            update_P = torch.zeros_like(update_P)
        place = self.fragment(state.round).place
        if is_usable and len(self.fragments) > 1:
            self._carried_P = update_P.clone()
            self._carried_P[place] = 0
        return Work(before.plus(trained) if before else trained, update_P[place], is_usable)

    def step_ahead(self) -> None:
        """One local step further from where `work` has ended, on the same text. Only in runs with ``overlap``."""
        trained = self._inner.run(self._stream, max_steps=1)
        self._ahead = self._ahead.plus(trained) if self._ahead else trained

    def carry(self) -> None:
        """Keep what was trained ahead: whatever becomes of the round, the next `work` begins with it and its update contains it."""
        if self._ahead and self._end_P is not None:
            ahead_P = self._end_P - self._layout.flatten(self._named)
            if _is_finite(ahead_P):
                self._carried_P = ahead_P if self._carried_P is None else self._carried_P + ahead_P
            else:
                self._ahead = None
        self._end_P = None

    def owed(self, residuals: Sequence[Tensor | None]) -> Tensor | None:
        """All that was not applied, ``[P]``: the ``residuals`` of the fragments, and what is carried. None where there is nothing.

        A checkpoint must keep it so that nothing is lost.
        """
        if self._carried_P is None and (
            len(residuals) == 1 or all(residual_N is None for residual_N in residuals)
        ):
            return residuals[0]
        owed_P = torch.zeros(self.numbers) if self._carried_P is None else self._carried_P.clone()
        for fragment, residual_N in zip(self.fragments, residuals, strict=True):
            if residual_N is not None:
                owed_P[fragment.place] += residual_N
        return owed_P

    def seed_of(self, round_: int) -> bytes:
        """What names the data of our local steps in ``round_``, for whoever wants to do them again."""
        return derive_bytes(self._draw, "batches", round_, self._me)

    def after(self, state: SharedState, average_P: Tensor | None) -> SharedState:
        """What `conclude` would make of ``state`` with the ``average_P`` of its round; changes nothing."""
        if average_P is None:
            return SharedState(state.round + 1, state.anchor_P, state.momentum_P)
        outer = Outer(self._manifest.outer, self.numbers, state.momentum_P)
        anchor_P = outer.step(state.anchor_P, average_P, state.round, self._place(state))
        return SharedState(state.round + 1, anchor_P, outer.momentum_P)

    def conclude(self, average_P: Tensor | None) -> SharedState:
        """The state of the next round: the outer step on the average, or the same model where there is none."""
        state, anchor_P = self.state, self.state.anchor_P
        if average_P is not None:
            anchor_P = self._outer.step(anchor_P, average_P, state.round, self._place(state))
        self.state = SharedState(state.round + 1, anchor_P, self._outer.momentum_P)
        return self.state

    def _place(self, state: SharedState) -> slice:
        return self.fragment(state.round).place if len(self.fragments) > 1 else slice(None)

    @cached_property
    def _windows_WU(self) -> Tensor:
        manifest = self._manifest
        windows = max(8, HELD_OUT_BYTES // manifest.model.context)
        return held_out(self._corpus, manifest.model.context, windows, derive(self._draw, "held out"))

    def evaluate(self) -> float:
        """Bits per byte of the shared model on text that nobody trains on."""
        self._layout.write(self.state.anchor_P, self._named)
        return bits_per_byte(self._model, self._windows_WU)

    def sample(self) -> str:
        """A few lines written by the shared model."""
        self._layout.write(self.state.anchor_P, self._named)
        return sample(self._model, b"def ", SAMPLE_BYTES, derive(self._draw, "sample", self.state.round))

    def named(self) -> dict[str, Tensor]:
        """The shared model's tensors by name, for the export."""
        return self._layout.unflatten(self.state.anchor_P)

    def export_inner(self) -> dict[str, Tensor]:
        """The local optimiser, for the checkpoint."""
        return self._inner.export_state()

    def import_inner(self, state: Mapping[str, Tensor]) -> None:
        """The local optimiser, from the checkpoint. Raises `ConfigError` where it belongs to another model."""
        self._inner.import_state(state)


def _is_finite(vector_P: Tensor) -> bool:
    low, high = torch.aminmax(
        vector_P
    )  # many times faster than isfinite() of every number, and NaN shows in both
    return bool(low.isfinite() and high.isfinite())
