"""Peer ids, petnames, signatures, and the key file."""

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import IdentityError
from swarm.identity import KeyPair, PeerId, digest_of, peer_id_from_digest, peer_id_of, petname, verify

KEY = KeyPair.from_seed(bytes(32))


def test_the_id_of_a_key_never_changes() -> None:
    """RFC 8032's all-zero seed; the id is the hash of the public key under our domain, in base32."""
    assert KEY.public.hex() == "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
    assert KEY.peer_id == peer_id_of(KEY.public) == "642btclm23snxwionj2edfe3fdkznrinh6lwswtofth7uiqi75ea"


@given(st.binary(min_size=32, max_size=32))
def test_an_id_and_its_digest_are_two_forms_of_the_same(digest: bytes) -> None:
    assert digest_of(peer_id_from_digest(digest)) == digest


@pytest.mark.parametrize("text", ["", "a" * 51, "A" * 52, "a" * 51 + "1", "a" * 53, "a" * 52 + "\n"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="peer id"):
        digest_of(PeerId(text))


def test_a_petname_is_short_and_stable() -> None:
    assert petname(KEY.peer_id) == "bat-3419"


def test_a_signature_belongs_to_its_key_and_its_message() -> None:
    signature = KEY.sign(b"message")
    other = KeyPair.generate()
    assert verify(KEY.public, signature, b"message")
    assert not verify(KEY.public, signature, b"massage")
    assert not verify(other.public, signature, b"message")
    assert not verify(KEY.public, signature[::-1], b"message")
    assert not verify(b"no key", b"no signature", b"message")


def test_a_new_key_file_is_readable_by_its_owner_only_and_read_back(tmp_path: Path) -> None:
    made = KeyPair.load_or_create(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert KeyPair.load_or_create(tmp_path / "key").peer_id == made.peer_id


def test_nobody_can_prepare_a_place_for_the_key(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("")
    for name in ("key.draft", f"key.draft-{os.getpid()}"):
        (tmp_path / name).symlink_to(elsewhere)
    KeyPair.load_or_create(tmp_path / "key")
    assert elsewhere.read_text() == ""
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_key_file_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "key"
    KeyPair.load_or_create(path)
    path.chmod(0o644)
    with pytest.raises(IdentityError) as caught:
        KeyPair.load_or_create(path)
    assert caught.value.advice == f"chmod 600 {path}"


@pytest.mark.parametrize("content", ["", "not hexadecimal", "ab" * 31, "ab" * 33])
def test_a_file_that_is_no_key_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="not an identity key"):
        KeyPair.load_or_create(path)
    assert path.read_text() == content


def test_a_directory_that_does_not_exist_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="--home"):
        KeyPair.load_or_create(tmp_path / "nowhere" / "key")


def test_a_key_shows_its_petname_and_never_its_secret() -> None:
    assert repr(KEY) == f"KeyPair({petname(KEY.peer_id)})"
    assert KEY.private_bytes() == bytes(32)


def test_a_full_disk_leaves_no_broken_key_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start must not find an empty file where a key should be, and fail for ever."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "identity.key"
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(IdentityError, match="No space left"):
            KeyPair.load_or_create(path)
    assert list(tmp_path.iterdir()) == []
    assert KeyPair.load_or_create(path).peer_id == KeyPair.load_or_create(path).peer_id


def test_of_two_that_make_a_key_at_once_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "identity.key"
    other = KeyPair.from_seed(bytes(32))
    link = os.link

    def later(draft: Path, target: Path) -> None:
        path.write_text(other.private_bytes().hex())
        path.chmod(0o600)
        link(draft, target)

    monkeypatch.setattr(os, "link", later)
    assert KeyPair.load_or_create(path).peer_id == other.peer_id
    assert list(tmp_path.iterdir()) == [path]
