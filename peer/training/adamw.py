"""AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) by torch's fused kernel, over groups of weights.

Not `torch.optim.AdamW`: making any `torch.optim.Optimizer` loads torch's compiler, which nobody here calls. That costs a peer one
to two seconds and 90 MB at every start, and volunteers come and go.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETAS = (0.9, 0.95)
EPSILON = 1e-8


class AdamW:
    """``state`` per weight: ``step``, a float32 scalar, ``exp_avg`` and ``exp_avg_sq`` of its shape. ``lr`` may be set anew."""

    def __init__(self, groups: Sequence[tuple[Sequence[Tensor], float]], lr: float) -> None:
        """``groups``: weights, and how much they decay by themselves."""
        self._groups, self.lr = groups, lr
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """One update of every weight that has a gradient."""
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
