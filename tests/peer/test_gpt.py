"""The built-in models: deterministic, causal, of the sizes they claim."""

import pytest
import torch

from peer.model import GPT, build, count, presets
from peer.model.gpt import hidden_width, rotate
from swarm.errors import ConfigError
from swarm.manifest import ModelSpec

TINY = presets["tiny"]


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_model():
    one, same, other = (torch.cat([w.flatten() for w in build(TINY, seed).parameters()]) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_building_neither_reads_nor_moves_the_global_random_numbers():
    before = torch.random.get_rng_state()
    build(TINY, 3)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("name", "low", "high"), [("tiny", 8e3, 12e3), ("nano", 8e4, 15e4), ("small", 8e6, 13e6), ("base", 7e7, 13e7)])
def test_a_preset_has_the_size_its_name_promises(name, low, high):
    assert low <= count(presets[name]) <= high


def test_counting_agrees_with_building():
    assert count(TINY) == sum(weight.numel() for weight in build(TINY, 0).parameters())


def test_logits_are_one_per_position_and_token_and_start_near_ignorance():
    tokens_BT = torch.arange(64).view(2, 32)
    logits_BTV = build(TINY, 0)(tokens_BT)
    assert logits_BTV.shape == (2, 32, 256)
    assert torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT.flatten()).item() == pytest.approx(5.545, abs=0.1)


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


@pytest.mark.parametrize("spec", [ModelSpec(name="mystery"), ModelSpec(vocabulary=128)])
def test_a_model_that_this_program_does_not_have_is_refused(spec):
    with pytest.raises(ConfigError):
        build(spec, 0)
    with pytest.raises(ConfigError):
        count(spec)


def test_build_gives_a_gpt_that_knows_its_spec():
    assert isinstance(build(TINY, 0), GPT)
    assert build(TINY, 0).spec == TINY
