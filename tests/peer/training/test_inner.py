"""Local training: a schedule, a number of steps, and a state that survives."""

import math
from itertools import count

import pytest
import torch

from peer.data.corpus import build as build_corpus
from peer.data.shards import assign, shard_count
from peer.data.stream import Draw, batches, held_out
from peer.models.registry import build, presets
from peer.training.evaluate import bits_per_byte
from peer.training.inner import HOPELESS, REWARM_STEPS, Inner, is_hidden_matrix, learning_rate
from swarm.errors import ConfigError
from swarm.identity import PeerId
from swarm.manifest import InnerOptimiser, InnerSpec

SPEC = InnerSpec(learning_rate=1e-2, warmup_steps=60, horizon_steps=1000)
MUON = InnerSpec(learning_rate=1e-2, warmup_steps=60, horizon_steps=1000, optimiser=InnerOptimiser.MUON)
TINY = presets["tiny"]


def some_batches():
    generator = torch.Generator().manual_seed(0)
    while True:
        window_BU = torch.randint(256, (4, 33), generator=generator)
        yield window_BU[:, :-1], window_BU[:, 1:]


def weights(inner):
    return torch.cat([weight.detach().flatten().clone() for weight in inner.model.parameters()])


def inner(seed=0, spec=SPEC):
    return Inner(build(TINY, seed), spec)


def test_the_rate_climbs_to_its_peak_and_falls_to_a_tenth():
    rates = [learning_rate(SPEC, position, position) for position in range(1200)]
    assert rates[0] == pytest.approx(1e-2 / 60)
    assert max(rates) == pytest.approx(1e-2, rel=0.02)
    assert rates.index(max(rates)) == 59
    assert rates[59:] == sorted(rates[59:], reverse=True)
    assert rates[1000:] == [pytest.approx(1e-3)] * 200


def test_after_a_resync_the_rate_climbs_again():
    rates = [learning_rate(SPEC, 500 + step, step) for step in range(REWARM_STEPS + 1)]
    assert rates[0] < rates[10] < rates[REWARM_STEPS - 1]
    assert rates[-1] == learning_rate(SPEC, 500 + REWARM_STEPS, 10**6)


def test_no_warm_up_at_all_is_allowed():
    assert learning_rate(InnerSpec(learning_rate=1.0, warmup_steps=0), 0, 10**6) == pytest.approx(1.0)


def test_training_stops_at_the_most_steps_and_counts_tokens():
    result = inner().run(some_batches(), max_steps=3)
    assert (result.steps, result.tokens, result.skipped) == (3, 3 * 4 * 32, 0)
    assert 5 < result.loss < 7


def test_training_stops_when_it_is_told_to_but_never_before_the_first_step():
    asked = count(1)
    assert inner().run(some_batches(), max_steps=99, until=lambda: next(asked) == 4).steps == 4
    assert inner().run(some_batches(), max_steps=99, until=lambda: True).steps == 1


def test_every_step_is_told_with_its_loss():
    told = []
    result = inner().run(some_batches(), max_steps=3, on_step=lambda step, loss: told.append((step, loss)))
    assert [step for step, _ in told] == [1, 2, 3]
    assert result.loss == pytest.approx(sum(loss for _, loss in told) / 3)


def test_two_peers_with_equal_data_and_seed_train_to_equal_bits():
    one = inner()
    two = inner()
    one.run(some_batches(), max_steps=5)
    two.run(some_batches(), max_steps=5)
    assert torch.equal(weights(one), weights(two))


def test_a_gradient_that_is_not_finite_costs_its_step_but_not_the_weights():
    mine = inner()
    with torch.no_grad():
        mine.model.norm.weight[0] = math.inf
    before = weights(mine)
    result = mine.run(some_batches(), max_steps=2)
    assert (result.steps, result.skipped, result.loss) == (2, 2, HOPELESS)
    assert torch.equal(weights(mine), before)


def test_gains_do_not_decay_but_matrices_do():
    mine = inner(spec=InnerSpec(learning_rate=1e-2, warmup_steps=0, weight_decay=10.0))
    for weight in mine.model.parameters():
        weight.register_hook(torch.zeros_like)
    before = {name: weight.detach().clone() for name, weight in mine.model.named_parameters()}
    mine.run(some_batches(), max_steps=1)
    shrunk = {name for name, weight in mine.model.named_parameters() if not torch.equal(weight, before[name])}
    assert shrunk == {name for name, weight in before.items() if weight.ndim == 2}


@pytest.mark.parametrize("spec", [SPEC, MUON])
def test_an_imported_state_continues_as_if_nothing_had_happened(spec):
    straight = inner(spec=spec)
    first = inner(spec=spec)
    second = inner(seed=1, spec=spec)
    drawn = some_batches()
    straight.run(some_batches(), max_steps=8)
    first.run(drawn, max_steps=5)
    second.model.load_state_dict(first.model.state_dict())
    second.import_state(first.export_state())
    second.run(drawn, max_steps=3)
    assert second.position == straight.position == 8
    assert torch.equal(weights(second), weights(straight))


def test_an_exported_state_does_not_change_with_further_training():
    mine = inner()
    mine.run(some_batches(), max_steps=1)
    exported = mine.export_state()
    before = {name: tensor.clone() for name, tensor in exported.items()}
    mine.run(some_batches(), max_steps=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in exported.items())


def test_a_state_from_before_the_first_step_is_one_too():
    mine = inner()
    fresh = inner()
    mine.run(some_batches(), max_steps=2)
    mine.import_state(fresh.export_state())
    assert mine.position == 0
    assert set(mine.export_state()) == {"counters"}


def test_the_state_of_another_model_is_refused_and_nothing_changes():
    mine = inner()
    other = Inner(build(presets["nano"], 0), SPEC)
    other.run(((x[:, :32], y[:, :32]) for x, y in some_batches()), max_steps=1)
    mine.run(some_batches(), max_steps=2)
    cut_short = dict(list(mine.export_state().items())[:-1])
    for wrong in (other.export_state(), cut_short, {}):
        with pytest.raises(ConfigError):
            mine.import_state(wrong)
    assert mine.position == 2


def test_muon_has_the_matrices_of_the_layers_and_adamw_the_rest():
    mine = inner(spec=MUON)
    mine.run(some_batches(), max_steps=1)
    slots = {}
    for name in mine.export_state().keys() - {"counters"}:
        weight, _, slot = name.rpartition(".")
        slots.setdefault(weight, set()).add(slot)
    hidden = {name for name, found in slots.items() if found == {"momentum"}}
    assert hidden == {
        f"blocks.{layer}.{matrix}" for layer in (0, 1) for matrix in ("qkv", "out", "gate_up", "down")
    }
    assert all(
        found == {"step", "exp_avg", "exp_avg_sq"} for name, found in slots.items() if name not in hidden
    )
    assert slots.keys() == dict(mine.model.named_parameters()).keys()


@pytest.mark.parametrize(
    ("name", "shape", "hidden"),
    [
        ("blocks.11.qkv", (6, 4), True),
        ("transformer.h.0.attn.c_attn.weight", (6, 4), True),
        ("blocks.11.norm.weight", (4,), False),
        ("embedding", (6, 4), False),
        ("lm_head.weight", (6, 4), False),
    ],
)
def test_a_hidden_matrix_is_in_a_repeated_layer(name, shape, hidden):
    assert is_hidden_matrix(name, torch.zeros(shape)) is hidden


def test_the_state_of_another_optimiser_is_refused():
    mine = inner()
    other = inner(spec=MUON)
    other.run(some_batches(), max_steps=1)
    with pytest.raises(ConfigError):
        mine.import_state(other.export_state())


def test_a_peer_that_joins_late_begins_at_the_runs_place_in_the_schedule_with_a_warm_up():
    late = inner()
    late.rewarm(500)
    before = weights(late)
    late.run(some_batches(), max_steps=1)
    assert late.position == 501
    assert (weights(late) - before).abs().max() < 2 * SPEC.learning_rate / REWARM_STEPS


@pytest.mark.parametrize("optimiser", InnerOptimiser)
def test_a_model_learns_real_text_within_a_hundred_steps(optimiser):
    corpus = build_corpus(None)
    spec = presets["nano"]
    run = bytes(32)
    me = PeerId("me")
    windows_WU = held_out(corpus, spec.context, 64, seed=0)
    mine = Inner(build(spec, 0), InnerSpec(warmup_steps=20, horizon_steps=100, optimiser=optimiser))
    mine.run(
        batches(
            corpus,
            Draw(run, 0, me),
            assign(run, 0, [me], me, shard_count(corpus.spec, spec.context)),
            4,
            spec.context,
        ),
        max_steps=100,
    )
    # 8 knows nothing; the frequencies of single bytes alone give 4.9
    assert bits_per_byte(mine.model, windows_WU) < 4.6


def test_an_ended_stream_ends_the_round():
    assert inner().run(iter([next(some_batches())] * 2), max_steps=9).steps == 2
