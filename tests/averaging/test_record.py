"""What a group has decided, for those who were not in it: the same bits; from a stranger a vector of our size or `Malformed`."""

from __future__ import annotations

import asyncio
import random
from functools import lru_cache

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from averaging.averager import Averaged, Company, Update
from averaging.codecs import codec_of
from averaging.messages import MAX_MEMBERS, MAX_POPULATION, MAX_WEIGHT, bits, flag_bytes, flags_of
from averaging.record import Record, RecordResidual, ReplayRecord, UpdateShape, opened, packed
from averaging.whole_update import HEAD, UpdateHeader
from swarm.errors import Malformed
from swarm.identity import digest_of
from swarm.manifest import Codec, Exchange, RoundSpec
from swarm.simulation.network import SimulatedNetwork
from tests.averaging.test_averager import KEYS, MANIFEST, NUMBERS, ROOT, ROUND, Person, drawn, residual, stage

CODECS = (Codec.FP32, Codec.INT8, Codec.INT4, Codec.SPARSE256)
TENSORS = (300, 7, 693)
"""Lengths of the tensors of a model: cuts of parts go through the last one."""
STRANGER = bytes(32)


def spec_of(exchange: Exchange, codec: Codec) -> RoundSpec:
    return msgspec.structs.replace(ROUND, exchange=exchange, codec=codec)


def frame_of(exchange: Exchange, codec: Codec) -> UpdateShape:
    return UpdateShape(spec=spec_of(exchange, codec), tensors=TENSORS)


async def brings(person: Person, vector_P: Tensor) -> Averaged:
    """Average it with everybody, as one vector of `TENSORS`."""
    update = Update(round=0, vector_P=vector_P, tokens=100, seed=bytes(32), state_root=ROOT, tensors=TENSORS)
    return await person.averager.average(
        update, Company([peer for peer in person.expects if peer != person.id], 5.0)
    )


@lru_cache
def round_of(
    exchange: Exchange, codec: Codec, vanishes_at: float | None = None
) -> tuple[list[Averaged], list[Tensor]]:
    """What three members have of a round, and what they owe; where the last one ``vanishes_at`` a moment in it, the other two."""
    averages: list[Averaged] = []
    owed: list[Tensor] = []

    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        tasks = [asyncio.create_task(brings(person, drawn(seat))) for seat, person in enumerate(people)]
        if vanishes_at is not None:
            asyncio.get_running_loop().call_at(vanishes_at, network.crash, people[-1].id)
        stay = people if vanishes_at is None else people[:-1]
        averages.extend(await asyncio.gather(*tasks[: len(stay)]))
        owed.extend(residual(person) for person in stay)
        tasks[-1].cancel()

    stage(scene, 3, msgspec.structs.replace(MANIFEST, round=spec_of(exchange, codec)))
    return averages, owed


def record_of(exchange: Exchange, codec: Codec) -> Record:
    record = round_of(exchange, codec)[0][0].record
    assert record is not None
    return opened(packed(record))


def lost(vector_P: Tensor, record: Record, frame: UpdateShape) -> Tensor:
    """What each part's encoding leaves out."""
    decoded_P = torch.empty_like(vector_P)
    for part in frame.parts(record):
        codec = codec_of(frame.spec.codec, part.shape)
        here = slice(part.start, part.stop)
        decoded_P[here] = codec.decode(codec.encode(vector_P[here]), part.numbers)
    return vector_P - decoded_P


every_way = pytest.mark.parametrize(("exchange", "codec"), [(e, c) for e in Exchange for c in CODECS])
both_exchanges = pytest.mark.parametrize("exchange", list(Exchange))


@every_way
@pytest.mark.parametrize("vanishes_at", [None, 0.2, 0.3])
def test_a_record_played_again_gives_the_bits_that_the_members_have(
    exchange: Exchange, codec: Codec, vanishes_at: float | None
) -> None:
    averages, _ = round_of(exchange, codec, vanishes_at)
    for averaged in averages:
        assert averaged.average_P is not None
        assert averaged.record is not None
        raw = packed(averaged.record)
        assert len(raw) <= frame_of(exchange, codec).limit
        record = opened(raw)
        assert torch.equal(ReplayRecord(record, frame_of(exchange, codec)).run(), averaged.average_P)
        assert (record.round, record.population, record.tokens) == (0, averaged.population, averaged.tokens)
        assert record.members == tuple(digest_of(member) for member in averaged.members)
    assert len({packed(averaged.record) for averaged in averages if averaged.record}) == 1


@both_exchanges
def test_somebody_who_vanishes_in_the_round_is_missing_in_its_record(exchange: Exchange) -> None:
    averages, _ = round_of(exchange, Codec.INT8, 0.2)
    assert averages[0].missing == (KEYS[2].peer_id,)
    record = averages[0].record
    assert record is not None
    if exchange is Exchange.GATHER:
        assert [bool(item) for item in record.items] == [True, True, False]
    else:
        assert {tuple(flags_of(bytes(item[:4]), 3)) for item in record.items if item} == {(True, True, False)}


@every_way
def test_a_record_of_a_fragment_gives_its_average_and_that_of_no_other(
    exchange: Exchange, codec: Codec
) -> None:
    averages, _ = round_of(exchange, codec)
    record = record_of(exchange, codec)
    spec = msgspec.structs.replace(spec_of(exchange, codec), fragments=2)
    frame = UpdateShape(spec=spec, tensors=(1024, *TENSORS))
    second = msgspec.structs.replace(record, round=1)
    assert frame.fragment(second).tensors == TENSORS
    average_P = averages[0].average_P
    assert average_P is not None
    assert torch.equal(ReplayRecord(second, frame).run(), average_P)
    with pytest.raises(Malformed):
        ReplayRecord(record, frame).run()


def test_a_void_round_has_a_record_that_says_so_and_nothing_to_play() -> None:
    record = opened(packed(Record(7, population=30)))
    assert record == Record(7, population=30)
    assert record.is_void
    assert not record_of(Exchange.GATHER, Codec.INT8).is_void
    with pytest.raises(Malformed):
        ReplayRecord(record, frame_of(Exchange.GATHER, Codec.INT8)).run()


# --- what a council leaves ----------------------------------------------------------------------------------------


@every_way
def test_where_a_delegate_was_heard_its_cell_owes_what_the_encoding_lost(
    exchange: Exchange, codec: Codec
) -> None:
    """To the bit what the delegate itself owes, had it brought the same on its own account."""
    _, owed = round_of(exchange, codec)
    record = record_of(exchange, codec)
    frame = frame_of(exchange, codec)
    for seat, key in enumerate(KEYS):
        left_P = RecordResidual(record, frame, drawn(seat), key.peer_id).run()
        assert torch.equal(left_P, owed[seat])
        assert torch.equal(left_P, lost(drawn(seat), record, frame))
        assert torch.allclose(
            left_P + (drawn(seat) - lost(drawn(seat), record, frame)), drawn(seat), atol=1e-6
        )
        assert bool(left_P.any()) == (codec is not Codec.FP32)


@every_way
def test_a_delegate_that_was_not_heard_leaves_everything(exchange: Exchange, codec: Codec) -> None:
    record = record_of(exchange, codec)
    frame = frame_of(exchange, codec)
    brought_P = drawn(0)
    strangers = msgspec.structs.replace(record, members=(STRANGER, *record.members[1:]))
    assert torch.equal(RecordResidual(strangers, frame, brought_P, KEYS[0].peer_id).run(), brought_P)
    unheard = msgspec.structs.replace(record, items=tuple(b"" for _ in record.items))
    assert torch.equal(RecordResidual(unheard, frame, brought_P, KEYS[0].peer_id).run(), brought_P)
    assert not ReplayRecord(unheard, frame).run().any()


@pytest.mark.parametrize("codec", CODECS)
def test_part_by_part_everything_is_left_where_a_result_is_without_the_delegate(codec: Codec) -> None:
    """One part was not applied at all, another one without its share: in a third it is."""
    record = record_of(Exchange.BUTTERFLY, codec)
    frame = frame_of(Exchange.BUTTERFLY, codec)
    brought_P = drawn(1)
    _, late, here = frame.parts(record)
    without = bits([True, False, True]) + record.items[1][4:]
    record = msgspec.structs.replace(record, items=(b"", without, record.items[2]))
    left_P = RecordResidual(record, frame, brought_P, KEYS[1].peer_id).run()
    assert torch.equal(left_P[: late.stop], brought_P[: late.stop])
    assert torch.equal(left_P[here.start :], lost(brought_P, record, frame)[here.start :])


@both_exchanges
def test_what_is_left_decays_as_the_manifest_says_and_only_where_something_was_applied(
    exchange: Exchange,
) -> None:
    record = record_of(exchange, Codec.INT4)
    frame = frame_of(exchange, Codec.INT4)
    brought_P = drawn(0)
    halved = UpdateShape(spec=msgspec.structs.replace(frame.spec, feedback=0.5), tensors=TENSORS)
    left_P = RecordResidual(record, halved, brought_P, KEYS[0].peer_id).run()
    assert torch.equal(left_P, lost(brought_P, record, frame) * 0.5)
    unheard = msgspec.structs.replace(record, items=tuple(b"" for _ in record.items))
    assert torch.equal(RecordResidual(unheard, halved, brought_P, KEYS[0].peer_id).run(), brought_P)


@both_exchanges
def test_who_accepts_a_record_owes_what_is_left_on_top_and_nothing_for_one_that_is_none(
    exchange: Exchange,
) -> None:
    record = record_of(exchange, Codec.INT8)
    frame = frame_of(exchange, Codec.INT8)
    brought_P = drawn(0)
    broken = msgspec.structs.replace(record, items=record.items[1:])

    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        person = people[0]
        await brings(person, drawn(5))
        person.averager.owe(drawn(6))
        with pytest.raises(Malformed):
            await person.averager.accept(broken, frame, brought_P, person.id)
        assert torch.equal(residual(person), drawn(6))
        average_P = await person.averager.accept(record, frame, brought_P, person.id)
        assert torch.equal(average_P, ReplayRecord(record, frame).run())
        assert torch.equal(
            residual(person), drawn(6) + RecordResidual(record, frame, brought_P, person.id).run()
        )

    stage(scene, 1)


# --- strangers ----------------------------------------------------------------------------------------------------


def raw_of(record: Record, **said: object) -> bytes:
    """The bytes of ``record`` with other things in it, which nobody could make a `Record` of."""
    return msgspec.msgpack.encode(
        [said.get(name, getattr(record, name)) for name in Record.__struct_fields__]
    )


def played(raw: bytes, frame: UpdateShape) -> Tensor:
    """What a stranger's bytes lead to. Raises `Malformed`."""
    return ReplayRecord(opened(raw), frame).run()


@pytest.mark.parametrize(
    "said",
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
        {"items": [b""] * 4},
        {"items": [None] * 3},
    ],
    ids=lambda said: " ".join(f"{name} {value}"[:40] for name, value in said.items()),
)
@both_exchanges
def test_no_group_decides_that(said: dict[str, object], exchange: Exchange) -> None:
    with pytest.raises(Malformed):
        played(raw_of(record_of(exchange, Codec.INT8), **said), frame_of(exchange, Codec.INT8))


@every_way
def test_an_item_has_exactly_the_bytes_that_its_numbers_take(exchange: Exchange, codec: Codec) -> None:
    record = record_of(exchange, codec)
    frame = frame_of(exchange, codec)
    first, *rest = record.items
    for item in (first[:-1], first + b"\0", first[:1], first * 2, b"\0"):
        with pytest.raises(Malformed):
            played(raw_of(record, items=[item, *rest]), frame)


@every_way
def test_numbers_that_are_none_lead_nowhere(exchange: Exchange, codec: Codec) -> None:
    """A byte of ones after the other: NaN as number or scale, codes and places out of range."""
    record = record_of(exchange, codec)
    frame = frame_of(exchange, codec)
    first, *rest = record.items
    head = HEAD.size if exchange is Exchange.GATHER else flag_bytes(3)
    with pytest.raises(Malformed):
        played(raw_of(record, items=[first[:head] + b"\xff" * (len(first) - head), *rest]), frame)


def test_the_head_of_an_update_is_in_order() -> None:
    record = record_of(Exchange.GATHER, Codec.INT8)
    frame = frame_of(Exchange.GATHER, Codec.INT8)
    first, *rest = record.items
    heads = [HEAD.pack(3, 0, 1.0), HEAD.pack(3, MAX_WEIGHT, 1.0), HEAD.pack(250, 1, 1.0)]
    heads += [HEAD.pack(Codec.INT8, 1, bad) for bad in (float("nan"), float("inf"), -1.0)]
    heads += [
        UpdateHeader(codec, 1, 1.0).pack() for codec in (Codec.FP32, Codec.SPARSE256, Codec.INT4)
    ]  # the last one: other bytes
    for head in heads:
        with pytest.raises(Malformed):
            played(raw_of(record, items=[head + first[HEAD.size :], *rest]), frame)


@both_exchanges
def test_the_record_of_another_run_is_none_of_ours(exchange: Exchange) -> None:
    for theirs in CODECS:
        for ours in CODECS:
            is_allowed = exchange is Exchange.GATHER and (theirs, ours) == (Codec.INT4, Codec.INT8)
            if theirs is not ours and not is_allowed:
                with pytest.raises(Malformed):
                    played(packed(record_of(exchange, theirs)), frame_of(exchange, ours))


def test_a_gather_has_one_part() -> None:
    with pytest.raises(Malformed):
        played(packed(record_of(Exchange.BUTTERFLY, Codec.INT8)), frame_of(Exchange.GATHER, Codec.INT8))


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
def test_whatever_is_changed_in_a_record_it_is_a_tensor_of_our_size_or_malformed(
    way: tuple[Exchange, Codec], seed: int, changes: int
) -> None:
    raw = bytearray(packed(record_of(*way)))
    chance = random.Random(seed)
    for _ in range(changes):
        at = chance.randrange(len(raw)) if chance.random() < 0.5 else chance.randrange(140)
        length = chance.randrange(4)
        raw[at : at + length] = chance.randbytes(length if chance.random() < 0.9 else chance.randrange(4))
    try:
        average_P = played(bytes(raw), frame_of(*way))
    except Malformed:
        return
    assert (average_P.shape, average_P.dtype) == ((NUMBERS,), torch.float32)
