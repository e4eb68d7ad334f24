"""Muon: singular values brought to one, steps as large as AdamW's, and a momentum that is the whole state."""

import math

import pytest
import torch

from peer.training.muon import RMS, Muon, orthogonalised


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 64, 24), (2, 24, 64), (1, 300, 280), (1, 1, 5)])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_singular_values_come_close_to_one_and_directions_stay(shape, scale):
    matrices_GRC = random(*shape) * scale
    result_GRC = orthogonalised(matrices_GRC)
    values = torch.linalg.svdvals(result_GRC)
    if scale > 1e-10:  # smaller ones are as good as zero
        assert values.min() > 0.5
        overlap = (result_GRC * matrices_GRC).sum() / torch.linalg.svdvals(matrices_GRC).sum()
        assert overlap == pytest.approx(1, abs=0.35)
    assert values.max() < 1.3
    assert result_GRC.dtype == torch.float32


def test_a_tall_matrix_is_a_wide_one_turned():
    tall = random(2, 40, 16)
    assert torch.allclose(orthogonalised(tall), orthogonalised(tall.mT).mT, atol=1e-5)


def test_a_zero_gradient_moves_nothing():
    weight = torch.nn.Parameter(torch.ones(4, 6))
    weight.grad = torch.zeros(4, 6)
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(weight.detach(), torch.ones(4, 6))


@pytest.mark.parametrize("shape", [(96, 96), (96, 32), (32, 96)])
def test_a_step_is_as_large_as_one_of_adamw(shape):
    weight = torch.nn.Parameter(torch.zeros(shape))
    weight.grad = random(*shape)
    Muon([weight], lr=0.01, weight_decay=0.0).step()
    root_mean_square = float(weight.detach().square().mean().sqrt())
    assert root_mean_square == pytest.approx(0.01 * RMS, rel=0.2)


def test_matrices_of_one_shape_move_as_each_would_alone():
    together = [torch.nn.Parameter(torch.zeros(6, 4)) for _ in range(3)]
    alone = [torch.nn.Parameter(torch.zeros(6, 4)) for _ in range(3)]
    optimiser = Muon(together, 0.1, 0.1)
    optimisers = [Muon([weight], 0.1, 0.1) for weight in alone]
    for step in range(3):
        for index, (one, other) in enumerate(zip(together, alone, strict=True)):
            one.grad = random(6, 4, seed=10 * step + index)
            other.grad = one.grad.clone()
        optimiser.step()
        for single in optimisers:
            single.step()
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(together, alone, strict=True))
    assert set(optimiser.state[together[0]]) == {"momentum"}


def test_weights_decay_by_themselves():
    weight = torch.nn.Parameter(torch.full((2, 2), 8.0))
    weight.grad = torch.zeros(2, 2)
    Muon([weight], lr=0.5, weight_decay=0.5).step()
    assert torch.equal(weight.detach(), torch.full((2, 2), 6.0))


def test_momentum_looks_one_step_ahead():
    weight = torch.nn.Parameter(torch.zeros(1, 1))
    optimiser = Muon([weight], lr=1.0, weight_decay=0.0)
    for gradient, direction in ((4.0, -1), (-1.0, -1)):  # the second alone would turn back
        before = weight.item()
        weight.grad = torch.full((1, 1), gradient)
        optimiser.step()
        assert math.copysign(1, weight.item() - before) == direction
