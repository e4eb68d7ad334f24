"""Our AdamW moves weights as torch's does, bit for bit, without what torch's loads."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from peer.training.adamw import BETAS, EPSILON, AdamW


def weights() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [torch.nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((4, 6), (6,), (3, 2))]


def test_it_moves_weights_as_torch_does() -> None:
    ours = weights()
    theirs = weights()
    groups = [
        {"params": [theirs[0], theirs[2]], "weight_decay": 0.1},
        {"params": [theirs[1]], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=True)
    optimiser = AdamW([([ours[0], ours[2]], 0.1), ([ours[1]], 0.0)], lr=0.0)
    for step in range(5):
        optimiser.lr = 0.01 / (step + 1)
        for group in reference.param_groups:
            group["lr"] = optimiser.lr
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.full_like(one, 0.5 - 0.3 * step)
            other.grad = one.grad.clone()
        optimiser.step()
        reference.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    for one, other in zip(ours, theirs, strict=True):
        assert optimiser.state[one].keys() == reference.state[other].keys()
        assert all(
            torch.equal(optimiser.state[one][slot], reference.state[other][slot])
            for slot in optimiser.state[one]
        )


def test_what_has_no_gradient_stays_where_it_is() -> None:
    one, other = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    one.grad = torch.ones(3)
    optimiser = AdamW([([one, other], 0.1)], lr=0.1)
    optimiser.step()
    assert not torch.equal(one, torch.ones(3))
    assert torch.equal(other, torch.ones(3))
    assert set(optimiser.state) == {one}


@pytest.mark.parametrize("inner", ["adamw", "muon"])
def test_a_peer_that_trains_never_loads_the_compiler(inner: str) -> None:
    """One to two seconds and 90 MB for every newcomer, for something that nobody calls."""
    told = f"""
import sys
from itertools import repeat
import torch
from peer.training.inner import Inner
from swarm.manifest import InnerOptimiser, InnerSpec
model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8))
batch = torch.zeros(2, 3, dtype=torch.long)
Inner(model, InnerSpec(optimiser=InnerOptimiser.{inner.upper()})).run(repeat((batch, batch)), max_steps=2)
print("torch._dynamo" in sys.modules)
"""
    said = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=120
    )
    assert said.stdout.strip() == "False"
