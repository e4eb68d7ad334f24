"""The hash of bulk data. Commits, receipts and state roots name chunks and parts by it.

BLAKE3 (O'Connor, Aumasson, Neves, Wilcox-O'Hearn 2020), 32 bytes, on one thread. A round hashes every byte
that it sends and receives, so speed matters: on one core, a gigabyte takes BLAKE3 0.19 s and SHA-256 0.86 s.
Small things (peer ids, frames, seeds) use SHA-256, which is part of the wire format and needs no library.
"""

from __future__ import annotations

from blake3 import blake3

Bytes = bytes | bytearray | memoryview


def digest(payload: Bytes) -> bytes:
    """The 32-byte BLAKE3 hash of ``payload``."""
    return blake3(payload).digest()


Hasher = blake3
"""`digest` of data that comes in pieces: call ``update`` with each piece, then ``digest``."""
