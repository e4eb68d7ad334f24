"""The learner: an update is start − end of a round, it trains from what it adopts, and nothing is lost."""

from functools import partial

import pytest
import torch

from peer.config.run import RunSettings, manifest_of
from peer.data import corpus as corpora
from peer.training.inner import Trained
from peer.training.learner import NEAR_ROUNDS, Assignment, Learner
from peer.training.state import SharedState, state_root
from swarm.identity import KeyPair

KEY = KeyPair.from_seed(bytes(32))
CORPUS = corpora.from_bytes(b"the quick brown fox jumps over the lazy dog. " * 400)
MANIFEST = manifest_of(RunSettings(model="tiny", max_steps=3, rounds=4), CORPUS.spec, KEY)


def task(steps=3):
    return Assignment(
        members=(KEY.peer_id,), max_steps=steps, until=lambda: False, on_step=lambda step, loss: None
    )


@pytest.fixture
def learner():
    return Learner(MANIFEST, CORPUS, KEY.peer_id)


def test_two_peers_begin_with_the_same_bits(learner):
    assert state_root(learner.state) == state_root(
        Learner(MANIFEST, CORPUS, KeyPair.generate().peer_id).state
    )


def test_the_same_work_again_is_the_same_update(learner):
    again = Learner(MANIFEST, CORPUS, KEY.peer_id)
    assert torch.equal(learner.work(task()).update_N, again.work(task()).update_N)


def test_alone_the_outer_step_ends_where_the_local_steps_ended(learner):
    start_P = learner.state.anchor_P
    update_N = learner.work(task()).update_N
    after = learner.conclude(update_N)
    assert after.round == 1
    assert update_N.abs().max() > 0
    assert torch.equal(after.anchor_P, start_P - update_N)


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
    assert learner.work(task(1)).update_N.abs().max() < 1  # one step away from zero, wherever it was before


def test_a_newcomer_takes_up_the_runs_schedule_and_one_that_was_away_keeps_its_own(learner):
    learner.adopt(SharedState(2, torch.zeros(learner.numbers)))
    learner.work(task(1))
    joined = learner.export_inner()["counters"].tolist()
    assert joined == [2 * 3 + 1, 1]
    learner.adopt(SharedState(2 + NEAR_ROUNDS, torch.zeros(learner.numbers)))
    assert learner.export_inner()["counters"].tolist() == [7, 1], "after a round or two it just goes on"
    learner.adopt(SharedState(3 + 2 * NEAR_ROUNDS, torch.zeros(learner.numbers)))
    assert learner.export_inner()["counters"].tolist() == [7, 0], "after many it warms up again"


def test_momentum_is_part_of_the_state_and_a_peer_that_adopts_it_takes_the_same_step():
    manifest = manifest_of(
        RunSettings(model="tiny", max_steps=3, rounds=4, outer="nesterov"), CORPUS.spec, KEY
    )
    old = Learner(manifest, CORPUS, KEY.peer_id)
    new = Learner(manifest, CORPUS, KeyPair.generate().peer_id)
    updates = [torch.randn(old.numbers, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    for update_N in updates[:4]:
        old.conclude(update_N)
    new.adopt(old.state)
    assert old.state.momentum_P is not None
    assert state_root(old.conclude(updates[4])) == state_root(new.conclude(updates[4]))


def test_training_that_diverges_gives_no_update(learner):
    learner.adopt(SharedState(0, torch.full((learner.numbers,), float("nan"))))
    work = learner.work(task(1))
    assert not work.is_usable
    assert not work.update_N.any()


def test_the_data_of_a_round_is_named_for_every_peer_and_round(learner):
    other = Learner(MANIFEST, CORPUS, KeyPair.generate().peer_id)
    assert len({learner.seed_of(0), learner.seed_of(1), other.seed_of(0)}) == 3


def test_learning_lowers_the_bits_per_byte_of_text_that_nobody_trains_on(learner):
    before = learner.evaluate()
    for _ in range(4):
        learner.conclude(learner.work(task(10)).update_N)
    assert learner.evaluate() < before - 0.2


# --- training ahead: each local step is replaced by one that moves every weight down by a known number ------


@pytest.fixture
def striding():
    """A learner whose every local step moves every weight by −1."""
    learner = Learner(
        manifest_of(RunSettings(model="tiny", max_steps=3, rounds=9, preset="ahead"), CORPUS.spec, KEY),
        CORPUS,
        KEY.peer_id,
    )
    learner.adopt(SharedState(0, torch.full((learner.numbers,), 100.0)))

    learner._trainer.train = partial(stride, learner)
    return learner


def stride(learner, *, max_steps, until=None, on_step=None):
    """Local steps of which each moves every weight by −1."""
    with torch.no_grad():
        for weight in learner._trainer.model.parameters():
            weight.sub_(max_steps)
    return Trained(max_steps, 10 * max_steps, 2.0)


def everywhere(value, learner):
    return torch.full((learner.numbers,), value)


def test_what_was_trained_ahead_is_in_the_next_update_once(striding):
    first = striding.work(task(3)).update_N
    striding.step_ahead()
    striding.step_ahead()
    striding.carry_over()
    striding.conclude(first)
    second = striding.work(task(1))
    assert torch.equal(first, everywhere(3.0, striding))
    assert torch.equal(second.update_N, everywhere(2.0 + 1.0, striding))
    assert torch.equal(striding.conclude(second.update_N).anchor_P, everywhere(100.0 - 3 - 3, striding))
    assert torch.equal(striding.work(task(3)).update_N, everywhere(3.0, striding))


def test_steps_ahead_count_as_steps_of_the_next_round(striding):
    striding.work(task(3))
    striding.step_ahead()
    striding.carry_over()
    striding.conclude(None)
    assert striding.steps_ahead == 1
    assert striding.work(task(2)).trained == Trained(3, 30, 2.0)
    assert striding.steps_ahead == 0
    assert striding.work(task(2)).trained == Trained(2, 20, 2.0)


def test_what_was_trained_ahead_is_not_lost_where_the_round_fails_or_others_have_another_model(striding):
    striding.work(task(3))
    striding.step_ahead()
    striding.carry_over()
    striding.adopt(SharedState(5, torch.zeros(striding.numbers)))
    assert torch.equal(striding.not_applied([everywhere(3.0, striding)]), everywhere(4.0, striding))
    assert torch.equal(striding.work(task(1)).update_N, everywhere(2.0, striding))
    assert torch.equal(striding.not_applied([everywhere(3.0, striding)]), everywhere(3.0, striding))


def test_numbers_that_are_not_finite_are_not_carried(striding):
    striding.work(task(1))
    striding.step_ahead()
    with torch.no_grad():
        next(iter(striding._trainer.model.parameters())).fill_(float("inf"))
    striding.carry_over()
    striding.conclude(None)
    work = striding.work(task(1))
    assert torch.equal(work.update_N, everywhere(1.0, striding))
    assert work.trained.steps == 1


# --- one fragment at a time ---------------------------------------------------------------------------------


def in_fragments(count, preset="safe"):
    settings = RunSettings(model="tiny", max_steps=3, rounds=90, preset=preset, fragments=count)
    return Learner(manifest_of(settings, CORPUS.spec, KEY), CORPUS, KEY.peer_id)


def test_every_fragment_comes_in_its_turn_with_all_that_it_has_learnt_since():
    learner = in_fragments(3)
    learnt = [0, 0, 0]
    learner._trainer.train = partial(stride, learner)
    for round_ in range(7):
        mine = learner.fragment(round_)
        learnt = [steps + 3 for steps in learnt]
        assert mine.index == round_ % 3
        before_P = learner.state.anchor_P
        update_N = learner.work(task(3)).update_N
        assert torch.allclose(update_N, torch.full((mine.numbers,), float(learnt[mine.index])), atol=1e-5)
        learner.conclude(update_N)
        learnt[mine.index] = 0
        changed_P = before_P - learner.state.anchor_P
        assert torch.equal(changed_P.nonzero().flatten(), torch.arange(mine.start, mine.stop)), (
            "the other fragments stay"
        )
        left_P = learner.not_applied([None] * 3)
        for fragment in learner.fragments:
            expected = torch.full((fragment.numbers,), float(learnt[fragment.index]))
            assert torch.allclose(left_P[fragment.place], expected, atol=1e-5)


def test_what_a_fragment_has_learnt_and_what_was_trained_ahead_are_carried_over_together():
    learner = in_fragments(2, "ahead")
    learner._trainer.train = partial(stride, learner)
    mine = learner.fragment(0)
    other = learner.fragment(1)
    update_N = learner.work(task(3)).update_N
    learner.step_ahead()
    learner.carry_over()
    learner.conclude(update_N)
    left_P = learner.not_applied([None, None])
    assert torch.allclose(left_P[mine.place], torch.ones(mine.numbers), atol=1e-5)
    assert torch.allclose(left_P[other.place], torch.full((other.numbers,), 4.0), atol=1e-5)
    residuals = [torch.full((mine.numbers,), 0.5), None]
    assert torch.allclose(
        learner.not_applied(residuals)[mine.place], torch.full((mine.numbers,), 1.5), atol=1e-5
    )
    assert torch.allclose(learner.work(task(2)).update_N, torch.full((other.numbers,), 6.0), atol=1e-5)


def test_others_take_the_same_step_on_a_fragment():
    learner = in_fragments(3)
    other = in_fragments(3)
    for _ in range(4):
        state = learner.state
        update_N = learner.work(task(1)).update_N
        assert torch.equal(learner.conclude(update_N).anchor_P, other.state_after(state, update_N).anchor_P)


def test_training_goes_on_ahead_on_the_same_text_as_in_one_piece():
    manifest = manifest_of(RunSettings(model="tiny", max_steps=9, rounds=9, preset="ahead"), CORPUS.spec, KEY)
    whole = Learner(manifest, CORPUS, KEY.peer_id)
    broken = Learner(manifest, CORPUS, KEY.peer_id)
    end_P = whole.state.anchor_P - whole.work(task(5)).update_N
    update_N = broken.work(task(3)).update_N
    broken.step_ahead()
    broken.step_ahead()
    broken.carry_over()
    assert torch.allclose(broken.state.anchor_P - broken.not_applied([update_N]), end_P, atol=1e-6)


def test_without_overlap_a_round_has_the_bits_of_its_formula(learner):
    """Start at the shared model, train, subtract: no sum with a carried zero, no other order."""
    other = Learner(MANIFEST, CORPUS, KEY.peer_id)
    for _ in range(3):
        update_N = learner.work(task()).update_N
        other.adopt(learner.state)
        assert learner.not_applied([update_N]) is update_N
        learner.conclude(update_N * 0.5)
        ends_P = torch.cat([weight.detach().flatten() for weight in learner._trainer.model.parameters()])
        assert torch.equal(other.state.anchor_P - ends_P, update_N)
