"""A forgery fits in all its parts: only its origin is a lie."""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch

from averaging.record import ReplayRecord, UpdateShape, opened
from peer.simulation.forgery import KINDS, Forger, Forgery
from peer.sync.position import Position
from peer.training.learner import Learner
from peer.training.state import SharedState, state_root, state_root_from
from swarm.identity import digest_of
from tests.peer.company import MANIFEST, TEXT, key

ME = key(1).peer_id
EVERYBODY = [key(number).peer_id for number in range(4)]


@cache
def learner() -> Learner:
    return Learner(MANIFEST, TEXT, ME)


def forger(seed: int) -> Forger:
    """A forger that stands on the fresh model."""
    made = Forger(MANIFEST, TEXT, ME, EVERYBODY, random.Random(seed))
    made.observe(Position(), learner().state)
    return made


def forgery(kind: str) -> tuple[Forger, Forgery]:
    """The first forgery of ``kind`` that some seed draws."""
    for seed in range(200):
        made = forger(seed)
        current = made.current
        if current and current.kind == kind:
            return made, current
    raise AssertionError(f"no seed draws {kind}")


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"nobody"}))
def test_the_chunks_of_a_forged_state_belong_to_its_root(kind: str) -> None:
    made, current = forgery(kind)
    assert current.state is not None
    index = made.answer("index", current.root.hex())
    assert index is not None
    hashes = [bytes(index[at : at + 32]) for at in range(0, len(index), 32)]
    assert state_root_from(current.round, hashes, current.state.length) == current.root
    assert made.answer("chunk", f"{current.root.hex()}.0") is not None
    assert made.answer("chunk", f"{current.root.hex()}.99") is None


def test_a_forged_record_leads_to_the_forged_state() -> None:
    made, current = forgery("record")
    truth = learner().state
    raw = made.answer("record", state_root(truth).hex())
    assert raw is not None
    record = opened(bytes(raw))
    assert digest_of(ME) in record.members
    shape = UpdateShape(spec=MANIFEST.round, tensors=learner().tensors)
    led_to = learner().state_after(truth, ReplayRecord(record, shape).run())
    assert state_root(led_to) == current.root != state_root(truth)


def test_a_model_of_nan_has_the_root_that_belongs_to_it() -> None:
    _, current = forgery("nan")
    assert current.state is not None
    assert bool(torch.isnan(current.state.anchor_P).all())
    assert state_root(current.state) == current.root


def test_nobody_has_the_state_of_a_root_that_was_drawn() -> None:
    made, current = forgery("nobody")
    assert made.answer("index", current.root.hex()) is None


def test_there_is_one_forgery_for_each_position() -> None:
    made = forger(0)
    first = made.current
    assert made.current is first
    truth = learner().state
    made.observe(Position(round=1), SharedState(1, truth.anchor_P, truth.momentum_P))
    assert made.current is not first


def test_a_liar_without_a_state_forges_none() -> None:
    assert Forger(MANIFEST, TEXT, ME, EVERYBODY, random.Random(0)).current is None


def test_what_is_not_forged_is_not_answered() -> None:
    made, _ = forgery("record")
    assert made.answer("chunk", bytes(32).hex()) is None
    assert made.answer("offer", "") is None
