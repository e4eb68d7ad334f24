"""Muon for the hidden matrices of a model: momentum, then the nearest thing to an orthogonal matrix (Jordan et al. 2024).

    B ← μ B + G          M = G + μ B          O = NewtonSchulz(M / ‖M‖)          W ← W − η (0.2 √max(rows, columns) · O + λ W)

The factor gives an update the size of AdamW's (Liu et al. 2025, arXiv:2502.16982), so that one learning rate serves both. The
iteration needs no precision, so it runs in bfloat16 where the hardware multiplies such matrices: seven times faster there, and
several times slower where it does not. What a peer trains locally need not have the same bits elsewhere.
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
"""Of the quintic a·s + b·s³ + c·s⁵ on the singular values: steepest at zero; after five rounds they lie between 0.65 and 1.2."""
ROUNDS = 5
MOMENTUM = 0.95
RMS = 0.2
"""Root mean square of AdamW's usual updates, in learning rates."""
LARGE = 256
"""Rows or columns, whichever are fewer, from which on a CPU's matrix unit is worth the conversion."""


def orthogonalised(matrices_GRC: Tensor) -> Tensor:
    """Each matrix with its singular values brought close to 1, ``[G, R, C]``; a zero matrix stays zero."""
    wide = matrices_GRC.shape[-2] <= matrices_GRC.shape[-1]
    x: Tensor = matrices_GRC if wide else matrices_GRC.mT
    x = (x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)).to(_dtype(x))
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    x = x.to(matrices_GRC.dtype)
    return x if wide else x.mT


def _dtype(x_GRC: Tensor) -> torch.dtype:
    is_fast = x_GRC.is_cuda or (_has_matrix_unit() and x_GRC.shape[-2] >= LARGE)
    return torch.bfloat16 if is_fast else torch.float32


@cache
def _has_matrix_unit() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware; older versions of torch cannot tell."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16"))


class Muon:
    """Over matrices alone. ``state`` per matrix: ``momentum``, of the same shape. ``lr`` may change at any time."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        self._matrices, self.lr, self._weight_decay = list(matrices), lr, weight_decay
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """One update of every matrix that has a gradient; those of one shape go through the iteration together."""
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for weight in self._matrices:
            if weight.grad is not None:
                alike[weight.shape].append((weight, self._looked_ahead(weight, weight.grad)))
        for (rows, columns), pairs in alike.items():
            moved_GRC = orthogonalised(torch.stack([ahead for _, ahead in pairs]))
            for (weight, _), moved_RC in zip(pairs, moved_GRC, strict=True):
                weight.mul_(1 - self.lr * self._weight_decay)
                weight.sub_(moved_RC, alpha=self.lr * RMS * math.sqrt(max(rows, columns)))

    def _looked_ahead(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """The gradient with its momentum, one step ahead (Nesterov)."""
        momentum = self.state.setdefault(weight, {"momentum": torch.zeros_like(weight)})["momentum"]
        momentum.mul_(MOMENTUM).add_(gradient)
        return gradient + MOMENTUM * momentum
