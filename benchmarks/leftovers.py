"""What processes leave lying in the file system when they are killed: hivemind's do, and tensors in shared memory are memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

SHARED = Path("/dev/shm")
"""Where torch puts what processes share: ``torch_<pid>_…``."""


def sockets_of(members: Iterable[psutil.Process]) -> list[Path]:
    """The files behind the sockets of hivemind's that ``members`` have open, in any network namespace: only the living know."""
    found: list[Path] = []
    for member in members:
        home = Path(f"/proc/{member.pid}")
        with suppress(OSError):  # it has just ended
            open_ = {os.readlink(descriptor) for descriptor in (home / "fd").iterdir()}
            lines = [line.split(maxsplit=7) for line in (home / "net" / "unix").read_text().splitlines()]
            found += [Path(line[7]) for line in lines if len(line) == 8 and f"socket:[{line[6]}]" in open_]
    return [path for path in found if path.is_absolute() and path.name.startswith("hivemind-")]


def sweep(pids: Iterable[int], sockets: Iterable[Path]) -> None:
    """Remove the shared memory of those of ``pids`` that are gone, and these ``sockets``."""
    gone = [pid for pid in pids if not psutil.pid_exists(pid)]
    for path in [*sockets, *(path for pid in gone for path in SHARED.glob(f"torch_{pid}_*"))]:
        path.unlink(missing_ok=True)
