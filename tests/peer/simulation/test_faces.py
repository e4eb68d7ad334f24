"""Both faces of a liar's work are in order by themselves; every message names the one that it goes with."""

from __future__ import annotations

import random

import torch

from averaging.messages import Commit, Holdings, Receipt, Vote
from averaging.partition import plan
from averaging.reduce import CheckPart, EncodedPart, EncodeParts, Reduced, ReducePart, Share
from averaging.whole_update import CheckUpdate, EncodeUpdate
from peer.simulation.faces import Faces, LyingArithmetic, poisoned, second_face
from peer.simulation.strategies import Deed
from peer.training.compute import Inline
from swarm.identity import PeerId
from swarm.manifest import Codec
from swarm.simulation.clock import simulate
from tests.peer.company import key

ME = key(1).peer_id
OWNERS = [PeerId("a"), PeerId("b")]
UPDATE_P = torch.randn(1024, generator=torch.Generator().manual_seed(1))
PARTS = plan(1024, OWNERS)
ENCODE = EncodeParts(UPDATE_P, PARTS, Codec.INT4)


def reduction() -> ReducePart:
    encoded = ENCODE.run()[0]
    share = Share(encoded.payload, Codec.INT4, 0.5)
    return ReducePart(PARTS[0], (share, share), Codec.INT4)


def check(encoded: EncodedPart, index: int) -> bool:
    job = CheckPart(ME, PARTS[index], encoded.payload, encoded.hash, encoded.norm, Codec.INT4)
    return job.run().ok


def test_both_faces_of_an_update_are_what_a_commit_to_them_says() -> None:
    for face in (ENCODE, second_face(ENCODE)):
        assert all(check(encoded, index) for index, encoded in enumerate(face.run()))
    assert ENCODE.run()[0].hash != second_face(ENCODE).run()[0].hash


def test_poison_has_the_hash_and_the_norm_that_go_with_it() -> None:
    for seed in range(10):
        work = poisoned(ENCODE, random.Random(seed))
        assert isinstance(work, EncodeParts)
        assert all(check(encoded, index) for index, encoded in enumerate(work.run()))


def test_a_whole_update_can_be_poisoned_as_well() -> None:
    (whole,) = plan(1024, [ME])
    work = poisoned(EncodeUpdate(UPDATE_P, whole, Codec.INT4, 10), random.Random(0))
    (encoded,) = work.run()
    assert CheckUpdate(ME, 0, whole, encoded.payload, encoded.hash, Codec.INT4).run().ok


def test_a_message_to_the_other_half_names_the_other_hashes() -> None:
    faces = Faces()
    true = ENCODE.run()
    other = second_face(ENCODE).run()
    faces.note(true, other)
    commit = Commit(
        tuple(part.hash for part in true),
        tuple(part.norm for part in true),
        1,
        bytes(32),
        bytes(32),
        Codec.INT4,
    )
    lie = faces.other_message(commit)
    assert lie is not None
    assert lie.hashes == tuple(part.hash for part in other)
    assert faces.other_message(Receipt(0, true[0].hash)) == Receipt(0, other[0].hash)
    assert faces.other_message(Holdings((true[0].hash, b""))) == Holdings((other[0].hash, b""))
    assert faces.other_message(Vote()) is None
    assert faces.other_message(Receipt(0, bytes(32))) is None


def test_bytes_have_the_face_that_goes_with_the_message() -> None:
    faces = Faces()
    true = reduction().run()
    other = second_face(reduction()).run()
    faces.note(true, other)
    assert isinstance(other, Reduced)
    assert faces.other_payload(true.payload) == other.payload
    assert faces.fetched(other.hash.hex()) == other.payload
    assert faces.other_payload(b"unknown") is None


def test_a_liar_s_arithmetic_is_right_unless_it_poisons() -> None:
    async def result(deed: Deed) -> tuple[EncodedPart, ...]:
        arithmetic = LyingArithmetic(Inline(lambda job: 0.0), lambda what: deed, random.Random(0), Faces())
        return await arithmetic.run(ENCODE.run)

    true = ENCODE.run()
    assert simulate(result(Deed.TRUTH)) == true
    assert simulate(result(Deed.POISON)) != true


def test_other_jobs_are_done_as_they_are() -> None:
    async def main() -> int:
        arithmetic = LyingArithmetic(
            Inline(lambda job: 0.0), lambda what: Deed.POISON, random.Random(0), Faces()
        )
        return await arithmetic.run(lambda: 7)

    assert simulate(main()) == 7
