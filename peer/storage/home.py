"""The home of a peer on disk: one folder per run and peer, locked by its process.

The lock keeps two processes from using one identity.

~/.swarm/RUN/1/identity.key  data/  checkpoints/  model.safetensors  status  lock
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from swarm.errors import DiskTrouble, HomeInUse
from swarm.identity import KeyPair

from .files import disk_trouble, replacing, write_secret

SLOTS = 64
"""Peers of one run on this computer that get a folder without naming one."""
LIFE = 1 << 24
"""Sequence numbers reserved for each start of a peer: one a second for half a year."""


def root_folder() -> Path:
    """``$SWARM_HOME``, or ``.swarm`` in the user's home folder."""
    return Path(os.environ.get("SWARM_HOME") or Path.home() / ".swarm")


class Home:
    """A locked folder. Leaving the ``with`` block unlocks it, and so does the death of the process."""

    def __init__(self, path: Path, lock: IO[bytes]) -> None:
        self.path = path
        self._lock = lock

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *_: object) -> None:
        # On a disk that has become read-only the file stays; without the lock nobody believes it.
        with contextlib.suppress(OSError):
            self.status_file.unlink(missing_ok=True)
        self._lock.close()

    @property
    def identity_file(self) -> Path:
        """The key of this peer."""
        return self.path / "identity.key"

    def organiser_key(self, fresh: KeyPair) -> KeyPair:
        """The key of a new run's organiser: the one that is here already, else ``fresh``, which is then kept.

        The run id depends on the organiser's key, and the default folder on the run id. So the key has to be
        made before the folder is known.
        """
        if not self.identity_file.exists():
            with replacing(self.identity_file) as draft:
                write_secret(draft, fresh.private_bytes().hex() + "\n")
        return KeyPair.load_or_create(self.identity_file)

    def life(self, wall: float) -> int:
        """The first sequence number for the records of this process, `LIFE` or more above the last process's.

        Other peers keep only the record with the highest number, so a restarted peer must not start below.
        The number is the clock (``wall``, seconds since 1970) in milliseconds, or the last process's number
        plus `LIFE` where the clock was set back. If it cannot be kept on disk, the clock alone decides.
        """
        file = self.path / "life"
        number = int(wall * 1000)
        try:
            number = max(number, int(file.read_text()) + LIFE)
        except (OSError, ValueError):
            number = max(number, LIFE)
        with contextlib.suppress(DiskTrouble), replacing(file) as draft:
            draft.write_text(f"{number}\n")
        return number

    @property
    def status_file(self) -> Path:
        """The address of the running peer's status page (``host:port``) and the run id, in two lines."""
        return self.path / "status"

    def announce(self, address: str, run: bytes) -> None:
        """Write the status file, by which `swarm top` finds the peer. Raises `DiskTrouble`."""
        try:
            self.status_file.write_text(f"{address}\n{run.hex()}\n")
        except OSError as error:
            raise disk_trouble(self.status_file, error) from error


def open_home(chosen: Path | None, run: bytes) -> Home:
    """The folder for a peer of ``run``: ``chosen``, or the first unlocked one under `root_folder`.

    Raises `HomeInUse` where ``chosen`` is locked or no folder is left, `DiskTrouble` if it cannot be written.
    """
    if chosen is not None:
        home = _locked(chosen)
        if home is None:
            raise HomeInUse(f"another peer lives in {chosen}", "choose another --home, or leave it out")
        return home
    folder = root_folder() / run.hex()[:16]
    for slot in range(1, SLOTS + 1):
        home = _locked(folder / str(slot))
        if home is not None:
            return home
    raise HomeInUse(f"{SLOTS} peers of this run already live under {folder}", "choose another --home")


def running(run: bytes | None = None, under: Path | None = None) -> Iterator[str]:
    """Status addresses of the peers that run on this computer, of one run or of all; the newest first."""
    folder = under or root_folder()
    found = [_announced(file) for file in (*folder.glob("*/*/status"), *folder.glob("status"))]
    newest_first = sorted((announced for announced in found if announced), reverse=True)
    for _, address, its_run, home in newest_first:
        is_wanted = run is None or its_run == run.hex()
        if is_wanted and _is_locked(home):
            yield address


def _announced(file: Path) -> tuple[float, str, str, Path] | None:
    """(time, address, run, home) of a status file; None where it is gone or may not be read."""
    try:
        address, _, rest = file.read_text().partition("\n")
        return file.stat().st_mtime, address, rest.strip(), file.parent
    except (OSError, UnicodeDecodeError):
        return None


def _locked(folder: Path) -> Home | None:
    """The folder, locked for this process; None where another process has locked it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / "lock").open("ab")
    except OSError as error:
        raise disk_trouble(folder, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError as error:
        lock.close()
        raise DiskTrouble(
            f"cannot lock {folder}: {error.strerror}", "choose a --home on a local disk"
        ) from error
    return Home(folder, lock)


def _is_locked(folder: Path) -> bool:
    """Whether a process has locked the folder. A killed peer leaves its status file, but no lock."""
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # there is no lock file, or we may not read it
    return False
