"""The outer step: the written formula, the same bits everywhere."""

import pytest
import torch

from peer.outer import Outer
from swarm.manifest import OuterSpec

PLAIN, NESTEROV = OuterSpec(), OuterSpec(learning_rate=0.7, momentum=0.9)


def random(seed, numbers=1000):
    return torch.randn(numbers, generator=torch.Generator().manual_seed(seed))


def test_plain_averaging_ends_at_the_mean_of_the_members():
    anchor_P, ends = random(0), [random(1), random(2)]
    averaged_P = sum(anchor_P - end_P for end_P in ends) / 2
    outer = Outer(PLAIN, 1000)
    assert torch.allclose(outer.step(anchor_P, averaged_P), (ends[0] + ends[1]) / 2, atol=1e-6)
    assert outer.momentum_P is None


def test_nesterov_agrees_with_torchs_sgd():
    weight = torch.nn.Parameter(random(0))
    reference = torch.optim.SGD([weight], lr=0.7, momentum=0.9, nesterov=True)
    outer, anchor_P = Outer(NESTEROV, 1000), random(0)
    for round_ in range(5):
        weight.grad = random(10 + round_)
        reference.step()
        anchor_P = outer.step(anchor_P, random(10 + round_))
    assert torch.allclose(anchor_P, weight.detach(), atol=1e-5)


@pytest.mark.parametrize("spec", [PLAIN, NESTEROV, OuterSpec(learning_rate=0.65)])
def test_the_whole_and_its_parts_give_the_same_bits(spec):
    whole = Outer(spec, 1001)
    parts = [Outer(spec, 13) for _ in range(77)]
    anchor_P = random(0, 1001)
    pieces = list(anchor_P.split(13))
    for round_ in range(3):
        averaged_P = random(round_, 1001)
        anchor_P = whole.step(anchor_P, averaged_P)
        pieces = [part.step(piece, delta) for part, piece, delta in zip(parts, pieces, averaged_P.split(13), strict=True)]
    assert torch.equal(anchor_P, torch.cat(pieces))


def test_each_multiply_and_add_rounds_by_itself():
    factor = 1 + 2**-12  # its square is 1 + 2⁻¹¹ + 2⁻²⁴: float32 drops the last term, a fused multiply-add would keep it
    stepped = Outer(OuterSpec(learning_rate=factor), 64).step(torch.full((64,), 1 + 2**-11), torch.full((64,), factor))
    assert torch.equal(stepped, torch.zeros(64))


def test_the_inputs_are_left_alone():
    anchor_P, averaged_P, momentum_P = random(0), random(1), random(2)
    copies = [vector.clone() for vector in (anchor_P, averaged_P, momentum_P)]
    Outer(NESTEROV, 1000, momentum_P).step(anchor_P, averaged_P)
    assert all(torch.equal(vector, copy) for vector, copy in zip((anchor_P, averaged_P, momentum_P), copies, strict=True))


def test_who_takes_over_the_momentum_continues_with_the_same_bits():
    old = Outer(NESTEROV, 1000)
    anchor_P = old.step(random(0), random(1))
    new = Outer(NESTEROV, 1000, old.momentum_P)
    assert torch.equal(old.step(anchor_P, random(2)), new.step(anchor_P, random(2)))
