"""The outer step: from the group's averaged update to the next shared model, the same bits on every peer.

    Δ = start − end of a round, averaged        m ← μ m + Δ        θ ← θ − η (Δ + μ m)

With η = 1 and μ = 0 this is plain averaging of the members' weights; DiLoCo (arXiv:2311.08105) is Nesterov with 0.7 and 0.9.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

import torch
from torch import Tensor

from swarm.manifest import OuterSpec


class Outer:
    """The shared optimiser. Every peer holds the same ``momentum_P`` (None where the run has none): it is part of the state."""

    def __init__(self, spec: OuterSpec, numbers: int, momentum_P: Tensor | None = None) -> None:
        self.spec = spec
        self.momentum_P: Tensor | None = None
        if spec.momentum > 0:
            self.momentum_P = torch.zeros(numbers) if momentum_P is None else momentum_P.clone()

    def step(self, anchor_P: Tensor, averaged_P: Tensor) -> Tensor:
        """The next anchor, float32 ``[P]``; ``anchor_P`` and ``averaged_P`` are left alone.

        Each multiply and each add is a kernel of its own: a fused one rounds once instead of twice, and not on every machine.
        """
        step_P = averaged_P
        if self.momentum_P is not None:
            self.momentum_P = self.momentum_P * self.spec.momentum + averaged_P
            step_P = self.momentum_P * self.spec.momentum + averaged_P
        return anchor_P - step_P * self.spec.learning_rate
