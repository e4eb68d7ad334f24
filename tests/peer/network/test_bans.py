"""Peers that have been shown to lie: the evidence travels, is kept, and ends their part in the run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from averaging.evidence import Evidence
from averaging.messages import Holdings, Ready, Vote
from peer.network.bans import COMPARED_WITH, Bans, Collection, Frames
from swarm.errors import Refused
from swarm.transport import Request
from swarm.wire import Stamp, open_frame, pack, seal, unpack
from tests.peer.company import RUN, Company, in_virtual_time, key, soon

LIAR = key(7).peer_id


def vote(group: int) -> bytes:
    return seal(key(7), Vote(), Stamp(RUN, 3, bytes([group]) * 16))


EVIDENCE = Evidence(vote(1), vote(2))


def bans_of(company: Company, number: int, file: Path | None = None) -> tuple[Bans, list[str]]:
    """The bans of a peer, and the peers of which it has been told."""
    bans = Bans(RUN, company.transport(number), file)
    banned: list[str] = []
    bans.subscribe(banned.append)
    return bans, banned


@in_virtual_time
async def test_two_votes_that_a_peer_hears_itself_are_enough_and_are_told_once() -> None:
    bans, banned = bans_of(Company(), 1)
    for raw in (vote(1), vote(1), vote(2), vote(3)):
        bans.observe(open_frame(raw, Vote, run=RUN))
    assert banned == [LIAR]
    assert bans.is_banned(LIAR)
    assert not bans.is_banned(key(2).peer_id)


@in_virtual_time
async def test_evidence_is_passed_on_to_others_and_asked_for_by_newcomers() -> None:
    company = Company()
    first, _ = bans_of(company, 1)
    _, told = bans_of(company, 2)
    newcomer, learned = bans_of(company, 3)
    for raw in (vote(1), vote(2)):
        first.observe(open_frame(raw, Vote, run=RUN))
    async with asyncio.TaskGroup() as tasks:
        first.pass_on(LIAR, [key(2).peer_id], tasks)
    assert told == [LIAR]
    await newcomer.ask([key(40).peer_id, key(2).peer_id])
    assert learned == [LIAR]


@in_virtual_time
async def test_members_that_compare_what_they_have_heard_see_two_faces() -> None:
    """The liar tells each of two members something else, and nobody two things."""
    company = Company()
    first, banned = bans_of(company, 1)
    second, told = bans_of(company, 2)
    group = bytes([5]) * 16
    for bans, hash_ in ((first, bytes(32)), (second, b"")):
        raw = seal(key(7), Holdings((hash_,)), Stamp(RUN, 3, group))
        bans.observe(open_frame(raw, Holdings, run=RUN))
    await first.compare_notes(bytes([6]) * 16, [key(2).peer_id])
    assert (banned, told) == ([], []), "of another group nothing is told"
    await first.compare_notes(group, [key(40).peer_id, key(2).peer_id])
    assert (banned, told) == ([], [LIAR])


@in_virtual_time
async def test_what_is_heard_in_a_group_is_told_to_a_few() -> None:
    company = Company()
    bans, _ = bans_of(company, 1)
    asked: list[str] = []
    company.network.heard = lambda at, sender, receiver, route, call: asked.append(receiver)
    for number in range(20, 30):
        bans_of(company, number)
    await bans.compare_notes(bytes(16), [key(number).peer_id for number in range(20, 30)])
    assert len(asked) == COMPARED_WITH


@in_virtual_time
async def test_a_peer_that_ends_tells_nobody_any_more() -> None:
    bans, banned = bans_of(Company(), 1)
    async with asyncio.TaskGroup() as tasks:
        bans.subscribe(lambda peer: bans.pass_on(peer, [], tasks))
    bans.close()
    for raw in (vote(1), vote(2)):
        bans.observe(open_frame(raw, Vote, run=RUN))
    assert banned == [LIAR]


@pytest.mark.parametrize(
    "raw",
    [
        b"noise",
        pack(Frames((vote(1), vote(2)[:-1] + b"x"))),
        pack(Frames((seal(key(7), Ready(bytes(32)), Stamp(RUN, 3)),))),
        bytes(200_000),
    ],
    ids=["noise", "a broken seal", "a kind of which there may be many", "too much"],
)
def test_what_proves_nothing_is_refused(raw: bytes) -> None:
    @in_virtual_time
    async def story() -> None:
        company = Company()
        _, banned = bans_of(company, 1)
        request = Request("evidence", raw)
        stranger = company.transport(8)
        with pytest.raises(Refused):
            await stranger.request(key(1).peer_id, request, deadline=soon())
        assert banned == []

    story()


@in_virtual_time
async def test_nobody_bans_itself() -> None:
    company = Company()
    bans, banned = bans_of(company, 7)
    request = Request("evidence", pack(Frames((EVIDENCE.first, EVIDENCE.second))))
    await company.transport(8).request(LIAR, request, deadline=soon())
    assert banned == []
    assert not bans.is_banned(LIAR)


def test_evidence_survives_a_restart_and_a_damaged_file_is_none(tmp_path: Path) -> None:
    file = tmp_path / "home" / "evidence"

    @in_virtual_time
    async def story() -> None:
        first, _ = bans_of(Company(), 1, file)
        for raw in (vote(1), vote(2)):
            first.observe(open_frame(raw, Vote, run=RUN))
        second, banned = bans_of(Company(), 1, file)
        second.load()
        assert banned == [LIAR]
        assert unpack(file.read_bytes(), Collection).pieces == (EVIDENCE,)
        file.write_bytes(b"damaged")
        third, banned = bans_of(Company(), 1, file)
        third.load()
        assert banned == []

    story()
