"""Messages between machines: to the open inbox, to the backlog where none is open yet, else stray."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from swarm.errors import Busy, Malformed, Refused
from swarm.identity import KeyPair, PeerId
from swarm.machine import Delivered, Event, Received, Unreached
from swarm.simulation.clock import simulate
from swarm.simulation.network import Link, SimulatedNetwork
from swarm.transport import Request
from swarm.transport.post import BACKLOG_BYTES, BACKLOG_OF_ONE, Inbox, Post
from swarm.wire import NO_GROUP, Kind, Message, Signed, Stamp, seal

RUN = bytes(32)
GROUP = bytes([3]) * 16
LINK = Link(latency=0.1, jitter=0.0, bandwidth=1e12)


class Call(Message, frozen=True):
    """A message that forms a group."""

    kind: ClassVar[Kind] = Kind.READY
    text: str


class Note(Message, frozen=True):
    """A message within a group."""

    kind: ClassVar[Kind] = Kind.COMMIT
    text: str


ACCEPTED: dict[type[Message], bool] = {Call: True, Note: False}


@dataclass(eq=False)
class Peer:
    """A post on the network, and the stray messages that it got."""

    key: KeyPair
    post: Post
    strays: list[Signed[Message]] = field(default_factory=list)

    @property
    def id(self) -> PeerId:
        return self.key.peer_id

    def sends(
        self, to: Peer, message: Message, round_: int = 1, group: bytes = GROUP, deadline: float = 60.0
    ) -> Inbox:
        """Send ``message``; failures come to the inbox that is returned."""
        failures = Inbox()
        self.post.send((to.id,), message, Stamp(RUN, round_, group), deadline=deadline, failures=failures)
        return failures


Scene = Callable[[SimulatedNetwork, Peer, Peer], Awaitable[None]]


def stage(scene: Scene, link: Link = LINK) -> None:
    """Run ``scene`` with two peers on virtual time."""

    async def main() -> None:
        network = SimulatedNetwork(1, link)
        async with asyncio.TaskGroup() as tasks:
            peers = []
            for number in range(2):
                key = KeyPair.from_seed(bytes([number]) * 32)
                peer = Peer(key, Post(network.attach(key.peer_id), key, RUN, tasks, ACCEPTED))
                peer.post.stray = peer.strays.append
                peers.append(peer)
            await scene(network, *peers)

    left: list[str] = []
    simulate(main(), leftovers=left)
    assert left == []


def drained(inbox: Inbox) -> list[Event]:
    return [inbox.events.get_nowait() for _ in range(inbox.events.qsize())]


def texts(inbox: Inbox) -> list[str]:
    messages = [event.signed.message for event in drained(inbox) if isinstance(event, Received)]
    return [message.text for message in messages]  # type: ignore[attr-defined]


# --- messages -----------------------------------------------------------------------------------------------


def test_a_peer_that_leaves_waits_for_its_last_messages_but_not_for_ever() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        within = b.post.open((1, GROUP))
        now = asyncio.get_running_loop().time
        await a.post.flush(1.0)
        assert now() == 0
        a.sends(b, Note("last"))
        await a.post.flush(1.0)
        assert now() == pytest.approx(0.2)
        assert texts(within) == ["last"]
        network.freeze(b.id)
        a.sends(b, Note("too late"), deadline=10.0)
        await a.post.flush(1.0)
        assert now() == pytest.approx(1.2)

    stage(scene)


def test_a_message_comes_to_the_inbox_of_its_round_and_group() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        forming = b.post.open((1, NO_GROUP))
        within = b.post.open((1, GROUP))
        other = b.post.open((1, bytes([4]) * 16))
        a.sends(b, Call("ready"))
        a.sends(b, Note("commit"))
        await asyncio.sleep(1)
        assert (texts(forming), texts(within), texts(other)) == (["ready"], ["commit"], [])
        assert b.strays == []

    stage(scene)


def test_a_message_waits_for_an_inbox_that_is_not_open_yet() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        b.post.open((1, NO_GROUP))
        a.sends(b, Note("now"), 1)
        a.sends(b, Note("next"), 2)
        await asyncio.sleep(1)
        assert texts(b.post.open((1, GROUP))) == ["now"]
        assert texts(b.post.open((2, GROUP))) == ["next"]

    stage(scene)


def test_a_message_for_a_round_that_is_over_or_far_away_is_stray() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        b.post.open((3, NO_GROUP))
        b.post.close((3, NO_GROUP))
        for round_ in (2, 3, 5):
            a.sends(b, Call("ready"), round_)
        await asyncio.sleep(1)
        assert sorted(signed.stamp.round for signed in b.strays) == [2, 3, 5]
        assert texts(b.post.open((3, NO_GROUP))) == []

    stage(scene)


def test_a_peer_that_goes_back_to_an_earlier_round_gets_its_messages_again() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        for round_ in (2, 3):
            b.post.open((round_, NO_GROUP))
            b.post.close((round_, NO_GROUP))
        b.post.reopen(2)
        for round_ in (1, 2, 3, 4):
            a.sends(b, Call(f"ready {round_}"), round_)
        await asyncio.sleep(1)
        assert sorted(signed.stamp.round for signed in b.strays) == [1, 4]
        assert texts(b.post.open((2, NO_GROUP))) == ["ready 2"]
        assert texts(b.post.open((3, NO_GROUP))) == ["ready 3"]

    stage(scene)


def test_a_message_that_was_not_read_when_its_inbox_closes_is_stray() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        b.post.open((1, NO_GROUP))
        a.sends(b, Call("late"))
        await asyncio.sleep(1)
        b.post.close((1, NO_GROUP))
        assert [signed.message for signed in b.strays] == [Call("late")]

    stage(scene)


def test_a_message_that_its_sender_has_not_signed_is_refused() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        inbox = b.post.open((1, GROUP))
        third = network.attach(PeerId("c" * 52))
        for frame in (seal(a.key, Note("borrowed"), Stamp(RUN, 1, GROUP)), b"noise"):
            with pytest.raises((Refused, Malformed)):
                await third.request(b.id, Request("mail", frame), deadline=10)
        assert drained(inbox) == []

    stage(scene)


def test_the_backlog_of_one_sender_is_bounded_and_the_sender_tries_again() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        for number in range(BACKLOG_OF_ONE + 1):
            a.sends(b, Note(str(number)))
        await asyncio.sleep(4)  # two at a time
        assert sorted(texts(b.post.open((1, GROUP))), key=int) == [
            str(number) for number in range(BACKLOG_OF_ONE)
        ]
        b.post.close((1, GROUP))
        late = b.post.open((1, GROUP))
        await asyncio.sleep(2)
        assert texts(late) == [str(BACKLOG_OF_ONE)]

    stage(scene)


def test_the_backlog_of_all_is_bounded_in_bytes() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        fitting = 0

        async def flood() -> None:
            nonlocal fitting
            for number in range(2, 100):
                key = KeyPair.from_seed(bytes([number]) * 32)
                transport = network.attach(key.peer_id)
                frame = seal(key, Note("w" * 60_000), Stamp(RUN, 1, GROUP))
                for _ in range(BACKLOG_OF_ONE):
                    await transport.request(b.id, Request("mail", frame), deadline=1000)
                    fitting += len(frame)

        with pytest.raises(Busy):
            await flood()
        assert 0.9 * BACKLOG_BYTES < fitting <= BACKLOG_BYTES
        b.post.open((2, NO_GROUP))  # what has waited for the round before is of no use any more
        later = a.sends(b, Note("there is room again"), 2)
        await asyncio.sleep(1)
        assert drained(later) == []
        assert texts(b.post.open((2, GROUP))) == ["there is room again"]

    stage(scene)


# --- failures -----------------------------------------------------------------------------------------------


def test_an_unreachable_peer_is_reported_at_once_and_only_once() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        network.crash(b.id)
        failures = a.sends(b, Note("anybody?"), deadline=10.0)
        await asyncio.sleep(1)
        assert drained(failures) == [Unreached(b.id)]
        await asyncio.sleep(20)
        assert drained(failures) == []

    stage(scene)


def test_a_message_gets_through_when_the_connection_comes_back() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        inbox = b.post.open((1, GROUP))
        network.cut(a.id, b.id)
        failures = a.sends(b, Note("hello"), deadline=30.0)
        await asyncio.sleep(8)
        network.heal(a.id, b.id)
        await asyncio.sleep(20)
        assert drained(failures) == [Unreached(b.id)]
        assert texts(inbox) == ["hello"]

    stage(scene)


def test_a_refused_item_is_not_offered_again() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        def refuse(sender: PeerId, item: str) -> int:
            raise Refused("no")

        b.post.open((1, GROUP), refuse)
        failures = Inbox()
        a.post.ship(b.id, GROUP, "part.0", b"1234", deadline=30, failures=failures)
        await asyncio.sleep(1)
        before = network.messages
        await asyncio.sleep(20)
        assert drained(failures) == [Unreached(b.id, "part.0")]
        assert network.messages == before

    stage(scene)


# --- bulk ---------------------------------------------------------------------------------------------------


def test_a_bulk_item_of_the_expected_length_is_delivered_and_no_other() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        inbox = b.post.open((1, GROUP), lambda sender, item: 4 if item == "part.0" else 5)
        failures = Inbox()
        a.post.ship(b.id, GROUP, "part.0", b"1234", deadline=30, failures=failures)
        a.post.ship(b.id, GROUP, "part.1", b"1234", deadline=30, failures=failures)
        await asyncio.sleep(1)
        assert drained(inbox) == [Delivered(a.id, "part.0", b"1234")]
        assert drained(failures) == [Unreached(b.id, "part.1")]

    stage(scene)


def test_a_bulk_item_waits_at_the_sender_until_the_inbox_of_its_group_is_open() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        failures = Inbox()
        a.post.ship(b.id, GROUP, "part.0", b"1234", deadline=30, failures=failures)
        await asyncio.sleep(9)
        inbox = b.post.open((1, GROUP), lambda sender, item: 4)
        await asyncio.sleep(3)
        assert drained(inbox) == [Delivered(a.id, "part.0", b"1234")]
        a.post.ship(b.id, bytes(16), "part.0", b"1234", deadline=20, failures=failures)
        await asyncio.sleep(15)
        assert drained(failures) == [Unreached(b.id, "part.0")]

    stage(scene)


def test_items_on_the_shelf_may_be_fetched_by_anybody_and_nothing_else() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        b.post.shelf["abcd"] = b"1234"
        inbox = Inbox()
        a.post.fetch(b.id, "item.0.abcd", "abcd", 4, deadline=30, inbox=inbox)
        a.post.fetch(b.id, "item.1.ffff", "ffff", 4, deadline=30, inbox=inbox)
        a.post.fetch(b.id, "item.2.abcd", "abcd", 5, deadline=30, inbox=inbox)
        await asyncio.sleep(1)
        assert sorted(drained(inbox), key=lambda event: event.item) == [  # type: ignore[union-attr]
            Delivered(b.id, "item.0.abcd", b"1234"),
            Unreached(b.id, "item.1.ffff"),
            Unreached(b.id, "item.2.abcd"),
        ]

    stage(scene)


def test_a_peer_that_has_left_sends_nothing_more() -> None:
    async def scene(network: SimulatedNetwork, a: Peer, b: Peer) -> None:
        key = KeyPair.from_seed(bytes([9]) * 32)
        async with asyncio.TaskGroup() as tasks:
            post = Post(network.attach(key.peer_id), key, RUN, tasks, ACCEPTED)
        post.send((b.id,), Note("goodbye"), Stamp(RUN, 1, GROUP), deadline=10, failures=Inbox())
        inbox = b.post.open((1, GROUP))
        await asyncio.sleep(1)
        assert drained(inbox) == []

    stage(scene)
