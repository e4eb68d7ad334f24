"""The model itself: causal, relative in its positions, and every parameter of use."""

import math

import pytest
import torch

from peer.models.gpt import hidden_width, rotate
from peer.models.registry import build, presets

TINY = presets["tiny"]


def test_logits_are_one_per_position_and_token_and_start_near_ignorance():
    tokens_BT = torch.arange(64).view(2, 32)
    logits_BTV = build(TINY, 0)(tokens_BT)
    assert logits_BTV.shape == (2, 32, 256)
    nats = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT.flatten() + 100)
    assert nats.item() / math.log(2) == pytest.approx(8.1, abs=0.2)


def test_a_position_never_sees_what_comes_after_it():
    model = build(TINY, 0)
    tokens_BT = torch.arange(32).view(1, 32)
    changed_BT = tokens_BT.clone()
    changed_BT[0, 20:] = 99
    assert torch.allclose(model(tokens_BT)[:, :20], model(changed_BT)[:, :20], atol=1e-6)
    assert not torch.allclose(model(tokens_BT)[:, 20:], model(changed_BT)[:, 20:], atol=1e-3)


def test_rotated_dot_products_depend_on_the_distance_only():
    model = build(TINY, 0)
    q_D, k_D = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).unbind()
    q_TD, k_TD = (rotate(x_D.expand(32, 8), model.cos_TE, model.sin_TE) for x_D in (q_D, k_D))
    assert (q_TD[5] @ k_TD[2]).item() == pytest.approx((q_TD[25] @ k_TD[22]).item(), abs=1e-5)
    assert (q_TD[5] @ k_TD[2]).item() != pytest.approx((q_TD[5] @ k_TD[4]).item(), abs=1e-5)


def test_every_parameter_is_learnt_and_shared_embeddings_count_once():
    model = build(TINY, 0)
    model(torch.arange(32).view(1, 32)).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())
    assert sum(weight.numel() == 256 * 16 for weight in model.parameters()) == 1


def test_nothing_but_parameters_is_in_the_state_of_the_model():
    model = build(TINY, 0)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(("width", "hidden"), [(16, 48), (64, 176), (768, 2048)])
def test_the_hidden_width_is_eight_thirds_rounded_up_to_eight(width, hidden):
    assert hidden_width(width) == hidden
