"""The shared state: a root that stands for every bit, and chunks that make it again."""

import struct
from dataclasses import replace

import pytest
import torch

from peer.training.state import (
    CHUNK,
    SharedState,
    StateContent,
    assemble,
    blob_length,
    bytes_of,
    chunk,
    chunk_hashes,
    state_root,
    state_root_from,
)
from swarm.errors import WrongContent

NUMBERS = CHUNK // 4 + 1000  # two chunks, or with momentum three, of which the second spans the border


def vector(seed, numbers=NUMBERS):
    return torch.randn(numbers, generator=torch.Generator().manual_seed(seed))


PLAIN = SharedState(7, vector(0))
MOVING = SharedState(7, vector(0), vector(1))


def chunks_of(state):
    return [bytes(chunk(state, index)) for index in range(len(chunk_hashes(state)))]


def test_the_blob_is_the_anchor_then_the_momentum_as_little_endian_floats():
    small = SharedState(0, torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]))
    assert b"".join(chunks_of(small)) == struct.pack("<4f", 1.0, -2.0, 0.5, 3.0)


@pytest.mark.parametrize(("state", "count"), [(PLAIN, 2), (MOVING, 3)])
def test_chunks_are_full_but_the_last_and_make_the_state_again(state, count):
    chunks = chunks_of(state)
    again = assemble(7, chunks, NUMBERS, state.momentum_P is not None)
    assert [len(part) for part in chunks[:-1]] == [CHUNK] * (count - 1)
    assert state.length == blob_length(NUMBERS, state.momentum_P is not None) == sum(map(len, chunks))
    assert torch.equal(again.anchor_P, state.anchor_P)
    assert (again.momentum_P is None) == (state.momentum_P is None)
    assert state_root(again) == state_root(state)


def test_a_chunk_inside_one_vector_is_a_view():
    assert chunk(PLAIN, 0).obj is PLAIN._pieces[0].obj
    state = SharedState(0, torch.zeros(4))
    before = bytes(chunk(state, 0))
    state.anchor_P[0] = 1.0
    assert bytes(chunk(state, 0)) != before


@pytest.mark.parametrize("index", [-1, 2])
def test_there_is_no_chunk_outside_the_state(index):
    with pytest.raises(IndexError):
        chunk(PLAIN, index)


def test_the_root_changes_with_every_bit_the_round_and_the_momentum():
    flipped = vector(0)
    flipped[-1] = torch.nextafter(flipped[-1], torch.tensor(9.0))
    states = [
        PLAIN,
        MOVING,
        replace(PLAIN, round=8),
        replace(PLAIN, anchor_P=flipped),
        replace(MOVING, momentum_P=-vector(1)),
        SharedState(7, vector(1), vector(0)),
    ]
    assert len({state_root(state) for state in states}) == len(states)


def test_a_newcomer_can_check_the_hashes_before_it_has_a_chunk():
    assert state_root_from(7, chunk_hashes(MOVING), MOVING.length) == state_root(MOVING)
    assert state_root_from(7, chunk_hashes(MOVING)[::-1], MOVING.length) != state_root(MOVING)


def test_chunks_that_do_not_fit_the_model_are_refused():
    chunks = chunks_of(PLAIN)
    for wrong in (chunks[:1], chunks[::-1], [*chunks, b""], [*chunks[:-1], chunks[-1][:-1]], []):
        with pytest.raises(WrongContent):
            assemble(7, wrong, NUMBERS, False)
    with pytest.raises(WrongContent):
        assemble(7, chunks, NUMBERS, True)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 501, 998])
def test_numbers_that_are_not_finite_are_refused_wherever_they_stand(number, place):
    harmed = vector(0, 999)
    harmed[place] = number
    with pytest.raises(WrongContent):
        assemble(0, [bytes(bytes_of(harmed))], 999, False)


def test_bytes_of_a_tensor_are_its_memory_in_reading_order():
    matrix = torch.arange(6, dtype=torch.float32).view(2, 3)
    assert bytes(bytes_of(matrix.T)) == struct.pack("<6f", 0, 3, 1, 4, 2, 5)
    assert bytes(bytes_of(torch.tensor(7))) == struct.pack("<q", 7)


def test_a_state_shows_its_round_and_root():
    assert "round 7" in repr(PLAIN)
    assert state_root(PLAIN).hex()[:12] in repr(PLAIN)


def test_a_state_as_content_has_the_hashes_and_chunks_of_the_state():
    content = StateContent(MOVING)
    assert list(content.hashes) == chunk_hashes(MOVING)
    assert [bytes(content.chunk(index)) for index in range(3)] == chunks_of(MOVING)
