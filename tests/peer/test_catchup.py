"""Downloads as plays: which donor is asked for what, and what a bad, a slow and a leaving donor cost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import pytest

from peer.catchup import PIPELINE, CatchUp, CheckChunk, Fetched, Wanted
from swarm.identity import PeerId
from swarm.machine import Command, Compute, Computed, Delivered, Fetch, Finish, Report, Unreached, WakeAt, Woken
from tests.playbook import play

A, B, C = PeerId("a"), PeerId("b"), PeerId("c")
CHUNKS = tuple(bytes([n]) * (10 + n) for n in range(8))
END = 100.0


def wanted(count: int) -> Wanted:
    chunks = CHUNKS[:count]
    return Wanted(tuple(hashlib.sha256(chunk).digest() for chunk in chunks), tuple(map(len, chunks)), END)


def download(count: int, *donors: PeerId, have: Mapping[int, bytes] | None = None) -> CatchUp:
    return CatchUp(wanted(count), donors, have)


def fetch(donor: PeerId, *indices: int) -> list[Command]:
    return [Fetch(donor, str(index), len(CHUNKS[index])) for index in indices]


def check(donor: PeerId, index: int, payload: bytes | None = None) -> CheckChunk:
    payload = CHUNKS[index] if payload is None else payload
    return CheckChunk(index, donor, payload, hashlib.sha256(CHUNKS[index]).digest())


def comes(donor: PeerId, index: int) -> Delivered:
    return Delivered(donor, str(index), CHUNKS[index])


def holds(donor: PeerId, index: int) -> Computed:
    return Computed(check(donor, index), True)


def done(count: int, *, complete: bool = True, here: Iterable[int] | None = None) -> Finish[Fetched]:
    return Finish(Fetched({index: CHUNKS[index] for index in (range(count) if here is None else here)}, complete))


def test_every_donor_is_asked_at_once_for_other_chunks() -> None:
    play(
        download(5, A, B),
        (0, None, [WakeAt(END), *fetch(A, 0, 1), *fetch(B, 2, 3)]),
        (1, comes(A, 0), [Compute(check(A, 0))]),
        (1, holds(A, 0), fetch(A, 4)),
        (2, comes(B, 2), [Compute(check(B, 2))]),
        (2, holds(B, 2), []),
    )


def test_it_ends_when_all_chunks_are_here() -> None:
    play(
        download(2, A),
        (0, None, [WakeAt(END), *fetch(A, 0, 1)]),
        (1, comes(A, 1), [Compute(check(A, 1))]),
        (1, holds(A, 1), []),
        (1, comes(A, 0), [Compute(check(A, 0))]),
        (1, holds(A, 0), [done(2)]),
    )


def test_a_bad_chunk_costs_its_donor_the_rest_of_the_work_and_is_asked_of_another() -> None:
    bad = check(A, 0, b"lies")
    play(
        download(4, A, B),
        (0, None, [WakeAt(END), *fetch(A, 0, 1), *fetch(B, 2, 3)]),
        (1, Delivered(A, "0", b"lies"), [Compute(bad)]),
        (1, Computed(bad, False), [Report]),
        (2, holds(B, 2), fetch(B, 0)),
        (2, comes(A, 1), []),
        (3, holds(B, 3), fetch(B, 1)),
        (4, holds(B, 0), []),
        (5, holds(B, 1), [done(4)]),
    )


def test_a_second_bad_chunk_of_the_same_donor_is_no_news() -> None:
    first, second = check(A, 0, b"lies"), check(A, 1, b"lies")
    play(
        download(4, A, B),
        (0, None, [WakeAt(END), *fetch(A, 0, 1), *fetch(B, 2, 3)]),
        (
            1,
            Computed(first, False),
            [Report("bad-chunk", "sent a chunk that is not what it should be; nothing more is asked of it", A)],
        ),
        (1, Computed(second, False), []),
    )


def test_a_donor_that_leaves_is_replaced() -> None:
    play(
        download(3, A, B),
        (0, None, [WakeAt(END), *fetch(A, 0, 1), *fetch(B, 2)]),
        (1, Unreached(A, "0"), fetch(B, 0)),
        (1, Unreached(A, "1"), []),
        (2, holds(B, 2), fetch(B, 1)),
    )


def test_without_donors_it_ends_with_what_is_here() -> None:
    play(
        download(2, A),
        (0, None, [WakeAt(END), *fetch(A, 0, 1)]),
        (1, holds(A, 1), []),
        (2, Unreached(A, "0"), [done(2, complete=False, here=[1])]),
    )
    play(download(1), (0, None, [WakeAt(END), done(1, complete=False, here=[])]))


def test_the_slowest_donor_does_not_set_the_pace() -> None:
    """A is silent; B, done with its own share, is asked for what A owes, and A's late chunk changes nothing."""
    play(
        download(4, A, B),
        (0, None, [WakeAt(END), *fetch(A, 0, 1), *fetch(B, 2, 3)]),
        (1, holds(B, 2), []),
        (1, holds(B, 3), fetch(B, 1)),
        (2, holds(B, 1), fetch(B, 0)),
        (3, holds(A, 1), []),
        (4, holds(B, 0), [done(4)]),
    )


def test_what_is_here_already_is_not_asked_for() -> None:
    machine = download(4, A, have={0: CHUNKS[0], 2: CHUNKS[2]})
    assert machine.progress == (2, 4)
    play(machine, (0, None, [WakeAt(END), *fetch(A, 1, 3)]), (1, holds(A, 1), []), (2, holds(A, 3), [done(4)]))
    play(download(1, A, have={0: CHUNKS[0]}), (0, None, [WakeAt(END), done(1)]))


def test_at_the_deadline_it_ends_with_what_is_here() -> None:
    play(
        download(2, A),
        (0, None, [WakeAt(END), *fetch(A, 0, 1)]),
        (1, holds(A, 0), []),
        (END, Woken(), [done(2, complete=False, here=[0])]),
    )


def test_waking_early_changes_nothing() -> None:
    play(download(2, A), (0, None, [WakeAt(END), *fetch(A, 0, 1)]), (1, Woken(), []))


def test_a_stranger_delivers_nothing() -> None:
    play(download(2, A), (0, None, [WakeAt(END), *fetch(A, 0, 1)]), (1, comes(C, 0), []), (1, Unreached(C), []))


def test_no_donor_ever_owes_more_than_the_pipeline_holds() -> None:
    commands = play(download(8, A, B), (0, None, [WakeAt, *[Fetch] * 2 * PIPELINE]))
    owed = [command.source for command in commands if isinstance(command, Fetch)]
    assert all(owed.count(donor) == PIPELINE for donor in (A, B))


@pytest.mark.parametrize(("payload", "verdict"), [(CHUNKS[0], True), (b"lies", False), (b"", False)])
def test_a_chunk_is_held_against_its_hash(payload: bytes, verdict: bool) -> None:
    assert check(A, 0, payload).run() is verdict
