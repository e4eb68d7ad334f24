"""Content addressing: bytes in chunks, a hash per chunk, one root over the hashes.

    bytes ──► chunk 0 │ chunk 1 │ … ──► BLAKE3 each ──► root = sha256( domain ‖ length ‖ hashes )

The training text and the model's state both use it. A peer that trusts the root checks the list of hashes
with it, and then every chunk by itself, whichever peer it comes from. This is a Merkle tree of one level: at
32 bytes per chunk, the list is small beside the content (32 KiB for a gigabyte in chunks of 1 MiB).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from swarm.hashing import digest

Buffer = bytes | bytearray | memoryview


def chunk_count(length: int, chunk: int) -> int:
    """How many chunks ``length`` bytes have; the last one may be shorter than ``chunk``."""
    return -(-length // chunk)


def chunk_length(index: int, length: int, chunk: int) -> int:
    """Bytes of chunk ``index``. Raises `IndexError` where there is no such chunk."""
    if not 0 <= index < chunk_count(length, chunk):
        raise IndexError(f"there is no chunk {index}")
    return min(chunk, length - index * chunk)


@dataclass(frozen=True, slots=True)
class ChunkLengths(Sequence[int]):
    """The length of every chunk of ``length`` bytes, computed when it is asked for.

    A manifest may name a text of a million chunks, so there is no list of their lengths.
    """

    length: int
    chunk: int

    def __len__(self) -> int:
        return chunk_count(self.length, self.chunk)

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...

    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        if isinstance(index, slice):
            return [chunk_length(each, self.length, self.chunk) for each in range(len(self))[index]]
        return chunk_length(index, self.length, self.chunk)


def chunked_hashes(data: Buffer, chunk: int) -> list[bytes]:
    """The BLAKE3 digest of every ``chunk`` bytes of ``data``, in order."""
    with memoryview(data).cast("B") as view:
        return [digest(view[at : at + chunk]) for at in range(0, len(view), chunk)]


def root_of(hashes: Sequence[bytes], length: int, domain: bytes) -> bytes:
    """32 bytes that name ``length`` bytes by the ``hashes`` of their chunks.

    ``domain`` separates kinds of content: a training text and a model never have the same root.
    """
    head = len(domain).to_bytes(1, "little") + domain + length.to_bytes(8, "little")
    return hashlib.sha256(head + b"".join(hashes)).digest()
