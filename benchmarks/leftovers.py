"""What processes leave lying in the file system when they are killed: hivemind's do, and tensors in shared memory are memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

SHARED = Path("/dev/shm")
"""Where torch puts what processes share: ``torch_<pid>_…``."""


def sockets_of(members: Sequence[psutil.Process]) -> list[Path]:
    """The files behind the sockets of hivemind's that ``members`` have open: only a living process knows them."""
    found: list[Path] = []
    for member in members:
        with suppress(psutil.Error, OSError):
            found += [Path(line.laddr) for line in member.net_connections("unix") if line.laddr]
    return [path for path in found if path.is_absolute() and path.name.startswith("hivemind-")]


def sweep(pids: Iterable[int], sockets: Iterable[Path]) -> None:
    """Remove the shared memory of those of ``pids`` that are gone, and these ``sockets``."""
    gone = [pid for pid in pids if not psutil.pid_exists(pid)]
    for path in [*sockets, *(path for pid in gone for path in SHARED.glob(f"torch_{pid}_*"))]:
        path.unlink(missing_ok=True)
