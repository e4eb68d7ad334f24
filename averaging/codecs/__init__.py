"""Numbers to bytes and back: the table from the manifest's codec name to the codec.

    dense.py       fp32, fp16, bf16: every number, one after another
    quantised.py   int8, int4: every number, as a small multiple of its block's scale
    sparse.py      sparse64 to sparse512: only some of the numbers, in three stages
                     select.py      keep the largest of each chunk; chunks.py says where the chunks lie
                     positions.py   write the positions of the kept numbers
                     values.py      write their values
    bits.py        small integers side by side in bytes
    port.py        the interface of all codecs, and the checks that they share

The exact length of every payload is known beforehand, so a receiver knows how many bytes a part must have
before it reads one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from swarm.manifest import Codec as CodecName

from .dense import BFloat16, Float16, Float32
from .port import ONE_TENSOR, PIECE, Codec, Raw, Shape, output_for, pieces
from .quantised import LazyVector, Quantised
from .sparse import Sparse

__all__ = [
    "ONE_TENSOR",
    "PIECE",
    "Codec",
    "LazyVector",
    "Quantised",
    "Raw",
    "Shape",
    "bytes_per_parameter",
    "codec_of",
    "is_sparse",
    "output_for",
    "pieces",
    "result_codec",
    "zero_copy_codec",
]

_MANY = 1 << 24
"""Numbers of a part so large that short chunks and blocks at its end do not matter."""

_DENSE: Mapping[CodecName, Codec] = MappingProxyType(
    {
        CodecName.FP32: Float32(),
        CodecName.FP16: Float16(),
        CodecName.BF16: BFloat16(),
        CodecName.INT8: Quantised(bits=8, block=256),
        CodecName.INT4: Quantised(bits=4, block=256),
    }
)


_SPARSE: Mapping[CodecName, Callable[[Shape], Codec]] = MappingProxyType(
    {
        CodecName.SPARSE64: partial(Sparse, 64),
        CodecName.SPARSE128: partial(Sparse, 128),
        CodecName.SPARSE256: partial(Sparse, 256),
        CodecName.SPARSE512: partial(Sparse, 512),
    }
)
"""Each makes the codec for a given shape; it keeps the largest 64, 128, 256 or 512 of each 4096 numbers."""

_RESULT: Mapping[CodecName, CodecName] = MappingProxyType(
    {
        CodecName.SPARSE64: CodecName.SPARSE128,
        CodecName.SPARSE128: CodecName.SPARSE256,
        CodecName.SPARSE256: CodecName.SPARSE512,
    }
)


def codec_of(name: CodecName, shape: Shape = ONE_TENSOR) -> Codec:
    """Return the codec that a manifest calls ``name``, for numbers of ``shape``."""
    return _DENSE[name] if name in _DENSE else _SPARSE[name](shape)


def zero_copy_codec(name: CodecName) -> Float32 | None:
    """Return the codec ``name`` if its payload has the numbers as this machine's memory has them, else None.

    Such numbers can be sent, hashed and summed without a copy.
    """
    codec = _DENSE.get(name)
    return codec if isinstance(codec, Float32) and sys.byteorder == "little" else None


def is_sparse(name: CodecName) -> bool:
    """Return whether the codec sends only a few of the numbers.

    Such a codec does not train without error feedback.
    """
    return name in _SPARSE


def result_codec(name: CodecName) -> CodecName:
    """Return the codec in which an owner sends the average of updates that came as ``name``.

    Members keep different numbers, so the average of several updates has more nonzero numbers than each of
    them. It is sent with the next larger share, as far as there is one.
    """
    return _RESULT.get(name, name)


def bytes_per_parameter(name: CodecName) -> float:
    """Return the bytes per number of a large tensor: fp32 4, int4 0.508, sparse64 0.028.

    Small tensors take a little more.
    """
    return codec_of(name).size(_MANY) / _MANY
