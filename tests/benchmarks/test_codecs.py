"""The codec benchmark: every codec of the manifest has a row, and failing ones are named."""

from __future__ import annotations

import torch
from torch import Tensor

from averaging.codecs import ONE_TENSOR, bytes_per_parameter
from benchmarks.codecs import Entrant, measure, swarm_codecs, update
from swarm.manifest import Codec as CodecName


def test_every_codec_has_a_row_with_its_bytes_and_its_error() -> None:
    vector_N = torch.linspace(-1, 1, 1 << 16)
    rows, failed = measure(swarm_codecs(ONE_TENSOR, len(vector_N)), vector_N, 1)
    assert failed == {}
    assert [row.codec for row in rows] == [name.name.lower() for name in CodecName]
    for row, name in zip(rows, CodecName, strict=True):
        assert abs(row.bytes_per_param / bytes_per_parameter(name) - 1) < 0.01
        assert (row.relative_error == 0) == (name is CodecName.FP32)
        assert row.relative_error < 1


def test_a_codec_that_fails_has_no_row_and_its_reason_is_named() -> None:
    def refuse(payload: bytes) -> Tensor:
        raise TypeError("not with this library")

    rows, failed = measure([Entrant("broken", lambda vector_N: b"", refuse)], torch.ones(8), 2)
    assert rows == []
    assert failed == {"broken": "TypeError: not with this library"}


def test_the_update_is_a_real_one_of_all_tensors() -> None:
    vector_N, pieces = update(steps=1)
    assert len(vector_N) == sum(pieces)
    assert bool(torch.isfinite(vector_N).all())
    assert all(piece.count_nonzero() > 0 for piece in torch.split(vector_N, list(pieces)))
