"""Numbers to bytes and back: the table from the manifest's enum to the codec.

    dense.py       fp32, fp16, bf16: every number, one after another
    quantised.py   int8, int4: every number, as a small multiple of its block's scale
    sparse.py      sparse64 to sparse512, masked: few numbers; a chain of stages that these codecs share
                     select → places → values
                     select.py the largest of each chunk of chunks.py · places.py where they lie · values.py what they are
    bits.py        small numbers side by side in bytes

Every codec has an exact length known beforehand, so a receiver knows how many bytes a part must have before it reads one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from swarm.manifest import Codec as CodecName

from .dense import BFloat16, Float16, Float32
from .places import BitMap, IndexList
from .port import ONE_TENSOR, PIECE, Codec, Raw, Shape, pieces, room_for
from .quantised import Packed, Quantised
from .sparse import Sparse, Strided
from .values import Blocks, SignAndSize

__all__ = [
    "ONE_TENSOR",
    "PIECE",
    "Codec",
    "Packed",
    "Quantised",
    "Raw",
    "Shape",
    "bytes_per_parameter",
    "codec_of",
    "exact_codec",
    "is_sparse",
    "pieces",
    "result_codec",
    "room_for",
]

_MANY = 1 << 24
"""Numbers of a part that is large enough for the ends not to count."""

_DENSE: Mapping[CodecName, Codec] = MappingProxyType(
    {
        CodecName.FP32: Float32(),
        CodecName.FP16: Float16(),
        CodecName.BF16: BFloat16(),
        CodecName.INT8: Quantised(bits=8, block=256),
        CodecName.INT4: Quantised(bits=4, block=256),
    }
)


def _listed(share: int) -> Callable[[Shape], Codec]:
    """SparseLoCo (arXiv:2508.15706): ``share`` of each 4096, with indices, as sign and size: 14 bits a number, 4 bytes a chunk."""
    return partial(Sparse, share, IndexList(), SignAndSize())


def _masked(shape: Shape) -> Codec:
    """CocktailSGD (Wang et al. 2023) in its published proportions: of a tenth of the numbers, the largest fifth, in 4 bits.

    Here an eighth: 8 divides the borders of parts (`partition.ALIGN`), so the rotation holds however rounds cut the vector. A fifth
    is cheaper marked on a map than listed. In all (1 + 0.2 · 4.06) / 8 = 0.23 bits a number: what sparse64 costs.
    """
    return Strided(8, shape, partial(Sparse, 819, BitMap(), Blocks(Quantised(bits=4, block=256))))


_SPARSE: Mapping[CodecName, Callable[[Shape], Codec]] = MappingProxyType(
    {
        CodecName.SPARSE64: _listed(64),
        CodecName.SPARSE128: _listed(128),
        CodecName.SPARSE256: _listed(256),
        CodecName.SPARSE512: _listed(512),
        CodecName.MASKED: _masked,
    }
)

_RESULT: Mapping[CodecName, CodecName] = MappingProxyType(
    {
        CodecName.SPARSE64: CodecName.SPARSE128,
        CodecName.SPARSE128: CodecName.SPARSE256,
        CodecName.SPARSE256: CodecName.SPARSE512,
    }
)


def codec_of(name: CodecName, shape: Shape = ONE_TENSOR) -> Codec:
    """The codec that a manifest names, for numbers of ``shape``."""
    return _DENSE[name] if name in _DENSE else _SPARSE[name](shape)


def exact_codec(name: CodecName) -> Float32 | None:
    """The codec of ``name`` if its bytes are the numbers as they lie in this machine's memory: none is made of the other."""
    codec = _DENSE.get(name)
    return codec if isinstance(codec, Float32) and sys.byteorder == "little" else None


def is_sparse(name: CodecName) -> bool:
    """Whether most numbers of an update stay behind, so that nothing is learnt without error feedback."""
    return name in _SPARSE


def result_codec(name: CodecName) -> CodecName:
    """How an owner sends the average of updates that came as ``name``.

    Members select different numbers, so the average of a few has more of them than each has: the next larger share, as far as there
    is one. Under a mask all members send numbers of the same eighth, and the average goes back the same way, as in CocktailSGD.
    """
    return _RESULT.get(name, name)


def bytes_per_parameter(name: CodecName) -> float:
    """What a number costs in a large tensor: fp32 4, int4 0.508, sparse64 0.028. Small tensors add a little."""
    return codec_of(name).size(_MANY) / _MANY
