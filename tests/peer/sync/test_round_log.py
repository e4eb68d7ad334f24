"""Rounds that a peer has missed, taken again from their records over a simulated network; nobody is believed but the state root."""

from __future__ import annotations

import asyncio

import pytest
import torch
from msgspec.structs import replace

from averaging.codecs import codec_of, result_codec
from averaging.messages import bits
from averaging.record import Record, UpdateShape, opened, packed
from peer.chunks.exchange import ChunkExchange
from peer.sync.head import ChosenHead
from peer.sync.round_log import DONORS, KEPT, PAUSE_SECONDS, WAIT_SECONDS, RoundLog
from peer.training.compute import Inline
from peer.training.learner import Learner
from peer.training.state import SharedState, state_root
from swarm.errors import Busy, Refused, WrongContent
from swarm.identity import PeerId
from swarm.machine import Report
from swarm.simulation.network import SimulatedTransport
from swarm.transport import Request
from tests.peer.company import MANIFEST, TEXT, Company, key, played_by, soon

CLOSE = 0.1
"""Seconds in which an answer comes from a peer that has one: a few messages of a hundredth each."""


class Playing:
    """A peer that keeps records, serves them and plays them again."""

    def __init__(self, readers: Readers, number: int) -> None:
        self.id = key(number).peer_id
        self.transport = readers.company.transport(number)
        self.learner = Learner(MANIFEST, TEXT, self.id)
        self.frame = UpdateShape(spec=MANIFEST.round, tensors=self.learner.tensors)
        arithmetic = Inline(lambda job: 0.0)
        self.chunks = ChunkExchange(self.transport, arithmetic, readers.tasks, readers.reports.append)
        self.round_log = RoundLog(self.learner, self.frame, self.chunks, self.transport, arithmetic)

    @property
    def root(self) -> bytes:
        """Of the state in which it is."""
        return state_root(self.learner.state)

    def decides(self, seed: int) -> Record:
        """What a group of two might decide in its round."""
        record = Record(
            self.learner.state.round, (bytes(32), bytes([1]) * 32), tokens=100, stops=(self.frame.numbers,)
        )
        (whole,) = self.frame.parts(record)
        update_P = 0.01 * torch.randn(whole.numbers, generator=torch.Generator().manual_seed(seed))
        numbers = codec_of(result_codec(MANIFEST.round.codec), whole.shape).encode(update_P)
        return Record(record.round, record.members, 2, 100, record.stops, (bits([True, True]) + numbers,))

    async def goes_on(self, *records: Record) -> SharedState:
        """Take the step of each, and keep it."""
        for record in records:
            root = self.root
            self.learner.adopt(await self.round_log.following(self.learner.state, record))
            self.round_log.keep(root, record)
        return self.learner.state

    async def plays(self, rounds: int) -> ChosenHead:
        """Take so many steps. Where it stands then."""
        for seed in range(rounds):
            await self.goes_on(self.decides(seed))
        return self.standing(self.id)

    def standing(self, *donors: PeerId) -> ChosenHead:
        """Where it stands, by the word of ``donors``."""
        return ChosenHead(self.learner.state.round, self.root, 0, 0.0, donors)


class Readers:
    """Peers on one network; to be used inside `simulate`."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.company, self.tasks = Company(), tasks
        self.reports: list[Report] = []
        self.routes: list[str] = []
        self.company.network.heard = lambda at, sender, receiver, route, call: self.routes.append(route)

    def peer(self, number: int) -> Playing:
        return Playing(self, number)

    def stranger(self, number: int, raw: bytes) -> PeerId:
        """Somebody who answers with ``raw`` whatever record is asked for."""
        return self.company.stranger(number, {"record": lambda call: raw}).me


in_company = played_by(Readers)


async def asks(transport: SimulatedTransport, number: int, argument: str) -> bytes:
    """The record that peer ``number`` has, as bytes."""
    return await transport.request(
        key(number).peer_id, Request("record", argument=argument, limit=1 << 20), deadline=soon(60)
    )


def is_that_of(donor: Playing, state: SharedState | None) -> bool:
    """Whether it is the state of ``donor``, to the bit."""
    return state is not None and state_root(state) == donor.root


# --- playing ------------------------------------------------------------------------------------------------


@in_company
async def test_who_is_two_rounds_behind_plays_two_records_and_fetches_no_state(readers: Readers) -> None:
    donor, late = readers.peer(1), readers.peer(9)
    before = late.learner.state
    standing = await donor.plays(2)
    state = await late.round_log.state(standing, soon())
    assert is_that_of(donor, state)
    assert readers.routes == ["record"] * 2
    assert late.learner.state is before, "whether to go there is not decided here"
    assert readers.reports == []


@in_company
async def test_a_void_round_costs_nothing_to_play(readers: Readers) -> None:
    donor, late = readers.peer(1), readers.peer(9)
    await donor.goes_on(Record(0, population=40))
    await donor.plays(1)
    raw = await asks(late.transport, 1, late.root.hex())
    assert (opened(raw), len(raw) < 20) == (Record(0, population=40), True)
    state = await late.round_log.state(donor.standing(donor.id), soon())
    assert is_that_of(donor, state)


@in_company
async def test_who_is_where_the_others_are_or_too_far_away_asks_nobody(readers: Readers) -> None:
    donor, late = readers.peer(1), readers.peer(9)
    standing = donor.standing(donor.id)
    for round_ in (0, KEPT + 1):
        assert (
            await late.round_log.state(ChosenHead(round_, bytes(32), 0, 0.0, standing.donors), soon()) is None
        )
    await late.plays(1)
    assert await late.round_log.state(standing, soon()) is None, (
        "the others are behind: there is no record that leads back"
    )
    assert readers.routes == []


@in_company
async def test_a_record_that_leads_elsewhere_is_not_believed(readers: Readers) -> None:
    donor, late = readers.peer(1), readers.peer(9)
    liars = [
        readers.stranger(number, packed(lie)) for number, lie in enumerate((late.decides(99), Record(0)), 2)
    ]
    await donor.plays(1)
    for liar in liars:
        assert await late.round_log.state(donor.standing(liar, donor.id), soon()) is None
    await donor.goes_on(donor.decides(1))
    assert await late.round_log.state(donor.standing(liars[0], donor.id), soon()) is None, (
        "the round after it nobody knows"
    )


@in_company
async def test_what_no_group_can_have_decided_is_reported_and_the_next_is_asked(readers: Readers) -> None:
    donor, late = readers.peer(1), readers.peer(9)
    good = late.decides(0)
    lies = (replace(good, items=(good.items[0][:-1],)), replace(good, round=1))
    liars = [readers.stranger(number, packed(lie)) for number, lie in enumerate(lies, 2)]
    await donor.plays(2)
    state = await late.round_log.state(donor.standing(*liars, donor.id), soon())
    assert is_that_of(donor, state)
    assert [(report.code, report.peer) for report in readers.reports] == [
        ("malformed", liar) for liar in liars
    ]
    assert readers.routes.count("record") == 4, "who has lied is not asked again"


@in_company
async def test_bytes_that_are_no_record_cost_one_question(readers: Readers) -> None:
    donor, late = readers.peer(1), readers.peer(9)
    liars = [readers.stranger(2, b"no record"), readers.stranger(3, bytes(late.frame.limit + 1))]
    await donor.plays(1)
    state = await late.round_log.state(donor.standing(*liars, donor.id), soon())
    assert is_that_of(donor, state)


@in_company
async def test_who_has_sent_false_content_before_is_not_asked_for_records(readers: Readers) -> None:
    donor, late = readers.peer(1), readers.peer(9)
    raw = packed(late.decides(0))
    liar = readers.company.stranger(2, {"index": lambda call: bytes(32), "record": lambda call: raw}).me
    await donor.plays(1)
    with pytest.raises(WrongContent):
        await late.chunks.index(bytes(32), [liar], 1, lambda hashes: False, soon())
    assert await late.round_log.state(donor.standing(liar), soon()) is None
    assert readers.routes == ["index"]


@in_company
async def test_a_dead_donor_costs_nothing_more_than_the_next_one(readers: Readers) -> None:
    donor, late, dead, began = readers.peer(1), readers.peer(9), [key(40).peer_id, key(41).peer_id], soon(0)
    await donor.plays(2)
    state = await late.round_log.state(donor.standing(*dead, donor.id), soon())
    assert is_that_of(donor, state)
    assert soon(0) - began < 2 * CLOSE
    assert await late.round_log.state(donor.standing(*dead), soon()) is None
    assert soon(0) - began < 3 * CLOSE, "the model itself is the better way then"


@in_company
async def test_no_more_than_a_few_are_asked_before_the_model_is_fetched(readers: Readers) -> None:
    donor, late = readers.peer(1), readers.peer(9)
    await donor.plays(1)
    ignorant = [readers.stranger(number, b"") for number in range(2, 2 + DONORS)]
    assert await late.round_log.state(donor.standing(*ignorant, donor.id), soon()) is None
    assert len(readers.routes) == DONORS


# --- serving ------------------------------------------------------------------------------------------------


@in_company
async def test_who_asks_for_the_round_under_way_gets_it_as_soon_as_it_is_over(readers: Readers) -> None:
    donor, asking = readers.peer(1), readers.company.transport(8)
    root, record, began = donor.root, donor.decides(0), soon(0)
    question = asyncio.create_task(asks(asking, 1, root.hex()))
    await asyncio.sleep(1.0)
    assert not question.done()
    await donor.goes_on(record)
    assert opened(await question) == record
    assert 1.0 <= soon(0) - began < 1.0 + CLOSE


@in_company
async def test_who_has_waited_long_enough_is_told_to_ask_again(readers: Readers) -> None:
    donor, asking = readers.peer(1), readers.company.transport(8)
    began = soon(0)
    with pytest.raises(Busy, match="not over yet"):
        await asks(asking, 1, donor.root.hex())
    assert WAIT_SECONDS <= soon(0) - began < WAIT_SECONDS + CLOSE


@in_company
async def test_a_record_is_asked_for_again_until_the_round_is_over(readers: Readers) -> None:
    donor, late, began = readers.peer(1), readers.peer(9), soon(0)
    record = donor.decides(0)
    question = asyncio.create_task(late.round_log.record(late.root, [donor.id, key(40).peer_id], soon(60)))
    await asyncio.sleep(3 * WAIT_SECONDS)
    await donor.goes_on(record)
    assert await question == (record, donor.id)
    assert soon(0) - began < 3 * WAIT_SECONDS + PAUSE_SECONDS + CLOSE


@in_company
async def test_two_that_have_no_part_in_a_round_do_not_wait_for_each_other(readers: Readers) -> None:
    """They were turned away by a third that has gone on alone, of which there is no record."""
    one, other, began = readers.peer(1), readers.peer(2), soon(0)
    await asyncio.gather(
        one.round_log.record(one.root, [other.id], soon(60)),
        other.round_log.record(other.root, [one.id], soon(60)),
    )
    assert soon(0) - began < WAIT_SECONDS + PAUSE_SECONDS + CLOSE


@in_company
async def test_a_round_that_never_ends_is_given_up_at_the_deadline(readers: Readers) -> None:
    donor, late, deadline = readers.peer(1), readers.peer(9), soon(7)
    assert await late.round_log.record(late.root, [donor.id], deadline) is None
    assert deadline <= soon(0) < deadline + PAUSE_SECONDS + CLOSE


@in_company
async def test_what_is_not_known_or_no_root_is_refused_at_once(readers: Readers) -> None:
    readers.peer(1)
    asking, began = readers.company.transport(8), soon(0)
    for argument, why in (
        (bytes(32).hex(), "not known"),
        ("ab", "not known"),
        ("abc", "no state root"),
        ("root", "no state root"),
    ):
        with pytest.raises(Refused, match=why):
            await asks(asking, 1, argument)
    assert soon(0) - began < 4 * CLOSE


@in_company
async def test_records_beyond_half_the_model_make_room_and_the_newest_stays(readers: Readers) -> None:
    donor, asking = readers.peer(1), readers.company.transport(8)
    quarter, roots = donor.frame.numbers, [bytes([n]) * 32 for n in range(1, 5)]

    async def kept() -> list[int]:
        answers = await asyncio.gather(
            *(asks(asking, 1, root.hex()) for root in roots), return_exceptions=True
        )
        return [place for place, answer in enumerate(answers) if isinstance(answer, bytes)]

    for place, expected in ((0, [0]), (1, [0, 1]), (2, [1, 2])):
        donor.round_log.keep(roots[place], Record(place, items=(bytes(quarter),)))
        assert await kept() == expected
    donor.round_log.keep(roots[3], Record(3, items=(bytes(3 * quarter),)))
    assert await kept() == [3]


@in_company
async def test_of_small_records_the_last_few_are_kept(readers: Readers) -> None:
    donor, asking = readers.peer(1), readers.company.transport(8)
    roots = [bytes([n]) * 32 for n in range(KEPT + 2)]
    for round_, root in enumerate(roots):
        donor.round_log.keep(root, Record(round_))
    with pytest.raises(Refused):
        await asks(asking, 1, roots[1].hex())
    assert [opened(await asks(asking, 1, root.hex())).round for root in roots[2:]] == [*range(2, KEPT + 2)]
