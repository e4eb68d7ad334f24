"""Rules of all codecs: exact lengths, bounded errors, equal bytes everywhere, no invalid payload passes."""

from __future__ import annotations

import math
import struct
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from averaging.codecs import Shape, codec_of, port
from averaging.codecs.dense import Float32
from averaging.codecs.quantised import LazyVector, Quantised
from swarm.errors import Malformed
from swarm.manifest import Codec as CodecName
from tests.averaging.bounds import allowed_error, assert_unmoved

LARGEST = 3.4028234663852886e38
ALL = pytest.mark.parametrize("name", list(CodecName))


def drawn(numbers: int, seed: int, magnitude: float) -> Tensor:
    """Return a vector as training makes them, in any order of magnitude that float32 has."""
    values = (
        torch.randn(numbers, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * magnitude
    )
    return values.clamp(-LARGEST, LARGEST).float()


values = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = st.one_of(
    st.lists(values, max_size=20).map(lambda found: torch.tensor(found, dtype=torch.float32)),
    st.builds(
        drawn,
        st.integers(0, 1500),
        st.integers(0, 99),
        st.integers(-46, 39).map(lambda exponent: 10.0**exponent),
    ),
    st.builds(lambda numbers, value: torch.full((numbers,), value), st.integers(0, 600), values),
)
check = settings(max_examples=150)


@st.composite
def shaped_vectors(draw: st.DrawFn) -> tuple[Tensor, Shape]:
    """Draw a vector, and tensors that it may consist of."""
    vector_N = draw(vectors)
    borders = sorted(draw(st.lists(st.integers(0, len(vector_N)), max_size=4)))
    pieces = tuple(after - before for before, after in pairwise([0, *borders, len(vector_N)]))
    return vector_N, Shape(pieces if draw(st.booleans()) else ())


# --- encode and decode --------------------------------------------------------------------------------------


@ALL
@check
@given(shaped=shaped_vectors())
def test_decoded_numbers_are_as_exact_as_documented(name: CodecName, shaped: tuple[Tensor, Shape]) -> None:
    vector_N, shape = shaped
    codec = codec_of(name, shape)
    expected_N = torch.full_like(vector_N, 7)
    out_N = torch.full_like(vector_N, 7)
    payload = codec.encode(vector_N, expected_N)
    decoded_N = codec.decode(payload, len(vector_N))
    assert payload == codec.encode(vector_N)
    assert codec.decode(payload, len(vector_N), out_N) is out_N
    assert torch.equal(decoded_N.view(torch.int32), expected_N.view(torch.int32)), (
        "encoding returns what decoding will read, bit for bit"
    )
    assert torch.equal(decoded_N.view(torch.int32), out_N.view(torch.int32))
    assert len(payload) == codec.size(len(vector_N))
    assert decoded_N.shape == vector_N.shape
    assert decoded_N.dtype == torch.float32
    assert bool(torch.isfinite(decoded_N).all())
    assert bool(((decoded_N.double() - vector_N.double()).abs() <= allowed_error(codec, vector_N)).all())


@ALL
@check
@given(shaped=shaped_vectors())
def test_what_a_codec_leaves_out_is_never_more_than_what_there_was(
    name: CodecName, shaped: tuple[Tensor, Shape]
) -> None:
    """Otherwise the residual would grow without end. Only rounding to the smallest float16 may add to it."""
    vector_N, shape = shaped
    codec = codec_of(name, shape)
    rest_N = vector_N.double() - codec.decode(codec.encode(vector_N), len(vector_N)).double()
    assert (
        float(rest_N.norm()) <= float(vector_N.double().norm()) * (1 + 1e-6) + 2.0**-24 * len(vector_N) ** 0.5
    )


@ALL
@check
@given(shaped=shaped_vectors())
def test_no_vector_is_shorter_than_the_least_norm_of_its_payload(
    name: CodecName, shaped: tuple[Tensor, Shape]
) -> None:
    vector_N, shape = shaped
    codec = codec_of(name, shape)
    payload = codec.encode(vector_N)
    decoded_N = codec.decode(payload, len(vector_N))
    least = codec.least_norm(payload, decoded_N)
    assert 0 <= least <= float(vector_N.double().norm()) * (1 + 1e-5)
    assert least <= float(decoded_N.double().norm()) * (1 + 1e-12)


@ALL
def test_the_least_norm_of_a_payload_is_near_what_was_encoded(name: CodecName) -> None:
    """Nobody hides much in the rounding."""
    vector_N = drawn(70_001, 3, 1e-3)
    codec = codec_of(name)
    payload = codec.encode(vector_N)
    decoded_N = codec.decode(payload, len(vector_N))
    room = {CodecName.INT4: 0.25, CodecName.INT8: 0.02}.get(name, 0.005)
    assert codec.least_norm(payload, decoded_N) >= float(decoded_N.norm()) * (1 - room)


@pytest.mark.parametrize(("name", "top"), [(CodecName.INT4, 7), (CodecName.INT8, 127)])
def test_a_huge_scale_with_few_numbers_in_each_block_is_seen_to_be_huge(name: CodecName, top: int) -> None:
    """Half a scale for all numbers would be more than such a vector is long."""
    vector_N = torch.zeros(2560)
    vector_N[::256] = top * 60000.0
    codec = codec_of(name)
    payload = codec.encode(vector_N)
    assert codec.least_norm(payload, codec.decode(payload, 2560)) > 0.9 * float(vector_N.norm())


@ALL
@pytest.mark.parametrize("numbers", [0, 1, 2, 255, 256, 257, 511, 65536, 65537, 131073])
def test_every_length_has_its_exact_size(name: CodecName, numbers: int) -> None:
    codec = codec_of(name)
    vector_N = drawn(numbers, 1, 1e-3)
    payload = codec.encode(vector_N)
    assert len(payload) == codec.size(numbers)
    assert len(codec.decode(payload, numbers)) == numbers


def test_sizes_are_those_of_the_wire_format() -> None:
    sizes = {
        name: [codec_of(name).size(numbers) for numbers in (0, 1, 256, 257, 1_000_003)] for name in CodecName
    }
    assert sizes == {
        CodecName.FP32: [0, 4, 1024, 1028, 4_000_012],
        CodecName.FP16: [0, 2, 512, 514, 2_000_006],
        CodecName.INT8: [0, 3, 258, 261, 1_007_817],
        CodecName.INT4: [0, 3, 130, 133, 507_816],
        CodecName.BF16: [0, 2, 512, 514, 2_000_006],
        CodecName.SPARSE64: [0, 7, 11, 14, 28_326],
        CodecName.SPARSE128: [0, 7, 18, 21, 55_670],
        CodecName.SPARSE256: [0, 7, 32, 35, 110_358],
        CodecName.SPARSE512: [0, 7, 60, 63, 219_733],
    }


def test_the_bytes_are_the_same_in_every_release() -> None:
    vector_N = torch.tensor([0.0, 7.0, -7.0, 3.4, -0.6])
    assert codec_of(CodecName.INT4).encode(vector_N) == bytes.fromhex("003cf8b107")
    assert codec_of(CodecName.INT8).encode(vector_N) == bytes.fromhex("0f2b80ff01be75")
    assert codec_of(CodecName.FP16).encode(vector_N) == bytes.fromhex("0000004700c7cd42cdb8")
    assert codec_of(CodecName.BF16).encode(vector_N) == bytes.fromhex("0000e040e0c05a401abf")
    assert codec_of(CodecName.FP32).encode(vector_N[:2]) == bytes.fromhex("000000000000e040")


def test_float32_is_exact_and_keeps_the_sign_of_zero() -> None:
    vector_N = torch.tensor([-0.0, 1e-45, -1e-38, 1.0, 2.0**100, -(2.0**100)])
    payload = Float32().encode(vector_N)
    assert payload == struct.pack("<6f", *vector_N.tolist())
    assert torch.equal(Float32().decode(payload, 6), vector_N)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        (CodecName.FP32, 2.0**100),
        (CodecName.FP16, 65504.0),
        (CodecName.BF16, 2.0**100),
        (CodecName.INT4, 65504.0 * 7),
    ],
)
def test_a_number_beyond_the_limit_decodes_to_the_limit(name: CodecName, most: float) -> None:
    codec = codec_of(name)
    assert codec.decode(codec.encode(torch.tensor([LARGEST, -LARGEST, 0.0])), 3).tolist() == [
        most,
        -most,
        0.0,
    ]


@pytest.mark.parametrize("name", [CodecName.INT8, CodecName.INT4])
def test_zeros_and_blocks_far_below_the_smallest_scale_decode_to_zeros(name: CodecName) -> None:
    codec = codec_of(name)
    for value in (0.0, -0.0, 1e-45, -1e-9):
        assert codec.decode(codec.encode(torch.full((300,), value)), 300).tolist() == [0.0] * 300


@pytest.mark.parametrize("name", [CodecName.INT8, CodecName.INT4])
def test_a_block_of_large_numbers_takes_no_precision_from_another(name: CodecName) -> None:
    codec = codec_of(name)
    quiet_N = drawn(256, 3, 1e-4)
    both_N = torch.cat([drawn(256, 4, 1e4), quiet_N])
    assert torch.equal(
        codec.decode(codec.encode(both_N), 512)[256:], codec.decode(codec.encode(quiet_N), 256)
    )


@pytest.mark.parametrize("name", [CodecName.INT8, CodecName.INT4])
@check
@given(vector_N=vectors)
def test_the_scale_always_reaches_the_largest_number(name: CodecName, vector_N: Tensor) -> None:
    codec = codec_of(name)
    assert isinstance(codec, Quantised)
    first_N = vector_N[: codec.block]
    (scale,) = struct.unpack_from("<e", codec.encode(first_N) or bytes(2))
    peak = float(first_N.abs().max()) if len(first_N) else 0.0
    assert scale * codec.top >= min(peak, 65504.0 * codec.top)
    assert scale == 0 or scale * codec.top <= max(peak * (1 + 2.0**-10), peak + codec.top * 2.0**-24)


# --- the same bytes everywhere ------------------------------------------------------------------------------


@ALL
def test_the_bytes_depend_neither_on_threads_nor_on_memory_layout(name: CodecName, threads: None) -> None:
    codec = codec_of(name)
    vector_N = drawn(200_001, 5, 1e-3)
    torch.set_num_threads(1)
    payload = codec.encode(vector_N)
    decoded_N = codec.decode(payload, len(vector_N))
    torch.set_num_threads(2)
    strided_N = torch.stack([vector_N, vector_N], dim=1)[:, 0]
    assert codec.encode(vector_N) == codec.encode(strided_N) == payload
    assert torch.equal(codec.decode(payload, len(vector_N)), decoded_N)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("numbers", [0, 1, 255, 256, 70_001])
def test_norm_and_remainder_are_those_of_the_decoded_numbers(
    bits: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "PIECE", 1024)
    codec = Quantised(bits)
    vector_N = drawn(numbers, 3, 1e-3)
    payload, norm = codec.encode_with_norm(vector_N)
    read_N = codec.decode(payload, numbers)
    assert payload == codec.encode(vector_N)
    assert norm == pytest.approx(float(read_N.to(torch.float64).norm()), rel=1e-6)
    rest_N = vector_N.clone()
    codec.subtract(payload, rest_N)
    assert torch.equal(rest_N, vector_N - read_N)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("start", "stop"), [(0, 256), (256, 768), (512, 1001), (768, 1000), (0, 1001), (0, 0)]
)
def test_a_piece_of_a_lazy_vector_is_that_piece_of_the_decoded_one(bits: int, start: int, stop: int) -> None:
    codec = Quantised(bits)
    vector_N = drawn(1001, 4, 1e-3)
    payload = codec.encode(vector_N)
    lazy = LazyVector(codec, payload, 1001)
    assert len(lazy) == 1001
    assert torch.equal(lazy[start:stop], codec.decode(payload, 1001)[start:stop])


@pytest.mark.parametrize("bits", [4, 8])
def test_a_lazy_vector_refuses_a_bad_scale_at_once_and_a_bad_code_with_its_piece(bits: int) -> None:
    codec = Quantised(bits)
    payload = bytearray(codec.encode(drawn(1000, 5, 1e-3)))
    with pytest.raises(Malformed, match="bytes came"):
        LazyVector(codec, payload[:-1], 1000)
    payload[8 + 700 * bits // 8] = 0  # after the scales of four blocks
    lazy = LazyVector(codec, payload, 1000)
    assert len(lazy[0:512]) == 512
    with pytest.raises(Malformed, match="a code is zero"):
        lazy[512:1000]
    payload[1] = 0xFC
    with pytest.raises(Malformed, match="a scale"):
        LazyVector(codec, payload, 1000)


@pytest.mark.parametrize("name", [CodecName.INT8, CodecName.INT4])
@pytest.mark.parametrize("piece", [1, 256, 1000, 1 << 30])
def test_the_bytes_do_not_depend_on_the_size_of_pieces(
    name: CodecName, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_unmoved(codec_of(name), drawn(70_001, 6, 1e-3), lambda: monkeypatch.setattr(port, "PIECE", piece))


@ALL
def test_decoded_numbers_may_be_changed(name: CodecName) -> None:
    codec = codec_of(name)
    payload = codec.encode(torch.ones(300))
    decoded_N = codec.decode(payload, 300)
    before_N = decoded_N.clone()
    decoded_N.add_(1)
    assert torch.equal(codec.decode(payload, 300), before_N)


# --- invalid input ------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 300, 99_999])
def test_nan_and_infinity_never_leave_this_peer(name: CodecName, bad: float, place: int) -> None:
    vector_N = torch.zeros(100_000)
    vector_N[place] = bad
    with pytest.raises(ValueError, match="NaN"):
        codec_of(name).encode(vector_N)


@ALL
def test_only_one_axis_of_float32_is_taken(name: CodecName) -> None:
    for wrong in (torch.zeros(2, 2), torch.zeros(3, dtype=torch.float64), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="float32"):
            codec_of(name).encode(wrong)


@pytest.mark.parametrize(("bits", "block"), [(3, 256), (4, 0), (4, 3), (16, 256)])
def test_other_widths_and_odd_blocks_are_refused(bits: int, block: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        Quantised(bits, block)


# --- invalid payloads ---------------------------------------------------------------------------------------


@ALL
@check
@given(data=st.data(), numbers=st.integers(0, 700))
def test_any_bytes_of_the_right_length_are_finite_numbers_or_malformed(
    name: CodecName, data: st.DataObject, numbers: int
) -> None:
    codec = codec_of(name)
    mutated = bytearray(codec.encode(drawn(numbers, 8, 1e-2)))
    edits = st.lists(st.tuples(st.integers(0, max(0, len(mutated) - 1)), st.integers(0, 255)), max_size=8)
    for place, byte in data.draw(edits) if mutated else []:
        mutated[place] = byte
    try:
        decoded_N = codec.decode(bytes(mutated), numbers)
    except Malformed:
        return
    assert decoded_N.shape == (numbers,)
    assert bool(torch.isfinite(decoded_N).all())
    assert math.isfinite(float((decoded_N * 256).abs().sum(dtype=torch.float64)))


@ALL
@check
@given(raw=st.binary(max_size=600), numbers=st.integers(0, 1000))
def test_a_wrong_length_is_malformed(name: CodecName, raw: bytes, numbers: int) -> None:
    codec = codec_of(name)
    if len(raw) == codec.size(numbers):
        raw += b"\0"
    with pytest.raises(Malformed):
        codec.decode(raw, numbers)


@pytest.mark.parametrize(
    ("name", "payload", "numbers"),
    [
        (CodecName.FP32, struct.pack("<f", math.nan), 1),
        (CodecName.FP32, struct.pack("<2f", 1.0, -math.inf), 2),
        (CodecName.FP32, struct.pack("<f", 2.0**101), 1),
        (CodecName.FP16, struct.pack("<e", math.nan), 1),
        (CodecName.FP16, struct.pack("<e", math.inf), 1),
        (CodecName.BF16, bytes.fromhex("c07f"), 1),
        (CodecName.BF16, bytes.fromhex("80ff"), 1),
        (CodecName.BF16, bytes.fromhex("0072"), 1),
        (CodecName.INT8, struct.pack("<eB", math.inf, 128), 1),
        (CodecName.INT8, struct.pack("<eB", -1.0, 128), 1),
        (CodecName.INT8, struct.pack("<eB", -0.0, 128), 1),
        (CodecName.INT8, struct.pack("<eB", 1.0, 0), 1),
        (CodecName.INT4, struct.pack("<eB", math.nan, 0x88), 2),
        (CodecName.INT4, struct.pack("<eB", 1.0, 0x08), 2),
        (CodecName.INT4, struct.pack("<eB", 1.0, 0x80), 2),
        (CodecName.INT4, struct.pack("<eB", 1.0, 0x18), 1),
    ],
)
def test_what_encode_cannot_have_made_is_malformed(name: CodecName, payload: bytes, numbers: int) -> None:
    assert len(payload) == codec_of(name).size(numbers)
    with pytest.raises(Malformed):
        codec_of(name).decode(payload, numbers)
