"""Rules of the residual: every part of an update is applied now or later, and never lost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from averaging.codecs import codec_of
from averaging.feedback import ErrorFeedback, Settle
from averaging.partition import plan
from averaging.reduce import EncodeParts
from swarm.errors import Malformed
from swarm.identity import PeerId
from swarm.manifest import Codec

OWNERS = [PeerId(name) for name in ("alice", "bob", "carol")]
NUMBERS = 700
PARTS = plan(NUMBERS, OWNERS)


def drawn(seed: int, magnitude: float = 1e-2) -> Tensor:
    return torch.randn(NUMBERS, generator=torch.Generator().manual_seed(seed)) * magnitude


def whole(seed: int) -> Tensor:
    """Return an update of small integers, of which neither float32 nor the codec fp32 rounds any."""
    return torch.randint(-1000, 1000, (NUMBERS,), generator=torch.Generator().manual_seed(seed)).float()


def encoded(sent_P: Tensor, codec: Codec) -> tuple[bytes, ...]:
    return tuple(part.payload for part in EncodeParts(sent_P, PARTS, codec).run())


def decoded(payloads: tuple[bytes, ...], applied: tuple[bool, ...], codec: Codec) -> Tensor:
    """Return what the group applied of our update."""
    applied_P = torch.zeros(NUMBERS)
    for part, payload, was in zip(PARTS, payloads, applied, strict=True):
        if was:
            applied_P[part.start : part.stop] = codec_of(codec).decode(payload, part.numbers)
    return applied_P


check = settings(max_examples=60)
histories = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=8)


@check
@given(histories, st.sampled_from(list(Codec)))
def test_with_any_codec_what_was_applied_and_the_residual_add_up_to_all_updates(
    history: list[tuple[bool, bool, bool]], codec: Codec
) -> None:
    feedback = ErrorFeedback(NUMBERS)
    total_P = torch.zeros(NUMBERS).double()
    applied_P = torch.zeros(NUMBERS).double()
    for seed, applied in enumerate(history):
        update_P = whole(seed)
        sent_P = feedback.to_send(update_P)
        payloads = encoded(sent_P, codec)
        feedback.settle(Settle(sent_P, payloads, PARTS, applied, codec))
        total_P += update_P
        applied_P += decoded(payloads, applied, codec)
    missing_P = total_P - applied_P
    assert torch.allclose(feedback.residual.double(), missing_P, rtol=0, atol=1e-2)


@check
@given(histories)
def test_with_exact_numbers_they_add_up_to_the_last_bit(history: list[tuple[bool, bool, bool]]) -> None:
    feedback = ErrorFeedback(NUMBERS)
    total_P = torch.zeros(NUMBERS)
    applied_P = torch.zeros(NUMBERS)
    for seed, applied in enumerate(history):
        sent_P = feedback.to_send(whole(seed))
        payloads = encoded(sent_P, Codec.FP32)
        feedback.settle(Settle(sent_P, payloads, PARTS, applied, Codec.FP32))
        total_P += whole(seed)
        applied_P += decoded(payloads, applied, Codec.FP32)
    assert torch.equal(feedback.residual + applied_P, total_P)


def test_the_residual_of_a_part_that_was_not_applied_is_all_of_it_and_of_an_applied_one_its_rounding() -> (
    None
):
    feedback = ErrorFeedback(NUMBERS)
    sent_P = drawn(1)
    payloads = encoded(sent_P, Codec.INT4)
    feedback.settle(Settle(sent_P, payloads, PARTS, (True, False, True), Codec.INT4))
    missed = slice(PARTS[1].start, PARTS[1].stop)
    applied = slice(PARTS[0].start, PARTS[0].stop)
    assert torch.equal(feedback.residual[missed], sent_P[missed])
    assert torch.equal(
        feedback.residual[applied],
        sent_P[applied] - codec_of(Codec.INT4).decode(payloads[0], PARTS[0].numbers),
    )
    assert 0 < feedback.residual[applied].norm() < 0.3 * sent_P[applied].norm()


def test_without_parts_the_residual_is_everything() -> None:
    feedback = ErrorFeedback(NUMBERS)
    sent_P = drawn(1)
    feedback.settle(Settle(sent_P, (), (), (), Codec.INT4))
    assert torch.equal(feedback.residual, sent_P)


def test_carried_changes_no_state_however_often_it_is_called() -> None:
    feedback = ErrorFeedback(NUMBERS)
    feedback.adopt(drawn(1))
    first_P = feedback.to_send(drawn(2))
    again_P = feedback.to_send(drawn(2))
    first_P.zero_()
    assert torch.equal(again_P, drawn(2) + drawn(1))
    assert torch.equal(feedback.residual, drawn(1))


def test_a_settle_that_fails_leaves_the_residual_as_it_was() -> None:
    feedback = ErrorFeedback(NUMBERS)
    feedback.adopt(drawn(1))
    sent_P = feedback.to_send(drawn(2))
    payloads = (*encoded(sent_P, Codec.INT4)[:2], b"cut short")
    with pytest.raises(Malformed):
        feedback.settle(Settle(sent_P, payloads, PARTS, (True, True, True), Codec.INT4))
    with pytest.raises(ValueError, match="zip"):
        feedback.settle(Settle(sent_P, payloads, PARTS, (True,), Codec.INT4))
    assert torch.equal(feedback.residual, drawn(1))
    assert torch.equal(sent_P, drawn(2) + drawn(1))


def test_the_job_computes_what_settle_keeps_and_does_not_write_to_what_was_sent() -> None:
    feedback = ErrorFeedback(NUMBERS)
    sent_P = drawn(3)
    job = Settle(sent_P, encoded(sent_P, Codec.INT8), PARTS, (True, True, False), Codec.INT8)
    residual_P = job.run()
    feedback.settle(job)
    assert torch.equal(feedback.residual, residual_P)
    assert torch.equal(sent_P, drawn(3))
    assert job == Settle(sent_P, job.encoded, PARTS, job.applied, Codec.INT8)
    assert hash(job) == hash(Settle(sent_P, job.encoded, PARTS, job.applied, Codec.INT8))
    assert job != Settle(sent_P.clone(), job.encoded, PARTS, job.applied, Codec.INT8)


def test_the_residual_is_written_over_what_was_decoded_if_that_is_one_vector() -> None:
    for codec, is_one in ((Codec.FP16, True), (Codec.FP32, False)):
        feedback = ErrorFeedback(NUMBERS)
        sent_P = drawn(3)
        made = EncodeParts(sent_P, PARTS, codec).run()
        payloads = tuple(part.payload for part in made)
        decoded = tuple(part.vector_N for part in made)
        job = Settle(sent_P, payloads, PARTS, (True, True, False), codec, 0.5, decoded)
        assert (
            Settle(
                sent_P, payloads, PARTS, job.applied, codec, 0.5, tuple(each.clone() for each in decoded)
            ).decoded_P
            is None
        )
        assert (job.decoded_P is not None) == is_one
        expected_P = Settle(sent_P, payloads, PARTS, job.applied, codec, 0.5).run()
        feedback.settle(job)
        assert torch.equal(feedback.residual, expected_P)
        assert torch.equal(sent_P, drawn(3)), "what may still be sent is never written to"
        assert (feedback.residual.data_ptr() == decoded[0].data_ptr()) == is_one


@pytest.mark.parametrize(("codec", "vectors"), [(Codec.FP16, 3), (Codec.INT8, 2), (Codec.INT4, 2)])
def test_a_few_vectors_are_enough_for_any_number_of_rounds(codec: Codec, vectors: int) -> None:
    feedback = ErrorFeedback(NUMBERS)
    expected = ErrorFeedback(NUMBERS)
    addresses = set()
    for seed in range(8):
        update_P = drawn(seed)
        applied = (True, seed % 3 > 0, True)
        sent_P = feedback.to_send(update_P)
        made = EncodeParts(sent_P, PARTS, codec, feedback.take_scratch() if vectors == 3 else None).run()
        payloads = tuple(part.payload for part in made)
        read = tuple(part.vector_N for part in made)
        feedback.settle(Settle(sent_P, payloads, PARTS, applied, codec, 1.0, read))
        expected.settle(Settle(expected.to_send(drawn(seed)), payloads, PARTS, applied, codec))
        assert torch.equal(feedback.residual, expected.residual)
        assert torch.equal(update_P, drawn(seed)), "the update belongs to the caller"
        addresses |= {sent_P.data_ptr(), feedback.residual.data_ptr()} - {update_P.data_ptr()}
    assert len(addresses) == vectors


def test_what_may_still_be_sent_is_no_scratch_buffer() -> None:
    feedback = ErrorFeedback(NUMBERS)
    feedback.adopt(drawn(1))
    sent_P = feedback.to_send(drawn(2))
    made = EncodeParts(sent_P, PARTS, Codec.FP32).run()
    read = tuple(part.vector_N for part in made)
    feedback.settle(
        Settle(
            sent_P, tuple(part.payload for part in made), PARTS, (True, False, True), Codec.FP32, 1.0, read
        )
    )
    buffers = [buffer for buffer in (feedback.take_scratch(), feedback.take_scratch()) if buffer is not None]
    assert sent_P.data_ptr() not in {buffer.data_ptr() for buffer in buffers}


def test_coarse_codes_with_feedback_deliver_a_constant_update_in_the_long_run() -> None:
    feedback = ErrorFeedback(NUMBERS)
    update_P = drawn(4)
    applied_P = torch.zeros(NUMBERS)
    for _ in range(50):
        sent_P = feedback.to_send(update_P)
        payloads = encoded(sent_P, Codec.INT4)
        feedback.settle(Settle(sent_P, payloads, PARTS, (True, True, True), Codec.INT4))
        applied_P += decoded(payloads, (True, True, True), Codec.INT4)
    once_P = decoded(encoded(update_P, Codec.INT4), (True, True, True), Codec.INT4)
    assert (applied_P / 50 - update_P).norm() < 0.1 * (once_P - update_P).norm()


def test_reset_sets_the_residual_to_zero() -> None:
    feedback = ErrorFeedback(NUMBERS)
    feedback.adopt(drawn(1))
    feedback.reset()
    assert feedback.residual.count_nonzero() == 0
    assert len(feedback.residual) == NUMBERS


def test_vectors_of_another_run_are_refused() -> None:
    feedback = ErrorFeedback(NUMBERS)
    for wrong in (torch.zeros(NUMBERS + 1), torch.zeros(NUMBERS, dtype=torch.float64)):
        with pytest.raises(ValueError, match="700"):
            feedback.to_send(wrong)
        with pytest.raises(ValueError, match="700"):
            feedback.adopt(wrong)
