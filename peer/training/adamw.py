"""AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with torch's fused kernel, over groups of weights.

It is not `torch.optim.AdamW`, because constructing any `torch.optim.Optimizer` loads torch's compiler, which
this program does not use. That would cost one to two seconds and 90 MB at every start of a peer, and
volunteers start often.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETAS = (0.9, 0.95)
"""Decay of the two moments per step. 0.95 is usual for language models."""
EPSILON = 1e-8
"""Added to the denominator."""


class AdamW:
    """The optimiser. ``lr`` may change between steps.

    ``state`` per weight: ``step``, a float32 scalar, and ``exp_avg`` and ``exp_avg_sq``, shaped like it.
    """

    def __init__(self, groups: Sequence[tuple[Sequence[Tensor], float]], lr: float) -> None:
        """``groups``: weights, each group with its weight decay."""
        self._groups = groups
        self.lr = lr
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Update every weight that has a gradient."""
        for weights, weight_decay in self._groups:
            moving = [weight for weight in weights if weight.grad is not None]
            states = [self._state_of(weight) for weight in moving]
            adamw(
                moving,
                [weight.grad for weight in moving if weight.grad is not None],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=self.lr,
                weight_decay=weight_decay,
                eps=EPSILON,
                maximize=False,
            )

    def _state_of(self, weight: Tensor) -> dict[str, Tensor]:
        if weight not in self.state:
            step = torch.zeros((), dtype=torch.float32, device=weight.device)
            self.state[weight] = {
                "step": step,
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
        return self.state[weight]
