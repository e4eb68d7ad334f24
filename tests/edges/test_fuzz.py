"""A member that sends anything to every route of a real peer: it costs no traceback, no memory and no round.

The bodies are noise, frames of every kind out of the grammar of lies, signed with the member's own key, and
what the peer itself has answered before, with a byte changed.
"""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

import psutil
import pytest

from averaging.messages import MESSAGES
from peer.network.bans import Frames
from peer.simulation import liars
from peer.simulation.lies import FORMS, Grammar, Hearsay
from swarm.errors import SwarmError
from swarm.identity import KeyPair
from swarm.membership.contacts import Contacts
from swarm.ticket import Ticket
from swarm.transport import Request
from swarm.transport.http import HttpTransport
from swarm.wire import CONTROL_LIMIT, Stamp, pack, seal
from tests.edges.processes import LocalSwarm
from tests.edges.test_processes import TEXT

CALLS = 5_000
IDENTITIES = 10
"""Each has a burst of 1,000 requests, so that all of them are answered."""
AT_ONCE = 8
MEMORY_BYTES = 48 << 20
"""By which the peer may grow meanwhile: what is kept of strangers has limits, which are reached before."""


def routes() -> list[str]:
    """All routes that a peer serves: `peer.simulation.liars` lists them (a test checks it)."""
    found = re.search(r"routes +([a-z\-, \n]+)\n\n", liars.__doc__ or "")
    assert found
    return [name.strip() for name in found[1].split(",")]


class Fuzz:
    """One member that has only the ticket."""

    def __init__(self, ticket: Ticket, number: int) -> None:
        self._chance = random.Random(number)
        self._key = KeyPair.from_seed(bytes([number, 77]) * 16)
        self._run = ticket.run_id
        self._victim = ticket.entries[0].peer
        contacts = Contacts(ticket.run_id, ticket.entries)
        self._transport = HttpTransport(self._key, ticket.run_id, ticket.secret, contacts, None)
        self._hearsay = Hearsay(ticket.run_id)
        self._grammar = Grammar(self._chance, self._hearsay)
        self.answers = 0
        self.refusals = 0

    async def call_often(self, count: int, names: list[str]) -> None:
        """``count`` calls, some at a time, to each of the routes in turn."""
        calls = iter(range(count))

        async def call_on() -> None:
            for number in calls:
                await self._call(names[number % len(names)])

        async with self._transport, asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(call_on())

    async def _call(self, route: str) -> None:
        request = Request(route, self._body(), argument=self._argument(), limit=1 << 20)
        deadline = asyncio.get_running_loop().time() + 60
        try:
            reply = await self._transport.request(self._victim, request, deadline=deadline)
            self.answers += 1
            self._hearsay.note_bytes(reply)
            self._hearsay.note_reply(route, reply[:CONTROL_LIMIT])
        except SwarmError:
            self.refusals += 1

    def _argument(self) -> str:
        chance = self._chance
        group = chance.choice(self._hearsay.values.get("group") or [chance.randbytes(16)])
        item = chance.choice(["part.0.2", "result.1", "copy.0.00", "update"])
        return chance.choice(["", group.hex(), f"{group.hex()}.{item}", str(chance.randrange(1 << 33)), "x"])

    def _body(self) -> bytes:
        chance = self._chance
        kind = chance.randrange(6)
        if kind == 0:
            return b""
        if kind == 1:
            return chance.randbytes(chance.choice((1, 33, 500, 20_000)))
        if kind == 2 and self._hearsay.replies:
            heard = bytes(chance.choice(chance.choice(list(self._hearsay.replies.values()))))
            place = chance.randrange(len(heard))
            return heard[:place] + chance.randbytes(1) + heard[place + 1 :]
        frame = self._frame()
        return pack(Frames((frame, self._frame()))) if kind == 3 else frame

    def _frame(self) -> bytes:
        """A well-formed message of any kind, with our signature."""
        chance = self._chance
        message = self._grammar.invented(chance.choice([*FORMS, *MESSAGES]))
        if message is None:
            return chance.randbytes(200)
        group = chance.choice(self._hearsay.values.get("group") or [bytes(16)])
        stamp = Stamp(self._run, chance.randrange(8), group, chance.randrange(1 << 40))
        raw = seal(self._key, message, stamp)
        self._hearsay.hear(raw)
        return raw


@pytest.mark.slow
def test_five_thousand_calls_to_every_route_leave_a_peer_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "one.py").write_text(TEXT)
    with LocalSwarm(tmp_path) as swarm:
        words = f"--data {tmp_path / 'text'} --model tiny --rounds 100000 --steps 3 --round-seconds 2"
        founder = swarm.new("a", *words.split())
        ticket = Ticket.unpack(founder.event("ticket")["ticket"])
        friend = swarm.join("b", ticket.pack())
        founder.round_of(2)
        fuzzers = [Fuzz(ticket, number) for number in range(IDENTITIES)]

        async def call_all() -> None:
            for fuzz in fuzzers:
                await fuzz.call_often(CALLS // IDENTITIES, routes())

        asyncio.run(fuzzers[0].call_often(200, routes()))  # what a first stranger costs is no growth
        memory = psutil.Process(founder.process.pid).memory_info()
        asyncio.run(call_all())
        grown = psutil.Process(founder.process.pid).memory_info().rss - memory.rss
        answers = sum(fuzz.answers for fuzz in fuzzers)
        refusals = sum(fuzz.refusals for fuzz in fuzzers)

        assert answers + refusals == CALLS + 200
        assert answers > CALLS / 10, "many of the calls are well formed"
        assert refusals > CALLS / 10, "and many are not"
        assert "Traceback" not in founder.stderr, founder.stderr[-3000:]
        assert founder.stderr == ""
        assert grown < MEMORY_BYTES, f"{grown / 1e6:.0f} MB more"
        after = founder.count_events()
        founder.round_of(2, after=after)
        assert founder.stop() == friend.stop() == 0
