"""Files that are either whole or not there: a crash, a full disk or ``kill -9`` leaves the old one or the new one."""

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
    errno.EFBIG: "the system does not allow a file of this size here: choose another --home, or raise `ulimit -f`",
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write the yielded path; leaving the block makes it ``path``, durably and at once. An error inside leaves ``path`` as it was.

    Makes the folder. Raises `DiskTrouble` for whatever the disk refuses.
    """
    draft = path.with_name(f"{path.name}.draft-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            _flush(draft)
            os.replace(draft, path)
            _flush(path.parent)  # the rename itself must survive a power cut
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise trouble(path, error) from error


def sweep(directory: Path) -> None:
    """Remove the drafts that killed processes left in ``directory``; only its owner, the one peer of this home, may call it."""
    for pattern in ("*.draft-*", ".tmp*"):  # the second is what safetensors calls its own drafts
        for draft in directory.glob(pattern):
            draft.unlink(missing_ok=True)


def trouble(path: Path, error: OSError, verb: str = "write") -> DiskTrouble:
    """What the system says about ``path``, with what to do about it."""
    return DiskTrouble(
        f"cannot {verb} {path}: {error.strerror or error}", _ADVICE.get(error.errno or 0, "check the disk")
    )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
