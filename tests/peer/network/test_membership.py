"""Membership: a stranger's answer costs the stranger, an entry that is gone costs nothing, and everybody gets to know everybody."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from averaging.groups import leaders
from averaging.hierarchy import Hierarchy
from peer.network.membership import ASKED, LEADERS_TOLD, TOPIC, WELCOME_PEERS, Welcome, fetch_manifest, greet
from peer.sync.head import Head
from swarm.errors import Refused, WrongVersion
from swarm.membership.contacts import Contact
from swarm.membership.progress import Phase
from swarm.simulation.clock import simulate
from swarm.transport import Call, Request
from swarm.wire import CONTROL_LIMIT, Kind, Stamp, pack, seal, seal_body, unpack
from tests.peer.company import MANIFEST, RUN, Company, contact_of, introduce, key, progress_of, soon

HEAD = Head(bytes(32), 7, 1.5)
BROKEN = progress_of(5)[:-1] + bytes([progress_of(5)[-1] ^ 1])


def on_virtual_time(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that is a coroutine on a simulated network."""

    def test() -> None:
        simulate(story())

    test.__name__ = story.__name__
    return test


def an_offer(number: int, round_: int = 3, offer: Head = HEAD, run: bytes = RUN) -> bytes:
    return seal(key(number), offer, Stamp(run, round_))


def a_manifest_of_another_version() -> tuple[bytes, bytes]:
    """(sealed, run id)"""
    body = pack([MANIFEST.protocol + 1, "the rest is anything"])
    run = hashlib.sha256(body).digest()
    return seal_body(key(0), Kind.MANIFEST, body, Stamp(run)), run


# --- greeting -----------------------------------------------------------------------------------------------


@on_virtual_time
async def test_a_newcomer_learns_from_one_welcome_who_is_here_and_where() -> None:
    company = Company()
    members = [company.member(n) for n in range(3)]
    introduce(*members)
    newcomer = company.member(9)
    (welcome,) = await greet(newcomer.transport, [key(0).peer_id], contact_of(9), soon())
    assert newcomer.membership.learn([welcome]) == 0
    assert set(newcomer.membership.roster.peers(soon(0))) == {key(n).peer_id for n in range(3)}
    assert all(newcomer.contacts.addresses(key(n).peer_id) for n in range(3))
    assert members[0].contacts.addresses(key(9).peer_id)
    assert welcome.wall == 1000.0


@on_virtual_time
async def test_a_greeting_with_somebody_elses_contact_is_refused() -> None:
    company = Company()
    host, liar = company.member(0), company.transport(8)
    with pytest.raises(Refused):
        await liar.request(key(0).peer_id, Request("hello", contact_of(9)), deadline=soon())
    assert not host.contacts.addresses(key(8).peer_id)


@on_virtual_time
async def test_a_garbled_welcome_costs_its_sender_only() -> None:
    company = Company()
    company.member(0)
    lies = [
        b"",
        b"\xc1garbage",
        b"\x94" * 20_000,
        pack(("0.0.0.0.0", 1.0, (), ())),
        pack(("x" * 300, 1.0, (), ())),
        pack(("127.0.0.1", float("nan"), (), ())),
        pack(("127.0.0.1", float("inf"), (), ())),
        pack(("127.0.0.1", 1.0, (), (), "more")),
        bytes(CONTROL_LIMIT + 1),
    ]
    for number, lie in enumerate(lies, 10):
        company.stranger(number, {"hello": lambda call, lie=lie: lie})
    company.stranger(30, {})
    asked = [key(number).peer_id for number in (10, 11, 12, 0, *range(13, 10 + len(lies)), 30, 31)]
    welcomes = await greet(company.transport(9), asked, contact_of(9), soon())
    assert [welcome.wall for welcome in welcomes] == [1000.0]


@on_virtual_time
async def test_an_entry_behind_a_silent_firewall_delays_nobody() -> None:
    company = Company()
    for number in range(3):
        company.member(number)
    company.network.freeze(key(1).peer_id)
    asked = [key(number).peer_id for number in range(3)]
    assert len(await greet(company.transport(9), asked, contact_of(9), soon(60))) == 2
    assert soon(0) < 5


@on_virtual_time
async def test_greeting_nobody_but_the_silent_ends_at_the_deadline() -> None:
    company = Company()
    company.member(1)
    company.network.freeze(key(1).peer_id)
    assert await greet(company.transport(9), [key(1).peer_id], contact_of(9), soon(3)) == []
    assert soon(0) <= 3.1


@on_virtual_time
async def test_records_that_do_not_hold_are_counted_and_the_others_kept() -> None:
    newcomer = Company().member(9)
    foreign = seal(key(4), newcomer.describe()[1], Stamp(bytes(32)))
    welcome = Welcome(
        "", 1.0, (b"junk", contact_of(2)), (BROKEN, progress_of(3), b"", foreign, contact_of(4))
    )
    assert newcomer.membership.learn([welcome, Welcome("", 1.0, (), (progress_of(4),))]) == 5
    assert set(newcomer.membership.roster.peers(0.0)) == {key(3).peer_id, key(4).peer_id}
    assert newcomer.contacts.addresses(key(2).peer_id)


@on_virtual_time
async def test_a_record_with_another_peers_contact_is_not_heard() -> None:
    newcomer = Company().member(9)
    newcomer.membership.learn(
        [Welcome("", 1.0, (), (progress_of(3, contact=contact_of(4)), progress_of(5, contact=b"junk")))]
    )
    assert len(newcomer.membership.roster) == 0


@on_virtual_time
async def test_nobody_hears_of_itself() -> None:
    newcomer = Company().member(9)
    newcomer.membership.learn([Welcome("", 1.0, (), (progress_of(9, seq=1000),))])
    assert len(newcomer.membership.roster) == 0


@on_virtual_time
async def test_a_welcome_fits_its_message_also_where_everybodys_records_are_as_large_as_they_may_be() -> None:
    company = Company()
    host = company.member(0)
    names = tuple(("x" * 250, 1 + n) for n in range(4))
    large = [progress_of(n, contact=seal(key(n), Contact(names), Stamp(RUN, seq=2))) for n in range(1, 80)]
    assert host.membership.learn([Welcome("", 1.0, (), tuple(large))]) == 0
    raw = await company.transport(99).request(
        key(0).peer_id, Request("hello", contact_of(99)), deadline=soon()
    )
    welcome = unpack(raw, Welcome)
    assert 20 < len(welcome.progress) <= WELCOME_PEERS + 1
    assert contact_of(99) in welcome.contacts or len(welcome.contacts) == 0


# --- the manifest -------------------------------------------------------------------------------------------


@on_virtual_time
async def test_the_manifest_comes_from_the_first_entry_that_has_it_and_lies_cost_the_liar() -> None:
    company = Company()
    company.stranger(1, {"manifest": lambda call: b"lies"})
    company.stranger(2, {"manifest": lambda call: bytes(CONTROL_LIMIT + 1)})
    company.stranger(3, {})
    company.member(4)
    company.member(5)
    company.network.freeze(key(5).peer_id)
    asked = [key(number).peer_id for number in (5, 1, 2, 3, 6, 4)]
    sealed, failures = await fetch_manifest(company.transport(9), asked, soon(), RUN)
    assert sealed == MANIFEST.seal(key(0))
    assert len(failures) <= 4
    assert soon(0) < 5


@on_virtual_time
async def test_where_no_entry_has_the_manifest_every_reason_is_told() -> None:
    company = Company()
    company.stranger(1, {"manifest": lambda call: b"lies"})
    sealed, failures = await fetch_manifest(
        company.transport(9), [key(1).peer_id, key(2).peer_id], soon(), RUN
    )
    assert sealed == b""
    assert sorted(error.code for error in failures) == ["content", "unreachable"]


@on_virtual_time
async def test_a_run_of_another_version_is_told_as_such() -> None:
    company = Company()
    sealed, run = a_manifest_of_another_version()
    company.stranger(1, {"manifest": lambda call: sealed})
    with pytest.raises(WrongVersion, match="protocol 2"):
        await fetch_manifest(company.transport(9), [key(1).peer_id], soon(), run)


# --- offers -------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_offers_come_from_those_who_have_a_state() -> None:
    company = Company()
    members = [company.member(n) for n in range(4)]
    introduce(*members)
    members[1].offer, members[2].offer = (3, HEAD), (4, HEAD)
    offers = await members[0].membership.offers(soon())
    assert {(offer.signer, offer.stamp.round, offer.message) for offer in offers} == {
        (key(1).peer_id, 3, HEAD),
        (key(2).peer_id, 4, HEAD),
    }


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lambda call: b"garbage", id="garbage"),
        pytest.param(lambda call: b"", id="nothing"),
        pytest.param(lambda call: an_offer(1), id="another's offer"),
        pytest.param(lambda call: an_offer(7)[:-1] + b"\2", id="a broken seal"),
        pytest.param(lambda call: an_offer(7, run=bytes(32)), id="of another run"),
        pytest.param(lambda call: progress_of(7), id="another message"),
        pytest.param(lambda call: bytes(CONTROL_LIMIT + 1), id="too much"),
        pytest.param(
            lambda call: seal_body(key(7), Kind.HEAD, pack((bytes(31), 0, 0.0)), Stamp(RUN)),
            id="half a root",
        ),
        pytest.param(
            lambda call: seal_body(key(7), Kind.HEAD, pack((bytes(32), 0, -1.0)), Stamp(RUN)),
            id="negative time",
        ),
    ],
)
def test_a_false_offer_costs_its_sender_only(lie: Callable[[Call], bytes]) -> None:
    async def story() -> None:
        company = Company()
        members = [company.member(n) for n in range(2)]
        company.stranger(7, {"offer": lie})
        introduce(*members)
        members[1].offer = (3, HEAD)
        members[0].membership.learn([Welcome("", 1.0, (), (progress_of(7),))])
        assert [offer.signer for offer in await members[0].membership.offers(soon())] == [key(1).peer_id]

    simulate(story())


@on_virtual_time
async def test_who_cannot_be_reached_is_noted_and_not_asked_again() -> None:
    company = Company()
    members = [company.member(n) for n in range(3)]
    introduce(*members)
    members[1].offer = (3, HEAD)
    company.network.crash(key(2).peer_id)
    assert len(await members[0].membership.offers(soon())) == 1
    assert members[0].membership.roster.peers(soon(0)) == [key(1).peer_id]


@on_virtual_time
async def test_nobody_can_choose_an_id_that_is_always_asked() -> None:
    member = Company().member(0)
    member.membership.learn([Welcome("", 1.0, (), tuple(progress_of(n) for n in range(1, 31)))])
    draws = [member.membership.some() for _ in range(20)]
    assert {len(set(draw)) for draw in draws} == {ASKED}
    assert set().union(*draws) == {key(n).peer_id for n in range(1, 31)}
    assert not set.intersection(*map(set, draws))


# --- being dialled ------------------------------------------------------------------------------------------


@on_virtual_time
async def test_a_peer_learns_whether_others_can_dial_it() -> None:
    company = Company()
    company.member(0)
    asking = company.member(1)
    peers = [key(0).peer_id]
    assert await asking.membership.is_dialable(peers, soon()) is True
    company.stranger(2, {"dial-back": _refusing})
    assert await asking.membership.is_dialable([key(2).peer_id], soon()) is False
    assert await asking.membership.is_dialable([key(2).peer_id, *peers], soon()) is True
    assert await asking.membership.is_dialable([key(8).peer_id], soon()) is None


def _refusing(call: Call) -> bytes:
    raise Refused("cannot reach you")


# --- telling ------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_an_announcement_reaches_everybody_at_once() -> None:
    company = Company()
    members = [company.member(n) for n in range(3)]
    introduce(*members)
    members[0].phase = Phase.LEAVING
    await members[0].membership.announce(soon(), Hierarchy.of(RUN, 0, 3, 64))
    for other in members[1:]:
        assert not other.membership.roster.is_present(key(0).peer_id, soon(0))
        assert other.membership.roster.is_present(key(3 - other.number).peer_id, soon(0))


@on_virtual_time
async def test_in_a_crowd_an_announcement_reaches_its_own_cell() -> None:
    company, hierarchy = Company(), Hierarchy.of(RUN, 0, 40, 20)
    members = [company.member(n) for n in range(40)]
    introduce(*members)
    members[0].phase = Phase.LEAVING
    await members[0].membership.announce(soon(), hierarchy)
    me, gone = (
        members[0].transport.me,
        {
            other.transport.me
            for other in members[1:]
            if not other.membership.roster.is_present(key(0).peer_id, soon(0))
        },
    )
    assert gone == set(hierarchy.group_mates(me, [other.transport.me for other in members]))


@on_virtual_time
async def test_who_comes_late_tells_those_who_may_lead_the_next_round() -> None:
    company = Company()
    members = [company.member(n) for n in range(20)]
    introduce(*members)
    late, others = members[0], members[1:]
    late.phase = Phase.FOLLOWING
    await late.membership.announce_to_next(soon())
    told = {
        other.transport.me
        for other in others
        if late.transport.me in other.membership.roster.at_round(1, soon(0))
    }
    assert told == set(leaders(RUN, 1, [other.transport.me for other in others])[:LEADERS_TOLD])


@on_virtual_time
async def test_everybody_finds_everybody_by_the_directory_and_a_broken_record_there_hurts_nobody() -> None:
    company = Company()
    members = [company.member(n) for n in range(5)]
    async with asyncio.TaskGroup() as tasks:
        going_on = [
            tasks.create_task(member.membership.publish_and_discover(5.0, 20.0)) for member in members
        ]
        assert await company.directory(7).put(
            TOPIC, progress_of(7, contact=contact_of(8)), seconds=100, deadline=soon()
        )
        await asyncio.sleep(30)
        assert not any(task.done() for task in going_on)
        for task in going_on:
            task.cancel()
    for member in members:
        others = {key(n).peer_id for n in range(5) if n != member.number}
        assert set(member.membership.roster.peers(soon(0))) == others
