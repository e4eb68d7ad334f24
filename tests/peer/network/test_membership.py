"""False answers cost only their senders, dead entries cost nothing, and all peers get to know each other."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from averaging.hierarchy import Hierarchy
from peer.network.membership import (
    ASKED,
    TOLD,
    TOLD_BY_MANY,
    TOPIC,
    WELCOME_PEERS,
    Welcome,
    fetch_manifest,
    greet,
)
from swarm.errors import Busy, ConfigError, Malformed, Refused, WrongVersion
from swarm.identity import PeerId
from swarm.membership.contacts import Contact, seal_contact
from swarm.membership.progress import Phase
from swarm.ticket import Address
from swarm.transport import Call, Request
from swarm.wire import CONTROL_LIMIT, PROTOCOL, Kind, Stamp, pack, seal, seal_body, unpack
from tests.peer.company import (
    MANIFEST,
    RUN,
    Company,
    contact_of,
    in_virtual_time,
    introduce,
    key,
    progress_of,
    soon,
)

BROKEN = progress_of(5)[:-1] + bytes([progress_of(5)[-1] ^ 1])


def a_manifest_of(*values: object) -> tuple[bytes, bytes]:
    """A sealed manifest with ``values``, and the id of its run."""
    body = pack(values)
    run = hashlib.sha256(body).digest()
    return seal_body(key(0), Kind.MANIFEST, body, Stamp(run)), run


def told_by_a_peer(*progress: bytes) -> dict[PeerId, Welcome]:
    """The welcome of a peer that says only where others are."""
    return {key(1).peer_id: Welcome("", 1.0, (), progress)}


# --- greeting -----------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_newcomer_learns_from_one_welcome_which_peers_are_here_and_where() -> None:
    company = Company()
    members = [company.member(n) for n in range(3)]
    introduce(*members)
    newcomer = company.member(9)
    welcomes = await greet(newcomer.transport, [key(0).peer_id], contact_of(9), soon())
    assert newcomer.membership.learn(welcomes) == 0
    assert set(newcomer.membership.roster.peers(soon(0))) == {key(n).peer_id for n in range(3)}
    assert all(newcomer.contacts.addresses(key(n).peer_id) for n in range(3))
    assert members[0].contacts.addresses(key(9).peer_id)
    assert welcomes[key(0).peer_id].wall == 1000.0


@in_virtual_time
async def test_a_greeting_with_the_contact_of_another_peer_is_refused() -> None:
    company = Company()
    host = company.member(0)
    liar = company.transport(8)
    with pytest.raises(Refused):
        await liar.request(key(0).peer_id, Request("hello", contact_of(9)), deadline=soon())
    assert not host.contacts.addresses(key(8).peer_id)


@in_virtual_time
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
    assert [welcome.wall for welcome in welcomes.values()] == [1000.0]


@in_virtual_time
async def test_an_entry_behind_a_silent_firewall_delays_nobody() -> None:
    company = Company()
    for number in range(3):
        company.member(number)
    company.network.freeze(key(1).peer_id)
    asked = [key(number).peer_id for number in range(3)]
    assert len(await greet(company.transport(9), asked, contact_of(9), soon(60))) == 2
    assert soon(0) < 5


@in_virtual_time
async def test_greeting_only_silent_peers_ends_at_the_deadline() -> None:
    company = Company()
    company.member(1)
    company.network.freeze(key(1).peer_id)
    assert await greet(company.transport(9), [key(1).peer_id], contact_of(9), soon(3)) == {}
    assert soon(0) <= 3.1


@in_virtual_time
async def test_records_that_do_not_hold_are_counted_and_the_others_kept() -> None:
    newcomer = Company().member(9)
    foreign = seal(key(4), newcomer.describe()[1], Stamp(bytes(32)))
    welcome = Welcome(
        "", 1.0, (b"junk", contact_of(2)), (BROKEN, progress_of(3), b"", foreign, contact_of(4))
    )
    other = Welcome("", 1.0, (), (progress_of(4),))
    assert newcomer.membership.learn({key(1).peer_id: welcome, key(2).peer_id: other}) == 5
    assert set(newcomer.membership.roster.peers(0.0)) == {key(3).peer_id, key(4).peer_id}
    assert newcomer.contacts.addresses(key(2).peer_id)


@in_virtual_time
async def test_a_record_with_another_peers_contact_is_not_heard() -> None:
    newcomer = Company().member(9)
    newcomer.membership.learn(
        told_by_a_peer(progress_of(3, contact=contact_of(4)), progress_of(5, contact=b"junk"))
    )
    assert len(newcomer.membership.roster) == 0


@in_virtual_time
async def test_a_peer_does_not_note_its_own_record() -> None:
    newcomer = Company().member(9)
    newcomer.membership.learn(told_by_a_peer(progress_of(9, seq=1000)))
    assert len(newcomer.membership.roster) == 0


@in_virtual_time
async def test_a_welcome_fits_its_message_even_if_all_records_are_as_large_as_they_may_be() -> None:
    company = Company()
    host = company.member(0)
    names = tuple(("x" * 250, 1 + n) for n in range(4))
    large = [progress_of(n, contact=seal(key(n), Contact(names), Stamp(RUN, seq=2))) for n in range(1, 80)]
    assert host.membership.learn(told_by_a_peer(*large)) == 0
    raw = await company.transport(99).request(
        key(0).peer_id, Request("hello", contact_of(99)), deadline=soon()
    )
    welcome = unpack(raw, Welcome)
    assert 20 < len(welcome.progress) <= WELCOME_PEERS + 1
    assert contact_of(99) in welcome.contacts or len(welcome.contacts) == 0


# --- the manifest -------------------------------------------------------------------------------------------


@in_virtual_time
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


@in_virtual_time
async def test_if_no_entry_has_the_manifest_every_reason_is_told() -> None:
    company = Company()
    company.stranger(1, {"manifest": lambda call: b"lies"})
    sealed, failures = await fetch_manifest(
        company.transport(9), [key(1).peer_id, key(2).peer_id], soon(), RUN
    )
    assert sealed == b""
    assert sorted(error.code for error in failures) == ["content", "unreachable"]


@in_virtual_time
async def test_a_run_of_another_version_is_told_as_such() -> None:
    company = Company()
    sealed, run = a_manifest_of(PROTOCOL + 1, "the rest is anything")
    company.stranger(1, {"manifest": lambda call: sealed})
    with pytest.raises(WrongVersion, match=f"protocol {PROTOCOL + 1}"):
        await fetch_manifest(company.transport(9), [key(1).peer_id], soon(), run)


@in_virtual_time
async def test_a_run_that_is_not_possible_is_told_as_such() -> None:
    company = Company()
    sealed, run = a_manifest_of(PROTOCOL, "nothing else")
    company.stranger(1, {"manifest": lambda call: sealed})
    with pytest.raises(ConfigError, match="not possible"):
        await fetch_manifest(company.transport(9), [key(1).peer_id], soon(), run)


# --- asking -------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_the_answers_come_in_the_order_in_which_the_peers_were_named_and_we_do_not_ask_ourselves() -> (
    None
):
    company = Company()
    members = [company.member(n) for n in range(4)]
    delays = {members[1].id: 0.3, members[2].id: 0.1, members[3].id: 0.2}

    async def call(peer: PeerId) -> PeerId:
        await asyncio.sleep(delays[peer])
        return peer

    named = [members[n].id for n in (3, 0, 1, 2)]
    assert await members[0].membership.ask(named, call) == [members[n].id for n in (3, 1, 2)]


@in_virtual_time
async def test_an_answer_that_does_not_hold_costs_that_answer_only() -> None:
    company = Company()
    members = [company.member(n) for n in range(3)]
    introduce(*members)

    async def call(peer: PeerId) -> str:
        if peer == members[1].id:
            raise Malformed("garbage")
        return "fine"

    assert await members[0].membership.ask([members[1].id, members[2].id], call) == ["fine"]
    assert members[1].id in members[0].membership.roster.peers(soon(0)), "it can be reached all the same"


@in_virtual_time
async def test_once_a_peer_has_answered_the_others_have_to_hurry() -> None:
    company = Company()
    members = [company.member(n) for n in range(3)]

    async def call(peer: PeerId) -> PeerId:
        await asyncio.sleep(1.0 if peer == members[1].id else 60.0)
        return peer

    began = soon(0)
    assert await members[0].membership.ask([members[2].id, members[1].id], call, 2.0) == [members[1].id]
    assert soon(0) - began == pytest.approx(3.0)


@in_virtual_time
async def test_a_peer_that_cannot_be_reached_is_noted_and_not_asked_again() -> None:
    company = Company()
    members = [company.member(n) for n in range(3)]
    introduce(*members)
    company.network.crash(key(2).peer_id)

    async def ping(peer: PeerId) -> bytes:
        return await members[0].transport.request(peer, Request("ping"), deadline=soon())

    assert len(await members[0].membership.ask(members[0].membership.some(), ping)) == 1
    assert members[0].membership.roster.peers(soon(0)) == [key(1).peer_id]


@in_virtual_time
async def test_no_peer_can_choose_an_id_that_is_always_asked() -> None:
    member = Company().member(0)
    member.membership.learn(told_by_a_peer(*(progress_of(n) for n in range(1, 31))))
    draws = [member.membership.some() for _ in range(20)]
    assert {len(set(draw)) for draw in draws} == {ASKED}
    assert set().union(*draws) == {key(n).peer_id for n in range(1, 31)}
    assert not set.intersection(*map(set, draws))


# --- being dialled ------------------------------------------------------------------------------------------


@in_virtual_time
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


class Called:
    """A member that is called from any host; ``dialled`` counts the pings that it sends."""

    def __init__(self, company: Company) -> None:
        self.member = company.member(0)
        self.dialled = 0
        self._routes = company.network.hosts[self.member.id].routes
        company.stranger(1, {"ping": self._count})

    async def call(self, host: str, route: str, body: bytes = b"") -> bytes:
        """Peer 1 calls from ``host``. Raises what it would get."""
        return bytes(await self._routes[route].handler(Call(key(1).peer_id, "", body, host)))

    def _count(self, call: Call) -> bytes:
        self.dialled += 1
        return b""


def listening_at(*hosts: str, seq: int = 2) -> bytes:
    """The contact of peer 1."""
    return seal_contact(key(1), RUN, tuple(Address(host, 1000) for host in hosts), seq)


@in_virtual_time
async def test_a_caller_is_dialled_back_at_the_host_that_it_calls_from() -> None:
    called = Called(Company())
    await called.call("9.9.9.9", "hello", listening_at("9.9.9.9"))
    assert await called.call("9.9.9.9", "dial-back") == b""
    assert called.dialled == 1


@in_virtual_time
async def test_a_caller_that_names_another_computer_of_the_internet_is_not_dialled_back() -> None:
    called = Called(Company())
    for seq, hosts in enumerate((("8.8.8.8",), ("9.9.9.9", "8.8.8.8"), ("a-name.example.org",)), 2):
        await called.call("9.9.9.9", "hello", listening_at(*hosts, seq=seq))
        with pytest.raises(Busy):
            await called.call("9.9.9.9", "dial-back")
    assert called.dialled == 0


@in_virtual_time
async def test_a_caller_that_cannot_be_dialled_back_is_not_told_why() -> None:
    company = Company()
    called = Called(company)
    await called.call("9.9.9.9", "hello", listening_at("9.9.9.9"))
    refusals = set()
    for trouble in (company.network.freeze, company.network.crash):
        trouble(key(1).peer_id)
        with pytest.raises(Refused) as caught:
            await called.call("9.9.9.9", "dial-back")
        refusals.add(str(caught.value))
    assert len(refusals) == 1


@in_virtual_time
async def test_a_record_with_an_address_that_we_would_not_dial_is_in_no_welcome() -> None:
    called = Called(Company())
    for seq, host, is_told in ((2, "9.9.9.9", False), (3, "192.168.0.7", True)):
        record = progress_of(1, seq=seq, contact=listening_at("192.168.0.1", seq=seq))
        await called.call(host, "progress", record)
        welcome = unpack(await called.call(host, "hello", listening_at("192.168.0.1", seq=seq)), Welcome)
        assert (record in welcome.progress) is is_told


@in_virtual_time
async def test_the_addresses_in_a_welcome_count_on_the_word_of_the_peer_that_answered() -> None:
    member = Company().member(0)
    inside = listening_at("127.0.0.1")
    member.contacts.note_answer(key(2).peer_id, "9.9.9.9")
    for number, is_dialled in ((2, False), (3, True)):
        member.membership.learn({key(number).peer_id: Welcome("", 1.0, (inside,), ())})
        assert bool(member.contacts.addresses(key(1).peer_id)) is is_dialled


# --- telling ------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_an_announcement_reaches_all_peers_at_once() -> None:
    company = Company()
    members = [company.member(n) for n in range(3)]
    introduce(*members)
    members[0].phase = Phase.LEAVING
    await members[0].membership.announce(soon(), Hierarchy.of(RUN, 0, 3, 64))
    for other in members[1:]:
        assert not other.membership.roster.is_present(key(0).peer_id, soon(0))
        assert other.membership.roster.is_present(key(3 - other.number).peer_id, soon(0))


@in_virtual_time
async def test_in_a_large_population_an_announcement_reaches_the_level_1_group() -> None:
    company = Company()
    hierarchy = Hierarchy.of(RUN, 0, 40, 20)
    members = [company.member(n) for n in range(40)]
    introduce(*members)
    members[0].phase = Phase.LEAVING
    await members[0].membership.announce(soon(), hierarchy)
    me = members[0].id
    told = {
        other.id for other in members[1:] if not other.membership.roster.is_present(key(0).peer_id, soon(0))
    }
    assert told == set(hierarchy.group_mates(me, [other.id for other in members]))


@in_virtual_time
async def test_a_peer_that_comes_late_tells_others_of_which_one_may_lead_the_next_round() -> None:
    """Nobody knows who will lead: the next state is not decided."""
    for others, told in [(20, 20), (60, TOLD), (70, TOLD_BY_MANY)]:
        company = Company()
        late, *here = [company.member(n) for n in range(1 + others)]
        introduce(late, *here)
        late.phase = Phase.FOLLOWING
        await late.membership.announce_to_next(soon())
        assert sum(late.id in other.membership.roster.at_round(1, soon(0)) for other in here) == told


@in_virtual_time
async def test_all_peers_find_each_other_in_the_directory_and_a_broken_record_there_hurts_nobody() -> None:
    company = Company()
    members = [company.member(n) for n in range(5)]
    async with asyncio.TaskGroup() as tasks:
        publishing = [
            tasks.create_task(member.membership.publish_and_discover(5.0, 20.0)) for member in members
        ]
        assert await company.directory(7).put(
            TOPIC, progress_of(7, contact=contact_of(8)), seconds=100, deadline=soon()
        )
        await asyncio.sleep(30)
        assert not any(task.done() for task in publishing)
        for task in publishing:
            task.cancel()
    for member in members:
        others = {key(n).peer_id for n in range(5) if n != member.number}
        assert set(member.membership.roster.peers(soon(0))) == others
