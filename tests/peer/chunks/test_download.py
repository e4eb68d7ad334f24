"""Downloads as plays: which donor is asked for what, and what bad, slow, busy and leaving donors cost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Mapping

import pytest

from peer.chunks.download import (
    MIN_TIMEOUT,
    PIPELINE,
    SHORTEST_REST,
    TIMEOUT_FACTOR,
    UNDER_WAY,
    CheckChunk,
    Download,
    DownloadProgress,
    Fetched,
    Wanted,
)
from peer.chunks.hashes import ChunkLengths
from swarm.hashing import digest
from swarm.identity import PeerId
from swarm.machine import Compute, Computed, Delivered, Fetch, Finish, Report, Unreached, WakeAt, Woken
from tests.playbook import play

A = PeerId("a")
B = PeerId("b")
C = PeerId("c")
CHUNKS = tuple(bytes([n]) * (10 + n) for n in range(12))
END = 1000.0


def wanted(count: int) -> Wanted:
    chunks = CHUNKS[:count]
    return Wanted(tuple(digest(chunk) for chunk in chunks), tuple(map(len, chunks)), END)


def download(count: int, *donors: PeerId, have: Mapping[int, bytes] | None = None) -> Download:
    return Download(wanted(count), donors, have)


def check(donor: PeerId, index: int, payload: bytes | None = None) -> CheckChunk:
    payload = CHUNKS[index] if payload is None else payload
    return CheckChunk(index, donor, payload, digest(CHUNKS[index]))


class Scene:
    """A download whose donors answer as the test says. `asks` is what each step asked for: (donor, chunk)."""

    def __init__(self, machine: Download) -> None:
        self.machine = machine
        self.commands = list(machine.start(0.0))

    @property
    def asks(self) -> list[tuple[PeerId, int]]:
        """What the last step asked for."""
        return [
            (command.source, int(command.item)) for command in self.commands if isinstance(command, Fetch)
        ]

    @property
    def fetches(self) -> list[Fetch]:
        """The same, with the deadlines."""
        return [command for command in self.commands if isinstance(command, Fetch)]

    @property
    def alarms(self) -> list[float]:
        """When the last step wants to be woken."""
        return [command.time for command in self.commands if isinstance(command, WakeAt)]

    @property
    def outcome(self) -> Fetched | None:
        """The end, where the last step was it."""
        return next((command.outcome for command in self.commands if isinstance(command, Finish)), None)

    def gives(self, now: float, donor: PeerId, index: int, payload: bytes | None = None) -> Scene:
        """The chunk comes and is checked at once."""
        taken = list(
            self.machine.handle(
                Delivered(donor, str(index), CHUNKS[index] if payload is None else payload), now
            )
        )
        jobs = [command.job for command in taken if isinstance(command, Compute)]
        self.commands = taken
        for job in jobs:
            assert isinstance(job, CheckChunk)
            self.commands += self.machine.handle(Computed(job, job.run()), now)
        return self

    def misses(self, now: float, donor: PeerId, index: int, code: str = "unreachable") -> Scene:
        """The request fails."""
        self.commands = list(self.machine.handle(Unreached(donor, str(index), code), now))
        return self

    def wakes(self, now: float) -> Scene:
        """Time passes."""
        self.commands = list(self.machine.handle(Woken(), now))
        return self


def whole(
    count: int, *, complete: bool = True, here: Iterable[int] | None = None, liars: Iterable[PeerId] = ()
) -> Fetched:
    return Fetched(
        {index: CHUNKS[index] for index in (range(count) if here is None else here)},
        complete,
        frozenset(liars),
    )


def test_every_donor_is_asked_for_one_chunk_and_for_more_once_it_has_given_a_good_one() -> None:
    scene = Scene(download(12, A, B))
    assert scene.asks == [(A, 0), (B, 1)]
    assert scene.gives(1, A, 0).asks == [(A, 2), (A, 3), (A, 4), (A, 5)]
    assert scene.gives(1, B, 1).asks == [(B, 6), (B, 7), (B, 8), (B, 9)]
    assert scene.gives(2, A, 2).asks == [(A, 10)]


def test_the_same_as_a_play() -> None:
    usual = MIN_TIMEOUT + 10 / (1 << 16)
    play(
        download(1, A),
        (0, None, [Fetch(A, "0", 10, usual), WakeAt(END)]),
        (1, Delivered(A, "0", CHUNKS[0]), [Compute(check(A, 0))]),
        (1, Computed(check(A, 0), True), [Finish(whole(1))]),
    )


def test_a_bad_chunk_costs_its_donor_the_rest_of_the_work_and_is_asked_of_another() -> None:
    scene = Scene(download(3, A, B))
    scene.gives(1, A, 0, b"lies")
    reports = [command for command in scene.commands if isinstance(command, Report)]
    assert [(report.code, report.peer) for report in reports] == [("bad-chunk", A)]
    assert scene.gives(1, B, 1).asks == [(B, 0), (B, 2)]
    assert scene.gives(2, A, 0).commands == [], "whatever it still sends"
    scene.gives(2, B, 0).gives(2, B, 2)
    assert scene.outcome == whole(3, liars=[A])


def test_a_second_bad_chunk_of_the_same_donor_is_no_news() -> None:
    scene = Scene(download(8, A, B)).gives(1, A, 0)
    scene.gives(2, A, 2, b"lies")
    assert list(scene.machine.handle(Computed(check(A, 3, b"lies"), False), 2)) == []


def test_a_donor_that_leaves_is_replaced() -> None:
    scene = Scene(download(3, A, B)).misses(1, A, 0)
    assert scene.asks == [], "B has not proven itself"
    assert scene.gives(2, B, 1).asks == [(B, 0), (B, 2)]


@pytest.mark.parametrize("code", ["unreachable", "refused", "impostor", ""])
def test_without_donors_it_ends_with_what_is_here(code: str) -> None:
    scene = Scene(download(3, A)).gives(1, A, 0).misses(2, A, 1, code)
    assert scene.outcome == whole(3, complete=False, here=[0])
    assert Scene(download(1)).outcome == whole(1, complete=False, here=[])


def test_a_busy_donor_is_asked_again_after_a_rest_that_grows() -> None:
    scene = Scene(download(2, A)).misses(1, A, 0, "busy")
    assert (scene.asks, scene.outcome) == ([], None)
    assert scene.alarms == [1 + SHORTEST_REST]
    assert scene.wakes(1 + SHORTEST_REST).asks == [(A, 0)]
    scene.misses(2, A, 0, "busy")
    assert scene.alarms == [2 + 2 * SHORTEST_REST]
    for at in range(3, 30):
        scene.wakes(10.0 * at).misses(10.0 * at, A, 0, "busy")
    assert scene.wakes(400).asks == [(A, 0)], "it never rests for long"
    scene.gives(401, A, 0).gives(402, A, 1)
    assert scene.outcome == whole(2)


def test_what_a_busy_donor_was_asked_for_is_asked_of_another() -> None:
    scene = Scene(download(3, A, B)).gives(1, B, 1).misses(1, A, 0, "busy")
    assert scene.asks == [(B, 0)]


def test_a_request_that_hangs_has_a_deadline_that_follows_from_what_chunks_have_taken() -> None:
    scene = Scene(download(12, A, B))
    assert [fetch.by for fetch in scene.fetches] == [MIN_TIMEOUT + length / (1 << 16) for length in (10, 11)]
    assert all(fetch.by == 20.0 + TIMEOUT_FACTOR * 20.0 for fetch in scene.gives(20, A, 0).fetches)
    assert all(fetch.by == 21.0 + TIMEOUT_FACTOR * 21.0 for fetch in scene.gives(21, B, 1).fetches), (
        "its own time, where that is longer"
    )
    assert Scene(Download(Wanted((bytes(32),), (1 << 30,), END), [A])).fetches[0].by == END, (
        "never beyond the end"
    )


def test_a_late_donor_gets_more_time_and_one_chunk_at_once_and_is_not_punished() -> None:
    scene = Scene(download(12, A)).gives(1, A, 0)
    for index in range(1, 9):
        scene.misses(11, A, index, "late")
    assert scene.outcome is None
    (again,) = scene.wakes(12).fetches
    assert again.by == 12 + 2 * MIN_TIMEOUT
    assert not [command for command in scene.commands if isinstance(command, Report)]
    assert len(scene.gives(30, A, int(again.item)).asks) == UNDER_WAY, "what comes in the end makes up for it"


def test_the_slowest_donor_does_not_set_the_pace() -> None:
    """A is silent. When B is done with the rest, it is asked for the chunk that A should have sent."""
    scene = Scene(download(2, A, B)).gives(1, B, 1)
    assert (scene.asks, scene.alarms) == ([], [2.0]), "A may still be in time"
    assert scene.wakes(2.0).asks == [(B, 0)]
    assert scene.gives(3, B, 0).outcome == whole(2)


def test_nothing_is_asked_of_two_donors_while_it_is_in_time() -> None:
    scene = Scene(download(2, A, B, C))
    assert scene.asks == [(A, 0), (B, 1)]
    assert scene.wakes(0.5).asks == []
    assert scene.wakes(2.5).asks == [(C, 0)], "overdue, and C has nothing to do"
    assert scene.wakes(2.6).asks == []
    scene.gives(3, A, 0)
    assert scene.gives(3, C, 0).outcome is None, "the second copy is no news"
    assert scene.gives(3, B, 1).outcome == whole(2)


def test_what_is_here_already_is_not_asked_for() -> None:
    machine = download(4, A, have={0: CHUNKS[0], 2: CHUNKS[2]})
    scene = Scene(machine)
    assert machine.progress(0.0) == DownloadProgress(2, 4, 22, 0.0, 1)
    assert scene.asks == [(A, 1)]
    assert scene.gives(1, A, 1).asks == [(A, 3)]
    assert machine.progress(1.0) == DownloadProgress(3, 4, 33, 11.0, 1), "the rate is that of what came"
    assert scene.gives(2, A, 3).outcome == whole(4)
    assert Scene(download(1, A, have={0: CHUNKS[0]})).outcome == whole(1)


def test_at_the_deadline_it_ends_with_what_is_here() -> None:
    scene = Scene(download(2, A)).gives(1, A, 0)
    assert scene.wakes(END).outcome == whole(2, complete=False, here=[0])


def test_a_stranger_delivers_nothing() -> None:
    scene = Scene(download(2, A))
    assert scene.gives(1, C, 0).commands == []
    assert scene.misses(1, C, 0).commands == []


@pytest.mark.parametrize(
    ("donors", "each"), [(1, UNDER_WAY), (2, UNDER_WAY // 2), (3, PIPELINE), (5, PIPELINE)]
)
def test_no_donor_ever_has_more_requests_than_its_share(donors: int, each: int) -> None:
    names = [PeerId(f"d{number}") for number in range(donors)]
    scene = Scene(download(12, *names))
    first = dict(scene.asks)
    assert first == {name: number for number, name in enumerate(names)}
    requests: dict[PeerId, set[int]] = {name: {index} for name, index in first.items()}
    now = 0.0
    while scene.outcome is None:
        now += 0.1
        name = max(names, key=lambda name: len(requests[name]))
        index = min(requests[name])
        requests[name].discard(index)
        for donor, asked in scene.gives(now, name, index).asks:
            requests[donor].add(asked)
        assert all(len(indices) <= each for indices in requests.values())
    assert scene.outcome == whole(12)


@pytest.mark.parametrize(("payload", "verdict"), [(CHUNKS[0], True), (b"lies", False), (b"", False)])
def test_a_chunk_is_held_against_its_hash(payload: bytes, verdict: bool) -> None:
    assert check(A, 0, payload).run() is verdict


def test_an_event_of_a_large_download_does_not_look_at_all_its_chunks() -> None:
    """There are a million of them, and each may bring an event."""
    count = 1 << 20
    hashes = (digest(CHUNKS[0]),) * count
    scene = Scene(Download(Wanted(hashes, ChunkLengths(10 * count, 10), END), [A]))
    scene.gives(1, A, 0)
    tracemalloc.start()
    try:
        scene.gives(2, A, 1).misses(3, A, 2, "busy").wakes(9)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < count


def test_a_chunk_that_two_donors_owed_is_asked_for_again_when_both_have_failed() -> None:
    scene = Scene(download(2, A, B)).gives(1, B, 1).wakes(2.0)
    assert scene.asks == [(B, 0)], "A is overdue"
    assert scene.misses(3, A, 0, "busy").asks == [], "B still owes it"
    assert scene.misses(3, B, 0, "busy").asks == []
    assert scene.wakes(3 + SHORTEST_REST).asks == [(A, 0)]
