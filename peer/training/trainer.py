"""The model on this computer: its weights, its local optimiser, and the text that it trains on.

A trainer knows nothing of averages and outer steps. Its learner (`peer.training.learner`) writes weights into
it, has it train, and reads the weights out again, as one vector ``[P]`` each time. The model, the optimiser,
the device and the task can therefore change without the protocol.
"""

# Axes: P parameters of the whole model, W windows, U bytes of a window

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from torch import Tensor

from averaging.layout import Layout
from swarm.identity import PeerId
from swarm.manifest import RunManifest
from swarm.seeds import derive, derive_bytes

from ..data.corpus import Corpus
from ..data.shards import assign, shard_count
from ..data.stream import Draw, batches, held_out
from ..models.registry import build
from .evaluate import bits_per_byte, sample
from .inner import Batches, Inner, Trained

HELD_OUT_BYTES = 10_240
"""Bytes that an evaluation scores: it costs about as much as a few local steps, whatever the model."""
SAMPLE_BYTES = 240
"""Length of a sample: a few lines on a screen."""


class Trainer:
    """Owns the model, its local optimiser, and the batches of the current round."""

    def __init__(self, manifest: RunManifest, corpus: Corpus, me: PeerId) -> None:
        self.model = build(manifest.model, manifest.seed)
        self._manifest = manifest
        self._corpus = corpus
        self._me = me
        self._named = dict(self.model.named_parameters())
        self._layout = Layout.of(self._named.items())
        self._inner = Inner(self.model, manifest.inner)
        self._batches: Batches = iter(())
        # not the run id, so that runs of equal seed and text draw equal data, whatever else differs
        self._data_seed = derive_bytes(manifest.data.root, "data", manifest.seed)

    # --- weights --------------------------------------------------------------------------------------------

    @property
    def numbers(self) -> int:
        """Parameters of the model."""
        return self._layout.numbers

    @property
    def tensors(self) -> tuple[int, ...]:
        """Lengths of the model's tensors, in the order of the vector."""
        return tuple(place.numbers for place in self._layout.places)

    def weights(self) -> Tensor:
        """The model's weights as they are now, copied, float32 ``[P]``."""
        return self._layout.flatten(self._named)

    def set_weights(self, weights_P: Tensor) -> None:
        """Replace the model's weights."""
        self._layout.write(weights_P, self._named)

    def named_tensors(self, weights_P: Tensor) -> dict[str, Tensor]:
        """``weights_P`` as the model's tensors by name."""
        return self._layout.unflatten(weights_P)

    # --- local training -------------------------------------------------------------------------------------

    @property
    def has_trained(self) -> bool:
        """Whether the local optimiser is past step 0 of the run's schedule.

        A local step takes it there, in this process or before its checkpoint; so does `rewarm` with the
        position of a run that has begun.
        """
        return bool(self._inner.position)

    def rewarm(self, position: int | None = None) -> None:
        """Warm the local optimiser up again; ``position`` is where the run's schedule is."""
        self._inner.rewarm(position)

    def begin(self, round_: int, members: Sequence[PeerId]) -> None:
        """Draw the batches of ``round_`` from now on, from this peer's shards of the text."""
        context = self._manifest.model.context
        count = shard_count(self._corpus.spec, context)
        shards = assign(self._data_seed, round_, members, self._me, count)
        draw = Draw(self._data_seed, round_, self._me)
        self._batches = batches(self._corpus, draw, shards, self._manifest.inner.batch, context)

    def train(
        self,
        *,
        max_steps: int,
        until: Callable[[], bool] = lambda: False,
        on_step: Callable[[int, float], None] = lambda step, loss: None,
    ) -> Trained:
        """Local steps on the next batches of the round, as `Inner.run` does them."""
        return self._inner.run(self._batches, max_steps=max_steps, until=until, on_step=on_step)

    def seed_of(self, round_: int) -> bytes:
        """Names the data of this peer's local steps in ``round_``, for a peer that wants to repeat them."""
        return derive_bytes(self._data_seed, "batches", round_, self._me)

    def export_inner(self) -> dict[str, Tensor]:
        """The local optimiser, for the checkpoint."""
        return self._inner.export_state()

    def import_inner(self, state: Mapping[str, Tensor]) -> None:
        """Continue with the local optimiser of a checkpoint. Raises `ConfigError` if its model is another."""
        self._inner.import_state(state)

    # --- evaluation -----------------------------------------------------------------------------------------

    @cached_property
    def _windows_WU(self) -> Tensor:
        context = self._manifest.model.context
        windows = max(8, HELD_OUT_BYTES // context)
        return held_out(self._corpus, context, windows, derive(self._data_seed, "held out"))

    def evaluate(self, weights_P: Tensor) -> float:
        """Bits per byte with ``weights_P`` on text that no peer trains on. Replaces the weights."""
        self.set_weights(weights_P)
        return bits_per_byte(self.model, self._windows_WU)

    def sample(self, weights_P: Tensor, round_: int) -> str:
        """A few lines written with ``weights_P``; the round seeds the draw. Replaces the weights."""
        self.set_weights(weights_P)
        return sample(self.model, b"def ", SAMPLE_BYTES, derive(self._data_seed, "sample", round_))
