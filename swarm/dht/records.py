"""What the DHT keeps, as pure values: topics under salted keys, bundles of signed records, and the ids peers have there.

topic ─ 3 salts ─► 3 keys         who grinds ids next to one of them hides nothing
key   ─► bundle = [[frame, seconds to live], …]     one record per signer; never a time of day
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
"""Keys per topic. A get reads all, so a record is lost only where all three neighbourhoods are hostile."""

MAX_SECONDS = 600.0
"""The longest life of a record; whoever wants to be known longer says so again."""

OWNERS_LIMIT = 1000
"""Signers kept per key, and records of the longest bundle."""

TAG_SIZE = 8

_MULTIHASH = b"\x00\x20"
"""libp2p's "identity" multihash of 32 bytes: the form in which hivemind carries our digests."""

_BUNDLE = msgspec.msgpack.Decoder(list[tuple[bytes, float]])


def seconds_to_live(seconds: float) -> float:
    """``seconds`` bounded to [0, `MAX_SECONDS`]; 0 where it is not a number."""
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), MAX_SECONDS)


def pack_bundle(records: Iterable[tuple[bytes, float]]) -> bytes:
    """Pairs of (sealed frame, seconds to live) as one value of the DHT."""
    return pack([(frame, seconds_to_live(seconds)) for frame, seconds in records])


def unpack_bundle(raw: bytes) -> list[tuple[bytes, float]]:
    """The pairs of a bundle from a stranger, lives bounded, frames unopened. Raises `Malformed`."""
    try:
        pairs = _BUNDLE.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"not a bundle of records: {error}") from error
    if len(pairs) > OWNERS_LIMIT:
        raise Malformed(f"a bundle of {len(pairs)} records, at most {OWNERS_LIMIT} are allowed")
    return [(frame, seconds_to_live(seconds)) for frame, seconds in pairs]


def tag(frame: bytes) -> bytes:
    """8 bytes that stand for a record where a peer says which ones it has already."""
    return hashlib.sha256(frame).digest()[:TAG_SIZE]


def without(bundle: bytes, tags: bytes) -> bytes:
    """``bundle`` less the records whose `tag` is among ``tags`` (one after the other)."""
    known = {tags[start : start + TAG_SIZE] for start in range(0, len(tags), TAG_SIZE)}
    return pack_bundle(pair for pair in unpack_bundle(bundle) if tag(pair[0]) not in known)


class Topics:
    """What may be stored in a run: a few topics, one message type each. Anything under another key is refused everywhere."""

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
        """The keys that ``topic`` is stored under. Raises `KeyError` for a topic that the run does not have."""
        return self._keys[topic]

    def open(self, where: int, frame: bytes) -> Signed[Message]:
        """The record in ``frame``, offered under the key id ``where``. Raises the faults of `open_frame`, also for another key."""
        form = self._forms.get(where)
        if form is None:
            raise Malformed("no topic of this run has that key")
        return open_frame(frame, form, run=self._run, limit=RECORD_LIMIT)

    def read(self, where: int, bundle: bytes) -> tuple[list[Signed[Message]], Counter[str]]:
        """What holds of a bundle that somebody keeps under ``where``, and what does not, counted by error code."""
        held: list[Signed[Message]] = []
        wrong: Counter[str] = Counter()
        try:
            for frame, _ in unpack_bundle(bundle):
                try:
                    held.append(self.open(where, frame))
                except TheirFault as fault:
                    wrong[fault.code] += 1
        except Malformed as fault:
            wrong[fault.code] += 1
        return held, wrong


def version(signed: Signed[Message]) -> tuple[int, int]:
    """What makes one record of a signer newer than another: (round, seq), which are signed; never a time, which is not."""
    return signed.stamp.round, signed.stamp.seq


def key_id(key: bytes) -> int:
    """The place of ``key`` in hivemind's ring of 160 bits (its ``DHTID.generate``)."""
    return int.from_bytes(hashlib.sha1(key).digest(), "big")


def node_id(peer: PeerId) -> bytes:
    """The place of ``peer`` in the ring, 20 bytes: nobody can choose it apart from his key."""
    return digest_of(peer)[:20]


def to_multihash(peer: PeerId) -> bytes:
    """``peer`` as hivemind's ``PeerID`` carries it, 34 bytes."""
    return _MULTIHASH + digest_of(peer)


def from_multihash(raw: bytes) -> PeerId:
    """The peer behind hivemind's ``PeerID``. Raises `Malformed` where it is not one of ours."""
    if len(raw) != 34 or not raw.startswith(_MULTIHASH):
        raise Malformed("not a peer id of this protocol")
    return peer_id_from_digest(raw[2:])
