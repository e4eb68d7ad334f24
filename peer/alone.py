"""A lone peer with the same local steps as a swarm's: what the volunteers' model is measured against."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from swarm.identity import KeyPair
from swarm.manifest import RunManifest

from .data.corpus import Corpus
from .learner import Assignment, Learner


def train_alone(
    manifest: RunManifest, corpus: Corpus, steps_per_round: Sequence[int], tell: Callable[[int], None] = lambda round_: None
) -> tuple[float, float]:
    """Bits per byte of the fresh model, and of one that a single peer trained for ``steps_per_round``, same seed and schedule."""
    torch.set_num_threads(1)  # what a peer of the swarm has: two threads fight where cores are few, and change nothing else
    me = KeyPair.generate().peer_id
    learner = Learner(manifest, corpus, me)
    start = learner.evaluate()
    for round_, steps in enumerate(steps_per_round):
        task = Assignment(members=(me,), max_steps=steps, until=lambda: False, on_step=lambda step, loss: None)
        learner.conclude(learner.work(task).update_P)
        tell(round_)
    return start, learner.evaluate()
