"""Rules of the reduction: the same bits on every member, and a verdict for any bytes that were sent."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from averaging.codecs import LazyVector, codec_of, is_sparse, result_codec
from averaging.one_pass import norm
from averaging.partition import Part, plan
from averaging.reduce import (
    Checked,
    CheckPart,
    CheckResult,
    DecodeResults,
    EncodeParts,
    ReducePart,
    Share,
    decode_or_defer,
    digest,
    weighted_sum,
)
from averaging.robust import Claim, coefficients, longest
from swarm.identity import PeerId
from swarm.manifest import Codec

ALICE = PeerId("alice")
BOB = PeerId("bob")
ALL = pytest.mark.parametrize("codec", list(Codec))


def drawn(numbers: int, seed: int) -> Tensor:
    return torch.randn(numbers, generator=torch.Generator().manual_seed(seed)) * 1e-3


def single(value: float) -> float:
    """Return ``value`` as the nearest float32."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# --- the sum ------------------------------------------------------------------------------------------------


def test_threads_and_pieces_change_no_bit_of_the_sum(threads: None) -> None:
    vectors = [drawn(300_007, seed) for seed in range(7)]
    shares = coefficients(
        [Claim(1 + seed, norm(vector), norm(vector)) for seed, vector in enumerate(vectors)]
    )
    sums = []
    for count in (1, 2):
        torch.set_num_threads(count)
        sums += [weighted_sum(vectors, shares, piece=piece) for piece in (257, 4096, 100_000, 1 << 20)]
    assert len({digest(total.numpy().tobytes()) for total in sums}) == 1


numbers32 = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=150)
@given(st.lists(st.tuples(numbers32, st.floats(0, 1, width=32)), min_size=1, max_size=9))
def test_every_product_and_every_sum_is_rounded_once_in_the_order_given(
    terms: list[tuple[float, float]],
) -> None:
    expected = 0.0
    for value, share in terms:
        expected = single(expected + single(value * share))
    found = weighted_sum([torch.tensor([value] * 20) for value, _ in terms], [share for _, share in terms])
    assert found.tolist() == [expected] * 20


def test_a_fused_multiply_add_would_be_noticed() -> None:
    value = 1 + 2.0**-12
    share = 0.5 + 2.0**-13
    start = -0.5 - 2.0**-12
    fused = float(Fraction(value) * Fraction(share) + Fraction(start))
    assert fused == 2.0**-25
    assert (
        weighted_sum([torch.full((64,), start), torch.full((64,), value)], [1.0, share]).tolist()
        == [0.0] * 64
    )


def test_the_sum_leaves_its_vectors_as_they_were() -> None:
    vectors = [drawn(1000, 1), drawn(1000, 2)]
    before = [vector.clone() for vector in vectors]
    weighted_sum(vectors, [0.5, 0.5]).zero_()
    assert all(torch.equal(vector, copy) for vector, copy in zip(vectors, before, strict=True))


def test_on_piece_is_called_with_each_piece_of_the_sum_once_it_is_done() -> None:
    vectors = [drawn(1000, 1), drawn(1000, 2)]
    seen = torch.zeros(1000)
    out_N = torch.full((1000,), math.nan)

    def note(here: slice) -> None:
        seen[here] += out_N[here]

    total_N = weighted_sum(vectors, [0.25, 0.75], piece=300, out_N=out_N, on_piece=note)
    assert total_N is out_N
    assert torch.equal(seen, total_N)


@pytest.mark.parametrize("name", [Codec.INT8, Codec.INT4])
def test_lazy_vectors_have_the_same_sum_as_decoded_ones(name: Codec) -> None:
    part = Part(0, 0, 70_001, ALICE)
    codec = codec_of(name)
    payloads = [codec.encode(drawn(70_001, seed)) for seed in range(3)]
    lazy = [decode_or_defer(payload, part, name) for payload in payloads]
    assert all(isinstance(vector, LazyVector) for vector in lazy)
    decoded = [codec.decode(payload, 70_001) for payload in payloads]
    found = weighted_sum(lazy, [0.5, 0.25, 0.25], piece=1024)
    assert torch.equal(found, weighted_sum(decoded, [0.5, 0.25, 0.25]))


@pytest.mark.parametrize(
    ("vectors", "shares"),
    [
        ([], []),
        ([torch.zeros(2)], []),
        ([torch.zeros(2)], [0.5, 0.5]),
        ([torch.zeros(2), torch.zeros(1)], [0.5, 0.5]),
    ],
)
def test_a_sum_without_sense_is_refused(vectors: list[Tensor], shares: list[float]) -> None:
    with pytest.raises(ValueError, match=r"sum|argument|zip"):
        weighted_sum(vectors, shares)


# --- the jobs -----------------------------------------------------------------------------------------------


@ALL
def test_a_round_of_honest_members_ends_near_the_mean_on_every_member(codec: Codec) -> None:
    numbers = 5000
    members = [ALICE, BOB, PeerId("carol")]
    updates = [drawn(numbers, seed) for seed in range(3)]
    parts = plan(numbers, members)
    sent = [EncodeParts(update, parts, codec).run() for update in updates]
    norms = [math.hypot(*(part.norm for part in encoded)) for encoded in sent]
    average_P = torch.full((numbers,), math.nan)
    results: list[tuple[Part, Tensor]] = []
    for part in parts:
        mine = [encoded[part.index] for encoded in sent]
        for member, one in zip(members, mine, strict=True):
            assert CheckPart(member, part, one.payload, one.hash, one.norm, codec).run() == Checked(
                member, part.index, True
            )
        shares = coefficients([Claim(1, whole, one.norm) for whole, one in zip(norms, mine, strict=True)])
        job = ReducePart(
            part,
            tuple(Share(one.payload, codec, share) for one, share in zip(mine, shares, strict=True)),
            codec,
        )
        reduced = job.run()
        assert replace(job).run() == reduced
        # two are put where they belong, one is not
        out_N = average_P[part.start : part.stop] if part.index else None
        verdict = CheckResult(part, reduced.payload, reduced.hash, codec, out_N=out_N).run()
        assert verdict == Checked(part.owner, part.index, True)
        assert verdict.vector_N is not None
        assert reduced.vector_N is not None
        assert torch.equal(verdict.vector_N, reduced.vector_N)
        results.append((part, verdict.vector_N))
    assert DecodeResults(tuple(results), average_P).run() is average_P
    exact_P = torch.stack(updates).mean(0)
    assert float((average_P - exact_P).norm() / exact_P.norm()) < (
        1.0 if is_sparse(codec) else {Codec.INT4: 0.3}.get(codec, 0.06)
    )


def test_float32_is_sent_and_summed_without_a_copy() -> None:
    part = plan(5000, [ALICE])[0]
    vector = drawn(5000, 1)
    (sent,) = EncodeParts(vector, (part,), Codec.FP32).run()
    assert np.shares_memory(np.frombuffer(sent.payload, np.uint8), vector.numpy())
    came = bytearray(sent.payload)
    verdict = CheckPart(ALICE, part, came, sent.hash, sent.norm, Codec.FP32).run()
    assert verdict.ok
    assert verdict.vector_N is not None
    assert np.shares_memory(np.frombuffer(came, np.uint8), verdict.vector_N.numpy())
    assert torch.equal(verdict.vector_N, vector)


@pytest.mark.parametrize("holds", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -(2.0**101)])
def test_a_float32_out_of_range_is_found_whatever_holds_the_bytes(holds: type, wrong: float) -> None:
    part = plan(5000, [ALICE])[0]
    vector = drawn(5000, 1)
    vector[4321] = wrong
    payload = holds(vector.numpy().tobytes())
    verdict = CheckPart(ALICE, part, payload, digest(payload), norm(vector), Codec.FP32).run()
    assert verdict == Checked(ALICE, 0, False, "a value is NaN, infinite or out of range")
    verdict = CheckResult(part, payload, digest(payload), Codec.FP32).run()
    assert verdict == Checked(ALICE, 0, False, "a value is NaN, infinite or out of range")


def test_a_large_but_honest_float32_is_taken() -> None:
    part = plan(5000, [ALICE])[0]
    vector = torch.full((5000,), 2.0**99)
    (sent,) = EncodeParts(vector, (part,), Codec.FP32).run()
    verdict = CheckPart(ALICE, part, bytearray(sent.payload), sent.hash, sent.norm, Codec.FP32).run()
    assert verdict.ok
    assert torch.equal(verdict.vector_N, vector)


def test_what_was_not_applied_is_zero() -> None:
    parts = plan(1000, [ALICE, BOB])
    applied = ((parts[1], torch.ones(parts[1].numbers)),)
    average_P = DecodeResults(applied, torch.full((1000,), math.nan)).run()
    assert average_P.tolist() == [0.0] * parts[0].numbers + [1.0] * parts[1].numbers
    assert DecodeResults((), torch.full((1000,), math.nan)).run().tolist() == [0.0] * 1000


@ALL
def test_the_norm_of_an_encoded_part_is_that_of_the_decoded_numbers(codec: Codec) -> None:
    parts = plan(3001, [ALICE, BOB])
    for part, encoded in zip(parts, EncodeParts(drawn(3001, 4), parts, codec).run(), strict=True):
        assert encoded.hash == digest(encoded.payload)
        assert encoded.norm == pytest.approx(
            norm(codec_of(codec).decode(encoded.payload, part.numbers)), rel=2e-5
        )


def honest_check(codec: Codec = Codec.INT4) -> CheckPart:
    part = Part(3, 256, 1000, BOB)
    (encoded,) = EncodeParts(drawn(1000, 5), (part,), codec).run()
    return CheckPart(ALICE, part, encoded.payload, encoded.hash, encoded.norm, codec)


def test_other_bytes_than_the_committed_ones_are_named() -> None:
    job = honest_check()
    verdict = replace(job, payload=bytes(len(job.payload))).run()
    assert (verdict.sender, verdict.part_index, verdict.ok) == (ALICE, 3, False)
    assert "hash" in verdict.reason


@ALL
@pytest.mark.parametrize("payload", [b"", b"\xff" * 3000])
def test_committed_bytes_that_are_no_numbers_are_named_and_raise_nothing(
    codec: Codec, payload: bytes
) -> None:
    job = replace(honest_check(codec), payload=payload, hash=digest(payload))
    assert not job.run().ok
    assert job.run().reason
    assert not CheckResult(job.part, payload, job.hash, codec).run().ok


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9998, 1.0002, 1e6, math.inf, math.nan, -1.0])
def test_a_committed_norm_that_is_not_the_measured_one_is_named(factor: float) -> None:
    job = honest_check()
    verdict = replace(job, norm=job.norm * factor).run()
    assert not verdict.ok
    assert "norm" in verdict.reason


@pytest.mark.parametrize("factor", [0.99995, 1.0, 1.00005])
def test_a_norm_that_another_machine_summed_differently_is_honest(factor: float) -> None:
    job = honest_check()
    assert replace(job, norm=job.norm * factor).run().ok


def test_an_update_of_zeros_has_norm_zero_and_is_honest() -> None:
    part = Part(0, 0, 300, BOB)
    (encoded,) = EncodeParts(torch.zeros(300), (part,), Codec.INT4).run()
    assert encoded.norm == 0.0
    assert CheckPart(ALICE, part, encoded.payload, encoded.hash, 0.0, Codec.INT4).run().ok
    assert not CheckPart(ALICE, part, encoded.payload, encoded.hash, 1e-9, Codec.INT4).run().ok


def test_the_largest_updates_there_are_still_have_a_finite_average() -> None:
    part = Part(0, 0, 8, BOB)
    payload = codec_of(Codec.FP32).encode(torch.full((8,), 3e38))
    reduced = ReducePart(part, (Share(payload, Codec.FP32, 1.0),) * 256, Codec.FP32).run()
    assert CheckResult(part, reduced.payload, reduced.hash, Codec.FP32).run().ok


# --- how long a result may be -------------------------------------------------------------------------------

HALF_LIMIT = 65504.0


def updates_of_a_round(seed: int, members: int, numbers: int, agreement: float, size: float) -> list[Tensor]:
    """Updates that point partly the same way: not at all for an ``agreement`` of 0, exactly for 1."""
    noise = torch.Generator().manual_seed(seed)
    common_N = torch.randn(numbers, generator=noise)
    common_N[torch.rand(numbers, generator=noise) < 0.3] = 0
    sizes = torch.rand(members, generator=noise) * 3
    own = [torch.randn(numbers, generator=noise) for _ in range(members)]
    mixed = [agreement * common_N + (1 - agreement) * own_N for own_N in own]
    return [float(its_size) * size * vector_N for its_size, vector_N in zip(sizes, mixed, strict=True)]


def checked_result(
    updates: list[Tensor], codec: Codec, factor: float = 1.0, *, room: float = 1.0
) -> tuple[Checked, float]:
    """What a member says of the average of ``updates`` times ``factor``; and its length, relative to what the
    commits allow."""
    part = Part(0, 0, len(updates[0]), BOB)
    sent = [EncodeParts(update_N, (part,), codec).run()[0] for update_N in updates]
    claims = [Claim(1 + seat, one.norm, one.norm) for seat, one in enumerate(sent)]
    shares = tuple(
        Share(one.payload, codec, single(factor * count))
        for one, count in zip(sent, coefficients(claims), strict=True)
    )
    reduced = ReducePart(part, shares, result_codec(codec)).run()
    most = longest(claims)
    verdict = CheckResult(part, reduced.payload, reduced.hash, result_codec(codec), most=room * most).run()
    assert reduced.vector_N is not None
    return verdict, norm(reduced.vector_N) / most if most else 0.0


@ALL
@settings(max_examples=60)
@given(
    seed=st.integers(0, 1 << 30),
    members=st.integers(1, 9),
    numbers=st.sampled_from([1, 2, 255, 256, 700, 5000]),
    agreement=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    size=st.sampled_from([0.0, 1e-45, 1e-38, 2.0**-25, 1e-7, 1e-3, 1.0, 1e4, 1e9]),
)
def test_an_honest_result_is_never_too_long(
    codec: Codec, seed: int, members: int, numbers: int, agreement: float, size: float
) -> None:
    verdict, _ = checked_result(updates_of_a_round(seed, members, numbers, agreement, size), codec)
    assert verdict.ok, verdict.reason


@ALL
@pytest.mark.parametrize("factor", [3.0, 100.0, 1e6])
def test_a_result_that_is_longer_than_the_commits_allow_is_not_taken(codec: Codec, factor: float) -> None:
    verdict, length = checked_result(updates_of_a_round(1, 5, 5000, 0.9, 1e-3), codec, factor)
    assert length > 1.5
    assert not verdict.ok
    assert "the commits allow" in verdict.reason


@ALL
def test_rounding_leaves_no_room_for_a_lie(codec: Codec) -> None:
    """All updates are equal, so that the honest average is as long as it may be."""
    updates = [drawn(5000, 1)] * 5
    assert checked_result(updates, codec)[0].ok
    assert not checked_result(updates, codec, 1.25)[0].ok


@ALL
def test_no_payload_that_decodes_makes_a_long_result(codec: Codec) -> None:
    """Of the largest scales and magnitudes that the codec has, a few numbers in each block."""
    part = Part(0, 0, 4096, BOB)
    vector_N = torch.zeros(4096)
    vector_N[::256] = HALF_LIMIT
    (encoded,) = EncodeParts(vector_N, (part,), codec).run()
    job = CheckResult(part, encoded.payload, encoded.hash, codec, most=1.0)
    assert not job.run().ok
    assert replace(job, most=math.inf).run().ok, "what more than two thirds hold is not measured"


def test_an_average_of_zeros_is_not_too_long() -> None:
    assert checked_result([torch.zeros(300)] * 3, Codec.INT4)[0].ok
    assert not checked_result([drawn(300, 1)] * 3, Codec.INT4, room=0.0)[0].ok


def test_jobs_are_equal_by_value_and_those_with_tensors_by_identity() -> None:
    vector_P = torch.zeros(512)
    parts = plan(512, [ALICE, BOB])
    assert honest_check() == honest_check()
    assert EncodeParts(vector_P, parts, Codec.INT4) == EncodeParts(vector_P, parts, Codec.INT4)
    assert hash(EncodeParts(vector_P, parts, Codec.INT4)) == hash(EncodeParts(vector_P, parts, Codec.INT4))
    assert EncodeParts(vector_P, parts, Codec.INT4) != EncodeParts(vector_P.clone(), parts, Codec.INT4)
    assert EncodeParts(vector_P, parts, Codec.INT4) != EncodeParts(vector_P, parts, Codec.INT8)
    assert EncodeParts(vector_P, parts, Codec.INT4) != honest_check()
