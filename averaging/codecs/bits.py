"""Small whole numbers side by side in bytes, the first in the lowest bits.

    4 bits    bbbbaaaa                       two codes in a byte
    2 bits    ddccbbaa                       four
    12 bits   aaaaaaaa bbbbaaaa bbbbbbbb     two numbers in three bytes
    1 bit     hgfedcba                       eight answers, 1 is yes

Bits that fill up the last byte are zero, and whoever unpacks holds a stranger to that: equal numbers have equal bytes.
"""

# Axes: N numbers in order

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.errors import Malformed

Bytes = NDArray[np.uint8]
Shorts = NDArray[np.int16]

_MASK = {4: 0x0F0F, 2: 0x03030303}
"""Where the codes of one byte lie once each has a byte of its own."""


def packed_size(numbers: int, bits: int) -> int:
    """Exact bytes of ``numbers`` codes of ``bits`` bits."""
    return -(-numbers * bits // 8)


def pack(codes_N: Bytes, bits: int) -> Bytes:
    """``codes_N``, all below 2^bits, in `packed_size` bytes; ``bits`` is 2 or 4."""
    per_byte = 8 // bits
    words = _filled(codes_N, per_byte).view(f"<u{per_byte}")
    for shift in _shifts(bits):
        words = words | words >> shift
    return words.astype(np.uint8)


def unpack(raw: Bytes, numbers: int, bits: int) -> Bytes:
    """The ``numbers`` codes behind `pack`. Raises `Malformed` where the bits behind the last one are not zero."""
    per_byte = 8 // bits
    words: NDArray[Any] = raw.astype(f"<u{per_byte}")
    for shift in reversed(_shifts(bits)):
        words = words | words << shift
    return _without_padding((words & _MASK[bits]).view(np.uint8), numbers)


def pack_twelve(values_N: Shorts) -> Bytes:
    """``values_N``, all from 0 to 4095, in `packed_size` (…, 12) bytes."""
    words = _filled(values_N, 2).astype("<u4")
    words[0::2] |= words[1::2] << 12
    return (
        words[0::2].copy().view(np.uint8).reshape(-1, 4)[:, :3].reshape(-1)[: packed_size(len(values_N), 12)]
    )


def unpack_twelve(raw: Bytes, numbers: int) -> Shorts:
    """The ``numbers`` values behind `pack_twelve`. Raises `Malformed` where the bits behind the last one are not zero."""
    pairs = -(-len(raw) // 3)
    padded = np.zeros(3 * pairs + 1, np.uint8)
    padded[: len(raw)] = raw
    words = np.ndarray(
        pairs, "<u4", padded, strides=(3,)
    ).copy()  # each begins with the three bytes of a pair
    high = words << 4
    high &= 0x0FFF0000
    words &= 0x0FFF
    words |= high
    return _without_padding(words.view("<i2"), numbers)


def pack_flags(flags_N: NDArray[np.bool_]) -> Bytes:
    """One bit for each."""
    return np.packbits(flags_N, bitorder="little")


def unpack_flags(raw: Bytes, numbers: int) -> NDArray[np.bool_]:
    """The ``numbers`` answers behind `pack_flags`. Raises `Malformed` where the bits behind the last one are not zero."""
    return _without_padding(np.unpackbits(raw, bitorder="little").view(np.bool_), numbers)


def _shifts(bits: int) -> tuple[int, ...]:
    """How far neighbours slide together, then neighbouring pairs."""
    return (4,) if bits == 4 else (6, 12)


def _filled(values_N: NDArray[Any], multiple: int) -> NDArray[Any]:
    """``values_N`` with zeros up to a multiple of ``multiple``."""
    missing = -len(values_N) % multiple
    return np.append(values_N, np.zeros(missing, values_N.dtype)) if missing else values_N


def _without_padding(values_N: NDArray[Any], numbers: int) -> NDArray[Any]:
    if values_N[numbers:].any():
        raise Malformed("the bits behind the last number are not zero")
    return values_N[:numbers]
