"""Small unsigned integers packed side by side into bytes, the first in the lowest bits.

    4 bits    bbbbaaaa                       two codes in a byte
    2 bits    ddccbbaa                       four codes in a byte
    12 bits   aaaaaaaa bbbbaaaa bbbbbbbb     two integers in three bytes

Unused bits of the last byte are zero, and the unpacking functions refuse anything else. So equal integers
always have equal bytes, and no peer can send a second encoding of the same content, with another hash.
"""

# Axes: N integers in order

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.errors import Malformed

Bytes = NDArray[np.uint8]
Shorts = NDArray[np.int16]

_MASK = {4: 0x0F0F, 2: 0x03030303}
"""By bits per code: which bits of a word hold the codes, once each code has a byte of its own."""


def packed_size(numbers: int, bits: int) -> int:
    """Return the exact bytes of ``numbers`` codes of ``bits`` bits each."""
    return -(-numbers * bits // 8)


def pack(codes_N: Bytes, bits: int) -> Bytes:
    """Pack ``codes_N``, all below 2^bits, into ``packed_size(N, bits)`` bytes. ``bits`` is 2 or 4."""
    per_byte = 8 // bits
    words = _zero_padded(codes_N, per_byte).view(f"<u{per_byte}")
    for shift in _shifts(bits):
        words = words | words >> shift
    return words.astype(np.uint8)


def unpack(raw: Bytes, numbers: int, bits: int) -> Bytes:
    """Return the ``numbers`` codes that `pack` has packed.

    Raises `Malformed` if a padding bit is not zero.
    """
    per_byte = 8 // bits
    words: NDArray[Any] = raw.astype(f"<u{per_byte}")
    for shift in reversed(_shifts(bits)):
        words = words | words << shift
    return _without_padding((words & _MASK[bits]).view(np.uint8), numbers)


def pack_twelve(values_N: Shorts) -> Bytes:
    """Pack ``values_N``, all from 0 to 4095, into ``packed_size(N, 12)`` bytes."""
    words = _zero_padded(values_N, 2).astype("<u4")
    words[0::2] |= words[1::2] << 12
    words_of_four_bytes = words[0::2].copy().view(np.uint8).reshape(-1, 4)
    return words_of_four_bytes[:, :3].reshape(-1)[: packed_size(len(values_N), 12)]


def unpack_twelve(raw: Bytes, numbers: int) -> Shorts:
    """Return the ``numbers`` values that `pack_twelve` has packed.

    Raises `Malformed` if a padding bit is not zero.
    """
    pairs = -(-len(raw) // 3)
    padded = np.zeros(3 * pairs + 1, np.uint8)
    padded[: len(raw)] = raw
    # each word begins with the three bytes of a pair, so neighbouring words overlap by one byte
    words = np.ndarray(pairs, "<u4", padded, strides=(3,)).copy()
    high = words << 4
    high &= 0x0FFF0000
    words &= 0x0FFF
    words |= high
    return _without_padding(words.view("<i2"), numbers)


def _shifts(bits: int) -> tuple[int, ...]:
    """Return by how many bits to shift codes together: first neighbours, then neighbouring pairs."""
    return (4,) if bits == 4 else (6, 12)


def _zero_padded(values_N: NDArray[Any], multiple: int) -> NDArray[Any]:
    """Return ``values_N``, padded with zeros to a multiple of ``multiple``."""
    missing = -len(values_N) % multiple
    return np.append(values_N, np.zeros(missing, values_N.dtype)) if missing else values_N


def _without_padding(values_N: NDArray[Any], numbers: int) -> NDArray[Any]:
    if values_N[numbers:].any():
        raise Malformed("the bits behind the last number are not zero")
    return values_N[:numbers]
