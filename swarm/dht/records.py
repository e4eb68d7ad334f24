"""The values that the DHT keeps: topics under salted keys, and bundles of signed records.

    topic + salt   ->   key                                     3 salts, so 3 keys per topic
    key            ->   bundle = [[frame, seconds to live], …]  one record per signer, no time of day

A peer's place among the keys follows from its own key, but an attacker may try many keys until one has a
place next to a topic's key. There it can hide records, but not at the other keys of the topic.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from ..errors import Malformed, TheirFault
from ..identity import PeerId, digest_of, peer_id_from_digest
from ..seeds import derive_bytes
from ..wire import Message, Signed, open_frame, pack
from .directory import RECORD_LIMIT

SALTS = 3
"""Keys per topic. A get reads all: to hide a record, the peers near each of the keys must be hostile."""

MAX_SECONDS = 600.0
"""The longest life of a record. A peer that stays longer publishes again."""

OWNERS_LIMIT = 1000
"""Most signers per key, and most records in a bundle."""

TAG_SIZE = 8
"""Bytes of a `tag`. A collision only hides a record from one search."""

_MULTIHASH = b"\x00\x20"
"""Prefix of libp2p's "identity" multihash of 32 bytes, the form in which hivemind carries our peer ids."""

_BUNDLE = msgspec.msgpack.Decoder(list[tuple[bytes, float]])


def seconds_to_live(seconds: float) -> float:
    """``seconds`` bounded to [0, `MAX_SECONDS`]; 0 where it is not a number."""
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), MAX_SECONDS)


def pack_bundle(records: Iterable[tuple[bytes, float]]) -> bytes:
    """``records``, pairs of (sealed frame, seconds to live), as one value of the DHT."""
    return pack([(frame, seconds_to_live(seconds)) for frame, seconds in records])


def unpack_bundle(raw: bytes) -> list[tuple[bytes, float]]:
    """The pairs in a stranger's bundle: lives bounded, frames not yet checked. Raises `Malformed`."""
    try:
        pairs = _BUNDLE.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"not a bundle of records: {error}") from error
    if len(pairs) > OWNERS_LIMIT:
        raise Malformed(f"a bundle of {len(pairs)} records, at most {OWNERS_LIMIT} are allowed")
    return [(frame, seconds_to_live(seconds)) for frame, seconds in pairs]


def tag(frame: bytes) -> bytes:
    """8 bytes that stand for a record where a peer tells which records it has already."""
    return hashlib.sha256(frame).digest()[:TAG_SIZE]


def without(bundle: bytes, tags: bytes) -> bytes:
    """``bundle`` without the records whose `tag` is in ``tags`` (concatenated)."""
    known = {tags[start : start + TAG_SIZE] for start in range(0, len(tags), TAG_SIZE)}
    return pack_bundle(pair for pair in unpack_bundle(bundle) if tag(pair[0]) not in known)


class Topics:
    """The topics of a run and the message type of each. Peers refuse records under any other key."""

    def __init__(self, run: bytes, forms: Mapping[str, type[Message]]) -> None:
        self._run = run
        self._keys = {
            topic: tuple(derive_bytes(run, "topic", topic, salt) for salt in range(SALTS)) for topic in forms
        }
        self._forms = {key_id(key): forms[topic] for topic, keys in self._keys.items() for key in keys}

    def __len__(self) -> int:
        """The number of keys."""
        return len(self._forms)

    def keys(self, topic: str) -> tuple[bytes, ...]:
        """The keys under which ``topic`` is stored. Raises `KeyError` where the run has no such topic."""
        return self._keys[topic]

    def open(self, where: int, frame: bytes) -> Signed[Message]:
        """Check a ``frame`` that was sent for the key id ``where``.

        Raises `Malformed` where no topic has that key, and the errors of `open_frame`.
        """
        form = self._forms.get(where)
        if form is None:
            raise Malformed("no topic of this run has that key")
        return open_frame(frame, form, run=self._run, limit=RECORD_LIMIT)

    def read(self, where: int, bundle: bytes) -> tuple[list[Signed[Message]], Counter[str]]:
        """The valid records of a bundle from key id ``where``, and the invalid ones counted by error code."""
        valid: list[Signed[Message]] = []
        wrong: Counter[str] = Counter()
        try:
            pairs = unpack_bundle(bundle)
        except Malformed as fault:
            wrong[fault.code] += 1
            return valid, wrong
        for frame, _ in pairs:
            try:
                valid.append(self.open(where, frame))
            except TheirFault as fault:
                wrong[fault.code] += 1
        return valid, wrong


def version(signed: Signed[Message]) -> tuple[int, int]:
    """(round, seq): of two records of a signer the one with the higher version is newer.

    Both numbers are signed. The seconds to live are not, so they are not compared.
    """
    return signed.stamp.round, signed.stamp.seq


def key_id(key: bytes) -> int:
    """The place of ``key`` in hivemind's key space of 160 bits (its ``DHTID.generate``)."""
    return int.from_bytes(hashlib.sha1(key).digest(), "big")


def node_id(peer: PeerId) -> bytes:
    """The place of ``peer`` in the key space, 20 bytes. It follows from the peer's key: nobody chooses it."""
    return digest_of(peer)[:20]


def to_multihash(peer: PeerId) -> bytes:
    """``peer`` as hivemind's ``PeerID`` carries it, 34 bytes."""
    return _MULTIHASH + digest_of(peer)


def from_multihash(raw: bytes) -> PeerId:
    """The peer whose ``PeerID`` of hivemind is ``raw``. Raises `Malformed` where it is not one of ours."""
    if len(raw) != 34 or not raw.startswith(_MULTIHASH):
        raise Malformed("not a peer id of this protocol")
    return peer_id_from_digest(raw[2:])
