"""What is being sent: two messages to one peer at a time, in order; offered again until the deadline."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from swarm.errors import Busy, Refused, SwarmError, Unreachable
from swarm.identity import PeerId
from swarm.machine import Delivered, Event, Unreached
from swarm.simulation.clock import simulate
from swarm.transport import Request, Route
from swarm.transport.outbox import MESSAGE_ROUTE, Outbox, Transfer

A, B = (PeerId(letter * 52) for letter in "ab")


@dataclass
class Wire:
    """A transport on which a request takes a second, and raises the next of ``errors``, if one is left."""

    errors: list[SwarmError] = field(default_factory=list)
    begun: list[tuple[float, PeerId, bytes]] = field(default_factory=list)
    me: PeerId = A
    bytes_up: int = 0
    bytes_down: int = 0

    def serve(self, route: Route) -> None:
        """Nobody calls."""

    async def request(self, to: PeerId, request: Request, *, deadline: float) -> bytes:
        self.begun.append((now(), to, bytes(request.body)))
        await asyncio.sleep(1)
        if self.errors:
            raise self.errors.pop(0)
        return b"item"


def now() -> float:
    return asyncio.get_running_loop().time()


def run(scene: Callable[[Outbox], Awaitable[None]], wire: Wire) -> None:
    """Run ``scene`` with an outbox that sends on ``wire``, on virtual time, until all is sent."""

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            await scene(Outbox(wire, tasks))

    simulate(main())


def message(to: PeerId, text: str, deadline: float = 100.0) -> Transfer:
    return Transfer(to, Request(MESSAGE_ROUTE, text.encode(), limit=0), deadline, asyncio.Queue())


def reported(transfer: Transfer) -> list[Event]:
    return [transfer.events.get_nowait() for _ in range(transfer.events.qsize())]


def test_two_messages_to_a_peer_are_under_way_at_a_time_in_their_order_and_no_other_peer_waits() -> None:
    wire = Wire()

    async def scene(outbox: Outbox) -> None:
        for text in "12345":
            outbox.send(message(B, text))
        outbox.send(message(A, "a"))
        await outbox.flush(10)
        assert now() == 3

    run(scene, wire)
    assert [(time, body) for time, to, body in wire.begun if to == B] == [
        (0, b"1"),
        (0, b"2"),
        (1, b"3"),
        (1, b"4"),
        (2, b"5"),
    ]
    assert [time for time, to, _ in wire.begun if to == A] == [0]


def test_a_message_whose_turn_does_not_come_in_time_is_reported_and_those_behind_it_go_on() -> None:
    wire = Wire()

    async def scene(outbox: Outbox) -> None:
        late = message(B, "late", deadline=0.5)
        for transfer in (message(B, "1"), message(B, "2"), late, message(B, "3")):
            outbox.send(transfer)
        await outbox.flush(10)
        assert reported(late) == [Unreached(B)]

    run(scene, wire)
    assert [body for _, _, body in wire.begun] == [b"1", b"2", b"3"]


def test_a_busy_peer_is_asked_again_without_a_report_and_pauses_grow() -> None:
    wire = Wire(errors=[Busy("full")] * 3)

    async def scene(outbox: Outbox) -> None:
        transfer = message(B, "1")
        outbox.send(transfer)
        await outbox.flush(20)
        assert reported(transfer) == []

    run(scene, wire)
    times = [time for time, _, _ in wire.begun]
    pauses = [round(later - time - 1, 6) for time, later in itertools.pairwise(times)]
    assert pauses == [0.1, 0.2, 0.4]


def test_a_refused_message_is_reported_and_not_sent_again() -> None:
    wire = Wire(errors=[Refused("no")])

    async def scene(outbox: Outbox) -> None:
        transfer = message(B, "1")
        outbox.send(transfer)
        await outbox.flush(20)
        assert reported(transfer) == [Unreached(B)]

    run(scene, wire)
    assert len(wire.begun) == 1


def test_an_item_is_fetched_once_and_must_have_its_length() -> None:
    wire = Wire(errors=[Unreachable("gone")])

    async def scene(outbox: Outbox) -> None:
        for length, expected in (
            (4, Unreached(B, "x")),
            (4, Delivered(B, "x", b"item")),
            (5, Unreached(B, "x")),
        ):
            wanted = Transfer(B, Request("item", limit=length), 100.0, asyncio.Queue(), "x")
            outbox.fetch(wanted)
            await outbox.flush(10)
            assert reported(wanted) == [expected]

    run(scene, wire)
    assert len(wire.begun) == 3
