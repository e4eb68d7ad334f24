"""Bits per byte, and a sample that is safe to print."""

import pytest
import torch

from peer.models.registry import build, presets
from peer.training.evaluate import bits_per_byte, printable, sample

MODEL = build(presets["tiny"], 0)
WINDOWS_WU = torch.randint(256, (10, 33), generator=torch.Generator().manual_seed(0))


class Knowing(torch.nn.Module):
    """Always sure that the next byte is the one after this."""

    def __init__(self):
        super().__init__()
        self.spec = presets["tiny"]
        self.embedding = torch.nn.Parameter(torch.eye(256).roll(1, dims=1) * 100)

    def forward(self, tokens_BT):
        assert tokens_BT.shape[1] <= self.spec.context
        return self.embedding[tokens_BT]


def test_a_model_that_knows_nothing_has_eight_bits_per_byte_and_one_that_knows_all_has_none():
    counting_WU = torch.arange(33).expand(4, 33)
    assert bits_per_byte(MODEL, WINDOWS_WU) > 7.9
    assert bits_per_byte(Knowing(), counting_WU) == pytest.approx(0, abs=1e-6)


def test_the_result_does_not_depend_on_the_batches():
    assert bits_per_byte(MODEL, WINDOWS_WU, batch=3) == pytest.approx(
        bits_per_byte(MODEL, WINDOWS_WU, batch=10), rel=1e-6
    )


def test_evaluating_leaves_no_gradients():
    bits_per_byte(MODEL, WINDOWS_WU)
    assert all(weight.grad is None for weight in MODEL.parameters())


def test_a_sample_continues_the_prompt_without_repeating_it():
    assert sample(Knowing(), b"abc", 5, seed=0) == "defgh"


def test_a_sample_may_be_longer_than_the_context():
    assert sample(Knowing(), b" ", 60, seed=0, temperature=0.0) == bytes(range(33, 93)).decode()


def test_the_same_seed_gives_the_same_sample():
    assert sample(MODEL, b"x", 40, seed=1) == sample(MODEL, b"x", 40, seed=1)
    assert sample(MODEL, b"x", 40, seed=1) != sample(MODEL, b"x", 40, seed=2)


def test_without_a_prompt_the_model_begins_after_a_line_end():
    assert sample(Knowing(), b"", 40, seed=0)[-1] == chr(10 + 40)


def test_bytes_that_are_no_text_and_characters_that_steer_a_terminal_do_not_get_through():
    # 127 is a control character
    assert sample(Knowing(), bytes([126]), 4, seed=0) == "\N{REPLACEMENT CHARACTER}" * 3
    assert printable("a\x1b[2Jb\r\x07\u202ec\n\td\x9b") == "a[2Jbc\n\td"
