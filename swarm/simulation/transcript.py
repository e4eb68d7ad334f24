"""Everything that happened in a rehearsal, in order, and one hash over it: two runs are equal where their digests are."""

from __future__ import annotations

import hashlib
from itertools import zip_longest

_BATCH = 512


class Transcript:
    """A growing list of happenings. Hashes in batches, so that a hundred thousand cost a tenth of a second.

    ``keep`` also keeps the lines themselves, for `first_difference` and for reading.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.lines: list[str] = []
        """What was noted, one line each; empty without ``keep``."""
        self._keep = keep
        self._hash = hashlib.sha256()
        self._fresh: list[str] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Transcript({self._count} lines, {self.digest()[:12]})"

    def note(self, time: float, what: str, source: str = "", target: str = "", size: int = 0) -> None:
        """Write down that at ``time`` (virtual seconds) ``what`` happened, from ``source`` to ``target``, with ``size`` bytes.

        The time is written exactly: runs that differ in its last bit differ.
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


def first_difference(a: Transcript, b: Transcript) -> tuple[int, str, str] | None:
    """Where two kept transcripts part: the index, and the line of each (empty where one has ended). None where they are equal.

    Raises `ValueError` where they differ but their lines were not kept.
    """
    if a.digest() == b.digest():
        return None
    for index, (line_a, line_b) in enumerate(zip_longest(a.lines, b.lines, fillvalue="")):
        if line_a != line_b:
            return index, line_a.rstrip("\n"), line_b.rstrip("\n")
    raise ValueError("these transcripts differ, but did not keep their lines: make them with keep=True")
