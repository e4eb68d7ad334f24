"""The digest of bulk bytes is BLAKE3, for all types that hold bytes."""

from __future__ import annotations

from swarm.hashing import Hasher, digest


def test_it_is_blake3_by_its_official_vectors() -> None:
    assert digest(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    counted = bytes(number % 251 for number in range(2049))
    assert digest(counted).hex() == "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030"


def test_it_does_not_matter_what_holds_the_bytes() -> None:
    raw = bytes(range(256)) * 1000
    assert (
        digest(raw) == digest(bytearray(raw)) == digest(memoryview(raw)) == digest(memoryview(b"x" + raw)[1:])
    )


def test_pieces_have_the_digest_of_the_whole() -> None:
    raw = bytes(range(256)) * 1000
    hasher = Hasher()
    for start in range(0, len(raw), 777):
        hasher.update(memoryview(raw)[start : start + 777])
    assert hasher.digest() == digest(raw)
    assert Hasher().digest() == digest(b"")
