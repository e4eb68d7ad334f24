"""Everything that happened in a rehearsal, in order, and a hash of it, so that runs can be compared."""

from __future__ import annotations

import hashlib

_BATCH = 512  # lines that are hashed at once


class Transcript:
    """A growing list of events. It hashes in batches, so that a hundred thousand cost a tenth of a second.

    ``keep`` also keeps the lines themselves, to read them.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.lines: list[str] = []
        """The lines that were noted; empty without ``keep``."""
        self._keep = keep
        self._hash = hashlib.sha256()
        self._fresh: list[str] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Transcript({self._count} lines, {self.digest()[:12]})"

    def note(self, time: float, what: str, source: str = "", target: str = "", size: int = 0) -> None:
        """Note ``what`` happened at ``time`` (virtual seconds), from where to where, with ``size`` bytes.

        The time is written exactly: runs that differ in its last bit have different digests.
        """
        self._count += 1
        self._fresh.append(f"{time!r} {source} {target} {size} {what}\n")
        if len(self._fresh) >= _BATCH:
            self._flush()

    def digest(self) -> str:
        """Hexadecimal SHA-256 of all lines so far."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        self._hash.update("".join(self._fresh).encode())
        if self._keep:
            self.lines += self._fresh
        self._fresh.clear()
