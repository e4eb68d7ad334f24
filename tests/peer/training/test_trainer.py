"""The trainer: weights go in and out as one vector, and equal peers train to equal bits."""

import pytest
import torch

from peer.config.run import RunSettings, manifest_of
from peer.data import corpus as corpora
from peer.training.trainer import SAMPLE_BYTES, Trainer
from swarm.identity import KeyPair

KEY = KeyPair.from_seed(bytes(32))
OTHER = KeyPair.from_seed(bytes([1]) * 32)
MEMBERS = (KEY.peer_id, OTHER.peer_id)
CORPUS = corpora.from_bytes(b"the quick brown fox jumps over the lazy dog. " * 400)
MANIFEST = manifest_of(RunSettings(model="tiny", max_steps=3, rounds=4), CORPUS.spec, KEY)


@pytest.fixture
def trainer():
    return Trainer(MANIFEST, CORPUS, KEY.peer_id)


def test_weights_that_are_set_are_read_back_bit_for_bit(trainer):
    weights_P = torch.randn(trainer.numbers, generator=torch.Generator().manual_seed(0))
    trainer.set_weights(weights_P)
    assert torch.equal(trainer.weights(), weights_P)
    assert sum(trainer.tensors) == trainer.numbers


def test_training_changes_the_model_but_not_the_weights_that_were_read_before(trainer):
    before_P = trainer.weights()
    copy_P = before_P.clone()
    trainer.begin(0, MEMBERS)
    assert trainer.train(max_steps=2).steps == 2
    assert torch.equal(before_P, copy_P)
    assert not torch.equal(trainer.weights(), before_P)


def test_training_goes_on_where_the_round_was_interrupted(trainer):
    whole = Trainer(MANIFEST, CORPUS, KEY.peer_id)
    for each in (trainer, whole):
        each.begin(2, MEMBERS)
    trainer.train(max_steps=1)
    trainer.train(max_steps=2)
    whole.train(max_steps=3)
    assert torch.equal(trainer.weights(), whole.weights())


@pytest.mark.parametrize(("peer", "round_"), [(OTHER, 0), (KEY, 1)])
def test_another_peer_or_round_trains_on_other_data(trainer, peer, round_):
    other = Trainer(MANIFEST, CORPUS, peer.peer_id)
    trainer.begin(0, MEMBERS)
    other.begin(round_, MEMBERS)
    assert trainer.seed_of(0) != other.seed_of(round_)
    trainer.train(max_steps=1)
    other.train(max_steps=1)
    assert not torch.equal(trainer.weights(), other.weights())


def test_a_checkpoint_tells_that_a_peer_has_trained(trainer):
    assert not trainer.has_trained
    trainer.begin(0, MEMBERS)
    trainer.train(max_steps=1)
    restarted = Trainer(MANIFEST, CORPUS, KEY.peer_id)
    restarted.import_inner(trainer.export_inner())
    assert restarted.has_trained


def test_an_evaluation_and_a_sample_are_of_the_given_weights(trainer):
    weights_P = trainer.weights()
    zero_P = torch.zeros_like(weights_P)
    assert trainer.evaluate(zero_P) == pytest.approx(8.0), "a model of zeros knows nothing"
    assert trainer.evaluate(weights_P) != trainer.evaluate(zero_P)
    assert trainer.sample(weights_P, 3) == trainer.sample(weights_P, 3)
    assert trainer.sample(weights_P, 3) != trainer.sample(weights_P, 4)
    assert 0 < len(trainer.sample(weights_P, 3)) <= SAMPLE_BYTES
