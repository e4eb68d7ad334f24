"""Few bits per number: blocks of 256 share one scale, and each number is a small multiple of it (4.06 or 8.06 bits per number).

    payload = scale of every block, float16 little-endian  ‖  code of every number, two per byte (low nibble first) where bits = 4
    number  = scale · (code − 2^(bits−1))                     codes run from 1 to 2^bits − 1, so the range is symmetric

Canonical: code 0 is refused, scales are finite and not negative (nor −0), the nibble that fills up an odd count is zero.
The vector is walked in pieces, so that what one step has touched is near for the next; a piece is whole blocks, so the bytes do not
depend on it.
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
from .port import Raw, pieces, require_length, require_vector, room_for

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_HALF = np.dtype("<f2")
_LARGEST = 65504.0
_INFINITE_BITS = 0x7C00
"""A float16 whose bits are below this is finite and not negative."""
_INFINITY = 0x7F800000
"""The bits of an infinite float32; those of NaN are above."""
_MAGNITUDE = np.int32(0x7FFFFFFF)
_ROUNDING = 1.5 * 2.0**23
"""A float32 of this size has no places behind the point: to add it is to round to the nearest even, into the lowest bits."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """Symmetric absolute-maximum quantisation; ``bits`` is 4 or 8, ``block`` even.

    A number comes back within half a scale of itself (a scale is the block's largest magnitude / 7 or / 127, rounded up to the next
    float16, at least 2⁻²⁴). A block below half of that comes back as zeros, a magnitude beyond 65,504 · `top` as that.
    """

    bits: int
    block: int = 256

    def __post_init__(self) -> None:
        if self.bits not in (4, 8) or self.block < 2 or self.block % 2:
            raise ValueError("4 or 8 bits, and an even block")

    @property
    def top(self) -> int:
        """The largest multiple of the scale that a code can say: 7 or 127."""
        return (1 << (self.bits - 1)) - 1

    @property
    def _piece(self) -> int:
        return max(1, port.PIECE // self.block) * self.block

    def _blocks(self, numbers: int) -> int:
        return -(-numbers // self.block)

    def size(self, numbers: int) -> int:
        """Exact bytes of ``numbers`` encoded values."""
        return _HALF.itemsize * self._blocks(numbers) + -(-numbers * self.bits // 8)

    def encode(self, vector_N: Tensor, decoded: Tensor | None = None) -> Raw:
        """``vector_N`` (float32) as scales and codes. Raises `ValueError` for NaN or infinity."""
        return self.measured(vector_N, decoded)[0]

    def measured(self, vector_N: Tensor, decoded: Tensor | None = None) -> tuple[Raw, float]:
        """As `encode`, with the L2 norm of what `decode` will read, to 1e-6 of itself: known before any of it is written down."""
        numbers_N = require_vector(vector_N).numpy()
        out_N, blocks = None if decoded is None else decoded.numpy(), self._blocks(len(numbers_N))
        payload, squares = np.empty(self.size(len(numbers_N)), np.uint8), 0.0
        scales_B, codes = payload[: _HALF.itemsize * blocks].view(_HALF), payload[_HALF.itemsize * blocks :]
        scratch_BK = np.empty((min(self._piece // self.block, blocks), self.block), np.float32)
        for here in pieces(len(numbers_N), self._piece):
            codes_here = codes[here.start * self.bits // 8 : -(-here.stop * self.bits // 8)]
            out_here = None if out_N is None else out_N[here]
            scales, square = self._quantise(numbers_N[here], codes_here, out_here, scratch_BK)
            first = here.start // self.block
            scales_B[first : first + len(scales)] = scales
            squares += square
        return payload.data, math.sqrt(squares)

    def decode(self, payload: Raw, numbers: int, out: Tensor | None = None) -> Tensor:
        """``[numbers]`` float32, all finite. Raises `Malformed` for whatever `encode` cannot have made."""
        vector_N, packed = room_for(numbers, out), Packed(self, payload, numbers)
        for here in pieces(numbers, self._piece):
            packed.put(here, vector_N[here])
        return vector_N

    def subtract(self, payload: Raw, vector_N: Tensor) -> None:
        """Take what `decode` reads in ``payload`` away from ``vector_N``, in place. Raises as `decode` does."""
        packed = Packed(self, payload, len(vector_N))
        for here in pieces(len(vector_N), self._piece):
            vector_N[here] -= packed[here]

    def _quantise(
        self, numbers_N: Floats, codes: Bytes, out_N: Floats | None, scratch_BK: Floats
    ) -> tuple[NDArray[np.float16], float]:
        """Scales and squared norm of whole blocks (the last may be short); into ``codes`` how they travel, into ``out_N`` what they
        come back as.

        ``scratch_BK`` has room for as many blocks: the same memory for piece after piece stays in the cache.
        """
        numbers_BK = _in_blocks(numbers_N, self.block)
        codes_BK = scratch_BK[: len(numbers_BK)]
        # the bits of magnitudes have the order of the magnitudes, NaN and infinity last, and whole numbers compare faster
        magnitudes_BK = np.bitwise_and(numbers_BK.view(np.int32), _MAGNITUDE, out=codes_BK.view(np.int32))
        peaks_B = torch.from_numpy(magnitudes_BK).amax(dim=1).numpy()
        if peaks_B.max(initial=0) >= _INFINITY:
            raise ValueError("NaN or infinity must not leave this peer")
        halves_B = _scales(peaks_B.view(np.float32), self.top)
        scales_B = torch.from_numpy(halves_B).to(torch.float32).numpy()
        inverse_B = np.divide(np.float32(1), scales_B, out=np.zeros_like(scales_B), where=scales_B > 0)
        _scaled(numbers_BK, inverse_B, codes_BK)
        if scales_B.max(initial=0) >= _LARGEST:  # else no number is beyond the reach of its scale
            np.clip(codes_BK, -self.top, self.top, out=codes_BK)
        codes_BK += np.float32(_ROUNDING + self.top + 1)
        codes_N = codes_BK.view(np.uint32).reshape(-1)[: len(numbers_N)]
        if self.bits == 8:
            np.copyto(codes, codes_N, casting="unsafe")  # the lowest byte of each
        else:
            codes[:] = pack(codes_N.astype(np.uint8), 4)
        codes_BK -= np.float32(_ROUNDING + self.top + 1)
        norms_B = torch.linalg.vector_norm(torch.from_numpy(codes_BK), dim=1).numpy() * scales_B.astype(
            np.float64
        )
        if out_N is not None:
            if len(out_N) % self.block:
                out_N[:] = _scaled(codes_BK, scales_B).reshape(-1)[: len(out_N)]
            else:
                _scaled(codes_BK, scales_B, out_N.reshape(-1, self.block))
        return halves_B, float(np.dot(norms_B, norms_B))


class Packed:
    """The ``numbers`` of ``payload``, decoded where they are needed: ``packed[start:stop]`` lasts until another piece is wanted.

    Who needs each number once need not have room for all of them. ``start`` is where a block begins. Raises `Malformed` at once
    for a wrong length or scale, and for a piece with a code that `Quantised.encode` cannot have made.
    """

    def __init__(self, codec: Quantised, payload: Raw, numbers: int, room: Tensor | None = None) -> None:
        """``room``: where pieces lie, which others may use in between; the same memory for piece after piece stays in the cache."""
        require_length(payload, codec.size(numbers))
        blocks = -(-numbers // codec.block)
        raw_B = np.frombuffer(payload, "<u2", blocks)
        if raw_B.max(initial=0) >= _INFINITE_BITS:
            raise Malformed("a scale is NaN, infinite or negative")
        self._codec, self._numbers = codec, numbers
        self._room = torch.empty(0) if room is None else room
        self._scales_B1 = torch.from_numpy(raw_B.view(_HALF).astype(np.float32))[:, None]
        self._codes = np.frombuffer(payload, np.uint8, offset=_HALF.itemsize * blocks)

    def __len__(self) -> int:
        return self._numbers

    def __getitem__(self, here: slice) -> Tensor:
        numbers = here.stop - here.start
        if numbers > len(self._room):
            self._room = torch.empty(numbers)
        return self.put(here, self._room[:numbers])

    def put(self, here: slice, piece_N: Tensor) -> Tensor:
        """``packed[here]`` in ``piece_N``."""
        bits, block, numbers = self._codec.bits, self._codec.block, here.stop - here.start
        codes_N = self._codes[here.start * bits // 8 : -(-here.stop * bits // 8)]
        if bits == 4:
            codes_N = unpack(codes_N, numbers, 4)
        if codes_N.min(initial=1) == 0:
            raise Malformed("a code is zero")
        signed_N = (codes_N - np.uint8(self._codec.top + 1)).view(np.int8)
        piece_N.copy_(torch.from_numpy(signed_N))
        whole, first = numbers // block, here.start // block
        piece_N[: whole * block].view(whole, block).mul_(self._scales_B1[first : first + whole])
        if whole * block < numbers:
            piece_N[whole * block :].mul_(self._scales_B1[first + whole])
        return piece_N


def _scaled(numbers_BK: Floats, scales_B: Floats, out_BK: Floats | None = None) -> Floats:
    """Every block times its own scale, in ``out_BK`` where given: torch takes half of numpy's time where one side is repeated."""
    room_BK = None if out_BK is None else torch.from_numpy(out_BK)
    scaled: Floats = torch.mul(
        torch.from_numpy(numbers_BK), torch.from_numpy(scales_B)[:, None], out=room_BK
    ).numpy()
    return scaled


def _in_blocks(values: NDArray[Any], block: int) -> NDArray[Any]:
    """``values`` as rows of ``block``, filled up with zeros where the last one is short."""
    missing = -len(values) % block
    return (np.pad(values, (0, missing)) if missing else values).reshape(-1, block)


def _scales(peaks_B: Floats, top: int) -> NDArray[np.float16]:
    """The smallest float16 of which ``top`` multiples reach each peak, or the largest there is.

    Exact: a float16 has 11 significant bits and ``top`` at most 7, so their product fits a float32.
    """
    wanted_B = np.minimum(peaks_B / np.float32(top), np.float32(_LARGEST))
    halves_B = torch.from_numpy(wanted_B).to(
        torch.float16
    )  # the processor's own conversion; numpy's takes ten times as long
    nearest_B = halves_B.to(torch.float32).numpy()
    bits_B = halves_B.numpy().view(np.uint16)
    bits_B += (nearest_B * np.float32(top) < peaks_B) & (nearest_B < _LARGEST)
    return bits_B.view(np.float16)
