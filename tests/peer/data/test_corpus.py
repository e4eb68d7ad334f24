"""The training text: the same files give the same corpus, and only text gets in."""

import os
from pathlib import Path

import pytest

import peer.data.corpus as module
from peer.data.corpus import (
    SEPARATOR,
    Corpus,
    assemble,
    build,
    data_root,
    from_bytes,
    open_saved,
    save,
    saved_path,
    train_length,
)
from swarm.errors import DiskTrouble, NoData, WrongContent

TEXT = b"To be, or not to be, that is the question.\n" * 40


@pytest.fixture(scope="module")
def stdlib():
    return build(None)


def folder(root, **files):
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def test_the_same_files_give_the_same_corpus_wherever_the_folder_lies(tmp_path):
    one = build(folder(tmp_path / "one", a=TEXT, sub__b=TEXT + b"b"))
    two = build(folder(tmp_path / "two", sub__b=TEXT + b"b", a=TEXT))
    assert one.spec.root == two.spec.root
    assert one.files == 2
    assert sorted(bytes(one.data).split(SEPARATOR)) == [TEXT, TEXT + b"b"]


def test_another_byte_gives_another_root(tmp_path):
    assert (
        build(folder(tmp_path / "one", a=TEXT)).spec.root
        != build(folder(tmp_path / "two", a=TEXT + b".")).spec.root
    )


def test_files_are_not_in_the_order_of_the_alphabet(tmp_path):
    names = [f"{index:02}" for index in range(20)]
    corpus = build(folder(tmp_path, **{name: name.encode() * 60 for name in names}))
    assert [part[:2].decode() for part in bytes(corpus.data).split(SEPARATOR)] != names


def test_what_is_not_text_is_skipped_and_counted(tmp_path):
    folder(tmp_path, text=TEXT, image=b"\x89PNG\xff\xfe", table=b"a\0b", empty=b"")
    folder(tmp_path / ".git", config=TEXT)
    (tmp_path / "link").symlink_to(tmp_path / "text")
    os.mkfifo(tmp_path / "pipe")
    corpus = build(tmp_path)
    assert bytes(corpus.data) == TEXT
    assert (corpus.files, corpus.skipped) == (1, 5)


def test_a_loop_of_links_ends(tmp_path):
    folder(tmp_path, text=TEXT)
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    assert build(tmp_path).files == 1


def test_one_file_is_a_corpus(tmp_path):
    corpus = build(folder(tmp_path, book=TEXT) / "book")
    assert bytes(corpus.data) == TEXT
    assert corpus.spec.description == "book, 1 files"


def test_what_is_over_the_limit_is_left_out(tmp_path):
    corpus = build(folder(tmp_path, a=TEXT, b=TEXT), limit=len(TEXT) + 100)
    assert (corpus.files, corpus.skipped, corpus.spec.length) == (1, 1, len(TEXT))


def test_one_file_over_the_limit_is_named_with_the_limit(tmp_path):
    book = folder(tmp_path, book=TEXT) / "book"
    with pytest.raises(NoData, match="more than 1100 bytes") as caught:
        build(book, limit=1100)
    assert str(book) in caught.value.fact


def test_a_file_that_grows_while_it_is_read_counts_with_what_it_had(tmp_path, monkeypatch):
    """Its end may never come: the file may be written faster than it is read."""
    book = folder(tmp_path, book=TEXT) / "book"
    look = os.fstat

    def look_and_write(opened):
        about = look(opened)
        with book.open("ab") as writer:
            writer.write(TEXT)
        return about

    monkeypatch.setattr(os, "fstat", look_and_write)
    corpus = build(book)
    assert book.stat().st_size == 2 * len(TEXT)
    assert bytes(corpus.data) == TEXT


def test_what_never_ends_is_no_text(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for endless in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(NoData, match="neither a file nor a folder") as caught:
            build(endless)
        assert "--data" in caught.value.advice


def test_a_folder_of_too_many_files_is_named_with_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_FILES", 2)
    build(folder(tmp_path, a=TEXT, b=TEXT))
    with pytest.raises(NoData, match="more than 2 files") as caught:
        build(folder(tmp_path, c=TEXT))
    assert "smaller" in caught.value.advice


@pytest.mark.parametrize("files", [{}, {"short": b"hello"}, {"image": b"\xff" * 5000}])
def test_a_folder_without_text_is_named_with_advice(tmp_path, files):
    with pytest.raises(NoData) as caught:
        build(folder(tmp_path, **files))
    assert str(tmp_path) in caught.value.fact
    assert "--data" in caught.value.advice


def test_a_path_that_does_not_exist_is_no_data(tmp_path):
    with pytest.raises(NoData):
        build(tmp_path / "missing")


def test_the_default_is_the_standard_library_without_tests_and_packages(stdlib):
    assert stdlib.spec.length > 4 << 20
    assert b"import unittest\nfrom test import support" not in bytes(stdlib.data)
    assert "Python" in stdlib.spec.description


def test_progress_is_told_after_every_file(tmp_path):
    told = []
    build(folder(tmp_path, a=TEXT, b=TEXT), progress=lambda *now: told.append(now))
    assert told == [(1, len(TEXT)), (2, 2 * len(TEXT) + len(SEPARATOR))]


def test_the_tail_is_held_out():
    assert train_length(from_bytes(TEXT, held_out=0.25).spec) == len(TEXT) * 3 // 4


def test_a_saved_corpus_comes_back_without_its_bytes_being_read_into_memory(tmp_path, stdlib):
    path = save(stdlib, tmp_path)
    again = open_saved(tmp_path, stdlib.spec)
    assert path == saved_path(tmp_path, stdlib.spec)
    assert isinstance(again, Corpus)
    assert not isinstance(again.data, bytes | bytearray)
    assert again.hashes == stdlib.hashes
    assert again.text_N[:99].tolist() == list(stdlib.data[:99])


def test_a_corpus_that_is_missing_cut_short_or_damaged_is_none(tmp_path):
    corpus = from_bytes(TEXT)
    assert open_saved(tmp_path, corpus.spec) is None
    path = save(corpus, tmp_path)
    for damaged in (TEXT[:-1], b"", b"X" + TEXT[1:]):
        path.write_bytes(damaged)
        assert open_saved(tmp_path, corpus.spec) is None


def test_saving_where_nothing_can_be_written_is_disk_trouble(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiskTrouble):
        save(from_bytes(TEXT), tmp_path / "file")


def test_chunks_from_other_peers_make_the_same_corpus(stdlib):
    chunks = [bytes(stdlib.chunk(index)) for index in range(len(stdlib.hashes))]
    assert assemble(stdlib.spec, chunks).text_N.equal(stdlib.text_N)
    assert data_root(stdlib.hashes, stdlib.spec.length) == stdlib.spec.root


def test_chunks_that_are_wrong_too_few_or_out_of_order_are_refused(stdlib):
    chunks = [bytes(stdlib.chunk(index)) for index in range(len(stdlib.hashes))]
    for wrong in (
        chunks[:-1],
        chunks[1:2] + chunks[:1] + chunks[2:],
        [bytes(len(chunks[0])), *chunks[1:]],
        [b"".join(chunks)],
    ):
        with pytest.raises(WrongContent):
            assemble(stdlib.spec, wrong)


@pytest.mark.parametrize("index", [-1, 1])
def test_there_is_no_chunk_outside_the_corpus(index):
    with pytest.raises(IndexError):
        from_bytes(TEXT).chunk(index)
