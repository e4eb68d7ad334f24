"""The outer step: from the group's averaged update to the next shared model, the same bits on every peer.

    Δ = start − end of a round, averaged               step                     with m ← μ m + Δ
    plain      θ ← θ − η Δ                             η = 1 averages the members' weights
    Nesterov   θ ← θ − η (Δ + μ m)                     DiLoCo (arXiv:2311.08105) has η = 0.7 and μ = 0.9

Averages of successive rounds point partly the same way, with an autocorrelation ρ, and momentum adds them up:
along the averages, a step of Nesterov is η (1 + μ/(1−μρ)) averages long. With the published constants that is
about 2 in a short run, which loses what the swarm gains over a single peer. Where the manifest says how long
a step should be, η follows from ρ, measured in every round.

No step is capped here. How long an average can be follows from the commits (`averaging/result_header.py`).
A cap that newcomers compute like all others would stop no more, or honest early steps (decision 29).
"""

# Axes: P parameters of the whole model, N parameters of what a round averages

from __future__ import annotations

import math

import torch
from torch import Tensor

from swarm.manifest import OuterSpec

_LANES = 1 << 16
"""Partial sums of a dot product. A part of its definition, because it decides the order of additions."""

_HIGHEST_AUTOCORRELATION = 0.99
"""Limit of a measured autocorrelation. Above it, the learning rate would only follow noise."""

_ALL = slice(None)


class Outer:
    """The shared optimiser. Its ``momentum_P``, None in a run without momentum, is part of the shared state.

    Nothing else is. ρ is measured from the momentum and the average, so a newcomer takes the same steps as
    all others at once.
    """

    def __init__(self, spec: OuterSpec, numbers: int, momentum_P: Tensor | None = None) -> None:
        self.spec = spec
        self.momentum_P: Tensor | None = None
        if spec.momentum > 0:
            self.momentum_P = torch.zeros(numbers) if momentum_P is None else momentum_P.clone()

    def step(self, anchor_P: Tensor, averaged_N: Tensor, round_: int = 0, place: slice = _ALL) -> Tensor:
        """The next anchor, float32 ``[P]``. It differs from ``anchor_P`` only at ``place``, where
        ``averaged_N`` belongs.

        Neither argument is changed. Each multiplication and each addition is a kernel of its own: a fused
        multiply-add rounds once instead of twice, and not every machine fuses.
        """
        if place == _ALL:
            return anchor_P - self._stride(averaged_N, round_, place)
        next_P = anchor_P.clone()
        next_P[place] -= self._stride(averaged_N, round_, place)
        return next_P

    def _stride(self, averaged_N: Tensor, round_: int, place: slice) -> Tensor:
        """What the step subtracts from the anchor at ``place``. Updates the momentum there."""
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
        return (momentum_N * spec.momentum + averaged_N) * rate

    def _rate(self, averaged_N: Tensor, momentum_N: Tensor) -> float:
        if not self.spec.effective:
            return self.spec.learning_rate
        rho = autocorrelation(averaged_N, momentum_N, self.spec.momentum)
        return self.spec.effective / gain(self.spec.momentum, rho)


def gain(momentum: float, rho: float) -> float:
    """Length of a step along the averages, in averages, at learning rate 1, where the averages have
    autocorrelation ``rho``. It is 1 without momentum."""
    accumulated = 1 / (1 - momentum * rho)
    return 1 + momentum * accumulated


def autocorrelation(averaged_P: Tensor, momentum_P: Tensor, momentum: float) -> float:
    """ρ of successive averages, from 0 to 0.99, by the angle between the newest average and ``momentum_P``,
    the sum of those before it.

    For averages of equal length whose correlation falls like ρ, ρ², ρ³ …, the cosine c of that angle follows
    from ρ and μ, so that

        ρ = c / √(1 − μ² (1 − c²))

    Lengths do not count: a round with few members does not look like a change of direction. 0 where one of
    the two vectors is zero.
    """
    lengths = math.sqrt(dot(averaged_P, averaged_P)) * math.sqrt(dot(momentum_P, momentum_P))
    if lengths == 0:
        return 0.0
    cosine = min(1.0, max(0.0, dot(averaged_P, momentum_P) / lengths))
    return min(_HIGHEST_AUTOCORRELATION, cosine / math.sqrt(1 - momentum**2 * (1 - cosine**2)))


def dot(a_P: Tensor, b_P: Tensor) -> float:
    """Σ a·b with the same bits on every machine: a product of two float32 is exact in float64, and the order
    of the additions is fixed.

    Number i is added to lane i mod 65,536, in order. Then the upper half of the lanes is added to the lower
    half until one lane is left.
    """
    lanes = torch.zeros(_LANES, dtype=torch.float64)
    for a, b in zip(torch.split(a_P, _LANES), torch.split(b_P, _LANES), strict=True):
        lanes[: len(a)] += a.double() * b.double()
    while len(lanes) > 1:
        lower, upper = lanes.view(2, -1)
        lanes = lower + upper
    return float(lanes)
