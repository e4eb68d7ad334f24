"""Numbers to bytes and back: the table from the manifest's enum to the codec.

Every codec has an exact length known beforehand, so a receiver knows how many bytes a part must have before it reads one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from swarm.manifest import Codec as CodecName

from .dense import Float16, Float32
from .port import ONE_TENSOR, Codec, Shape
from .quantised import Quantised

__all__ = ["ONE_TENSOR", "Codec", "Shape", "codec_of"]

_TABLE: Mapping[CodecName, Codec] = MappingProxyType(
    {
        CodecName.FP32: Float32(),
        CodecName.FP16: Float16(),
        CodecName.INT8: Quantised(bits=8, block=256),
        CodecName.INT4: Quantised(bits=4, block=256),
    }
)


def codec_of(name: CodecName, shape: Shape = ONE_TENSOR) -> Codec:
    """The codec that a manifest names, for numbers of ``shape``."""
    return _TABLE[name]
