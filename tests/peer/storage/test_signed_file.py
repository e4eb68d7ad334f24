"""The last round that a peer has signed for survives a restart."""

from __future__ import annotations

from pathlib import Path

from peer.storage.signed_file import SignedFile


def test_the_round_is_there_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "home" / "signed"
    assert SignedFile(file).last == -1
    SignedFile(file).keep(7)
    assert SignedFile(file).last == 7


def test_a_damaged_file_and_a_folder_that_cannot_be_written_stop_nobody(tmp_path: Path) -> None:
    file = tmp_path / "signed"
    file.write_text("nonsense")
    assert SignedFile(file).last == -1
    blocked = tmp_path / "file"
    blocked.write_text("")
    SignedFile(blocked / "signed").keep(3)
