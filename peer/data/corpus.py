"""The training text: built from files once, named by its content, the same bytes on every peer.

    files ──► ordered by hash(path) ──► joined ──► chunks ──► root      train: the head │ held out: the tail

The order by hash makes the held-out tail a fair sample of all files instead of the end of the alphabet.
Chunks are hashed with BLAKE3 (`swarm.hashing`).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from swarm.errors import NoData, WrongContent
from swarm.manifest import DataSpec

from ..chunks.hashes import chunk_count, chunk_length, chunked_hashes, root_of
from ..storage.files import disk_trouble, replacing

DOMAIN = b"swarm-data-v1"

SEPARATOR = b"\n\f\n"
"""Between two files: a form feed on a line of its own, the page break of plain text. A model can learn where
a file ends, and a sample can still be printed. A null byte cannot, and other markers could occur in texts."""

LIMIT = 1 << 30
"""Bytes of the largest corpus that is built from files: it is in memory while it is built."""

MOST_FILES = 1 << 20
"""Files of the largest folder that is read; the Linux kernel has 90,000."""

SMALLEST = 1 << 10
"""Bytes of the smallest corpus that is built from files."""

SKIPPED_FOLDERS = frozenset(
    "site-packages dist-packages test tests idle_test __pycache__ lib2to3 idlelib encodings".split()
    + "pydoc_data turtledemo ensurepip".split()
)
"""Folders of the standard library that are not library code: tests, tables, and packages of others."""

_ADVICE = "give --data a folder of text files (UTF-8), or leave it out to train on Python's standard library"
_SMALLER = "give --data a smaller text, or a folder with a part of it"

Progress = Callable[[int, int], None]
"""Called after every file with (files read, bytes read)."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text and its name. ``data`` is never written to: its type is writable because torch requires that."""

    spec: DataSpec
    data: bytearray | mmap.mmap
    files: int = 0
    """Files it was built from; 0 where it was opened or received."""
    skipped: int = 0
    """Files left out while it was built: not UTF-8 text, unreadable, a link, or beyond the limit."""

    def __repr__(self) -> str:
        return f"Corpus({self.spec.root.hex()[:12]}, {self.spec.length:,} bytes, {self.spec.description!r})"

    @cached_property
    def text_N(self) -> Tensor:
        """All bytes as uint8 ``[length]``, without a copy."""
        return torch.frombuffer(self.data, dtype=torch.uint8)

    @cached_property
    def hashes(self) -> list[bytes]:
        """BLAKE3 of every chunk, in order: what a peer that has only the root asks for first."""
        return chunk_hashes(self.data, self.spec.chunk)

    def chunk(self, index: int) -> memoryview:
        """Chunk ``index``, without a copy. Raises `IndexError` where there is none."""
        start = index * self.spec.chunk
        return memoryview(self.data)[start : start + chunk_length(index, self.spec.length, self.spec.chunk)]


def train_length(spec: DataSpec) -> int:
    """Bytes at the head that peers train on; the rest, the ``held_out`` tail, is only evaluated."""
    return spec.length - round(spec.length * spec.held_out)


def chunk_hashes(data: bytearray | mmap.mmap | bytes, chunk: int) -> list[bytes]:
    """BLAKE3 of every ``chunk`` bytes of ``data``, in order."""
    return chunked_hashes(memoryview(data), chunk)


def data_root(hashes: Sequence[bytes], length: int) -> bytes:
    """The name of a corpus of ``length`` bytes whose chunks have these ``hashes``."""
    return root_of(hashes, length, DOMAIN)


# --- building from files ------------------------------------------------------------------------------------


def build(
    path: Path | None,
    *,
    held_out: float = 0.05,
    limit: int = LIMIT,
    progress: Progress = lambda files, size: None,
) -> Corpus:
    """A corpus from a folder of text, one text file, or (None) the source of Python's standard library.

    The same files give the same corpus anywhere: contents and relative paths count, dates and the folder's
    place do not. Files that are not UTF-8 text without null bytes are skipped and counted. Links and hidden
    files are left out, so that a corpus never contains what lies outside the folder. What does not fit into
    ``limit`` bytes is skipped, too. Raises `NoData` where less than `SMALLEST` bytes of text are left, where
    one file alone is larger than ``limit``, and where a folder has more than `MOST_FILES` files.
    """
    root, found, description = _sources(path)
    if root.is_file() and root.stat().st_size > limit:
        raise NoData(f"{root} has more than {limit} bytes, the most that a text may have", _SMALLER)
    data = bytearray()
    files = 0
    skipped = 0
    for file in found:
        text = _read_text(file, limit - len(data) - len(SEPARATOR))
        if text is None:
            skipped += 1
            continue
        data += SEPARATOR + text if files else text
        files += 1
        progress(files, len(data))
    if len(data) < SMALLEST:
        raise NoData(
            f"{root} holds {len(data)} bytes of text in {files} files ({skipped} others were skipped)",
            _ADVICE,
        )
    return from_bytes(
        data,
        description=f"{description}, {files} files"[:200],
        held_out=held_out,
        files=files,
        skipped=skipped,
    )


def from_bytes(
    data: bytes | bytearray,
    *,
    description: str = "",
    held_out: float = 0.05,
    chunk: int = 1 << 20,
    files: int = 0,
    skipped: int = 0,
) -> Corpus:
    """The corpus that consists of ``data``."""
    data = data if isinstance(data, bytearray) else bytearray(data)
    root = data_root(chunk_hashes(data, chunk), len(data))
    return Corpus(DataSpec(root, len(data), chunk, held_out, description), data, files, skipped)


def _sources(path: Path | None) -> tuple[Path, list[Path], str]:
    """The folder, its files in the order of the corpus, and a description.

    Raises `NoData` for a device or a pipe, which may never end, and for a folder of too many files.
    """

    def position(file: Path) -> bytes:
        path = file.relative_to(root).as_posix()
        return hashlib.sha256(path.encode(errors="surrogateescape")).digest()

    if path is None:
        root = Path(sysconfig.get_path("stdlib"))
        name = f"Python {sys.version_info.major}.{sys.version_info.minor} standard library"
        # each build of Python writes its paths into _sysconfigdata…: every machine would have another corpus
        found = [
            f
            for f in _walk(root, SKIPPED_FOLDERS)
            if f.suffix == ".py" and not f.name.startswith("_sysconfigdata")
        ]
    else:
        root = path.resolve()
        name = root.name
        if root.exists() and not (root.is_file() or root.is_dir()):
            raise NoData(f"{root} is neither a file nor a folder: nobody knows where it ends", _ADVICE)
        found = [root] if root.is_file() else list(islice(_walk(root, frozenset()), MOST_FILES + 1))
    if len(found) > MOST_FILES:
        raise NoData(f"{root} has more than {MOST_FILES} files", _SMALLER)
    found.sort(key=position)
    return root, found, name.encode(errors="replace").decode()


def _walk(root: Path, without: frozenset[str]) -> Iterator[Path]:
    for folder, names, files in os.walk(root, followlinks=False):
        names[:] = [name for name in names if name not in without and not name.startswith(".")]
        yield from (Path(folder, file) for file in files if not file.startswith("."))


def _read_text(file: Path, at_most: int) -> bytes | None:
    """The file's bytes; None where it is not a readable regular file of UTF-8 text, or too long.

    A file that grows while it is read counts with what it had.
    """
    try:
        # Of a pipe that has taken the place of a file, neither the opening nor the reading may wait for ever.
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(opened, "rb") as source:
            about = os.fstat(opened)
            if not (stat.S_ISREG(about.st_mode) and 0 < about.st_size <= at_most):
                return None
            text = source.read(about.st_size)
        text.decode()
    except (OSError, UnicodeDecodeError):
        return None
    return None if b"\0" in text else text


# --- kept on disk, and received from peers ------------------------------------------------------------------


def saved_path(directory: Path, spec: DataSpec) -> Path:
    """Where `save` puts the corpus of ``spec``."""
    return directory / f"{spec.root.hex()}.corpus"


def save(corpus: Corpus, directory: Path) -> Path:
    """Write the corpus to a file named by its root, whole or not at all; its path. Raises `DiskTrouble`."""
    path = saved_path(directory, corpus.spec)
    with replacing(path) as draft:
        draft.write_bytes(corpus.data)
    return path


def open_saved(directory: Path, spec: DataSpec) -> Corpus | None:
    """The corpus of ``spec`` as `save` left it, mapped into memory, every chunk checked.

    None where the file is missing or damaged. Raises `DiskTrouble` where it cannot be read.
    """
    path = saved_path(directory, spec)
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != spec.length:
                return None
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_trouble(path, error, "read") from error
    return Corpus(spec, data) if _is_corpus(data, spec) else None


def assemble(spec: DataSpec, chunks: Sequence[bytes]) -> Corpus:
    """The corpus from chunks of other peers. Raises `WrongContent` where its root is not that of ``spec``."""
    data = bytearray().join(chunks)
    if len(chunks) != chunk_count(spec.length, spec.chunk) or not _is_corpus(data, spec):
        raise WrongContent("these chunks are not the run's training text")
    return Corpus(spec, data)


def _is_corpus(data: bytearray | mmap.mmap, spec: DataSpec) -> bool:
    return len(data) == spec.length and data_root(chunk_hashes(data, spec.chunk), spec.length) == spec.root
