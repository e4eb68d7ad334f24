"""What each codec's documentation promises, written a second time, slowly: which numbers, how exactly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from averaging.codecs import Codec, Shape
from averaging.codecs.dense import BFloat16, Float16, Float32
from averaging.codecs.quantised import Quantised
from averaging.codecs.sparse import Sparse

HALF = 65504.0


def allowed_error(codec: Codec, vector_N: Tensor) -> Tensor:
    """Return the largest error of each number that the codec's documentation allows, float64."""
    exact_N = vector_N.double()
    if isinstance(codec, Float32):
        return (exact_N.abs() - codec.limit).clamp(min=0)
    if isinstance(codec, Float16):
        return torch.maximum((exact_N.abs() * 2.0**-11).clamp(min=2.0**-25), exact_N.abs() - codec.limit)
    if isinstance(codec, BFloat16):
        return torch.maximum((exact_N.abs() * 2.0**-8).clamp(min=2.0**-134), exact_N.abs() - codec.limit)
    return _of_selected(codec, exact_N) if isinstance(codec, Sparse) else _of_blocks(codec, exact_N)


def assert_unmoved(codec: Codec, vector_N: Tensor, change: Callable[[], None]) -> None:
    """Assert that the bytes and the decoded numbers are the same before and after ``change``."""
    payload = codec.encode(vector_N)
    back_N = codec.decode(payload, len(vector_N))
    change()
    assert codec.encode(vector_N) == payload
    assert torch.equal(codec.decode(payload, len(vector_N)), back_N)


def chunks_of(shape: Shape, numbers: int, share: int) -> list[tuple[slice, int]]:
    """Return every chunk of a sparse codec, and how many of its numbers are kept."""
    found = []
    start = 0
    for piece in shape.tensor_lengths or (numbers,):
        for first in range(start, start + piece, 4096):
            here = slice(first, min(first + 4096, start + piece))
            found.append((here, -(-(here.stop - here.start) * share // 4096)))
        start += piece
    return found


def selected(codec: Sparse, vector_N: Tensor) -> list[list[int]]:
    """Return the positions of the kept numbers by chunk: the largest magnitudes, of equal ones the first."""
    found = []
    for here, kept in chunks_of(codec.shape, len(vector_N), codec.share):
        sizes = vector_N[here].abs().tolist()
        largest = sorted(range(len(sizes)), key=lambda place: (-sizes[place], place))[:kept]
        found.append([here.start + place for place in sorted(largest)])
    return found


def _of_selected(codec: Sparse, exact_N: Tensor) -> Tensor:
    allowed_N = exact_N.abs()
    for chunk in selected(codec, exact_N):
        sizes_K = exact_N[chunk].abs()
        spread = float(sizes_K.clamp(max=HALF).max() - sizes_K.clamp(max=HALF).min())
        allowed_N[chunk] = (
            spread
            + (sizes_K.max().clamp(max=HALF) * 2.0**-11).clamp(min=2.0**-25)
            + (sizes_K - HALF).clamp(min=0)
        )
    return allowed_N


def _of_blocks(codec: Codec, exact_N: Tensor) -> Tensor:
    assert isinstance(codec, Quantised)
    missing = -len(exact_N) % codec.block
    peaks_B = torch.nn.functional.pad(exact_N, (0, missing)).view(-1, codec.block).abs().amax(1)
    scales_B = torch.maximum(peaks_B / codec.top * (1 + 2.0**-10), peaks_B / codec.top + 2.0**-24).clamp(
        max=HALF
    )
    scales_N = scales_B.repeat_interleave(codec.block)[: len(exact_N)]
    return torch.maximum(scales_N * 0.50002, exact_N.abs() - HALF * codec.top)
