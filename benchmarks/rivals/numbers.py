"""What the peers average: random numbers from a seed, so that every process can compute the true mean.

A block of a million normal numbers, drawn from the seat, is repeated to the length that is asked for. No
system under test looks for repetitions, so this changes only the time that it takes to prepare 50 million of
them.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 1 << 20


def update_of(seat: int, numbers: int) -> Tensor:
    """``[numbers]`` float32, of the size that the updates of a small model have (about 0.01 each)."""
    return _repeated(_block(seat), numbers)


def error_of(average_P: Tensor, peers: int) -> float:
    """Relative L2 distance of ``average_P`` from the mean of the updates of seats 0 to ``peers`` − 1."""
    mean = torch.stack([_block(seat) for seat in range(peers)]).double().mean(0)
    error = 0.0
    whole = 0.0
    for piece in torch.split(average_P, BLOCK):
        truth = mean[: len(piece)]
        error += float((piece.double() - truth).square().sum())
        whole += float(truth.square().sum())
    return (error / whole) ** 0.5


def _block(seat: int) -> Tensor:
    return torch.randn(BLOCK, generator=torch.Generator().manual_seed(1000 + seat)) * 0.01


def _repeated(block: Tensor, numbers: int) -> Tensor:
    return block.repeat(-(-numbers // BLOCK))[:numbers].clone()
