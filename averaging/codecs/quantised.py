"""4 or 8 bits per number: blocks of 256 share one scale, and each number is a small multiple of it.

    payload = scale of every block, float16 little-endian  ‖  code of every number
    number  = scale · (code − 2^(bits−1))       codes run from 1 to 2^bits − 1, so the range is symmetric

With 4 bits, two codes share a byte, the first in the low nibble. The scales add 0.06 bits per number.

Canonical: code 0 is refused, scales are finite and not negative (nor −0), and the nibble that fills up an odd
count is zero. All loops go through the vector in pieces, so that what one step has touched is still in the
cache for the next one. A piece is a whole number of blocks, so its size does not change the bytes.
"""

# Axes: N numbers of one part, B blocks, K numbers of one block

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swarm.errors import Malformed

from . import port
from .bits import pack, unpack
from .port import Raw, output_for, pieces, require_length, require_vector

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_HALF = np.dtype("<f2")
"""The dtype of a scale on the wire."""

_LARGEST = 65504.0
"""The largest finite float16."""

_INFINITE_BITS = 0x7C00
"""A float16 whose bits are below this is finite and not negative."""

_INFINITY = 0x7F800000
"""The bits of an infinite float32; those of NaN are larger."""

_MAGNITUDE = np.int32(0x7FFFFFFF)
"""All bits of a float32 but the sign."""

_ROUNDING = 1.5 * 2.0**23
"""A float32 of this size has no fractional bits. Adding it rounds a small number to the nearest integer, ties
to even, and puts that integer into the lowest bits."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """Symmetric absolute-maximum quantisation; ``bits`` is 4 or 8, ``block`` even.

    The scale of a block is its largest magnitude / `top`, rounded up to the next float16 (at least 2⁻²⁴). A
    decoded number is within half a scale of the original. A block whose numbers are all below 2⁻²⁵ decodes to
    zeros, and a magnitude beyond 65,504 · `top` decodes to that limit.
    """

    bits: int
    block: int = 256

    def __post_init__(self) -> None:
        if self.bits not in (4, 8) or self.block < 2 or self.block % 2:
            raise ValueError("4 or 8 bits, and an even block")

    @property
    def top(self) -> int:
        """The largest multiple of the scale that a code can express: 7 or 127."""
        return (1 << (self.bits - 1)) - 1

    @property
    def _piece(self) -> int:
        return max(1, port.PIECE // self.block) * self.block

    def _blocks(self, numbers: int) -> int:
        return -(-numbers // self.block)

    def size(self, numbers: int) -> int:
        """Return the exact bytes of ``numbers`` encoded values."""
        return _HALF.itemsize * self._blocks(numbers) + -(-numbers * self.bits // 8)

    def encode(self, vector_N: Tensor, decoded: Tensor | None = None) -> Raw:
        """Write ``vector_N`` (float32) as scales and codes. Raises `ValueError` for NaN or infinity."""
        return self.encode_with_norm(vector_N, decoded)[0]

    def encode_with_norm(self, vector_N: Tensor, decoded: Tensor | None = None) -> tuple[Raw, float]:
        """Encode like `encode`; also return the L2 norm of what `decode` will read, to 1e-6 of itself.

        The norm comes from scales and codes, so the decoded numbers need not be written to memory for it.
        """
        numbers_N = require_vector(vector_N).numpy()
        out_N = None if decoded is None else decoded.numpy()
        blocks = self._blocks(len(numbers_N))
        payload = np.empty(self.size(len(numbers_N)), np.uint8)
        scales_B = payload[: _HALF.itemsize * blocks].view(_HALF)
        codes = payload[_HALF.itemsize * blocks :]
        scratch_BK = np.empty((min(self._piece // self.block, blocks), self.block), np.float32)
        sum_of_squares = 0.0
        for here in pieces(len(numbers_N), self._piece):
            codes_here = codes[here.start * self.bits // 8 : -(-here.stop * self.bits // 8)]
            out_here = None if out_N is None else out_N[here]
            scales, squares = self._quantise(numbers_N[here], codes_here, out_here, scratch_BK)
            first = here.start // self.block
            scales_B[first : first + len(scales)] = scales
            sum_of_squares += squares
        return payload.data, math.sqrt(sum_of_squares)

    def decode(self, payload: Raw, numbers: int, out: Tensor | None = None) -> Tensor:
        """Return ``[numbers]`` float32, all finite.

        Raises `Malformed` for bytes that `encode` cannot have made.
        """
        vector_N = output_for(numbers, out)
        lazy_N = LazyVector(self, payload, numbers)
        for here in pieces(numbers, self._piece):
            lazy_N.decode_into(here, vector_N[here])
        return vector_N

    def least_norm(self, payload: Raw, decoded_N: Tensor) -> float:
        """Return a norm that no vector which `encode` turns into ``payload`` is shorter than.

        Every number is at least half a scale nearer to zero than what it decodes to, and not beyond zero.
        """
        lazy_N = LazyVector(self, payload, len(decoded_N))
        squares = (
            lazy_N.least_squares(here, decoded_N[here]) for here in pieces(len(decoded_N), self._piece)
        )
        return math.sqrt(sum(squares))

    def subtract(self, payload: Raw, vector_N: Tensor) -> None:
        """Subtract what `decode` reads in ``payload`` from ``vector_N``, in place.

        Raises `Malformed` as `decode` does.
        """
        lazy_N = LazyVector(self, payload, len(vector_N))
        for here in pieces(len(vector_N), self._piece):
            vector_N[here] -= lazy_N[here]

    def _quantise(
        self, numbers_N: Floats, codes: Bytes, out_N: Floats | None, scratch_BK: Floats
    ) -> tuple[NDArray[np.float16], float]:
        """Encode whole blocks, of which the last may be short. Return their scales and their squared norm.

        Writes the packed codes into ``codes``, and what they decode to into ``out_N`` if given.
        ``scratch_BK`` is a scratch buffer for at least as many blocks: the same memory for piece after piece
        stays in the cache.
        """
        numbers_BK = _in_blocks(numbers_N, self.block)
        codes_BK = scratch_BK[: len(numbers_BK)]
        # as integers, magnitudes have the same order, with NaN and infinity last, and compare faster
        magnitudes_BK = np.bitwise_and(numbers_BK.view(np.int32), _MAGNITUDE, out=codes_BK.view(np.int32))
        peaks_B = torch.from_numpy(magnitudes_BK).amax(dim=1).numpy()
        if peaks_B.max(initial=0) >= _INFINITY:
            raise ValueError("NaN or infinity must not leave this peer")
        halves_B = _scales(peaks_B.view(np.float32), self.top)
        scales_B = torch.from_numpy(halves_B).to(torch.float32).numpy()
        inverse_B = np.divide(np.float32(1), scales_B, out=np.zeros_like(scales_B), where=scales_B > 0)

        _scaled(numbers_BK, inverse_B, codes_BK)
        if scales_B.max(initial=0) >= _LARGEST:  # smaller scales reach all numbers of their blocks
            np.clip(codes_BK, -self.top, self.top, out=codes_BK)
        codes_BK += np.float32(_ROUNDING + self.top + 1)
        codes_N = codes_BK.view(np.uint32).reshape(-1)[: len(numbers_N)]
        if self.bits == 8:
            np.copyto(codes, codes_N, casting="unsafe")  # the lowest byte of each
        else:
            codes[:] = pack(codes_N.astype(np.uint8), 4)

        codes_BK -= np.float32(_ROUNDING + self.top + 1)
        code_norms_B = torch.linalg.vector_norm(torch.from_numpy(codes_BK), dim=1).numpy()
        norms_B = code_norms_B * scales_B.astype(np.float64)
        if out_N is not None:
            if len(out_N) % self.block:
                out_N[:] = _scaled(codes_BK, scales_B).reshape(-1)[: len(out_N)]
            else:
                _scaled(codes_BK, scales_B, out_N.reshape(-1, self.block))
        return halves_B, float(np.dot(norms_B, norms_B))


class LazyVector:
    """The ``numbers`` of ``payload``, decoded piece by piece where they are needed.

    ``lazy_N[start:stop]`` is a piece in a scratch buffer, valid until the next piece is read; ``start`` is
    the beginning of a block. A reader that needs each number once does not need memory for all of them.
    Raises `Malformed` at once for a wrong length or scale, and when a piece is read for a code that
    `Quantised.encode` cannot have made.
    """

    def __init__(self, codec: Quantised, payload: Raw, numbers: int, scratch: Tensor | None = None) -> None:
        """``scratch``: a buffer for pieces that vectors may share: memory in use stays in the cache."""
        require_length(payload, codec.size(numbers))
        blocks = -(-numbers // codec.block)
        raw_B = np.frombuffer(payload, "<u2", blocks)
        if raw_B.max(initial=0) >= _INFINITE_BITS:
            raise Malformed("a scale is NaN, infinite or negative")
        self._codec = codec
        self._numbers = numbers
        self._scratch = torch.empty(0) if scratch is None else scratch
        self._scales_B1 = torch.from_numpy(raw_B.view(_HALF).astype(np.float32))[:, None]
        self._codes = np.frombuffer(payload, np.uint8, offset=_HALF.itemsize * blocks)

    def __len__(self) -> int:
        return self._numbers

    def __getitem__(self, here: slice) -> Tensor:
        numbers = here.stop - here.start
        if numbers > len(self._scratch):
            self._scratch = torch.empty(numbers)
        return self.decode_into(here, self._scratch[:numbers])

    def decode_into(self, here: slice, piece_N: Tensor) -> Tensor:
        """Write the piece ``here`` into ``piece_N`` and return it.

        Raises `Malformed` for a code that is zero.
        """
        bits = self._codec.bits
        block = self._codec.block
        numbers = here.stop - here.start
        codes_N = self._codes[here.start * bits // 8 : -(-here.stop * bits // 8)]
        if bits == 4:
            codes_N = unpack(codes_N, numbers, 4)
        if codes_N.min(initial=1) == 0:
            raise Malformed("a code is zero")
        signed_N = (codes_N - np.uint8(self._codec.top + 1)).view(np.int8)
        piece_N.copy_(torch.from_numpy(signed_N))
        whole = numbers // block
        first = here.start // block
        piece_N[: whole * block].view(whole, block).mul_(self._scales_B1[first : first + whole])
        if whole * block < numbers:
            piece_N[whole * block :].mul_(self._scales_B1[first + whole])
        return piece_N

    def least_squares(self, here: slice, piece_N: Tensor) -> float:
        """Return the least sum of squares of numbers that round to ``piece_N``, the piece ``here``."""
        block = self._codec.block
        first = here.start // block
        scales_B = self._scales_B1[first : first - (-len(piece_N) // block), 0].double()
        halves_N = (scales_B / 2).repeat_interleave(block)[: len(piece_N)]
        least_N = (piece_N.double().abs() - halves_N).clamp_(min=0)
        return float(torch.dot(least_N, least_N))


def _scaled(numbers_BK: Floats, scales_B: Floats, out_BK: Floats | None = None) -> Floats:
    """Return every block times its own scale, in ``out_BK`` if given.

    Uses torch, which takes half of numpy's time where one operand is broadcast.
    """
    numbers = torch.from_numpy(numbers_BK)
    scales_B1 = torch.from_numpy(scales_B)[:, None]
    out = None if out_BK is None else torch.from_numpy(out_BK)
    scaled: Floats = torch.mul(numbers, scales_B1, out=out).numpy()
    return scaled


def _in_blocks(values: NDArray[Any], block: int) -> NDArray[Any]:
    """Return ``values`` as rows of ``block`` numbers, the last row padded with zeros if it is short."""
    missing = -len(values) % block
    return (np.pad(values, (0, missing)) if missing else values).reshape(-1, block)


def _scales(peaks_B: Floats, top: int) -> NDArray[np.float16]:
    """Return, for each peak, the smallest float16 whose ``top``-fold reaches it, or the largest finite one.

    The comparison is exact: a float16 has 11 significant bits and ``top`` at most 7, so their product fits a
    float32.
    """
    wanted_B = np.minimum(peaks_B / np.float32(top), np.float32(_LARGEST))
    # torch uses the processor's own conversion to float16; numpy's takes ten times as long
    halves_B = torch.from_numpy(wanted_B).to(torch.float16)
    nearest_B = halves_B.to(torch.float32).numpy()
    bits_B = halves_B.numpy().view(np.uint16)
    bits_B += (nearest_B * np.float32(top) < peaks_B) & (nearest_B < _LARGEST)
    return bits_B.view(np.float16)
