"""Missed rounds are replayed from records; the result counts only if it has the state root of the run."""

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


class Replaying:
    """A peer that keeps records, serves them and replays those of others."""

    def __init__(self, peers: Peers, number: int) -> None:
        self.id = key(number).peer_id
        self.transport = peers.company.transport(number)
        self.learner = Learner(MANIFEST, TEXT, self.id)
        self.shape = UpdateShape(spec=MANIFEST.round, tensors=self.learner.tensors)
        arithmetic = Inline(lambda job: 0.0)
        self.chunks = ChunkExchange(self.transport, arithmetic, peers.tasks, peers.reports.append)
        self.round_log = RoundLog(self.learner, self.shape, self.chunks, self.transport, arithmetic)

    @property
    def root(self) -> bytes:
        """The root of its state."""
        return state_root(self.learner.state)

    def decided(self, seed: int) -> Record:
        """What a group of two might decide in its round, from updates of that seed."""
        record = Record(
            self.learner.state.round, (bytes(32), bytes([1]) * 32), tokens=100, stops=(self.shape.numbers,)
        )
        (whole,) = self.shape.parts(record)
        update_P = 0.01 * torch.randn(whole.numbers, generator=torch.Generator().manual_seed(seed))
        numbers = codec_of(result_codec(MANIFEST.round.codec), whole.shape).encode(update_P)
        head = bits([True, True]) + bytes(32)
        return Record(record.round, record.members, 2, 100, record.stops, (head + numbers,))

    async def go_on(self, *records: Record) -> SharedState:
        """Take the step of each, and keep it."""
        for record in records:
            root = self.root
            self.learner.adopt(await self.round_log.next_state(self.learner.state, record))
            self.round_log.keep(root, record)
        return self.learner.state

    async def take_steps(self, rounds: int) -> ChosenHead:
        """Take so many steps. Its head then."""
        for seed in range(rounds):
            await self.go_on(self.decided(seed))
        return self.head(self.id)

    def head(self, *donors: PeerId) -> ChosenHead:
        """Its head, as ``donors`` claim it."""
        return ChosenHead(self.learner.state.round, self.root, 0, 0.0, donors)


class Peers:
    """Peers on one network; to be used inside `simulate`."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.company = Company()
        self.tasks = tasks
        self.reports: list[Report] = []
        self.routes: list[str] = []
        self.company.network.heard = lambda at, sender, receiver, route, call: self.routes.append(route)

    def peer(self, number: int) -> Replaying:
        return Replaying(self, number)

    def stranger(self, number: int, raw: bytes) -> PeerId:
        """A peer that answers with ``raw`` whatever record is asked for."""
        return self.company.stranger(number, {"record": lambda call: raw}).me


in_company = played_by(Peers)


async def asks(transport: SimulatedTransport, number: int, argument: str) -> bytes:
    """The record that peer ``number`` has, as bytes."""
    return await transport.request(
        key(number).peer_id, Request("record", argument=argument, limit=1 << 20), deadline=soon(60)
    )


def is_that_of(donor: Replaying, state: SharedState | None) -> bool:
    """Whether it is the state of ``donor``, to the bit."""
    return state is not None and state_root(state) == donor.root


# --- replaying ----------------------------------------------------------------------------------------------


@in_company
async def test_a_peer_that_is_two_rounds_behind_replays_two_records_and_downloads_no_state(
    peers: Peers,
) -> None:
    donor = peers.peer(1)
    late = peers.peer(9)
    before = late.learner.state
    head = await donor.take_steps(2)
    state = await late.round_log.state(head, soon())
    assert is_that_of(donor, state)
    assert peers.routes == ["record"] * 2
    assert late.learner.state is before, "whether to take it is not decided here"
    assert peers.reports == []


@in_company
async def test_a_void_round_costs_nothing_to_replay(peers: Peers) -> None:
    donor = peers.peer(1)
    late = peers.peer(9)
    await donor.go_on(Record(0, population=40))
    await donor.take_steps(1)
    raw = await asks(late.transport, 1, late.root.hex())
    assert (opened(raw), len(raw) < 20) == (Record(0, population=40), True)
    state = await late.round_log.state(donor.head(donor.id), soon())
    assert is_that_of(donor, state)


@in_company
async def test_a_peer_that_is_where_the_others_are_or_too_far_away_asks_nobody(peers: Peers) -> None:
    donor = peers.peer(1)
    late = peers.peer(9)
    head = donor.head(donor.id)
    for round_ in (0, KEPT + 1):
        assert await late.round_log.state(ChosenHead(round_, bytes(32), 0, 0.0, head.donors), soon()) is None
    await late.take_steps(1)
    assert await late.round_log.state(head, soon()) is None, (
        "the others are behind: there is no record that leads back"
    )
    assert peers.routes == []


@in_company
async def test_a_record_that_leads_to_another_state_is_not_taken(peers: Peers) -> None:
    donor = peers.peer(1)
    late = peers.peer(9)
    liars = [
        peers.stranger(number, packed(lie)) for number, lie in enumerate((late.decided(99), Record(0)), 2)
    ]
    await donor.take_steps(1)
    for liar in liars:
        assert await late.round_log.state(donor.head(liar, donor.id), soon()) is None
    await donor.go_on(donor.decided(1))
    assert await late.round_log.state(donor.head(liars[0], donor.id), soon()) is None, (
        "nobody knows the round that follows on that state"
    )


@in_company
async def test_a_record_that_no_group_can_have_decided_is_reported_and_the_next_one_asked_for(
    peers: Peers,
) -> None:
    donor = peers.peer(1)
    late = peers.peer(9)
    good = late.decided(0)
    lies = (replace(good, items=(good.items[0][:-1],)), replace(good, round=1))
    liars = [peers.stranger(number, packed(lie)) for number, lie in enumerate(lies, 2)]
    await donor.take_steps(2)
    state = await late.round_log.state(donor.head(*liars, donor.id), soon())
    assert is_that_of(donor, state)
    assert [(report.code, report.peer) for report in peers.reports] == [("malformed", liar) for liar in liars]
    assert peers.routes.count("record") == 4, "a peer that has lied is not asked again"


@in_company
async def test_bytes_that_are_no_record_cost_one_question(peers: Peers) -> None:
    donor = peers.peer(1)
    late = peers.peer(9)
    liars = [peers.stranger(2, b"no record"), peers.stranger(3, bytes(late.shape.limit + 1))]
    await donor.take_steps(1)
    state = await late.round_log.state(donor.head(*liars, donor.id), soon())
    assert is_that_of(donor, state)


@in_company
async def test_a_peer_that_has_sent_false_content_before_is_not_asked_for_records(peers: Peers) -> None:
    donor = peers.peer(1)
    late = peers.peer(9)
    raw = packed(late.decided(0))
    liar = peers.company.stranger(2, {"index": lambda call: bytes(32), "record": lambda call: raw}).me
    await donor.take_steps(1)
    with pytest.raises(WrongContent):
        await late.chunks.index(bytes(32), [liar], 1, lambda hashes: False, soon())
    assert await late.round_log.state(donor.head(liar), soon()) is None
    assert peers.routes == ["index"]


@in_company
async def test_a_dead_donor_costs_nothing_more_than_the_next_one(peers: Peers) -> None:
    donor = peers.peer(1)
    late = peers.peer(9)
    dead = [key(40).peer_id, key(41).peer_id]
    began = soon(0)
    await donor.take_steps(2)
    state = await late.round_log.state(donor.head(*dead, donor.id), soon())
    assert is_that_of(donor, state)
    assert soon(0) - began < 2 * CLOSE
    assert await late.round_log.state(donor.head(*dead), soon()) is None
    assert soon(0) - began < 3 * CLOSE, "then the model itself is the better way"


@in_company
async def test_no_more_than_a_few_peers_are_asked_before_the_model_is_fetched(peers: Peers) -> None:
    donor = peers.peer(1)
    late = peers.peer(9)
    await donor.take_steps(1)
    without_record = [peers.stranger(number, b"") for number in range(2, 2 + DONORS)]
    assert await late.round_log.state(donor.head(*without_record, donor.id), soon()) is None
    assert len(peers.routes) == DONORS


# --- serving ------------------------------------------------------------------------------------------------


@in_company
async def test_a_question_about_the_round_under_way_is_answered_as_soon_as_it_is_over(
    peers: Peers,
) -> None:
    donor = peers.peer(1)
    asking = peers.company.transport(8)
    root = donor.root
    record = donor.decided(0)
    began = soon(0)
    question = asyncio.create_task(asks(asking, 1, root.hex()))
    await asyncio.sleep(1.0)
    assert not question.done()
    await donor.go_on(record)
    assert opened(await question) == record
    assert 1.0 <= soon(0) - began < 1.0 + CLOSE


@in_company
async def test_a_peer_that_has_waited_long_enough_is_told_to_ask_again(peers: Peers) -> None:
    donor = peers.peer(1)
    asking = peers.company.transport(8)
    began = soon(0)
    with pytest.raises(Busy, match="not over yet"):
        await asks(asking, 1, donor.root.hex())
    assert WAIT_SECONDS <= soon(0) - began < WAIT_SECONDS + CLOSE


@in_company
async def test_a_record_is_asked_for_again_until_the_round_is_over(peers: Peers) -> None:
    donor = peers.peer(1)
    late = peers.peer(9)
    began = soon(0)
    record = donor.decided(0)
    question = asyncio.create_task(late.round_log.record(late.root, [donor.id, key(40).peer_id], soon(60)))
    await asyncio.sleep(3 * WAIT_SECONDS)
    await donor.go_on(record)
    assert await question == (record, donor.id)
    assert soon(0) - began < 3 * WAIT_SECONDS + PAUSE_SECONDS + CLOSE


@in_company
async def test_two_peers_that_have_no_part_in_a_round_do_not_wait_for_each_other(peers: Peers) -> None:
    """They were turned away by a third that has gone on alone, of which there is no record."""
    one = peers.peer(1)
    other = peers.peer(2)
    began = soon(0)
    await asyncio.gather(
        one.round_log.record(one.root, [other.id], soon(60)),
        other.round_log.record(other.root, [one.id], soon(60)),
    )
    assert soon(0) - began < WAIT_SECONDS + PAUSE_SECONDS + CLOSE


@in_company
async def test_a_round_that_never_ends_is_given_up_at_the_deadline(peers: Peers) -> None:
    donor = peers.peer(1)
    late = peers.peer(9)
    deadline = soon(7)
    assert await late.round_log.record(late.root, [donor.id], deadline) is None
    assert deadline <= soon(0) < deadline + PAUSE_SECONDS + CLOSE


@in_company
async def test_an_unknown_root_and_text_that_is_no_root_are_refused_at_once(peers: Peers) -> None:
    peers.peer(1)
    asking = peers.company.transport(8)
    began = soon(0)
    for argument, reason in (
        (bytes(32).hex(), "not known"),
        ("ab", "not known"),
        ("abc", "no state root"),
        ("root", "no state root"),
    ):
        with pytest.raises(Refused, match=reason):
            await asks(asking, 1, argument)
    assert soon(0) - began < 4 * CLOSE


@in_company
async def test_records_beyond_half_the_model_are_dropped_and_the_newest_stays(peers: Peers) -> None:
    donor = peers.peer(1)
    asking = peers.company.transport(8)
    quarter = donor.shape.numbers
    roots = [bytes([n]) * 32 for n in range(1, 5)]

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
async def test_of_small_records_the_last_few_are_kept(peers: Peers) -> None:
    donor = peers.peer(1)
    asking = peers.company.transport(8)
    roots = [bytes([n]) * 32 for n in range(KEPT + 2)]
    for round_, root in enumerate(roots):
        donor.round_log.keep(root, Record(round_))
    with pytest.raises(Refused):
        await asks(asking, 1, roots[1].hex())
    assert [opened(await asks(asking, 1, root.hex())).round for root in roots[2:]] == [*range(2, KEPT + 2)]
