"""Chunks of downloads that are not finished, in memory and where there is a home also on disk: a restart goes on where it was.

partial/model-3fa9…/17      one file per chunk, without a sync: each is held against its hash before it is used again
partial/text-77e0…/3        a folder goes when its download is done; a model's also when another model is wanted
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from swarm.errors import DiskTrouble
from swarm.hashing import digest

from ..storage.files import trouble


class ResumeStore:
    """What has come so far, by what it is (``text``, ``model``) and its root. ``folder`` None keeps it in memory only."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._chunks: dict[str, dict[int, bytes]] = {}

    def recall(self, what: str, root: bytes, hashes: Sequence[bytes]) -> dict[int, bytes]:
        """The chunks of ``root`` that are here and hash to what they should. Those of any other ``what`` are stale, and removed."""
        name = _name(what, root)
        for stale in [known for known in self._chunks if known.startswith(f"{what}-") and known != name]:
            del self._chunks[stale]
        for folder in self._folders(what):
            if folder.name != name:
                shutil.rmtree(folder, ignore_errors=True)
        chunks = self._chunks.setdefault(name, {})
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
        """Remember a chunk. A disk that refuses is told once; from then on memory is enough."""
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
            return trouble(path, error)
        return None

    def done(self, what: str) -> None:
        """Nothing of ``what`` is needed any more."""
        self._chunks = {
            name: chunks for name, chunks in self._chunks.items() if not name.startswith(f"{what}-")
        }
        for folder in self._folders(what):
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
