"""One pass finds the same hash and norm as two, whatever bytes lie in front of the numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from averaging.codecs import LazyVector, Quantised, pieces, port
from averaging.one_pass import hash_and_norm, is_near, norm
from swarm.hashing import digest


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=50))
def test_the_norm_is_finite_and_near_the_exact_one(values: list[float]) -> None:
    exact = math.hypot(*values)
    assert norm(torch.tensor(values, dtype=torch.float32)) == pytest.approx(exact, rel=2e-5, abs=1e-150)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-3, 1e25])
def test_the_norm_of_many_numbers_is_as_near(scale: float) -> None:
    drawn_N = torch.randn(200_001, generator=torch.Generator().manual_seed(0))
    for vector_N in (drawn_N * scale, torch.full((200_001,), 0.0123 * scale)):
        exact = math.sqrt(math.fsum(number * number for number in vector_N.tolist()))
        assert norm(vector_N) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 700, 1_023, 1_050])
def test_no_norm_is_finite_where_a_number_is_not(wrong: float, place: int) -> None:
    vector_N = torch.ones(1_051)
    vector_N[place] = wrong
    assert not math.isfinite(norm(vector_N))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_lazy_vector_has_the_norm_of_the_decoded_one(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "PIECE", 1024)
    codec = Quantised(bits)
    vector_N = torch.randn(5_001, generator=torch.Generator().manual_seed(1))
    payload = codec.encode(vector_N)
    assert norm(LazyVector(codec, payload, 5_001)) == pytest.approx(
        norm(codec.decode(payload, 5_001)), rel=1e-6
    )


@given(numbers=st.integers(0, 5000), head=st.integers(0, 9), piece=st.integers(1, 3000))
def test_one_pass_finds_what_two_would(numbers: int, head: int, piece: int) -> None:
    vector_N = torch.randn(numbers, generator=torch.Generator().manual_seed(numbers))
    payload = bytes(range(head)) + vector_N.numpy().tobytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(port, "PIECE", piece)
        put_N = torch.full_like(vector_N, math.nan)
        found, measured = hash_and_norm(payload, vector_N, put_N)
    assert found == digest(payload)
    assert measured == pytest.approx(norm(vector_N), rel=2e-5)
    assert torch.equal(put_N, vector_N)


@given(numbers=st.integers(0, 100), piece=st.integers(1, 40))
def test_pieces_cover_all_numbers_once_and_in_order(numbers: int, piece: int) -> None:
    covered = [number for here in pieces(numbers, piece) for number in range(here.start, here.stop)]
    assert covered == list(range(numbers))


def test_a_norm_may_be_off_by_what_another_order_of_summation_makes_of_it() -> None:
    assert is_near(1.00009, 1.0)
    assert not is_near(1.0002, 1.0)
    assert not is_near(math.nan, 1.0)
    assert is_near(0.0, 0.0)
