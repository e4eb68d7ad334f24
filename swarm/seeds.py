"""Every "random" choice of the protocol is a hash: all peers compute the same one and need not agree on it.

    derive_bytes(run, label, label, …) = sha256( domain ‖ framed(run) ‖ framed(label) ‖ framed(label) ‖ … )
    framed(label)                      = type (1 byte) ‖ length (u64, little-endian) ‖ bytes

`derive` makes an integer of it, `shuffled` an order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

Label = str | bytes | int
"""One part of what a draw is for, such as "group", the round, or a group id."""

_DOMAIN = b"swarm-seed-v1"


def derive_bytes(run: bytes, *labels: Label) -> bytes:
    """32 bytes that depend on ``run`` (the run id) and ``labels``.

    Different labels give different bytes: each label is hashed with its type and its length.
    """
    digest = hashlib.sha256(_DOMAIN)
    for label in (run, *labels):
        digest.update(_framed(label))
    return digest.digest()


def _framed(label: Label) -> bytes:
    """``label`` with its type and its length in front."""
    if isinstance(label, bytes):
        return _with_length(b"b", label)
    if isinstance(label, str):
        return _with_length(b"s", label.encode())
    return _with_length(b"i", str(label).encode())


def _with_length(kind: bytes, raw: bytes) -> bytes:
    return kind + len(raw).to_bytes(8, "little") + raw


def derive(run: bytes, *labels: Label) -> int:
    """A 63-bit integer that depends on ``run`` and ``labels``; fits all seeds of torch and ``random``."""
    return int.from_bytes(derive_bytes(run, *labels)[:8], "little") >> 1


def shuffled(run: bytes, items: Iterable[str], *labels: Label) -> list[str]:
    """``items`` without duplicates, in an order that depends on ``run`` and ``labels`` only.

    The order in which the items were given does not matter.
    """
    common = hashlib.sha256(_DOMAIN + b"".join(_framed(label) for label in (run, *labels)))

    def sort_key(item: str) -> bytes:
        """``derive_bytes(run, *labels, item)``, without hashing again what all items share."""
        digest = common.copy()
        digest.update(_framed(item))
        return digest.digest()

    return sorted(set(items), key=sort_key)
