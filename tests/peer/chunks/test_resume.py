"""Chunks of an unfinished download: checked before they are used again, removed when done or stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from peer.chunks.resume import ResumeStore
from swarm.hashing import digest

PIECES = (b"one", b"two", b"three")
HASHES = tuple(digest(piece) for piece in PIECES)
ROOT = bytes([1]) * 32
OTHER = bytes([2]) * 32


def folders(path: Path) -> list[str]:
    return sorted(entry.name[:7] for entry in path.iterdir()) if path.exists() else []


def test_chunks_that_were_kept_are_here_after_a_restart(tmp_path: Path) -> None:
    first = ResumeStore(tmp_path / "p")
    assert first.recall("model", ROOT, HASHES) == {}
    assert first.keep("model", ROOT, 2, PIECES[2]) is None
    assert first.recall("model", ROOT, HASHES) == {2: PIECES[2]}
    assert ResumeStore(tmp_path / "p").recall("model", ROOT, HASHES) == {2: PIECES[2]}


def test_without_a_folder_memory_keeps_it() -> None:
    resume = ResumeStore(None)
    resume.keep("text", ROOT, 0, PIECES[0])
    assert resume.recall("text", ROOT, HASHES) == {0: PIECES[0]}
    assert ResumeStore(None).recall("text", ROOT, HASHES) == {}


@pytest.mark.parametrize("harm", [b"", b"onf", b"one more", b"\0" * 100])
def test_a_chunk_that_was_cut_short_or_changed_on_disk_is_not_taken(tmp_path: Path, harm: bytes) -> None:
    ResumeStore(tmp_path).keep("model", ROOT, 0, PIECES[0])
    ResumeStore(tmp_path).keep("model", ROOT, 1, PIECES[1])
    (tmp_path / f"model-{ROOT.hex()}" / "0").write_bytes(harm)
    assert ResumeStore(tmp_path).recall("model", ROOT, HASHES) == {1: PIECES[1]}


def test_a_model_that_is_not_wanted_any_more_goes_and_the_text_stays(tmp_path: Path) -> None:
    resume = ResumeStore(tmp_path)
    resume.keep("model", ROOT, 0, PIECES[0])
    resume.keep("text", ROOT, 0, PIECES[0])
    assert resume.recall("model", OTHER, HASHES) == {}
    assert folders(tmp_path) == ["text-01"]
    assert resume.recall("model", ROOT, HASHES) == {}


def test_when_it_is_done_nothing_is_left(tmp_path: Path) -> None:
    resume = ResumeStore(tmp_path)
    resume.keep("model", ROOT, 0, PIECES[0])
    resume.done("model")
    assert folders(tmp_path) == []
    assert resume.recall("model", ROOT, HASHES) == {}


def test_a_disk_that_refuses_is_told_once_and_memory_is_enough(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("in the way")
    resume = ResumeStore(tmp_path / "p")
    refused = resume.keep("model", ROOT, 0, PIECES[0])
    assert refused is not None
    assert refused.code == "disk"
    assert resume.keep("model", ROOT, 1, PIECES[1]) is None
    assert resume.recall("model", ROOT, HASHES) == {0: PIECES[0], 1: PIECES[1]}


def test_more_files_than_chunks_do_no_harm(tmp_path: Path) -> None:
    ResumeStore(tmp_path).keep("model", ROOT, 7, b"seven")
    assert ResumeStore(tmp_path).recall("model", ROOT, HASHES) == {}
