"""Few bits per number: blocks of 256 share one scale, and each number is a small multiple of it (4.06 or 8.06 bits per number).

    payload = scale of every block, float16 little-endian  ‖  code of every number, two per byte (low nibble first) where bits = 4
    number  = scale · (code − 2^(bits−1))                     codes run from 1 to 2^bits − 1, so the range is symmetric

Canonical: code 0 is refused, scales are finite and not negative (nor −0), the nibble that fills up an odd count is zero.
The vector is walked in pieces that fit a core's cache; a piece is whole blocks, so the bytes do not depend on the piece.
"""

# Axes: N numbers of one part, B blocks, K numbers of one block

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swarm.errors import Malformed

from .port import require_length, require_vector

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_HALF = np.dtype("<f2")
_LARGEST = 65504.0
_INFINITE_BITS = 0x7C00
"""A float16 whose bits are below this is finite and not negative."""
_PIECE = 1 << 16


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
        return max(1, _PIECE // self.block) * self.block

    def _blocks(self, numbers: int) -> int:
        return -(-numbers // self.block)

    def size(self, numbers: int) -> int:
        """Exact bytes of ``numbers`` encoded values."""
        return _HALF.itemsize * self._blocks(numbers) + -(-numbers * self.bits // 8)

    def encode(self, vector_N: Tensor) -> bytes:
        """``vector_N`` (float32) as scales and codes. Raises `ValueError` for NaN or infinity."""
        numbers_N = require_vector(vector_N).numpy()
        pieces = [self._quantise(numbers_N[start : start + self._piece]) for start in range(0, len(numbers_N), self._piece)]
        return b"".join([*(scales.tobytes() for scales, _ in pieces), *(codes.tobytes() for _, codes in pieces)])

    def decode(self, payload: bytes, numbers: int) -> Tensor:
        """``[numbers]`` float32, all finite. Raises `Malformed` for whatever `encode` cannot have made."""
        require_length(payload, self.size(numbers))
        blocks = self._blocks(numbers)
        raw_B = np.frombuffer(payload, "<u2", blocks)
        if (raw_B >= _INFINITE_BITS).any():
            raise Malformed("a scale is NaN, infinite or negative")
        scales_B = raw_B.view(_HALF).astype(np.float32)
        codes = np.frombuffer(payload, np.uint8, offset=_HALF.itemsize * blocks)
        numbers_BK = np.empty((blocks, self.block), np.float32)
        for start in range(0, numbers, self._piece):
            stop = min(start + self._piece, numbers)
            codes_BK = self._codes(codes[start * self.bits // 8 : -(-stop * self.bits // 8)], stop - start)
            here = slice(start // self.block, self._blocks(stop))
            np.multiply(codes_BK, scales_B[here, None], out=numbers_BK[here])
        return torch.from_numpy(numbers_BK.reshape(-1)[:numbers])

    def _quantise(self, numbers_N: Floats) -> tuple[NDArray[np.float16], Bytes]:
        """Scales and packed codes of whole blocks (the last may be short)."""
        numbers_BK = _in_blocks(numbers_N, self.block)
        peaks_B = np.abs(numbers_BK).max(axis=1)
        if not np.isfinite(peaks_B).all():
            raise ValueError("NaN or infinity must not leave this peer")
        halves_B = _scales(peaks_B, self.top)
        scales_B = halves_B.astype(np.float32)
        inverse_B = np.divide(np.float32(1), scales_B, out=np.zeros_like(scales_B), where=scales_B > 0)
        codes_BK = numbers_BK * inverse_B[:, None]
        np.clip(codes_BK, -self.top, self.top, out=codes_BK)
        np.rint(codes_BK, out=codes_BK)
        codes_BK += self.top + 1
        codes_N = codes_BK.astype(np.uint8).reshape(-1)[: len(numbers_N)]
        return halves_B, _packed(codes_N) if self.bits == 4 else codes_N

    def _codes(self, raw: Bytes, numbers: int) -> NDArray[np.int8]:
        """The signed multiples of the scale, [B, K], behind the packed codes of ``numbers`` values; beyond them anything."""
        codes = _unpacked(raw) if self.bits == 4 else raw
        if not codes[:numbers].all() or codes[numbers:].any():
            raise Malformed("a code is zero, or the padding is not")
        return _in_blocks((codes - np.uint8(self.top + 1)).view(np.int8), self.block)


def _in_blocks(values: NDArray[Any], block: int) -> NDArray[Any]:
    """``values`` as rows of ``block``, filled up with zeros where the last one is short."""
    missing = -len(values) % block
    return (np.pad(values, (0, missing)) if missing else values).reshape(-1, block)


def _scales(peaks_B: Floats, top: int) -> NDArray[np.float16]:
    """The smallest float16 of which ``top`` multiples reach each peak, or the largest there is.

    Exact: a float16 has 11 significant bits and ``top`` at most 7, so their product fits a float32.
    """
    scales_B: NDArray[np.float16] = np.minimum(peaks_B / np.float32(top), np.float32(_LARGEST)).astype(_HALF)
    too_low_B = (scales_B.astype(np.float32) * np.float32(top) < peaks_B) & (scales_B < _LARGEST)
    bits_B = scales_B.view("<u2")
    bits_B += too_low_B
    return scales_B


def _packed(codes_N: Bytes) -> Bytes:
    """Two codes per byte, the first in the low nibble; a missing last one is zero."""
    even_N = np.append(codes_N, np.uint8(0)) if len(codes_N) % 2 else codes_N
    pairs: NDArray[np.uint16] = even_N.view("<u2")
    return (pairs | pairs >> 4).astype(np.uint8)


def _unpacked(raw: Bytes) -> Bytes:
    """The codes of both nibbles of every byte, in order."""
    pairs: NDArray[np.uint16] = raw.astype("<u2")
    return ((pairs | pairs << 4) & 0x0F0F).view(np.uint8)
