"""The last round that this peer has signed for, in a file of its home (`averaging.signed_rounds`)."""

from __future__ import annotations

import contextlib
from pathlib import Path

from swarm.errors import DiskTrouble

from .files import replacing


class SignedFile:
    """Keeps the round durably: the file is written before the first signature of the round is sent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.last = int(path.read_text())
        except (OSError, ValueError):
            self.last = -1

    def keep(self, round_: int) -> None:
        """Keep ``round_``. Where the disk is full the peer goes on: its checkpoints warn about that."""
        with contextlib.suppress(DiskTrouble), replacing(self._path) as draft:
            draft.write_text(f"{round_}\n")
