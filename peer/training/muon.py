"""Muon for the hidden matrices: steps along the momentum made nearly orthogonal (Jordan et al. 2024).

    B ← μ B + G    M = G + μ B    O = NewtonSchulz(M / ‖M‖)    W ← W − η (0.2 √max(rows, columns) · O + λ W)

The factor gives updates of the size of AdamW's (arXiv:2502.16982): one learning rate for both.

The iteration needs little precision. It runs in bfloat16 where the hardware multiplies such matrices, which
is seven times faster there, and several times slower elsewhere. Local training may have other bits on each
peer.
"""

# Axes: G matrices of one shape, R rows, C columns

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial a·s + b·s³ + c·s⁵ that each iteration applies to the singular values s. After five
iterations they lie between 0.65 and 1.2. It is as steep as possible at zero, so that small ones grow fast."""
ITERATIONS = 5
"""Of Newton and Schulz, per step."""
MOMENTUM = 0.95
"""μ."""
RMS = 0.2
"""Root mean square of AdamW's usual updates, in learning rates."""
LARGE = 256
"""Least rows and columns for which converting to bfloat16 pays on a CPU with a matrix unit."""


def orthogonalised(matrices_GRC: Tensor) -> Tensor:
    """Each matrix with its singular values brought close to 1, ``[G, R, C]``; a zero matrix stays zero."""
    is_wide = matrices_GRC.shape[-2] <= matrices_GRC.shape[-1]
    x: Tensor = matrices_GRC if is_wide else matrices_GRC.mT
    x = (x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)).to(_dtype(x))
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    x = x.to(matrices_GRC.dtype)
    return x if is_wide else x.mT


def _dtype(x_GRC: Tensor) -> torch.dtype:
    is_fast = x_GRC.is_cuda or (_has_matrix_unit() and x_GRC.shape[-2] >= LARGE)
    return torch.bfloat16 if is_fast else torch.float32


@cache
def _has_matrix_unit() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware; False if torch is too old to tell."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16"))


class Muon:
    """The optimiser, for matrices only. ``lr`` may change between steps.

    ``state`` per matrix: ``momentum``, of the same shape.
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        self._matrices = list(matrices)
        self.lr = lr
        self._weight_decay = weight_decay
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix that has a gradient; those of one shape go through the iteration together."""
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for weight in self._matrices:
            if weight.grad is not None:
                by_shape[weight.shape].append((weight, self._with_momentum(weight, weight.grad)))
        for (rows, columns), pairs in by_shape.items():
            update_GRC = orthogonalised(torch.stack([gradient for _, gradient in pairs]))
            for (weight, _), update_RC in zip(pairs, update_GRC, strict=True):
                weight.mul_(1 - self.lr * self._weight_decay)
                weight.sub_(update_RC, alpha=self.lr * RMS * math.sqrt(max(rows, columns)))

    def _with_momentum(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """The gradient with Nesterov momentum. Updates the momentum."""
        momentum = self.state.setdefault(weight, {"momentum": torch.zeros_like(weight)})["momentum"]
        momentum.mul_(MOMENTUM).add_(gradient)
        return gradient + MOMENTUM * momentum
