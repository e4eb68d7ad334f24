"""Before the first request to an unknown peer others are asked for its contact, which it must have signed."""

from __future__ import annotations

import asyncio

import pytest

from peer.network.lookup import AGAIN_SECONDS, PATIENCE_SECONDS, LookupTransport
from swarm.errors import TooLate, Unreachable
from swarm.membership.contacts import Contacts, seal_contact
from swarm.ticket import Address
from swarm.transport import Call, Request, Route
from tests.peer.company import RUN, Company, Member, contact_of, introduce, key, played_by, soon

in_company = played_by(lambda tasks: Company())


async def echo(call: Call) -> bytes:
    return bytes(call.body)


def looking_up(member: Member) -> LookupTransport:
    return LookupTransport(
        member.transport, member.contacts, member.membership.find, member.membership.roster.mark_lost
    )


def knows(member: Member, number: int) -> bool:
    return bool(member.contacts.addresses(key(number).peer_id))


@in_company
async def test_a_peer_of_which_another_has_heard_is_found_and_reached(company: Company) -> None:
    newcomer = company.member(1)
    leader = company.member(0)
    other = company.member(2)
    other.transport.serve(Route("echo", echo))
    introduce(leader, other)
    introduce(newcomer, leader)
    assert not knows(newcomer, 2)
    reply = await looking_up(newcomer).request(other.id, Request("echo", b"hello"), deadline=soon())
    assert reply == b"hello"
    assert knows(newcomer, 2)


@in_company
async def test_the_contact_of_another_peer_and_garbage_count_as_none(company: Company) -> None:
    newcomer = company.member(1)
    liars = [company.member(number) for number in (3, 4, 5)]
    for liar, lie in zip(liars, (contact_of(9), b"\xc1garbage", bytes(60_000)), strict=True):
        liar.transport.serve(Route("contact", lambda call, lie=lie: answer(lie)))
    introduce(newcomer, *liars)
    await newcomer.membership.find(key(2).peer_id, soon())
    assert not knows(newcomer, 2)
    assert not knows(newcomer, 9), "it was not asked for"


@in_company
async def test_a_contact_that_was_asked_for_counts_on_the_word_of_the_peer_that_gave_it(
    company: Company,
) -> None:
    newcomer = company.member(1)
    contact = seal_contact(key(2), RUN, (Address("127.0.0.1", 5432),), 1)
    for number, host, is_dialled in ((3, "9.9.9.9", False), (4, "127.0.0.1", True)):
        teller = company.member(number)
        teller.transport.serve(Route("contact", lambda call: answer(contact)))
        introduce(newcomer, teller)
        newcomer.contacts.note_answer(teller.id, host)
        await newcomer.membership.find(key(2).peer_id, soon())
        assert knows(newcomer, 2) is is_dialled


@in_company
async def test_a_peer_that_cannot_be_reached_is_absent_until_it_is_heard_again(company: Company) -> None:
    member = company.member(1)
    other = company.member(2)
    introduce(member, other)
    roster = member.membership.roster
    assert roster.is_present(other.id, soon(0))
    company.network.crash(other.id)
    with pytest.raises(Unreachable):
        await looking_up(member).request(other.id, Request("echo", b""), deadline=soon())
    assert not roster.is_present(other.id, soon(0))


async def answer(lie: bytes) -> bytes:
    return lie


@in_company
async def test_many_requests_at_once_ask_once_and_again_some_time_later_about_a_peer_that_nobody_knew(
    company: Company,
) -> None:
    member = company.member(1)
    asked: list[float] = []
    loop = asyncio.get_running_loop()

    async def find(peer: str, deadline: float) -> None:
        asked.append(loop.time())
        assert deadline <= loop.time() + PATIENCE_SECONDS
        await asyncio.sleep(0.5)

    transport = LookupTransport(member.transport, Contacts(RUN), find, lambda peer, began: None)
    member.transport.serve(Route("echo", echo))

    async def call() -> None:
        await transport.request(member.transport.me, Request("echo", b""), deadline=soon())

    await asyncio.gather(*(call() for _ in range(8)))
    assert asked == [0.0]
    await asyncio.sleep(AGAIN_SECONDS)
    await call()
    assert len(asked) == 2
    assert not transport._turns, "nothing is kept of requests that are over"


@in_company
async def test_looking_for_a_peer_does_not_outlast_the_request(company: Company) -> None:
    newcomer = company.member(1)
    silent = company.member(0)
    introduce(newcomer, silent)
    company.network.freeze(silent.transport.me)
    began = soon(0)
    unknown = key(2).peer_id
    with pytest.raises((TooLate, Unreachable)):
        await looking_up(newcomer).request(unknown, Request("echo"), deadline=soon(1))
    assert soon(0) - began <= 1.5
