"""Fragments cover the vector, have equal lengths up to a block, and are averaged in turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.fragments import fragment_of, fragments_of
from averaging.partition import ALIGN

TENSORS = st.lists(st.integers(1, 5000), min_size=1, max_size=12)


@given(TENSORS, st.integers(1, 64))
def test_fragments_cover_the_vector_and_are_of_one_length_to_a_block(tensors: list[int], count: int) -> None:
    fragments = fragments_of(tensors, count)
    assert [fragment.index for fragment in fragments] == list(range(len(fragments)))
    assert [0, *(fragment.stop for fragment in fragments)] == [
        *(fragment.start for fragment in fragments),
        sum(tensors),
    ]
    blocks = [-(-fragment.numbers // ALIGN) for fragment in fragments]
    assert max(blocks) - min(blocks) <= 1
    assert min(blocks) >= 1
    assert len(fragments) == min(count, -(-sum(tensors) // ALIGN))
    assert all(fragment.start % ALIGN == 0 for fragment in fragments), (
        "no cut goes through a quantisation block"
    )


@given(TENSORS, st.integers(1, 64))
def test_a_fragment_knows_which_tensors_lie_in_it(tensors: list[int], count: int) -> None:
    owner = [tensor for tensor, length in enumerate(tensors) for _ in range(length)]
    for fragment in fragments_of(tensors, count):
        assert sum(fragment.tensors) == fragment.numbers
        place = fragment.start
        for length in fragment.tensors:
            assert len(set(owner[place : place + length])) == 1
            place += length
        assert len(fragment.tensors) == len(set(owner[fragment.place]))


def test_one_fragment_is_the_whole_vector() -> None:
    (whole,) = fragments_of([300, 700], 1)
    assert (whole.place, whole.tensors) == (slice(0, 1000), (300, 700))


@pytest.mark.parametrize("round_", range(7))
def test_rounds_take_turns(round_: int) -> None:
    assert fragment_of([1000, 2000], 3, round_) == fragments_of([1000, 2000], 3)[round_ % 3]
