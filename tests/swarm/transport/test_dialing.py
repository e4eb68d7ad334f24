"""Where a peer is dialled: the address that answered last first, then the others, until one answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from swarm.errors import Impostor, Unreachable
from swarm.membership.contacts import Contacts, Teller, seal_contact
from swarm.ticket import Address, Entry
from swarm.transport import dialing
from swarm.transport.dialing import Addresses, impostor, no_answer
from swarm.transport.guard import DialLimits
from tests.swarm.loopback import RUN, key

pytestmark = pytest.mark.asyncio

BORIS = key(2).peer_id
HOME, WORK, OLD = (Address(f"192.0.2.{number}", 1) for number in (1, 2, 3))


STRANGER = Teller(BORIS, "9.9.9.9")


class Network:
    """Boris answers at ``good`` addresses; another peer answers at ``wrong`` ones."""

    def __init__(
        self, *known: Address, teller: Teller | None = None, entries: tuple[Entry, ...] = ()
    ) -> None:
        self.contacts = Contacts(RUN, entries)
        self.teller = teller
        self.seq = 0
        self.announce(*known)
        self.addresses = Addresses(self.contacts, DialLimits())
        self.good: set[Address] = set()
        self.wrong: set[Address] = set()
        self.tried: list[Address] = []

    def announce(self, *addresses: Address) -> None:
        """Learn a new contact record of Boris."""
        self.seq += 1
        self.contacts.learn(seal_contact(key(2), RUN, addresses, self.seq), self.teller)

    async def attempt(self, address: Address) -> str:
        """Connect to ``address``."""
        self.tried.append(address)
        if address in self.wrong:
            raise impostor(address, BORIS)
        if address not in self.good:
            raise no_answer(ConnectionRefusedError(111, "refused"))
        return f"connected to {address}"

    async def call(self) -> str:
        """Connect to the first address of Boris that answers."""
        self.tried.clear()
        return await self.addresses.first_answer(BORIS, self.attempt)


async def test_addresses_are_tried_in_turn_and_the_one_that_answered_comes_first_the_next_time() -> None:
    network = Network(OLD, WORK, HOME)
    network.wrong = {OLD}
    network.good = {HOME}
    assert await network.call() == f"connected to {HOME}"
    assert network.tried == [OLD, WORK, HOME]
    assert await network.call() == f"connected to {HOME}"
    assert network.tried == [HOME]


async def test_an_address_that_the_peer_no_longer_announces_is_not_tried() -> None:
    network = Network(HOME, WORK)
    network.good = {HOME}
    await network.call()
    network.announce(WORK)
    assert network.addresses.of(BORIS) == [WORK]


async def test_where_no_address_answers_the_last_reason_is_raised() -> None:
    network = Network(WORK, HOME)
    with pytest.raises(Unreachable, match=r"does not answer at 192\.0\.2\.1:1 \(Connection refused\)"):
        await network.call()
    network.wrong = {HOME}
    with pytest.raises(Impostor, match="does not hold the key"):
        await network.call()
    with pytest.raises(Unreachable, match="no address"):
        await network.addresses.first_answer(key(3).peer_id, network.attempt)


async def test_an_entry_of_the_ticket_is_tried_as_often_as_we_like() -> None:
    for entries, expected in (((), 4), ((Entry(BORIS, HOME),), 20)):
        network = Network(HOME, entries=entries)
        tries = 0
        for _ in range(20):
            with pytest.raises(Unreachable):
                await network.call()
            tries += len(network.tried)
        assert tries == expected


async def test_a_peer_that_answers_is_a_teller_from_where_it_has_answered() -> None:
    network = Network(HOME)
    network.good = {HOME}
    await network.call()
    assert network.contacts.teller(BORIS) == Teller(BORIS, HOME.host)


async def test_a_name_of_a_stranger_that_stands_for_this_computer_is_not_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialing, "resolved", stands_for("127.0.0.1", "8.8.8.8"))
    network = Network(Address("rebound.example.org", 1), teller=STRANGER)
    with pytest.raises(Unreachable):
        await network.call()
    assert network.tried == [Address("8.8.8.8", 1)]


async def test_names_that_a_stranger_makes_up_are_not_looked_up_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lookups: list[Address] = []
    monkeypatch.setattr(dialing, "resolved", stands_for(lookups=lookups))
    network = Network(teller=STRANGER)
    for number in range(300):
        network.announce(Address(f"host-{number}.example.org", 1))
        with pytest.raises(Unreachable):
            await network.call()
    assert DialLimits().teller_burst <= len(lookups) <= DialLimits().teller_burst + 5


def stands_for(
    *hosts: str, lookups: list[Address] | None = None
) -> Callable[[Address], Awaitable[list[Any]]]:
    """A resolver for which every name stands for ``hosts``."""

    async def resolved(address: Address) -> list[Any]:
        if lookups is not None:
            lookups.append(address)
        if not hosts:
            raise OSError("no such name")
        return [(None, None, None, None, (host, address.port)) for host in hosts]

    return resolved
