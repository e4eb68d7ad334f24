"""Topics, keys, bundles and ids of the DHT."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.dht.directory import RECORD_LIMIT
from swarm.dht.records import (
    SALTS,
    Topics,
    from_multihash,
    key_id,
    node_id,
    pack_bundle,
    seconds_to_live,
    to_multihash,
    unpack_bundle,
    version,
)
from swarm.errors import BadSignature, Malformed, Oversized, TheirFault, WrongRun
from swarm.membership.contacts import Contact
from swarm.membership.progress import Progress
from swarm.wire import Stamp, pack, seal, seal_body
from tests.swarm.memory import RUN, key, record

TOPICS = Topics(RUN, {"progress": Progress, "contact": Contact})
PLACE = key_id(TOPICS.keys("progress")[0])


def test_every_topic_has_its_own_keys_in_every_run() -> None:
    other = Topics(bytes(32), {"progress": Progress})
    keys = {*TOPICS.keys("progress"), *TOPICS.keys("contact"), *other.keys("progress")}
    assert len(keys) == 3 * SALTS
    assert len(TOPICS) == 2 * SALTS


def test_a_topic_that_the_run_does_not_have_has_no_keys() -> None:
    with pytest.raises(KeyError):
        TOPICS.keys("gossip")


def test_a_record_opens_under_each_key_of_its_topic_and_names_its_version() -> None:
    for where in TOPICS.keys("progress"):
        signed = TOPICS.open(key_id(where), record(key(1), 3, 4))
        assert (signed.signer, version(signed)) == (key(1).peer_id, (3, 4))


FORGED = bytearray(record(key(1)))
FORGED[-1] ^= 1
REFUSED = {
    "another key": (key_id(b"elsewhere"), record(key(1)), Malformed),
    "another topic": (key_id(TOPICS.keys("contact")[0]), record(key(1)), Malformed),
    "another form": (PLACE, seal(key(1), Contact(()), Stamp(RUN)), Malformed),
    "another run": (PLACE, record(key(1), run=bytes(32)), WrongRun),
    "a forged body": (PLACE, bytes(FORGED), BadSignature),
    "too long": (PLACE, seal_body(key(1), Progress.kind, bytes(RECORD_LIMIT), Stamp(RUN)), Oversized),
    "nothing": (PLACE, b"", Malformed),
}


@pytest.mark.parametrize(("where", "frame", "fault"), REFUSED.values(), ids=REFUSED)
def test_a_record_is_refused_for(where: int, frame: bytes, fault: type[TheirFault]) -> None:
    with pytest.raises(fault):
        TOPICS.open(where, frame)


@given(st.floats())
def test_a_life_is_a_number_of_seconds_between_none_and_ten_minutes(seconds: float) -> None:
    assert 0.0 <= seconds_to_live(seconds) <= 600.0
    assert unpack_bundle(pack_bundle([(b"frame", seconds)])) == [(b"frame", seconds_to_live(seconds))]
    assert unpack_bundle(pack([(b"frame", seconds)])) == [(b"frame", seconds_to_live(seconds))]


def test_a_life_that_is_not_a_number_is_none() -> None:
    assert [seconds_to_live(seconds) for seconds in (math.nan, -math.inf, math.inf)] == [0.0, 0.0, 600.0]


@given(st.binary(max_size=60))
def test_bytes_that_are_no_bundle_are_refused_and_nothing_worse(raw: bytes) -> None:
    try:
        assert isinstance(unpack_bundle(raw), list)
    except Malformed:
        return


@pytest.mark.parametrize(
    "raw", [b"", b"\xc0", pack([b"frame"]), pack([("text", 1.0)]), pack([(b"frame", "soon")]), b"\x91" * 5000]
)
def test_no_bundle(raw: bytes) -> None:
    with pytest.raises(Malformed):
        unpack_bundle(raw)


def test_the_ids_are_those_of_hivemind() -> None:
    from hivemind.dht.routing import DHTID
    from hivemind.p2p import PeerID
    from hivemind.utils import MSGPackSerializer

    place = TOPICS.keys("progress")[0]
    assert DHTID.generate(place) == key_id(place)
    assert len(node_id(key(1).peer_id)) == DHTID.HASH_NBYTES
    assert from_multihash(PeerID(to_multihash(key(1).peer_id)).to_bytes()) == key(1).peer_id
    assert unpack_bundle(MSGPackSerializer.dumps([[b"frame", 1.5]])) == [(b"frame", 1.5)]
    assert msgspec.msgpack.encode(None) == MSGPackSerializer.dumps(None)


@pytest.mark.parametrize("raw", [b"", bytes(34), b"\x00\x20" + bytes(31), b"\x12\x20" + bytes(32)])
def test_an_id_of_another_kind_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        from_multihash(raw)
