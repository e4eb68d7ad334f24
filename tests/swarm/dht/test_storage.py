"""The storage of a DHT node: what it keeps, for how long, and what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import swarm.dht.storage as module
from swarm.dht.records import Topics, key_id, pack_bundle, unpack_bundle
from swarm.dht.storage import RecordStorage
from swarm.membership.progress import Progress
from tests.swarm.memory import RUN, key, record

TOPICS = Topics(RUN, {"progress": Progress})
PLACE, OTHER = (key_id(raw) for raw in TOPICS.keys("progress")[:2])


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        return self.now


def one(peer: int, round_: int = 0, seq: int = 0, seconds: float = 100.0) -> bytes:
    return pack_bundle([(record(key(peer), round_, seq), seconds)])


def versions(storage: RecordStorage, where: int = PLACE) -> list[tuple[int, int]]:
    return [(signed.stamp.round, signed.stamp.seq) for signed in storage.records(where)]


def test_a_refused_store_shortens_the_life_of_hiveminds_record_but_not_of_ours() -> None:
    from hivemind.dht.routing import DHTID
    from hivemind.dht.storage import DHTLocalStorage
    from hivemind.utils.timed_storage import get_dht_time

    theirs = DHTLocalStorage()
    now = get_dht_time()
    assert theirs.store(DHTID(PLACE), b"new", now + 1000)
    assert not theirs.store(DHTID(PLACE), b"old", now + 500)
    assert theirs.key_to_heap[DHTID(PLACE)].expiration_time == now + 500, (
        "if hivemind has fixed this, change the docstring of swarm.dht.storage"
    )
    assert len(theirs.expiration_heap) == 2

    clock = Clock()
    ours = RecordStorage(TOPICS, clock)
    assert ours.store(PLACE, one(1, 2, 0, seconds=500))
    assert not ours.store(PLACE, one(1, 1, 9, seconds=1))
    clock.now += 499
    assert versions(ours) == [(2, 0)]


@given(st.permutations([(1, 0, 1), (1, 0, 2), (1, 3, 0), (2, 0, 0), (2, 0, 7)]))
def test_whatever_the_order_the_highest_version_of_every_signer_stays(
    order: list[tuple[int, int, int]],
) -> None:
    storage = RecordStorage(TOPICS, Clock())
    for peer, round_, seq in order:
        storage.store(PLACE, one(peer, round_, seq))
    assert sorted(versions(storage)) == [(0, 7), (3, 0)]


def test_a_replay_of_an_older_record_is_refused_also_with_the_longest_life() -> None:
    clock = Clock()
    storage = RecordStorage(TOPICS, clock)
    assert storage.store(PLACE, one(1, 5, 5, seconds=100))
    assert not storage.store(PLACE, one(1, 5, 4, seconds=600))
    clock.now += 101
    assert versions(storage) == []


def test_a_replay_of_the_same_record_is_no_error_and_prolongs_nothing() -> None:
    clock = Clock()
    storage = RecordStorage(TOPICS, clock)
    assert storage.store(PLACE, one(1, seconds=100))
    assert storage.store(PLACE, one(1, seconds=600))
    clock.now += 101
    assert storage.get(PLACE) is None


def test_a_newer_record_may_live_shorter_than_the_one_it_replaces() -> None:
    clock = Clock()
    storage = RecordStorage(TOPICS, clock)
    assert storage.store(PLACE, one(1, 1, seconds=600))
    assert storage.store(PLACE, one(1, 2, seconds=10))
    clock.now += 11
    assert versions(storage) == []


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_record_without_a_life_is_refused(seconds: float) -> None:
    storage = RecordStorage(TOPICS, Clock())
    assert not storage.store(PLACE, one(1, seconds=seconds))
    assert storage.refused == {"late": 1}


def test_nothing_lives_longer_than_ten_minutes() -> None:
    clock = Clock()
    storage = RecordStorage(TOPICS, clock)
    assert storage.store(PLACE, one(1, seconds=1e12))
    clock.now += 601
    assert versions(storage) == []


def test_a_bundle_says_what_is_left_and_never_what_time_it_is() -> None:
    clock = Clock()
    storage = RecordStorage(TOPICS, clock)
    storage.store(PLACE, pack_bundle([(record(key(1)), 100.0), (record(key(2)), 50.0)]))
    clock.now += 30
    item = storage.get(PLACE)
    assert item is not None
    assert unpack_bundle(item.value) == [(record(key(1)), 70.0), (record(key(2)), 20.0)]
    assert item.expiration_time == 0.0
    clock.now += 30
    assert [(where, unpack_bundle(item.value)) for where, item in storage.items()] == [
        (PLACE, [(record(key(1)), 40.0)])
    ]


FORGED = bytearray(record(key(3)))
FORGED[-1] ^= 1
REFUSED = {
    "a place of no topic": (7, one(1), "malformed"),
    "no bundle": (PLACE, record(key(1)), "malformed"),
    "a forged signature": (PLACE, pack_bundle([(bytes(FORGED), 9.0)]), "signature"),
    "another run": (PLACE, pack_bundle([(record(key(1), run=bytes(32)), 9.0)]), "run"),
    "too long": (PLACE, pack_bundle([(bytes(5000), 9.0)]), "oversized"),
}


@pytest.mark.parametrize(("where", "value", "code"), REFUSED.values(), ids=REFUSED)
def test_a_store_is_refused_and_counted_for(where: int, value: bytes, code: str) -> None:
    storage = RecordStorage(TOPICS, Clock())
    assert not storage.store(where, value)
    assert storage.refused == {code: 1}
    assert list(storage.items()) == []


def test_a_bundle_is_read_up_to_its_first_wrong_record() -> None:
    storage = RecordStorage(TOPICS, Clock())
    assert storage.store(
        PLACE, pack_bundle([(record(key(1)), 9.0), (bytes(FORGED), 9.0), (record(key(2)), 9.0)])
    )
    assert [signed.signer for signed in storage.records(PLACE)] == [key(1).peer_id]


def test_sub_keys_are_refused_because_the_signer_is_the_owner() -> None:
    storage = RecordStorage(TOPICS, Clock())
    assert not storage.store_subkey(PLACE, key(2).peer_id, one(1), 0.0)
    assert storage.records(PLACE) == []


def test_a_full_key_takes_no_new_signers_until_a_record_expires(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "OWNERS_LIMIT", 2)
    clock = Clock()
    storage = RecordStorage(TOPICS, clock)
    assert storage.store(PLACE, one(1, seconds=50))
    assert storage.store(PLACE, one(2, seconds=100))
    assert not storage.store(PLACE, one(3))
    assert storage.store(PLACE, one(2, 1, seconds=100)), "a known signer may store a newer record"
    assert storage.store(OTHER, one(3)), "the other keys are not full"
    clock.now += 51
    assert storage.store(PLACE, one(3))


def test_the_bytes_under_a_key_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(record(key(1)))
    monkeypatch.setattr(module, "HELD_LIMIT", len(TOPICS) * 2 * (size + 16))
    clock = Clock()
    storage = RecordStorage(TOPICS, clock)
    assert [storage.store(PLACE, one(peer, seconds=50)) for peer in (1, 2, 3)] == [True, True, False]
    assert storage.refused == {"busy": 1}
    assert storage.store(PLACE, one(2, 1, seconds=100))
    clock.now += 51
    assert storage.store(PLACE, one(3))
    item = storage.get(PLACE)
    assert item is not None
    assert len(item.value) <= 2 * (size + 16)
