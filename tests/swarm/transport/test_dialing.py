"""Where a peer is dialled: the address that answered last first, then the others, until one answers."""

from __future__ import annotations

import pytest

from swarm.errors import Impostor, Unreachable
from swarm.membership.contacts import Contacts, seal_contact
from swarm.ticket import Address
from swarm.transport.dialing import Addresses, impostor, no_answer
from swarm.transport.guard import DialLimits
from tests.swarm.loopback import RUN, key

pytestmark = pytest.mark.asyncio

BORIS = key(2).peer_id
HOME, WORK, OLD = (Address(f"192.0.2.{number}", 1) for number in (1, 2, 3))


class Network:
    """Boris answers at ``good`` addresses; another peer answers at ``wrong`` ones."""

    def __init__(self, *known: Address) -> None:
        self.contacts = Contacts(RUN)
        self.seq = 0
        self.announce(*known)
        self.addresses = Addresses(self.contacts, DialLimits())
        self.good: set[Address] = set()
        self.wrong: set[Address] = set()
        self.tried: list[Address] = []

    def announce(self, *addresses: Address) -> None:
        """Learn a new contact record of Boris."""
        self.seq += 1
        self.contacts.learn(seal_contact(key(2), RUN, addresses, self.seq))

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
