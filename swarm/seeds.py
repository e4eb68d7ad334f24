"""Every "random" choice of the protocol is a hash that all peers can recompute (commit to nothing, argue about nothing)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

Word = str | bytes | int


def derive_bytes(run: bytes, *words: Word) -> bytes:
    """32 bytes drawn from ``run`` and ``words``. Injective in its words: each is typed and length-prefixed before hashing."""
    digest = hashlib.sha256(b"swarm-seed-v1")
    for word in (run, *words):
        digest.update(_framed(word))
    return digest.digest()


def _framed(word: Word) -> bytes:
    raw = word if isinstance(word, bytes) else str(word).encode()
    tag = b"b" if isinstance(word, bytes) else b"s" if isinstance(word, str) else b"i"
    return tag + len(raw).to_bytes(8, "little") + raw


def derive(run: bytes, *words: Word) -> int:
    """A 63-bit integer drawn from ``run`` and ``words``; fits every seed argument of torch and the standard library."""
    return int.from_bytes(derive_bytes(run, *words)[:8], "little") >> 1


def shuffled(run: bytes, items: Iterable[str], *words: Word) -> list[str]:
    """``items`` in an order that depends on ``run`` and ``words`` only, not on the order they came in."""
    begun = hashlib.sha256(b"swarm-seed-v1" + b"".join(_framed(word) for word in (run, *words)))

    def draw(item: str) -> bytes:
        """``derive_bytes(run, *words, item)``, without hashing again what all items share."""
        digest = begun.copy()
        digest.update(_framed(item))
        return digest.digest()

    return sorted(set(items), key=draw)
