"""A file is whole or not there."""

import errno
import os

import pytest

from peer.storage.files import disk_trouble, replacing, sweep
from swarm.errors import DiskTrouble


def test_a_file_appears_at_once_with_its_folder(tmp_path):
    path = tmp_path / "new" / "file"
    with replacing(path) as draft:
        draft.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert os.listdir(path.parent) == ["file"]


def test_an_error_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted():
        with replacing(path) as draft:
            draft.write_bytes(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_our_fault_and_says_what_to_do(tmp_path):
    with pytest.raises(DiskTrouble) as caught, replacing(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "No space left" in caught.value.fact
    assert "free some space" in caught.value.advice


def test_a_folder_that_cannot_be_made_is_disk_trouble(tmp_path):
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(DiskTrouble), replacing(tmp_path / "file" / "below"):
        pytest.fail("the block must not begin")


def test_forgetting_to_write_the_draft_is_noticed(tmp_path):
    with pytest.raises(DiskTrouble), replacing(tmp_path / "file"):
        pass


def test_drafts_of_killed_processes_are_swept_and_nothing_else(tmp_path):
    for name in ("a.draft-123", ".tmpX1", "kept", "draft"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["draft", "kept"]


def test_every_trouble_has_advice(tmp_path):
    assert disk_trouble(tmp_path, OSError(errno.EIO, "Input/output error"), "read").advice
    assert "cannot read" in disk_trouble(tmp_path, OSError(errno.EIO, "Input/output error"), "read").fact
