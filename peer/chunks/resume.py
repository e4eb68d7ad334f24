"""Chunks of unfinished downloads, in memory and, if the peer has a home, on disk for after a restart.

partial/model-3fa9…/17   one file per chunk, not synced: checked by its hash before it is used again
partial/text-77e0…/3     a folder is removed when its download is done, or when another root is wanted
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from swarm.errors import DiskTrouble
from swarm.hashing import digest

from ..storage.files import disk_trouble


class ResumeStore:
    """The chunks that have arrived so far, by what they are part of (``text`` or ``model``) and its root.

    With ``folder`` None they are kept in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._chunks: dict[str, dict[int, bytes]] = {}

    def recall(self, what: str, root: bytes, hashes: Sequence[bytes]) -> dict[int, bytes]:
        """The chunks of ``root`` that are here and match their hash, by index.

        Removes the chunks of any other root of the same ``what``: that download has been superseded.
        """
        name = _name(what, root)
        self._remove(what, keep=name)

        chunks = self._chunks.get(name, {})
        for index in range(len(hashes)):
            if index not in chunks and (payload := self._read(name, index)) is not None:
                chunks[index] = payload
        self._chunks[name] = {
            index: payload
            for index, payload in chunks.items()
            if index < len(hashes) and digest(payload) == hashes[index]
        }
        return self._chunks[name]

    def keep(self, what: str, root: bytes, index: int, payload: bytes) -> DiskTrouble | None:
        """Remember a chunk. An error of the disk is returned once; from then on only memory is used."""
        name = _name(what, root)
        self._chunks.setdefault(name, {})[index] = payload
        if self._folder is None:
            return None
        path = self._folder / name / str(index)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.write_bytes(payload)
        except OSError as error:
            self._folder = None
            return disk_trouble(path, error)
        return None

    def done(self, what: str) -> None:
        """Remove all chunks of ``what``: they are not needed any more."""
        self._remove(what, keep=None)

    def _remove(self, what: str, keep: str | None) -> None:
        for name in [name for name in self._chunks if name.startswith(f"{what}-")]:
            if name != keep:
                del self._chunks[name]
        for folder in self._folders(what):
            if folder.name != keep:
                shutil.rmtree(folder, ignore_errors=True)

    def _folders(self, what: str) -> list[Path]:
        return sorted(self._folder.glob(f"{what}-*")) if self._folder else []

    def _read(self, name: str, index: int) -> bytes | None:
        if self._folder is None:
            return None
        try:
            return (self._folder / name / str(index)).read_bytes()
        except OSError:
            return None


def _name(what: str, root: bytes) -> str:
    return f"{what}-{root.hex()}"
