"""The built-in models: deterministic, and of the sizes their names promise."""

import pytest
import torch

from peer.models.registry import GPT, build, count, presets
from swarm.errors import ConfigError
from swarm.manifest import ModelSpec

TINY = presets["tiny"]


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_model():
    one, same, other = (
        torch.cat([w.flatten() for w in build(TINY, seed).parameters()]) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_building_neither_reads_nor_moves_the_global_random_numbers():
    before = torch.random.get_rng_state()
    build(TINY, 3)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("tiny", 8e3, 12e3), ("nano", 8e4, 15e4), ("small", 8e6, 13e6), ("base", 7e7, 13e7)],
)
def test_a_preset_has_the_size_its_name_promises(name, low, high):
    assert low <= count(presets[name]) <= high


@pytest.mark.parametrize("name", ["tiny", "nano", "small"])
def test_counting_agrees_with_building(name):
    assert count(presets[name]) == sum(weight.numel() for weight in build(presets[name], 0).parameters())


@pytest.mark.parametrize("spec", [ModelSpec(name="mystery"), ModelSpec(vocabulary=128)])
def test_a_model_that_this_program_does_not_have_is_refused(spec):
    with pytest.raises(ConfigError):
        build(spec, 0)
    with pytest.raises(ConfigError):
        count(spec)


def test_build_gives_a_gpt_that_knows_its_spec():
    assert isinstance(build(TINY, 0), GPT)
    assert build(TINY, 0).spec == TINY


def test_a_model_that_no_computer_holds_is_refused_before_it_is_built():
    largest = ModelSpec(width=1 << 16, layers=512, heads=1)
    with pytest.raises(ConfigError, match="26,388,899,889,152 parameters"):
        build(largest, 0)
