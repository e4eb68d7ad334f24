"""The outer step: the written formula, the same bits everywhere."""

import pytest
import torch

from peer.training.outer import Outer, autocorrelation, dot, gain
from swarm.manifest import OuterOptimiser, OuterSpec

PLAIN = OuterSpec()
NESTEROV = OuterSpec(learning_rate=0.7, momentum=0.9, optimiser=OuterOptimiser.NESTEROV)
MEASURED = [
    OuterSpec(momentum=momentum, optimiser=OuterOptimiser.NESTEROV, effective=1.1) for momentum in (0.3, 0.9)
]


def random(seed, numbers=1000):
    return torch.randn(numbers, generator=torch.Generator().manual_seed(seed))


def test_plain_averaging_ends_at_the_mean_of_the_members():
    anchor_P = random(0)
    ends = [random(1), random(2)]
    averaged_P = sum(anchor_P - end_P for end_P in ends) / 2
    outer = Outer(PLAIN, 1000)
    assert torch.allclose(outer.step(anchor_P, averaged_P), (ends[0] + ends[1]) / 2, atol=1e-6)
    assert outer.momentum_P is None


def test_nesterov_agrees_with_torchs_sgd():
    weight = torch.nn.Parameter(random(0))
    reference = torch.optim.SGD([weight], lr=0.7, momentum=0.9, nesterov=True)
    outer = Outer(NESTEROV, 1000)
    anchor_P = random(0)
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
        pieces = [
            part.step(piece, delta)
            for part, piece, delta in zip(parts, pieces, averaged_P.split(13), strict=True)
        ]
    assert torch.equal(anchor_P, torch.cat(pieces))


def test_each_multiply_and_add_rounds_by_itself():
    # its square is 1 + 2⁻¹¹ + 2⁻²⁴: float32 drops the last term, a fused multiply-add would keep it
    factor = 1 + 2**-12
    stepped = Outer(OuterSpec(learning_rate=factor), 64).step(
        torch.full((64,), 1 + 2**-11), torch.full((64,), factor)
    )
    assert torch.equal(stepped, torch.zeros(64))


def test_the_inputs_are_left_alone():
    anchor_P = random(0)
    averaged_P = random(1)
    momentum_P = random(2)
    copies = [vector.clone() for vector in (anchor_P, averaged_P, momentum_P)]
    Outer(NESTEROV, 1000, momentum_P).step(anchor_P, averaged_P)
    assert all(
        torch.equal(vector, copy)
        for vector, copy in zip((anchor_P, averaged_P, momentum_P), copies, strict=True)
    )


def test_a_peer_that_downloads_the_momentum_continues_with_the_same_bits():
    old = Outer(NESTEROV, 1000)
    anchor_P = old.step(random(0), random(1))
    new = Outer(NESTEROV, 1000, old.momentum_P)
    assert torch.equal(old.step(anchor_P, random(2)), new.step(anchor_P, random(2)))


def averages(rho, rounds, numbers=4000):
    """Averages of one length whose correlation falls like ``rho`` to the distance of their rounds."""
    generator = torch.Generator().manual_seed(1)
    now_P = torch.randn(numbers, generator=generator)
    for _ in range(rounds):
        yield now_P
        now_P = rho * now_P + (1 - rho**2) ** 0.5 * torch.randn(numbers, generator=generator)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("momentum", [0.3, 0.6, 0.9])
def test_the_autocorrelation_is_found_whatever_the_lengths(rho, momentum):
    momentum_P = torch.zeros(4000)
    found = []
    for round_, average_P in enumerate(averages(rho, 80)):
        found.append(autocorrelation(average_P * 3.0 ** (round_ % 2), momentum_P * 7, momentum))
        momentum_P = momentum * momentum_P + average_P
    settled = found[40:]
    assert found[0] == 0
    assert sum(settled) / len(settled) == pytest.approx(rho, abs=0.06)


@pytest.mark.parametrize("spec", MEASURED)
@pytest.mark.parametrize("rho", [0.2, 0.5, 0.8])
def test_a_measured_step_is_as_long_along_the_averages_as_the_manifest_says(spec, rho):
    outer = Outer(spec, 4000)
    lengths = []
    for round_, average_P in enumerate(averages(rho, 80)):
        step_P = -outer.step(torch.zeros(4000), average_P, round_)
        lengths.append(float(step_P @ average_P / (average_P @ average_P)))
    settled = lengths[40:]
    assert sum(settled) / len(settled) == pytest.approx(1.1, abs=0.12)


def test_the_published_constants_overshoot_where_averages_agree_and_the_gain_says_by_how_much():
    assert NESTEROV.learning_rate * gain(0.9, 0.5) == pytest.approx(0.7 * (1 + 0.9 / 0.55))
    assert gain(0.0, 0.9) == 1, "plain averaging"


def test_averages_that_turn_back_and_no_averages_count_as_unrelated():
    assert autocorrelation(random(0), -random(0), 0.5) == 0
    assert autocorrelation(torch.zeros(1000), random(0), 0.5) == 0
    assert autocorrelation(random(0), random(0), 0.5) == 0.99


@pytest.mark.parametrize("numbers", [1, 1000, 65_536, 200_001])
def test_a_dot_product_has_the_bits_of_its_definition(numbers):
    a_P = random(0, numbers)
    b_P = random(1, numbers)
    lanes = [0.0] * 65_536
    for index, (a, b) in enumerate(zip(a_P.tolist(), b_P.tolist(), strict=True)):
        lanes[index % 65_536] += a * b
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [lower + upper for lower, upper in zip(lanes[:half], lanes[half:], strict=True)]
    assert dot(a_P, b_P) == lanes[0]


def test_a_measured_step_has_the_same_bits_on_any_number_of_threads():
    ends = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        outer = Outer(MEASURED[0], 300_000)
        anchor_P = torch.zeros(300_000)
        for round_ in range(3):
            anchor_P = outer.step(anchor_P, random(round_, 300_000), round_)
        torch.set_num_threads(before)
        ends.append(anchor_P)
    assert torch.equal(*ends)


def test_momentum_begins_after_the_plain_rounds():
    spec = OuterSpec(learning_rate=0.7, momentum=0.9, optimiser=OuterOptimiser.NESTEROV, plain_rounds=2)
    late = Outer(spec, 1000)
    at_once = Outer(NESTEROV, 1000)
    for round_ in (0, 1):
        assert torch.equal(late.step(random(0), random(1), round_), random(0) - random(1))
    assert torch.equal(late.step(random(0), random(1), 2), at_once.step(random(0), random(1)))
