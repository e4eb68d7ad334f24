"""Files that killed processes leave behind: hivemind's sockets, and tensors in shared memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

SHARED = Path("/dev/shm")
"""Where torch puts what processes share: ``torch_<pid>_…``."""


def sockets_of(members: Iterable[psutil.Process]) -> list[Path]:
    """The files behind hivemind's sockets that ``members`` have open, in any network namespace.

    Call it while they live: the kernel lists open sockets of living processes only.
    """
    found: list[Path] = []
    for member in members:
        home = Path(f"/proc/{member.pid}")
        with suppress(OSError):  # it has just ended
            targets = {os.readlink(descriptor) for descriptor in (home / "fd").iterdir()}
            lines = [line.split(maxsplit=7) for line in (home / "net" / "unix").read_text().splitlines()]
            found += [Path(line[7]) for line in lines if len(line) == 8 and f"socket:[{line[6]}]" in targets]
    return [path for path in found if path.is_absolute() and path.name.startswith("hivemind-")]


def remove(pids: Iterable[int], sockets: Iterable[Path]) -> None:
    """Remove ``sockets``, and the shared memory of those of ``pids`` that have ended."""
    ended = [pid for pid in pids if not psutil.pid_exists(pid)]
    segments = [path for pid in ended for path in SHARED.glob(f"torch_{pid}_*")]
    for path in [*sockets, *segments]:
        path.unlink(missing_ok=True)
