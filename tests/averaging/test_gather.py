"""Plays of the gather exchange, as one member of four sees it, and the blobs that it sends."""

# Axes: P parameters of the whole model

from __future__ import annotations

import math

import pytest
import torch

from averaging.codec_choice import FAMILIES, allowed
from averaging.codecs import codec_of
from averaging.messages import Ballot, Commit, Holdings
from averaging.partition import plan, shaped
from averaging.reduce import EncodedPart, digest, weighted_sum
from averaging.robust import coefficients
from averaging.round import Round
from averaging.round_plan import RoundPlan
from averaging.whole_update import (
    HEAD,
    CheckUpdate,
    CombineUpdates,
    EncodeUpdate,
    UpdateHeader,
    blob_size,
    header_of,
)
from swarm.errors import Malformed, Refused
from swarm.identity import PeerId
from swarm.machine import Delivered, Event, Fetch, Report, Send, Ship, Unreached, Woken
from swarm.manifest import Codec, Exchange
from tests.averaging.members import ROOT, applied_items, heard, update_of
from tests.averaging.test_round import AT, GROUP, A, B, C, D, Seat, applied, ballots, holdings, messages

CODEC = Codec.SPARSE256
(WHOLE,) = shaped(plan(9000, GROUP.members[:1]), (5000, 4000))
PLAN = RoundPlan(group=GROUP, parts=(WHOLE,), codec=CODEC, schedule=AT, exchange=Exchange.GATHER)
VECTORS = {
    member: torch.randn(9000, generator=torch.Generator().manual_seed(seat))
    for seat, member in enumerate(GROUP.members)
}
WEIGHTS = {A: 100, B: 200, C: 300, D: 100}
CODECS = {A: CODEC, B: CODEC, C: Codec.SPARSE64, D: Codec.SPARSE128}
"""C and D have slow uplinks."""


def blob(member: PeerId) -> EncodedPart:
    (encoded,) = EncodeUpdate(VECTORS[member], WHOLE, CODECS[member], WEIGHTS[member]).run()
    return encoded


BLOBS = {member: blob(member) for member in GROUP.members}
HASHES = tuple(BLOBS[member].hash for member in GROUP.members)
WITHOUT_D = (*HASHES[:3], b"")


def commit(member: PeerId, hash_: bytes = b"", norm: float = -1.0, codec: Codec | None = None) -> Event:
    mine = BLOBS[member]
    norms = (mine.norm if norm < 0 else norm,)
    return heard(
        member,
        Commit((hash_ or mine.hash,), norms, WEIGHTS[member], bytes(32), ROOT, codec or CODECS[member]),
    )


def update(member: PeerId, payload: bytes = b"") -> Delivered:
    return Delivered(member, f"update.{CODECS[member].value}", payload or BLOBS[member].payload)


def seat(me: PeerId = A) -> Seat:
    ours = update_of(VECTORS[me], WEIGHTS[me], CODECS[me])
    return Seat(me, machine=Round(PLAN, me, ours))


def average(*members: PeerId) -> torch.Tensor:
    blobs = [BLOBS[member].payload for member in members]
    decoded = [
        codec_of(CODECS[member], WHOLE.shape).decode(blob[HEAD.size :], WHOLE.numbers)
        for member, blob in zip(members, blobs, strict=True)
    ]
    return weighted_sum(decoded, coefficients([header_of(blob).claim for blob in blobs]))


def test_an_update_goes_to_the_members_that_have_committed_and_is_held_by_its_hash() -> None:
    mine = seat()
    assert [type(command) for command in mine.began] == [Send]
    ship = Ship(B, f"update.{CODEC.value}", BLOBS[A].payload)
    assert mine.tell(commit(B)) == [ship]
    assert mine.tell(commit(B), update(B)) == []
    told = mine.tell(update(C), commit(C), commit(D), update(D))
    assert messages(told, Holdings) == [Holdings(HASHES)]


def test_members_with_different_codecs_come_to_the_same_average() -> None:
    averages = []
    for me in GROUP.members:
        others = [member for member in GROUP.members if member != me]
        mine = seat(me)
        mine.tell(*(commit(member) for member in others), *(update(member) for member in others))
        end = applied(mine.tell(*holdings(HASHES, *others), *ballots(HASHES, *others)))
        assert applied_items(end) == (True,) * 4
        assert (end.included, end.missing, end.tokens) == ((True,), (), 600)
        assert end.encoded == (BLOBS[me].payload[HEAD.size :],)
        averages.append(end.average_P)
    assert all(torch.equal(each, average(*GROUP.members)) for each in averages)


def test_a_member_that_is_gone_costs_its_own_update_and_nothing_else() -> None:
    mine = seat()
    mine.tell(commit(B), commit(C), commit(D), update(B), update(C))
    assert messages(mine.tell(Unreached(D)), Holdings) == [Holdings(WITHOUT_D)]
    end = applied(mine.tell(*holdings(WITHOUT_D, B, C), *ballots(WITHOUT_D, B, C)))
    assert (end.missing, end.tokens) == ((D,), 500)
    assert torch.equal(end.average_P, average(A, B, C))


def test_an_applied_update_that_we_lack_comes_from_any_holder_even_without_its_commit() -> None:
    """Its length is not known then: we ask the holders, one after the other, for each length it may have."""
    mine = seat()
    mine.tell(commit(B), commit(C), update(B), update(C), Woken(), now=AT.results)
    told = mine.tell(*holdings(HASHES, B, C), *ballots(HASHES, B, C, D), now=3.1)
    item = f"item.3.{HASHES[3].hex()}"
    sizes = [blob_size(WHOLE, codec) for codec in allowed(CODEC)]
    assert [command for command in told if isinstance(command, Fetch)] == [Fetch(B, item, sizes[0])]
    assert mine.tell(Unreached(B, item), now=3.2) == [Fetch(C, item, sizes[0])]
    assert mine.tell(Unreached(C, item), now=3.3) == [Fetch(B, item, sizes[1])]
    assert sizes[1] == len(BLOBS[D].payload)
    end = applied(mine.tell(Delivered(B, item, BLOBS[D].payload), now=3.4))
    assert torch.equal(end.average_P, average(A, B, C, D))


def test_two_commits_to_one_hash_do_not_make_two_averages() -> None:
    """To us D commits to another norm: its update does not fit, and is fetched from a holder."""
    mine = seat()
    told = mine.tell(commit(B), commit(C), commit(D, norm=9.0), update(B), update(C), update(D))
    assert [report.code for report in told if isinstance(report, Report)] == ["bad-update"]
    assert messages(told, Holdings) == [Holdings(WITHOUT_D)]
    told = mine.tell(*holdings(HASHES, B, C, D), *ballots(HASHES, B, C, D))
    fetch = next(command for command in told if isinstance(command, Fetch))
    end = applied(mine.tell(Delivered(fetch.source, fetch.item, BLOBS[D].payload)))
    assert torch.equal(end.average_P, average(A, B, C, D))


def forged(codec: Codec = Codec.SPARSE128, weight: int = 100, norm: float | None = None) -> bytes:
    measured = BLOBS[D].norm if norm is None else norm
    return UpdateHeader(codec, weight, measured).pack() + BLOBS[D].payload[HEAD.size :]


LIES = {
    "wrong hash": (commit(D), update(D, BLOBS[D].payload[:-1] + b"\x07")),
    "wrong norm": (commit(D, digest(forged(norm=1.0)), norm=1.0), update(D, forged(norm=1.0))),
    "another weight": (commit(D, digest(forged(weight=5))), update(D, forged(weight=5))),
    "another codec": (commit(D, digest(forged(CODEC)), codec=CODEC), update(D, forged(CODEC))),
    "wrong length": (commit(D, digest(BLOBS[D].payload[:-1])), update(D, BLOBS[D].payload[:-1])),
    "no header": (commit(D, digest(b"short")), update(D, b"short")),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_update_costs_only_its_sender(lie: str) -> None:
    mine = seat()
    told = mine.tell(commit(B), commit(C), update(B), update(C), *LIES[lie])
    assert [(report.code, report.peer) for report in told if isinstance(report, Report)] == [
        ("bad-update", D)
    ]
    assert messages(told, Holdings) == [Holdings(WITHOUT_D)]
    assert messages(mine.tell(*holdings(WITHOUT_D, B, C)), Ballot) == [Ballot(WITHOUT_D)]
    end = applied(mine.tell(*ballots(WITHOUT_D, B, C)))
    assert torch.equal(end.average_P, average(A, B, C))


def test_nothing_applied_is_an_average_of_zeros() -> None:
    nothing = (b"",) * 4
    mine = seat()
    mine.tell(Woken(), now=AT.results)
    end = applied(mine.tell(*ballots(nothing, B, C, D), now=3.1))
    assert not end.average_P.any()
    assert (end.included, end.missing) == ((False,), GROUP.members)


def test_the_length_of_an_update_is_known_before_its_commit_and_other_items_are_refused() -> None:
    machine = seat().machine
    for codec in (CODEC, Codec.SPARSE128, Codec.SPARSE64):
        assert machine.expect(D, f"update.{codec.value}") == blob_size(WHOLE, codec)
    for sender, item in [
        (D, f"update.{Codec.SPARSE512.value}"),
        (D, "update.0"),
        (D, "part.0.7"),
        (PeerId("x"), "update.7"),
    ]:
        with pytest.raises(Refused):
            machine.expect(sender, item)


def test_nobody_sends_more_than_the_run_allows() -> None:
    with pytest.raises(ValueError, match="fp32 has no place in a round of sparse256"):
        Round(PLAN, A, update_of(VECTORS[A], 1, Codec.FP32))


# --- codecs and blobs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", list(Codec))
def test_every_codec_allows_itself_and_only_smaller_ones(codec: Codec) -> None:
    sizes = [codec_of(each, WHOLE.shape).size(WHOLE.numbers) for each in allowed(codec)]
    assert allowed(codec)[0] is codec
    assert all(size < sizes[0] for size in sizes[1:])
    assert all(set(allowed(other)) <= set(allowed(codec)) for other in allowed(codec))


def test_families_go_from_large_to_small() -> None:
    for family in FAMILIES:
        sizes = [codec_of(each, WHOLE.shape).size(WHOLE.numbers) for each in family]
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(HEAD.size - 1),
        HEAD.pack(99, 1, 1.0),
        HEAD.pack(0, 0, 1.0),
        HEAD.pack(0, 1 << 50, 1.0),
        HEAD.pack(0, 1, -1.0),
        HEAD.pack(0, 1, float("nan")),
        HEAD.pack(0, 1, float("inf")),
    ],
)
def test_a_header_that_no_member_may_send_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        header_of(raw)


def test_a_fetched_update_must_be_well_formed_even_without_its_commit() -> None:
    for payload, ok in [(BLOBS[D].payload, True), (forged(norm=1.0), False), (forged(Codec.FP32), False)]:
        assert CheckUpdate(B, 3, WHOLE, payload, digest(payload), CODEC).run().ok is ok


def verdict(codec: Codec, norm: float, numbers: bytes, signed: float | None = None) -> bool:
    """Whether an update in ``codec`` is taken whose header says ``norm``, and whose commit says ``signed``.

    Without ``signed`` it was fetched, and is measured all the same.
    """
    payload = UpdateHeader(codec, 100, norm).pack() + numbers
    committed = None if signed is None else UpdateHeader(codec, 100, signed)
    return CheckUpdate(D, 3, WHOLE, payload, digest(payload), codec, committed).run().ok


@pytest.mark.parametrize("codec", list(Codec))
def test_the_norm_of_an_update_is_what_its_commit_says(codec: Codec) -> None:
    (encoded,) = EncodeUpdate(VECTORS[D], WHOLE, codec, 100).run()
    numbers = bytes(encoded.payload[HEAD.size :])
    huge = bytes(codec_of(codec, WHOLE.shape).encode(1e4 * VECTORS[D]))
    assert verdict(codec, encoded.norm, numbers)
    assert verdict(codec, encoded.norm, numbers, signed=encoded.norm)
    assert not verdict(codec, encoded.norm, numbers, signed=1.5 * encoded.norm)
    for norm in (0.0, 0.5 * encoded.norm, 0.9998 * encoded.norm, 1.0002 * encoded.norm, 1e30, 1e100):
        assert not verdict(codec, norm, numbers)
        assert not verdict(codec, norm, numbers, signed=norm)
    for norm in (0.0, encoded.norm):
        assert not verdict(codec, norm, huge)
        assert not verdict(codec, norm, huge, signed=norm)


@pytest.mark.parametrize("norm", [math.nan, math.inf, -math.inf, -1.0, 2e100])
def test_a_norm_that_is_no_size_is_refused_whoever_has_signed_it(norm: float) -> None:
    (encoded,) = EncodeUpdate(VECTORS[D], WHOLE, Codec.FP32, 100).run()
    assert not verdict(Codec.FP32, norm, bytes(encoded.payload[HEAD.size :]))


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("norm", [0.0, 1.0, math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused_whatever_their_norm_is_said_to_be(
    codec: Codec, norm: float
) -> None:
    """All bits are ones: NaN as a number or a scale."""
    assert not verdict(codec, norm, b"\xff" * codec_of(codec, WHOLE.shape).size(WHOLE.numbers))


def test_jobs_are_values() -> None:
    job = EncodeUpdate(VECTORS[A], WHOLE, CODEC, 1)
    assert job == EncodeUpdate(VECTORS[A], WHOLE, CODEC, 1)
    assert hash(job) == hash(EncodeUpdate(VECTORS[A], WHOLE, CODEC, 1))
    assert job != EncodeUpdate(VECTORS[A].clone(), WHOLE, CODEC, 1)
    assert job != "a job"
    assert torch.equal(CombineUpdates((BLOBS[A].payload,), WHOLE).run(), average(A))
