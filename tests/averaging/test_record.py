"""A replayed record gives the members' bits; bytes from any peer give a vector of our size or `Malformed`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from averaging.certificate import DecisionCertificate, Electorate
from averaging.codecs import codec_of
from averaging.hierarchy import Hierarchy
from averaging.messages import MAX_MEMBERS, MAX_POPULATION, MAX_WEIGHT, bits, flags_of, header_bytes
from averaging.outcome import Decided
from averaging.record import (
    Record,
    RecordResidual,
    ReplayRecord,
    UpdateShape,
    judge_for,
    opened,
    packed,
    verified,
)
from averaging.whole_update import HEAD, UpdateHeader
from swarm.errors import Malformed, TheirFault
from swarm.hashing import digest
from swarm.identity import KeyPair, digest_of
from swarm.manifest import Codec, Exchange, RoundSpec
from swarm.simulation.network import SimulatedNetwork
from swarm.wire import pack
from tests.averaging.averagers import NUMBERS, ROOT, ROUND, Peer, decided, drawn, manifest_with, stage
from tests.certificates import Company

CODECS = (Codec.FP32, Codec.INT8, Codec.INT4, Codec.SPARSE256)
TENSORS = (300, 7, 693)
"""Lengths of the tensors of a model: cuts of parts go through the last one."""
STRANGER = bytes(32)
FOUR = sorted((KeyPair.from_seed(bytes([n]) * 32) for n in range(4)), key=lambda key: key.peer_id)
"""Of four members one may vanish, and the others still decide."""


def spec_of(exchange: Exchange, codec: Codec) -> RoundSpec:
    return msgspec.structs.replace(ROUND, exchange=exchange, codec=codec)


def shape_of(exchange: Exchange, codec: Codec) -> UpdateShape:
    return UpdateShape(spec=spec_of(exchange, codec), tensors=TENSORS)


@lru_cache
def round_of(
    exchange: Exchange, codec: Codec, vanishes_at: float | None = None
) -> tuple[list[Decided], list[Tensor]]:
    """Return the averages of the four members of a round, and their residuals.

    If the last member ``vanishes_at`` a moment of the round, return those of the other three.
    """
    averages: list[Decided] = []
    residuals: list[Tensor] = []

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        ids = [peer.id for peer in peers]
        for peer in peers:
            peer.expects = ids
        tasks = [
            asyncio.create_task(peer.average(drawn(seat), tensors=TENSORS)) for seat, peer in enumerate(peers)
        ]
        if vanishes_at is not None:
            asyncio.get_running_loop().call_at(vanishes_at, network.crash, peers[-1].id)
        stay = peers if vanishes_at is None else peers[:-1]
        averages.extend(decided(await asyncio.gather(*tasks[: len(stay)])))
        residuals.extend(peer.residual for peer in stay)
        tasks[-1].cancel()

    stage(scene, 4, manifest_with(exchange=exchange, codec=codec), FOUR)
    return averages, residuals


def record_of(exchange: Exchange, codec: Codec) -> Record:
    record = round_of(exchange, codec)[0][0].record
    assert record is not None
    return opened(packed(record))


def lost_in_encoding(vector_P: Tensor, record: Record, shape: UpdateShape) -> Tensor:
    """What each part's encoding leaves out."""
    decoded_P = torch.empty_like(vector_P)
    for part in shape.parts(record):
        codec = codec_of(shape.spec.codec, part.shape)
        here = slice(part.start, part.stop)
        decoded_P[here] = codec.decode(codec.encode(vector_P[here]), part.numbers)
    return vector_P - decoded_P


every_way = pytest.mark.parametrize(("exchange", "codec"), [(e, c) for e in Exchange for c in CODECS])
both_exchanges = pytest.mark.parametrize("exchange", list(Exchange))


@every_way
@pytest.mark.parametrize("vanishes_at", [None, 0.2, 0.3])
def test_a_replayed_record_gives_the_bits_that_the_members_have(
    exchange: Exchange, codec: Codec, vanishes_at: float | None
) -> None:
    averages, _ = round_of(exchange, codec, vanishes_at)
    for averaged in averages:
        assert averaged.record is not None
        raw = packed(averaged.record)
        assert len(raw) <= shape_of(exchange, codec).limit
        record = opened(raw)
        assert torch.equal(ReplayRecord(record, shape_of(exchange, codec)).run(), averaged.average_P)
        assert (record.round, record.population, record.tokens) == (0, averaged.population, averaged.tokens)
        assert record.members == tuple(digest_of(member) for member in averaged.group.members)
    bare = [msgspec.structs.replace(each.record, certificate=b"") for each in averages if each.record]
    assert len({packed(record) for record in bare}) == 1, "each has its own two thirds of the ballots"


@both_exchanges
def test_a_member_that_vanishes_in_the_round_is_missing_in_its_record(exchange: Exchange) -> None:
    averages, _ = round_of(exchange, Codec.INT8, 0.2)
    assert averages[0].missing == (FOUR[3].peer_id,)
    record = averages[0].record
    assert record is not None
    if exchange is Exchange.GATHER:
        assert [bool(item) for item in record.items] == [True, True, True, False]
    else:
        flags = {tuple(flags_of(bytes(item[:4]), 4)) for item in record.items if item}
        assert flags == {(True, True, True, False)}


@every_way
def test_a_record_of_a_fragment_gives_its_average_and_that_of_no_other(
    exchange: Exchange, codec: Codec
) -> None:
    averages, _ = round_of(exchange, codec)
    record = record_of(exchange, codec)
    spec = msgspec.structs.replace(spec_of(exchange, codec), fragments=2)
    shape = UpdateShape(spec=spec, tensors=(1024, *TENSORS))
    second = msgspec.structs.replace(record, round=1)
    assert shape.fragment(second).tensors == TENSORS
    assert torch.equal(ReplayRecord(second, shape).run(), averages[0].average_P)
    with pytest.raises(Malformed):
        ReplayRecord(record, shape).run()


def test_a_void_round_has_a_record_that_says_so_and_cannot_be_replayed() -> None:
    record = opened(packed(Record(7, population=30)))
    assert record == Record(7, population=30)
    assert record.is_void
    assert not record_of(Exchange.GATHER, Codec.INT8).is_void
    with pytest.raises(Malformed):
        ReplayRecord(record, shape_of(Exchange.GATHER, Codec.INT8)).run()


# --- the residual of a level-2 round ------------------------------------------------------------------------


@every_way
def test_where_a_representative_was_included_the_residual_is_what_the_encoding_lost(
    exchange: Exchange, codec: Codec
) -> None:
    """It has the bits of the residual that the representative would have from an update of its own."""
    _, residuals = round_of(exchange, codec)
    record = record_of(exchange, codec)
    shape = shape_of(exchange, codec)
    for seat, key in enumerate(FOUR):
        residual_P = RecordResidual(record, shape, drawn(seat), key.peer_id).run()
        assert torch.equal(residual_P, residuals[seat])
        assert torch.equal(residual_P, lost_in_encoding(drawn(seat), record, shape))
        assert torch.allclose(
            residual_P + (drawn(seat) - lost_in_encoding(drawn(seat), record, shape)), drawn(seat), atol=1e-6
        )
        assert bool(residual_P.any()) == (codec is not Codec.FP32)


@every_way
def test_where_a_representative_was_not_included_the_residual_is_everything(
    exchange: Exchange, codec: Codec
) -> None:
    record = record_of(exchange, codec)
    shape = shape_of(exchange, codec)
    update_P = drawn(0)
    other_members = msgspec.structs.replace(record, members=(STRANGER, *record.members[1:]))
    assert torch.equal(RecordResidual(other_members, shape, update_P, FOUR[0].peer_id).run(), update_P)
    not_included = msgspec.structs.replace(record, items=tuple(b"" for _ in record.items))
    assert torch.equal(RecordResidual(not_included, shape, update_P, FOUR[0].peer_id).run(), update_P)
    assert not ReplayRecord(not_included, shape).run().any()


@pytest.mark.parametrize("codec", CODECS)
def test_in_a_part_without_the_representative_the_residual_is_everything(codec: Codec) -> None:
    """The first part was not applied, the second was applied without the share, the others with it."""
    record = record_of(Exchange.BUTTERFLY, codec)
    shape = shape_of(Exchange.BUTTERFLY, codec)
    update_P = drawn(1)
    _, late, here, *_ = shape.parts(record)
    without_it = bits([True, False, True, True]) + record.items[1][4:]
    record = msgspec.structs.replace(record, items=(b"", without_it, *record.items[2:]))
    residual_P = RecordResidual(record, shape, update_P, FOUR[1].peer_id).run()
    assert torch.equal(residual_P[: late.stop], update_P[: late.stop])
    assert torch.equal(residual_P[here.start :], lost_in_encoding(update_P, record, shape)[here.start :])


@both_exchanges
def test_the_residual_decays_as_the_manifest_says_and_only_where_something_was_applied(
    exchange: Exchange,
) -> None:
    record = record_of(exchange, Codec.INT4)
    shape = shape_of(exchange, Codec.INT4)
    update_P = drawn(0)
    halved = UpdateShape(spec=msgspec.structs.replace(shape.spec, feedback=0.5), tensors=TENSORS)
    residual_P = RecordResidual(record, halved, update_P, FOUR[0].peer_id).run()
    assert torch.equal(residual_P, lost_in_encoding(update_P, record, shape) * 0.5)
    not_included = msgspec.structs.replace(record, items=tuple(b"" for _ in record.items))
    assert torch.equal(RecordResidual(not_included, halved, update_P, FOUR[0].peer_id).run(), update_P)


# --- whether to believe it ----------------------------------------------------------------------------------


def run_of(exchange: Exchange, codec: Codec = Codec.INT8) -> bytes:
    return manifest_with(exchange=exchange, codec=codec).run_id


def company_of(exchange: Exchange, keys: Sequence[KeyPair] = FOUR, **changes: Any) -> Company:
    """Peers that could have decided something in such a run, at the state from which its round began."""
    fields: dict[str, Any] = {"run": run_of(exchange), "keys": keys, "root": ROOT, "tokens": 100}
    return Company(**(fields | changes))


LAST = frozenset(key.peer_id for key in FOUR)
"""Who was in the last average."""
PARENT = bytes([4]) * 16


def refused(record: Record, exchange: Exchange) -> str:
    """Why a record is not what its certificate says."""
    with pytest.raises(TheirFault) as caught:
        verified(record, run_of(exchange), shape_of(exchange, Codec.INT8))
    return caught.value.fact


@every_way
@pytest.mark.parametrize("vanishes_at", [None, 0.2])
def test_the_record_of_every_member_holds_by_its_certificate(
    exchange: Exchange, codec: Codec, vanishes_at: float | None
) -> None:
    averages, _ = round_of(exchange, codec, vanishes_at)
    for averaged in averages:
        assert averaged.record is not None
        record = opened(packed(averaged.record))
        found = verified(record, run_of(exchange, codec), shape_of(exchange, codec))
        assert found.record == record
        assert found.decision.group == averaged.group
        assert found.decision.origin == averaged.origin


def one_more(hashes: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return (*hashes, STRANGER)


Lie = Callable[[Record], dict[str, object]]
"""record -> the fields about which it lies."""
NOT_SAID = "the record is not what its certificate says"
NOT_DECIDED = "the items of the record are not those that were decided"
LIES: dict[str, tuple[str, Lie]] = {
    "the next round": (NOT_SAID, lambda it: {"round": it.round + 1}),
    "a member less": (NOT_SAID, lambda it: {"members": it.members[:-1]}),
    "a member more": (NOT_SAID, lambda it: {"members": one_more(it.members)}),
    "another member": (NOT_SAID, lambda it: {"members": one_more(it.members[:-1])}),
    "members in another order": (NOT_SAID, lambda it: {"members": it.members[::-1]}),
    "a peer more": (NOT_SAID, lambda it: {"population": it.population + 1}),
    "a peer less": (NOT_SAID, lambda it: {"population": it.population - 1}),
    "a token more": (NOT_SAID, lambda it: {"tokens": it.tokens + 1}),
    "no tokens": (NOT_SAID, lambda it: {"tokens": 0}),
    "a cut more": (NOT_SAID, lambda it: {"stops": (10, *it.stops)}),
    "no cuts": (NOT_SAID, lambda it: {"stops": ()}),
    "no items": (NOT_DECIDED, lambda it: {"items": ()}),
    "an item less": (NOT_DECIDED, lambda it: {"items": it.items[:-1]}),
    "an item more": (NOT_DECIDED, lambda it: {"items": (*it.items, b"")}),
    "an item not applied": (NOT_DECIDED, lambda it: {"items": (b"", *it.items[1:])}),
    "a changed item": (NOT_DECIDED, lambda it: {"items": (it.items[0] + b"x", *it.items[1:])}),
    "items in another order": (NOT_DECIDED, lambda it: {"items": it.items[::-1]}),
    "no certificate": ("not a DecisionCertificate", lambda it: {"certificate": b""}),
    "half a certificate": ("not a DecisionCertificate", lambda it: {"certificate": it.certificate[:500]}),
}


@both_exchanges
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_any_field_of_a_record_is_refused(exchange: Exchange, lie: str) -> None:
    why, changes = LIES[lie]
    record = record_of(exchange, Codec.INT8)
    assert refused(msgspec.structs.replace(record, **changes(record)), exchange).startswith(why)


def test_no_field_of_a_record_may_be_lied_about() -> None:
    record = record_of(Exchange.BUTTERFLY, Codec.INT8)
    changed = {name for _, changes in LIES.values() for name in changes(record)}
    assert changed == set(Record.__struct_fields__)


@both_exchanges
def test_the_certificate_of_another_decision_proves_nothing_about_a_record(exchange: Exchange) -> None:
    record = record_of(exchange, Codec.INT8)
    hashes = tuple(digest(item) for item in record.items)
    others = company_of(exchange, [*FOUR[:3], KeyPair.from_seed(bytes([9]) * 32)])
    assert refused(replaced(record, others.decision(hashes)), exchange) == NOT_SAID, "of other members"
    later = company_of(exchange, round=1)
    assert refused(replaced(record, later.decision(hashes)), exchange) == NOT_SAID, "of another round"
    other_items = company_of(exchange).decision((bytes(32), *hashes[1:]))
    assert refused(replaced(record, other_items), exchange) == NOT_DECIDED
    foreign = company_of(exchange, run=bytes(32))
    assert refused(replaced(record, foreign.decision(hashes)), exchange), "of another run"
    two_of_four = company_of(exchange).decision(hashes, FOUR[:2])
    assert refused(replaced(record, two_of_four), exchange).startswith("2 ballots decide nothing")


@both_exchanges
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_group_of_liars_that_decides_about_another_number_of_items_is_refused(
    exchange: Exchange, count: int
) -> None:
    """Its certificate holds: whoever has some keys can form a group, and decide what they like."""
    items = tuple(bytes([number]) for number in range(count))
    certificate = company_of(exchange).decision(tuple(map(digest, items)))
    record = msgspec.structs.replace(record_of(exchange, Codec.INT8), items=items)
    fault = refused(replaced(record, certificate), exchange)
    assert fault == "a group of the run decides about another number of items"


def replaced(record: Record, certificate: DecisionCertificate) -> Record:
    """``record`` with another certificate."""
    return msgspec.structs.replace(record, certificate=pack(certificate))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, ""),
        ({"root": STRANGER}, "the record goes on from another state"),
        ({"parent": bytes(16)}, "the record goes on from another state"),
        ({"electorate": Electorate(members=LAST, needed=4, floor=4)}, "too few of those"),
        ({"electorate": Electorate(members=LAST - {FOUR[0].peer_id}, needed=3)}, "too few of those"),
        ({"electorate": Electorate(members=LAST, floor=4)}, "too few of those"),
        ({"electorate": Electorate(hierarchy=Hierarchy(bytes(32), 0, 4))}, "the record is of a group of"),
    ],
    ids=["honest", "another state", "another parent", "needed", "newcomers", "floor", "another level"],
)
def test_a_record_is_believed_if_it_goes_on_from_our_state_by_enough_of_the_last_average(
    changes: dict[str, Any], fault: str
) -> None:
    """Three of the four members have voted for the group: all but the last."""
    shape = shape_of(Exchange.BUTTERFLY, Codec.INT8)
    company = company_of(Exchange.BUTTERFLY, parent=PARENT)
    items = record_of(Exchange.BUTTERFLY, Codec.INT8).items
    honest = company.record(shape, tuple(bytes(item) for item in items))
    formed = company.group_certificate(FOUR[:3])
    decision = company.decision(tuple(digest(item) for item in items))
    record = replaced(honest, msgspec.structs.replace(decision, group=formed))
    usual: dict[str, Any] = {
        "root": ROOT,
        "parent": PARENT,
        "electorate": Electorate(members=LAST, needed=3, floor=3),
    }
    judge = judge_for(run_of(Exchange.BUTTERFLY), shape, **(usual | changes))
    if not fault:
        assert judge(record).decision.formed.voters == {key.peer_id for key in FOUR[:3]}
        return
    with pytest.raises(TheirFault) as caught:
        judge(record)
    assert caught.value.fact.startswith(fault)


# --- bytes from any peer ------------------------------------------------------------------------------------


def raw_of(record: Record, **values: object) -> bytes:
    """Return the bytes of ``record`` with some fields changed to values that `Record` would refuse."""
    return msgspec.msgpack.encode(
        [values.get(name, getattr(record, name)) for name in Record.__struct_fields__]
    )


def replayed(raw: bytes, shape: UpdateShape) -> Tensor:
    """Return the average that ``raw`` leads to. Raises `Malformed`."""
    return ReplayRecord(opened(raw), shape).run()


@pytest.mark.parametrize(
    "values",
    [
        {"round": 1 << 32},
        {"population": MAX_POPULATION + 1},
        {"tokens": MAX_MEMBERS * MAX_WEIGHT},
        {"members": [bytes([n % 256, n // 256]) * 16 for n in range(MAX_MEMBERS + 1)]},
        {"stops": [512, 256, NUMBERS]},
        {"stops": [256, 256, NUMBERS]},
        {"stops": []},
        {"stops": [256, 512, NUMBERS - 1]},
        {"stops": [256, 512, NUMBERS + 256]},
        {"stops": [-256, 512, NUMBERS]},
        {"stops": [1 << 63]},
        {"items": [b"x"]},
        {"items": [b""] * 5},
        {"items": [None] * 4},
    ],
    ids=lambda values: " ".join(f"{name} {value}"[:40] for name, value in values.items()),
)
@both_exchanges
def test_a_record_that_no_group_can_have_decided_is_malformed(
    values: dict[str, object], exchange: Exchange
) -> None:
    with pytest.raises(Malformed):
        replayed(raw_of(record_of(exchange, Codec.INT8), **values), shape_of(exchange, Codec.INT8))


@every_way
def test_an_item_has_exactly_the_bytes_that_its_numbers_take(exchange: Exchange, codec: Codec) -> None:
    record = record_of(exchange, codec)
    shape = shape_of(exchange, codec)
    first, *rest = record.items
    for item in (first[:-1], first + b"\0", first[:1], first * 2, b"\0"):
        with pytest.raises(Malformed):
            replayed(raw_of(record, items=[item, *rest]), shape)


@every_way
def test_an_item_whose_bytes_are_no_numbers_is_malformed(exchange: Exchange, codec: Codec) -> None:
    """All bits are ones: NaN as a number or a scale, codes and positions out of range."""
    record = record_of(exchange, codec)
    shape = shape_of(exchange, codec)
    first, *rest = record.items
    head = HEAD.size if exchange is Exchange.GATHER else header_bytes(3)
    with pytest.raises(Malformed):
        replayed(raw_of(record, items=[first[:head] + b"\xff" * (len(first) - head), *rest]), shape)


def test_an_update_with_an_invalid_header_is_malformed() -> None:
    record = record_of(Exchange.GATHER, Codec.INT8)
    shape = shape_of(Exchange.GATHER, Codec.INT8)
    first, *rest = record.items
    heads = [HEAD.pack(3, 0, 1.0), HEAD.pack(3, MAX_WEIGHT, 1.0), HEAD.pack(250, 1, 1.0)]
    heads += [HEAD.pack(Codec.INT8, 1, bad) for bad in (float("nan"), float("inf"), -1.0)]
    # the last one: other bytes
    heads += [UpdateHeader(codec, 1, 1.0).pack() for codec in (Codec.FP32, Codec.SPARSE256, Codec.INT4)]
    for head in heads:
        with pytest.raises(Malformed):
            replayed(raw_of(record, items=[head + first[HEAD.size :], *rest]), shape)


@both_exchanges
def test_the_record_of_a_run_with_another_codec_is_malformed(exchange: Exchange) -> None:
    for theirs in CODECS:
        for ours in CODECS:
            is_allowed = exchange is Exchange.GATHER and (theirs, ours) == (Codec.INT4, Codec.INT8)
            if theirs is not ours and not is_allowed:
                with pytest.raises(Malformed):
                    replayed(packed(record_of(exchange, theirs)), shape_of(exchange, ours))


def test_a_record_of_a_gather_with_several_parts_is_malformed() -> None:
    with pytest.raises(Malformed):
        replayed(packed(record_of(Exchange.BUTTERFLY, Codec.INT8)), shape_of(Exchange.GATHER, Codec.INT8))


@both_exchanges
def test_bytes_that_end_too_early_or_too_late_are_no_record(exchange: Exchange) -> None:
    raw = packed(record_of(exchange, Codec.SPARSE256))
    for cut in (*(raw[:end] for end in range(len(raw))), raw + b"\0", raw[1:]):
        with pytest.raises(Malformed):
            opened(cut)


@settings(max_examples=400, derandomize=True)
@given(
    st.sampled_from([(e, c) for e in Exchange for c in CODECS]), st.integers(0, 1 << 32), st.integers(1, 12)
)
def test_a_record_with_random_changes_gives_a_vector_of_our_size_or_is_malformed(
    way: tuple[Exchange, Codec], seed: int, changes: int
) -> None:
    raw = bytearray(packed(record_of(*way)))
    chance = random.Random(seed)
    for _ in range(changes):
        at = chance.randrange(len(raw)) if chance.random() < 0.5 else chance.randrange(140)
        length = chance.randrange(4)
        raw[at : at + length] = chance.randbytes(length if chance.random() < 0.9 else chance.randrange(4))
    try:
        average_P = replayed(bytes(raw), shape_of(*way))
    except Malformed:
        return
    assert (average_P.shape, average_P.dtype) == ((NUMBERS,), torch.float32)
