"""The outer step: from the group's averaged update to the next shared model, the same bits on every peer.

    Δ = start − end of a round, averaged               step                     with m ← μ m + Δ
    plain      θ ← θ − η Δ                             1 is plain averaging of the members' weights
    Nesterov   θ ← θ − η (Δ + μ m)                     DiLoCo (arXiv:2311.08105) is 0.7 and 0.9
    SlowMo     θ ← θ − η m                             arXiv:1910.00643; its γ only changes the unit of m where it is constant

Averages of successive rounds point partly the same way, with an autocorrelation ρ, and momentum adds them up: along the averages a
step is η (1 + μ/(1−μρ)) of them long (Nesterov; SlowMo: η/(1−μρ)). The published constants make that about 2 in a short run, and
lose the swarm's gain. Where the manifest says how long it should be, η follows from ρ, measured in every round.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

import math

import torch
from torch import Tensor

from swarm.manifest import OuterOptimiser, OuterSpec

_LANES = 1 << 16
"""Partial sums of a dot product; a part of its definition, because it decides the order of the additions."""
_MOST = 0.99
"""Of a measured autocorrelation: beyond it the rate would only follow noise."""


_ALL = slice(None)


class Outer:
    """The shared optimiser. Every peer holds the same ``momentum_P`` (None where the run has none): it is part of the state.

    Nothing else is: ρ is measured from the momentum and the average, so a newcomer steps like everybody else at once.
    """

    def __init__(self, spec: OuterSpec, numbers: int, momentum_P: Tensor | None = None) -> None:
        self.spec = spec
        self.momentum_P: Tensor | None = None
        if spec.momentum > 0:
            self.momentum_P = torch.zeros(numbers) if momentum_P is None else momentum_P.clone()

    def step(self, anchor_P: Tensor, averaged_N: Tensor, round_: int = 0, place: slice = _ALL) -> Tensor:
        """The next anchor, float32 ``[P]``, which differs from ``anchor_P`` at ``place``, where ``averaged_N`` belongs.

        Both are left alone. Each multiply and each add is a kernel of its own: a fused one rounds once instead of twice, and not on
        every machine.
        """
        if place == _ALL:
            return anchor_P - self._stride(averaged_N, round_, place)
        next_P = anchor_P.clone()
        next_P[place] -= self._stride(averaged_N, round_, place)
        return next_P

    def _stride(self, averaged_N: Tensor, round_: int, place: slice) -> Tensor:
        """What is taken off the anchor at ``place``; the momentum of that place moves on."""
        spec = self.spec
        if self.momentum_P is None:
            return averaged_N * spec.learning_rate
        if round_ < spec.plain_rounds:
            return averaged_N
        momentum_N = self.momentum_P[place]
        rate = self._rate(averaged_N, momentum_N)
        momentum_N = momentum_N * spec.momentum + averaged_N
        if place == _ALL:
            self.momentum_P = momentum_N
        else:
            self.momentum_P = self.momentum_P.clone()
            self.momentum_P[place] = momentum_N
        if spec.optimiser is OuterOptimiser.SLOWMO:
            return momentum_N * rate
        return (momentum_N * spec.momentum + averaged_N) * rate

    def _rate(self, averaged_N: Tensor, momentum_N: Tensor) -> float:
        if not self.spec.effective:
            return self.spec.learning_rate
        return self.spec.effective / gain(
            self.spec, autocorrelation(averaged_N, momentum_N, self.spec.momentum)
        )


def gain(spec: OuterSpec, rho: float) -> float:
    """How long the steps of ``spec`` are along the averages at learning rate 1, where these have autocorrelation ``rho``."""
    collected = 1 / (1 - spec.momentum * rho)
    return collected if spec.optimiser is OuterOptimiser.SLOWMO else 1 + spec.momentum * collected


def autocorrelation(averaged_P: Tensor, momentum_P: Tensor, momentum: float) -> float:
    """ρ of successive averages, from 0 to 0.99, by the angle between the newest and the sum ``momentum_P`` of those before it.

    For averages of one length whose correlation falls like ρ, ρ², ρ³ …, the cosine c of that angle follows from ρ and μ, and so

        ρ = c / √(1 − μ² (1 − c²))

    It knows no lengths: a round in which few members came does not look like a change of direction. 0 where one of both is zero.
    """
    lengths = math.sqrt(dot(averaged_P, averaged_P)) * math.sqrt(dot(momentum_P, momentum_P))
    if lengths == 0:
        return 0.0
    cosine = min(1.0, max(0.0, dot(averaged_P, momentum_P) / lengths))
    return min(_MOST, cosine / math.sqrt(1 - momentum**2 * (1 - cosine**2)))


def dot(a_P: Tensor, b_P: Tensor) -> float:
    """Σ a·b with the same bits on every machine: a product of two float32 is exact in float64, and the order of the additions is
    fixed. Number i goes to lane i mod 65,536, in order; then the upper half of the lanes is added to the lower one, until one is
    left."""
    lanes = torch.zeros(_LANES, dtype=torch.float64)
    for a, b in zip(torch.split(a_P, _LANES), torch.split(b_P, _LANES), strict=True):
        lanes[: len(a)] += a.double() * b.double()
    while len(lanes) > 1:
        lower, upper = lanes.view(2, -1)
        lanes = lower + upper
    return float(lanes)
