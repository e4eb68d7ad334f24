"""Where a peer lives on disk: one folder per run and peer, locked by its process, so that two never share an identity.

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

from .files import replacing, trouble

SLOTS = 64
LIFE = 1 << 24
"""Records that one life may send before it meets the numbers of the next: one a second for half a year."""


def root_folder() -> Path:
    """``$SWARM_HOME``, or ``.swarm`` in the user's home folder."""
    return Path(os.environ.get("SWARM_HOME") or Path.home() / ".swarm")


class Home:
    """A locked folder. Leaving the ``with`` block unlocks it; a killed process leaves no lock behind."""

    def __init__(self, path: Path, lock: IO[bytes]) -> None:
        self.path = path
        self._lock = lock

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *_: object) -> None:
        self.status_file.unlink(missing_ok=True)
        self._lock.close()

    @property
    def identity_file(self) -> Path:
        """The key of this peer."""
        return self.path / "identity.key"

    def organiser_key(self, fresh: KeyPair) -> KeyPair:
        """The key of a new run's organiser: the one that lives here already, else ``fresh``, kept from now on.

        The default folder is named by the run, the run by its organiser's key; so that key is made before there is a folder.
        """
        if not self.identity_file.exists():
            with replacing(self.identity_file) as draft:
                draft.touch(mode=0o600)
                draft.write_text(fresh.private_bytes().hex() + "\n")
        return KeyPair.load_or_create(self.identity_file)

    def life(self, wall: float) -> int:
        """A number that is higher in every life of this peer, by more than a life can count: its records are numbered from there.

        The clock (``wall``, seconds since 1970) says how high; where it was set back, the last life's number does. Where that
        cannot be kept, the clock alone has to do.
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
        """Where the status page listens, while the peer runs: ``host:port`` and the run id, a line each."""
        return self.path / "status"

    def announce(self, address: str, run: bytes) -> None:
        """Tell `swarm top` on this machine where to look."""
        try:
            self.status_file.write_text(f"{address}\n{run.hex()}\n")
        except OSError as error:
            raise trouble(self.status_file, error) from error


def open_home(chosen: Path | None, run: bytes) -> Home:
    """The folder for a peer of ``run``: ``chosen``, or the first one under `root_folder` that no other peer lives in.

    Raises `HomeInUse` where ``chosen`` is taken, `DiskTrouble` where it cannot be written.
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
    """Status addresses of the peers that run on this machine, of one run or of all; the newest first."""
    folder = under or root_folder()
    found = [_announced(file) for file in (*folder.glob("*/*/status"), *folder.glob("status"))]
    for _, address, its_run, home in sorted((each for each in found if each), reverse=True):
        if (run is None or its_run == run.hex()) and _is_lived_in(home):
            yield address


def _announced(file: Path) -> tuple[float, str, str, Path] | None:
    """(when, address, run, home) of a status file; None where it has just gone, or is not ours to read."""
    try:
        address, _, rest = file.read_text().partition("\n")
        return file.stat().st_mtime, address, rest.strip(), file.parent
    except (OSError, UnicodeDecodeError):
        return None


def _locked(folder: Path) -> Home | None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / "lock").open("ab")
    except OSError as error:
        raise trouble(folder, error) from error
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


def _is_lived_in(folder: Path) -> bool:
    """Whether a peer lives there: a status file of a killed one is still there, its lock is not. Leaves no trace."""
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # there is no lock, or it is not ours to look at
    return False
