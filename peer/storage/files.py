"""Write files as a whole: after a crash, a full disk or ``kill -9`` there is the old file or the new one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swarm.errors import DiskTrouble

_ADVICE = {
    errno.ENOSPC: "free some space, or choose a --home on another disk",
    errno.EDQUOT: "your disk quota is used up: free some space, or choose another --home",
    errno.EROFS: "the disk is read-only: choose another --home",
    errno.EACCES: "choose a --home that you may write to",
    errno.EFBIG: (
        "the system does not allow a file of this size here: choose another --home, or raise `ulimit -f`"
    ),
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a draft to write. At the end of the block it replaces ``path``, durably, at once.

    An error inside the block leaves ``path`` as it was. Makes the folder. Raises `DiskTrouble` for any error
    of the operating system, also inside the block.
    """
    draft = path.with_name(f"{path.name}.draft-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            _flush(draft)
            os.replace(draft, path)
            _flush(path.parent)  # so that the rename itself survives a power cut
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise disk_trouble(path, error) from error


def write_secret(draft: Path, text: str) -> None:
    """Write a new file that only this user can read, from its first byte on.

    What is there already is removed, never written to: another process, or another user of the folder, may
    have put it there, with a mode of its own or as a link to somewhere else.
    """
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def sweep(directory: Path) -> None:
    """Remove the drafts that killed processes have left in ``directory``.

    Only the peer that owns the directory may call this: it would remove the drafts of a running process, too.
    """
    for pattern in ("*.draft-*", ".tmp*"):  # safetensors names its own drafts like the second one
        for draft in directory.glob(pattern):
            draft.unlink(missing_ok=True)


def disk_trouble(path: Path, error: OSError, verb: str = "write") -> DiskTrouble:
    """The error of the operating system at ``path``, with advice."""
    return DiskTrouble(
        f"cannot {verb} {path}: {error.strerror or error}", _ADVICE.get(error.errno or 0, "check the disk")
    )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
