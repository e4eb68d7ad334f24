"""Content addressing: chunks, hashes, one root."""

import pytest

from peer.chunks.hashes import ChunkLengths, chunk_count, chunk_length, chunked_hashes, root_of
from swarm.hashing import digest


@pytest.mark.parametrize(("length", "lengths"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1]), (8, [4, 4])])
def test_all_chunks_are_full_but_the_last(length, lengths):
    assert [chunk_length(index, length, 4) for index in range(chunk_count(length, 4))] == lengths


@pytest.mark.parametrize("index", [-1, 2])
def test_a_chunk_that_is_not_there_has_no_length(index):
    with pytest.raises(IndexError):
        chunk_length(index, 8, 4)


def test_each_chunk_is_hashed_by_itself():
    assert chunked_hashes(b"abcdef", 4) == [digest(b"abcd"), digest(b"ef")]
    assert chunked_hashes(memoryview(bytearray(b"abcdef")), 4) == chunked_hashes(b"abcdef", 4)


def test_the_root_changes_with_every_chunk_their_order_the_length_and_the_domain():
    one, two = chunked_hashes(b"abcdef", 4)
    roots = [
        root_of([one, two], 6, b"x"),
        root_of([two, one], 6, b"x"),
        root_of([one], 6, b"x"),
        root_of([one, two], 7, b"x"),
        root_of([one, two], 6, b"y"),
    ]
    assert len(set(roots)) == len(roots)
    assert all(len(root) == 32 for root in roots)


def test_the_lengths_of_all_chunks_are_there_without_a_list_of_them():
    lengths = ChunkLengths((1 << 44) + 1, 1 << 10)
    assert len(lengths) == (1 << 34) + 1
    assert (lengths[0], lengths[(1 << 34) - 1], lengths[1 << 34]) == (1 << 10, 1 << 10, 1)
    assert lengths[:2] == [1 << 10, 1 << 10]
    assert list(ChunkLengths(5, 4)) == [4, 1]
    with pytest.raises(IndexError):
        _ = lengths[(1 << 34) + 1]
