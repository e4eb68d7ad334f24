"""The learner: an update is start − end, what it adopts it trains from, and numbers that are not finite never leave it."""

import pytest
import torch

from peer.data import corpus as corpora
from peer.learner import Assignment, Learner
from peer.recipe import Recipe, manifest_of
from peer.state import SharedState, state_root
from swarm.identity import KeyPair

KEY = KeyPair.from_seed(bytes(32))
CORPUS = corpora.from_bytes(b"the quick brown fox jumps over the lazy dog. " * 400)
MANIFEST = manifest_of(Recipe(model="tiny", max_steps=3, rounds=4), CORPUS.spec, KEY)


def task(steps=3):
    return Assignment(members=(KEY.peer_id,), max_steps=steps, until=lambda: False, on_step=lambda step, loss: None)


@pytest.fixture
def learner():
    return Learner(MANIFEST, CORPUS, KEY.peer_id)


def test_two_peers_begin_with_the_same_bits(learner):
    assert state_root(learner.state) == state_root(Learner(MANIFEST, CORPUS, KeyPair.generate().peer_id).state)


def test_the_same_work_again_is_the_same_update(learner):
    again = Learner(MANIFEST, CORPUS, KEY.peer_id)
    assert torch.equal(learner.work(task()).update_P, again.work(task()).update_P)


def test_alone_the_outer_step_ends_where_the_local_steps_ended(learner):
    start_P = learner.state.anchor_P
    update_P = learner.work(task()).update_P
    after = learner.conclude(update_P)
    assert after.round == 1
    assert update_P.abs().max() > 0
    assert torch.equal(after.anchor_P, start_P - update_P)


def test_a_round_without_an_average_changes_the_round_and_nothing_else(learner):
    before = learner.state
    after = learner.conclude(None)
    assert (after.round, before.round) == (1, 0)
    assert torch.equal(after.anchor_P, before.anchor_P)
    assert state_root(after) != state_root(before)


def test_training_begins_from_the_adopted_state(learner):
    theirs = SharedState(7, torch.zeros(learner.numbers))
    learner.adopt(theirs)
    assert learner.state is theirs
    assert learner.work(task(1)).update_P.abs().max() < 1  # one step away from zero, wherever it was before


def test_a_newcomer_takes_up_the_runs_schedule_and_one_that_was_away_keeps_its_own(learner):
    learner.adopt(SharedState(2, torch.zeros(learner.numbers)))
    learner.work(task(1))
    joined = learner.export_inner()["counters"].tolist()
    learner.adopt(SharedState(3, torch.zeros(learner.numbers)))
    assert joined == [2 * 3 + 1, 1]
    assert learner.export_inner()["counters"].tolist() == [7, 0]


def test_momentum_is_part_of_the_state_and_whoever_takes_it_over_steps_alike():
    manifest = manifest_of(Recipe(model="tiny", max_steps=3, rounds=4, outer="nesterov"), CORPUS.spec, KEY)
    old, new = Learner(manifest, CORPUS, KEY.peer_id), Learner(manifest, CORPUS, KeyPair.generate().peer_id)
    updates = [torch.randn(old.numbers, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    for update_P in updates[:4]:
        old.conclude(update_P)
    new.adopt(old.state)
    assert old.state.momentum_P is not None
    assert state_root(old.conclude(updates[4])) == state_root(new.conclude(updates[4]))


def test_training_that_diverges_gives_no_update(learner):
    learner.adopt(SharedState(0, torch.full((learner.numbers,), float("nan"))))
    work = learner.work(task(1))
    assert not work.is_usable
    assert not work.update_P.any()


def test_the_data_of_a_round_is_named_for_every_peer_and_round(learner):
    other = Learner(MANIFEST, CORPUS, KeyPair.generate().peer_id)
    assert len({learner.seed_of(0), learner.seed_of(1), other.seed_of(0)}) == 3


def test_learning_lowers_the_bits_per_byte_of_text_that_nobody_trains_on(learner):
    before = learner.evaluate()
    for _ in range(4):
        learner.conclude(learner.work(task(10)).update_P)
    assert learner.evaluate() < before - 0.2
