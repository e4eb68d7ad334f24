"""Rules of the sparse codecs: which numbers they keep, how the bytes look, and that no other bytes pass."""

from __future__ import annotations

import hashlib
import math
import struct
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from averaging.codecs import ONE_TENSOR, Shape, bytes_per_parameter, chunks, codec_of, is_sparse, result_codec
from averaging.codecs.sparse import Sparse
from averaging.partition import ALIGN
from swarm.errors import Malformed
from swarm.manifest import Codec as CodecName
from tests.averaging.bounds import assert_unmoved, chunks_of, selected

SHARES = {
    CodecName.SPARSE64: 64,
    CodecName.SPARSE128: 128,
    CodecName.SPARSE256: 256,
    CodecName.SPARSE512: 512,
}
SPARSE = pytest.mark.parametrize("name", SHARES)
few = settings(max_examples=60)

TWO_TENSORS = Shape(tensor_lengths=(16, 16))
TWO_KEPT_OF_EACH = "05900000f000003c00400042004006"


def heavy(numbers: int, seed: int, scale: float = 1e-3) -> Tensor:
    """Return numbers with a heavy tail, as updates have; a few are equal, so that there are ties."""
    drawn = np.random.default_rng(seed).standard_t(3, numbers) * scale
    drawn[:: 1 + seed % 7] = drawn[:1] if len(drawn) else 0
    return torch.from_numpy(drawn.astype(np.float32))


def two_tensors() -> Tensor:
    vector_N = torch.full((32,), 0.5)
    vector_N[[5, 9, 16, 31]] = torch.tensor([3.0, -1.0, 2.0, 2.0])
    return vector_N


shapes = st.lists(st.sampled_from([0, 1, 15, 16, 17, 255, 4095, 4096, 4097, 9000]), max_size=5).map(
    lambda cut: Shape(tuple(cut))
)


# --- which numbers are kept ---------------------------------------------------------------------------------


@SPARSE
@few
@given(shape=shapes, seed=st.integers(0, 99))
def test_of_each_chunk_the_largest_are_kept_and_of_equal_ones_the_first(
    name: CodecName, shape: Shape, seed: int
) -> None:
    codec = codec_of(name, shape)
    vector_N = heavy(sum(shape.tensor_lengths), seed)
    assert isinstance(codec, Sparse)
    decoded_N = codec.decode(codec.encode(vector_N), len(vector_N))
    expected = [place for chunk in selected(codec, vector_N) for place in chunk]
    assert torch.nonzero(decoded_N)[:, 0].tolist() == expected
    assert torch.equal(torch.sign(decoded_N[expected]), torch.sign(vector_N[expected]))


@SPARSE
@few
@given(shape=shapes, seed=st.integers(0, 99))
def test_the_size_is_exact_for_all_tensors(name: CodecName, shape: Shape, seed: int) -> None:
    codec = codec_of(name, shape)
    vector_N = heavy(sum(shape.tensor_lengths), seed)
    payload = codec.encode(vector_N)
    assert len(payload) == codec.size(len(vector_N))
    assert len(codec.decode(payload, len(vector_N))) == len(vector_N)


@SPARSE
@few
@given(shape=shapes)
def test_sizes_follow_the_formula(name: CodecName, shape: Shape) -> None:
    found = chunks_of(shape, sum(shape.tensor_lengths), SHARES[name])
    kept = sum(kept for _, kept in found)
    assert codec_of(name, shape).size(sum(shape.tensor_lengths)) == math.ceil(kept * 12 / 8) + 4 * len(
        found
    ) + math.ceil(kept * 2 / 8)


def test_a_tensor_of_large_numbers_takes_no_places_from_one_of_small_numbers() -> None:
    quiet_N = heavy(4096, 1, 1e-5)
    codec = codec_of(CodecName.SPARSE64, Shape((4096, 4096)))
    both_N = codec.decode(codec.encode(torch.cat([heavy(4096, 2, 10.0), quiet_N])), 8192)
    alone = codec_of(CodecName.SPARSE64)
    assert torch.equal(both_N[4096:], alone.decode(alone.encode(quiet_N), 4096))
    assert int((both_N != 0).sum()) == 128


@SPARSE
def test_however_owners_cut_a_tensor_the_rate_stays(name: CodecName) -> None:
    whole = codec_of(name).size(1 << 20)
    parts = [ALIGN * blocks for blocks in (1, 7, 100, 1000, 2988)]
    assert sum(parts) == 1 << 20
    assert sum(codec_of(name).size(part) for part in parts) <= whole + 20 * len(parts)


def sizes_error(sizes: list[Fraction], group: list[int]) -> Fraction:
    mean = sum((sizes[place] for place in group), Fraction(0)) / len(group)
    return sum(((sizes[place] - mean) ** 2 for place in group), Fraction(0))


@few
@given(values=st.lists(st.integers(1, 2000), min_size=2, max_size=9))
def test_the_two_sizes_of_a_chunk_are_the_best_there_are(values: list[int]) -> None:
    """Integers to 2000 have exact float16, so against all splits only the rounding of two means is left."""
    codec = codec_of(CodecName.SPARSE512)
    vector_N = torch.zeros(8 * len(values))
    vector_N[: len(values)] = torch.tensor(values, dtype=torch.float32)
    decoded_N = codec.decode(codec.encode(vector_N), len(vector_N))
    sizes = [Fraction(value) for value in sorted(values)]
    count = len(values)
    splits = [
        sizes_error(sizes, [*range(cut)]) + sizes_error(sizes, [*range(cut, count)])
        for cut in range(1, count)
    ]
    rounding = count * max(values) ** 2 * 2.0**-22
    assert float((decoded_N - vector_N).double().square().sum()) <= float(min(splits)) + rounding


def test_numbers_that_are_not_of_the_tensors_are_refused() -> None:
    for shape in (Shape((3, 4)), Shape((9, -1)), Shape((0,))):
        for name in SHARES:
            with pytest.raises(ValueError, match="tensors"):
                codec_of(name, shape).encode(torch.zeros(8))


# --- bytes --------------------------------------------------------------------------------------------------


def test_the_bytes_are_the_same_in_every_release() -> None:
    """Indices 5, 9 and 0, 15 · small 1, 2 · large 3, 2 · codes: large, negative, and twice small."""
    assert codec_of(CodecName.SPARSE512, TWO_TENSORS).encode(two_tensors()) == bytes.fromhex(TWO_KEPT_OF_EACH)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (CodecName.SPARSE64, "c55dae2927c138c2"),
        (CodecName.SPARSE128, "bf732a8e087d585b"),
        (CodecName.SPARSE256, "26b387a6622a0c56"),
        (CodecName.SPARSE512, "b0f384c9ead21c7d"),
    ],
)
def test_long_payloads_are_the_same_in_every_release(name: CodecName, expected: str) -> None:
    """Whole numbers made without floats, in tensors of all kinds."""
    numbers = (torch.arange(20_000, dtype=torch.int64) * 2_654_435_761 % 8191 - 4095).float()
    assert (
        hashlib.sha256(codec_of(name, Shape((8192, 5000, 6000, 64, 64, 680))).encode(numbers)).hexdigest()[
            :16
        ]
        == expected
    )


@SPARSE
@pytest.mark.parametrize("at_a_time", [4096, 5000, 1 << 30])
def test_the_bytes_do_not_depend_on_how_much_is_worked_on_at_a_time(
    name: CodecName, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = codec_of(name, Shape((50_000, 300, 300, 20_000)))
    vector_N = heavy(70_600, 6)
    assert_unmoved(codec, vector_N, lambda: monkeypatch.setattr(chunks, "_BATCH", at_a_time))


@SPARSE
def test_the_bytes_do_not_depend_on_threads(name: CodecName, threads: None) -> None:
    codec = codec_of(name, Shape((150_000, 60_000)))
    vector_N = heavy(210_000, 6)
    payloads = set()
    for count in (1, 2):
        torch.set_num_threads(count)
        payloads.add(codec.encode(vector_N))
    assert len(payloads) == 1


@SPARSE
@few
@given(shape=shapes, seed=st.integers(0, 99))
def test_decoded_numbers_encode_to_the_same_bytes(name: CodecName, shape: Shape, seed: int) -> None:
    codec = codec_of(name, shape)
    numbers = sum(shape.tensor_lengths)
    payload = codec.encode(heavy(numbers, seed))
    assert codec.encode(codec.decode(payload, numbers)) == payload


# --- numbers at the edge ------------------------------------------------------------------------------------


@SPARSE
def test_zeros_and_numbers_below_the_smallest_magnitude_decode_to_zeros(name: CodecName) -> None:
    codec = codec_of(name)
    for value in (0.0, -0.0, 1e-45, -1e-9):
        decoded_N = codec.decode(codec.encode(torch.full((5000,), value)), 5000)
        assert decoded_N.tolist() == [0.0] * 5000
        assert not torch.signbit(decoded_N).any()


@SPARSE
def test_a_number_beyond_float16_decodes_to_the_largest_float16(name: CodecName) -> None:
    vector_N = torch.zeros(8192)
    vector_N[[3, 4000, 5000, 5001]] = torch.tensor([3e38, -3e38, 65504.0, -1.0])
    codec = codec_of(name)
    assert codec.decode(codec.encode(vector_N), 8192)[[3, 4000]].tolist() == [65504.0, -65504.0]


@SPARSE
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_one_bad_number_among_large_ones_is_found(name: CodecName, bad: float) -> None:
    for place in (0, 17, 4096, 4099):
        vector_N = torch.full((4100,), 3e38)
        vector_N[place] = bad
        with pytest.raises(ValueError, match="NaN"):
            codec_of(name).encode(vector_N)


# --- invalid payloads ---------------------------------------------------------------------------------------


def test_a_flipped_bit_is_another_canonical_payload_or_malformed() -> None:
    """Flip one or two bits. What decodes without zeros among the kept numbers encodes to the same bytes."""
    codec = codec_of(CodecName.SPARSE512, TWO_TENSORS)
    sent = bytes.fromhex(TWO_KEPT_OF_EACH)
    bits = 8 * len(sent)
    refused = passed = 0
    for first in range(bits):
        for second in range(first, bits):
            flipped = (
                int.from_bytes(sent, "little") ^ 1 << first ^ (1 << second) * (first != second)
            ).to_bytes(len(sent), "little")
            try:
                decoded_N = codec.decode(flipped, 32)
            except Malformed:
                refused += 1
                continue
            passed += 1
            assert bool(torch.isfinite(decoded_N).all())
            assert int((decoded_N != 0).sum()) < 4 or codec.encode(decoded_N) == flipped
    assert refused > 2000
    assert passed > 200


@SPARSE
@few
@given(data=st.data(), shape=shapes)
def test_any_bytes_of_the_right_length_are_finite_numbers_or_malformed(
    name: CodecName, data: st.DataObject, shape: Shape
) -> None:
    codec = codec_of(name, shape)
    numbers = sum(shape.tensor_lengths)
    mutated = bytearray(codec.encode(heavy(numbers, 8)))
    flips = st.lists(st.integers(0, max(0, 8 * len(mutated) - 1)), max_size=3)
    for bit in data.draw(flips) if mutated else []:
        mutated[bit // 8] ^= 1 << bit % 8
    try:
        decoded_N = codec.decode(bytes(mutated), numbers)
    except Malformed:
        return
    assert decoded_N.shape == (numbers,)
    assert bool(torch.isfinite(decoded_N).all())


def listed(indices: tuple[int, int], small: float, large: float, codes: int) -> bytes:
    """Return a payload of sparse512 for 16 numbers, two of which are kept."""
    first, second = indices
    return (first | second << 12).to_bytes(3, "little") + struct.pack("<eeB", small, large, codes)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (listed((9, 5), 1.0, 2.0, 0b1000), "ascend"),
        (listed((5, 5), 1.0, 2.0, 0b1000), "ascend"),
        (listed((5, 16), 1.0, 2.0, 0b1000), "leave"),
        (listed((5, 4095), 1.0, 2.0, 0b1000), "leave"),
        (listed((5, 9), math.nan, 2.0, 0b1000), "NaN"),
        (listed((5, 9), 1.0, math.inf, 0b1000), "infinite"),
        (listed((5, 9), -1.0, 2.0, 0b1000), "negative"),
        (listed((5, 9), -0.0, 2.0, 0b1000), "negative"),
        (listed((5, 9), 2.0, 1.0, 0b1000), "order"),
        (listed((5, 9), 1.0, 2.0, 0b0000), "used"),
        (listed((5, 9), 1.0, 2.0, 0b1010), "used"),
        (listed((5, 9), 2.0, 2.0, 0b1000), "used"),
        (listed((5, 9), 0.0, 2.0, 0b1001), "sign"),
        (listed((5, 9), 0.0, 0.0, 0b0001), "sign"),
        (listed((5, 9), 1.0, 2.0, 0b11000), "not zero"),
    ],
)
def test_what_encode_cannot_have_made_is_malformed(payload: bytes, reason: str) -> None:
    codec = codec_of(CodecName.SPARSE512)
    assert len(payload) == codec.size(16)
    assert codec.decode(listed((5, 9), 1.0, 2.0, 0b1100), 16)[[5, 9]].tolist() == [1.0, -2.0]
    with pytest.raises(Malformed, match=reason):
        codec.decode(payload, 16)


def test_padding_of_indices_is_zero() -> None:
    payload = codec_of(CodecName.SPARSE64).encode(torch.ones(1))
    with pytest.raises(Malformed, match="not zero"):
        codec_of(CodecName.SPARSE64).decode(bytes([payload[0], payload[1] | 0x10]) + payload[2:], 1)


# --- facts about codecs -------------------------------------------------------------------------------------


def test_is_sparse_names_the_codecs_that_do_not_send_all_numbers() -> None:
    for name in CodecName:
        codec = codec_of(name)
        untouched = codec.decode(codec.encode(torch.ones(8192)), 8192).count_nonzero() == 8192
        assert is_sparse(name) == (not untouched)


def test_the_average_of_sparse_updates_may_have_more_numbers_than_an_update() -> None:
    results = {name: result_codec(name) for name in CodecName}
    assert {name for name, result in results.items() if result != name} == {
        CodecName.SPARSE64,
        CodecName.SPARSE128,
        CodecName.SPARSE256,
    }
    for name, result in results.items():
        assert bytes_per_parameter(result) <= 2 * bytes_per_parameter(name)
        assert is_sparse(result) == is_sparse(name)
        assert result_codec(result) in (result, results[result])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (CodecName.FP32, 4),
        (CodecName.BF16, 2),
        (CodecName.INT8, 1 + 2 / 256),
        (CodecName.INT4, 0.5 + 2 / 256),
        (CodecName.SPARSE64, (64 * 14 / 8 + 4) / 4096),
        (CodecName.SPARSE512, (512 * 14 / 8 + 4) / 4096),
    ],
)
def test_bytes_per_parameter_are_those_of_the_formula(name: CodecName, expected: float) -> None:
    assert bytes_per_parameter(name) == expected


def test_sparse64_is_146_times_smaller_than_fp32_but_for_its_sizes() -> None:
    """The published ratio of SparseLoCo counts 14 bits per kept number."""
    assert 4 / (bytes_per_parameter(CodecName.SPARSE64) - 4 / 4096) == pytest.approx(146.3, abs=0.05)


def test_without_a_shape_all_numbers_are_of_one_tensor() -> None:
    for name in SHARES:
        vector_N = heavy(9000, 4)
        assert codec_of(name).encode(vector_N) == codec_of(name, ONE_TENSOR).encode(vector_N)
        assert codec_of(name).encode(vector_N) == codec_of(name, Shape((9000,))).encode(vector_N)
