"""Updates: local training from the shared state, and the next shared state from the group's average.

    θ ───────────────► end of the round ─────────────► ahead          trained while the average is under way
         update                            p = end − ahead, carried over
    θ' = outer step    the next round begins at θ' − p, and its update is θ' − end: so it contains p, once

Where a round averages one fragment of the model, what the other fragments have learnt is carried over in the
same way until their turn.

The learner keeps vectors: the shared state, and what is carried over. The model, its optimiser and the text
belong to its `Trainer`. All of this is arithmetic without a clock, a socket or a file; it runs on the compute
thread, one call at a time.
"""

# Axes: P parameters of the whole model, N parameters of the fragment that a round averages (mostly all P)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from averaging.fragments import Fragment, fragments_of
from swarm.identity import PeerId
from swarm.manifest import RunManifest

from ..data.corpus import Corpus
from .inner import Trained
from .outer import Outer
from .state import SharedState
from .trainer import Trainer

NEAR_ROUNDS = 3
"""A peer that adopts a state at most this far from its own round trains on without a warm-up."""


@dataclass(frozen=True, slots=True)
class LocalUpdate:
    """The result of a round of local training.

    ``update_N`` = start − end of the round, of the fragment that the round averages.
    """

    trained: Trained
    update_N: Tensor
    is_usable: bool = True
    """False where training has diverged to numbers that are not finite; the update is then zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One round of local training: the ``members`` who share the text, and when to stop."""

    members: tuple[PeerId, ...]
    max_steps: int
    until: Callable[[], bool]
    on_step: Callable[[int, float], None]


class Learner:
    """Keeps the shared `state`, and what this peer has learnt that no average contains yet."""

    def __init__(self, manifest: RunManifest, corpus: Corpus, me: PeerId) -> None:
        self._manifest = manifest
        self._trainer = Trainer(manifest, corpus, me)
        self._outer = Outer(manifest.outer, self._trainer.numbers)
        self.state = SharedState(0, self._trainer.weights(), self._outer.momentum_P)
        self._end_P: Tensor | None = None
        """The weights at the end of `work`; None unless the run overlaps, and after `carry_over`."""
        self._ahead: Trained | None = None
        """The local steps done since the end of `work`."""
        self._unaveraged_P: Tensor | None = None
        """Progress (start − end) that no average contains yet. The next round starts from anchor − this, so
        its update contains it again."""

    # --- the vector -----------------------------------------------------------------------------------------

    @property
    def numbers(self) -> int:
        """Parameters of the model."""
        return self._trainer.numbers

    @property
    def tensors(self) -> tuple[int, ...]:
        """Lengths of the model's tensors, in the order of the vector."""
        return self._trainer.tensors

    @cached_property
    def fragments(self) -> tuple[Fragment, ...]:
        """What the rounds average in turn; in most runs one, the whole vector."""
        return fragments_of(self.tensors, self._manifest.round.fragments)

    def fragment(self, round_: int) -> Fragment:
        """The fragment that ``round_`` averages."""
        return self.fragments[round_ % len(self.fragments)]

    # --- local training -------------------------------------------------------------------------------------

    @property
    def steps_ahead(self) -> int:
        """Local steps of the next round that are done already."""
        return self._ahead.steps if self._ahead else 0

    def work(self, task: Assignment) -> LocalUpdate:
        """Train locally on this round's shards.

        Starts at the anchor of the shared state, less the progress that no average contains yet.
        """
        state = self.state
        start_P = state.anchor_P if self._unaveraged_P is None else state.anchor_P - self._unaveraged_P
        self._trainer.set_weights(start_P)
        self._trainer.begin(state.round, task.members)

        done_ahead = self._ahead
        self._ahead = None
        self._unaveraged_P = None
        trained = self._trainer.train(max_steps=task.max_steps, until=task.until, on_step=task.on_step)
        end_P = self._trainer.weights()
        self._end_P = end_P if self._manifest.round.overlap else None

        update_P = state.anchor_P - end_P
        is_usable = _is_finite(update_P)
        if not is_usable:
            update_P = torch.zeros_like(update_P)
        place = self.fragment(state.round).place
        if is_usable and len(self.fragments) > 1:
            self._unaveraged_P = update_P.clone()
            self._unaveraged_P[place] = 0
        return LocalUpdate(done_ahead.plus(trained) if done_ahead else trained, update_P[place], is_usable)

    def step_ahead(self) -> None:
        """One more local step after `work`, on the same text, while the average is under way.

        Only in runs with ``overlap``.
        """
        trained = self._trainer.train(max_steps=1)
        self._ahead = self._ahead.plus(trained) if self._ahead else trained

    def carry_over(self) -> None:
        """Carry over what was trained ahead: the next `work` begins with it, and its update contains it.

        That holds whatever becomes of the round. What is not finite is dropped.
        """
        if self._ahead and self._end_P is not None:
            ahead_P = self._end_P - self._trainer.weights()
            if _is_finite(ahead_P):
                self._unaveraged_P = ahead_P if self._unaveraged_P is None else self._unaveraged_P + ahead_P
            else:
                self._ahead = None
        self._end_P = None

    def not_applied(self, residuals: Sequence[Tensor | None]) -> Tensor | None:
        """All that this peer has learnt and no average contains yet, ``[P]``, for the checkpoint; or None.

        It is the sum of what is carried over and of the ``residuals`` of the fragments.
        """
        has_residuals = any(residual_N is not None for residual_N in residuals)
        if self._unaveraged_P is None and (len(residuals) == 1 or not has_residuals):
            return residuals[0]
        unapplied_P = torch.zeros(self.numbers) if self._unaveraged_P is None else self._unaveraged_P.clone()
        for fragment, residual_N in zip(self.fragments, residuals, strict=True):
            if residual_N is not None:
                unapplied_P[fragment.place] += residual_N
        return unapplied_P

    def seed_of(self, round_: int) -> bytes:
        """Names the data of our local steps in ``round_``, for a peer that wants to repeat them."""
        return self._trainer.seed_of(round_)

    # --- the shared state -----------------------------------------------------------------------------------

    def adopt(self, state: SharedState) -> None:
        """Go on from ``state``, which came from other peers or a checkpoint.

        A newcomer's schedule begins where the run is. The local optimiser warms up again, unless ``state`` is
        of about our own round: after one missed round the weights differ by as much as after any round, and
        30 slow steps would cost more than the round did.
        """
        has_trained = self._trainer.has_trained
        is_near = has_trained and abs(state.round - self.state.round) <= NEAR_ROUNDS
        self.state = state
        self._outer = Outer(self._manifest.outer, self.numbers, state.momentum_P)
        if not is_near:
            position = state.round * self._manifest.round.max_steps
            self._trainer.rewarm(None if has_trained else position)

    def conclude(self, average_N: Tensor | None) -> SharedState:
        """End the round: take the outer step with the average, or keep the model where there is none.

        The result is the state of the next round, which `state` is from now on.
        """
        state = self.state
        anchor_P = state.anchor_P
        if average_N is not None:
            anchor_P = self._outer.step(anchor_P, average_N, state.round, self._place(state))
        self.state = SharedState(state.round + 1, anchor_P, self._outer.momentum_P)
        return self.state

    def state_after(self, state: SharedState, average_N: Tensor | None) -> SharedState:
        """What `conclude` would return for ``state`` and the ``average_N`` of its round; changes nothing."""
        if average_N is None:
            return SharedState(state.round + 1, state.anchor_P, state.momentum_P)
        outer = Outer(self._manifest.outer, self.numbers, state.momentum_P)
        anchor_P = outer.step(state.anchor_P, average_N, state.round, self._place(state))
        return SharedState(state.round + 1, anchor_P, outer.momentum_P)

    def _place(self, state: SharedState) -> slice:
        return self.fragment(state.round).place if len(self.fragments) > 1 else slice(None)

    # --- what people see, and the checkpoint ----------------------------------------------------------------

    def evaluate(self) -> float:
        """Bits per byte of the shared model on text that no peer trains on."""
        return self._trainer.evaluate(self.state.anchor_P)

    def sample(self) -> str:
        """A few lines written by the shared model."""
        return self._trainer.sample(self.state.anchor_P, self.state.round)

    def named_tensors(self) -> dict[str, Tensor]:
        """The shared model's tensors by name, for the export."""
        return self._trainer.named_tensors(self.state.anchor_P)

    def export_inner(self) -> dict[str, Tensor]:
        """The local optimiser, for the checkpoint."""
        return self._trainer.export_inner()

    def import_inner(self, state: Mapping[str, Tensor]) -> None:
        """Continue with the local optimiser of a checkpoint. Raises `ConfigError` if its model is another."""
        self._trainer.import_inner(state)


def _is_finite(vector_P: Tensor) -> bool:
    """Many times faster than isfinite() of every number: with a NaN, both minimum and maximum are NaN."""
    low, high = torch.aminmax(vector_P)
    return bool(low.isfinite() and high.isfinite())
