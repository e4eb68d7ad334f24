"""Three directories in three processes with real sockets; two of them have clocks that are an hour off."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE

import pytest

from swarm.dht.node import HivemindDirectory
from swarm.membership.contacts import Contacts, seal_contact
from swarm.membership.progress import Progress
from swarm.ticket import Address, Entry
from swarm.transport.http import HttpTransport
from tests.edges.processes import LIMIT_SECONDS
from tests.swarm.memory import RUN, key, record, soon

pytestmark = pytest.mark.xdist_group("processes")

ANY_PORT = Address("127.0.0.1", 0)


async def live(number: int, port: int, leave: asyncio.Event, expected: int) -> list[str]:
    """Be peer ``number``: join through peer 0 at ``port``, publish a record, and read ``expected`` ones.

    Stays until ``leave`` is set. Returns the signers of the records.
    """
    entries = (Entry(key(0).peer_id, Address("127.0.0.1", port)),) if port else ()
    contacts = Contacts(RUN, entries)
    async with HttpTransport(key(number), RUN, b"", contacts) as transport:
        address = await transport.listen(ANY_PORT)
        contacts.learn(seal_contact(key(number), RUN, (address,), 1))
        async with await HivemindDirectory.open(
            transport,
            contacts,
            run=RUN,
            forms={"progress": Progress},
            entries=[entry.peer for entry in entries],
            deadline=soon(LIMIT_SECONDS),
        ) as directory:
            print(address.port, flush=True)
            await directory.put("progress", record(key(number)), seconds=600, deadline=soon(LIMIT_SECONDS))
            found: list[str] = []
            while len(found) < expected:
                found = [
                    signed.signer for signed in await directory.get("progress", Progress, deadline=soon(10))
                ]
                await asyncio.sleep(0.05)
            print("found", flush=True)
            await leave.wait()
            return found


async def main(number: int, port: int) -> None:
    """What a child process runs, until its standard input ends."""
    leave = asyncio.Event()
    living = asyncio.create_task(live(number, port, leave, 3))
    await asyncio.to_thread(sys.stdin.read)
    leave.set()
    await living


CHILD = """
import time
real, offset = time.time, {offset}
time.time = lambda: real() + offset
import asyncio
from tests.edges.test_dht_clock import main
asyncio.run(main({number}, {port}))
"""


async def start(number: int, port: int, offset: int) -> tuple[asyncio.subprocess.Process, int]:
    """Start a child process. Returns it and the port that it listens on."""
    code = CHILD.format(number=number, port=port, offset=offset)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", "-c", code, stdin=PIPE, stdout=PIPE
    )
    assert child.stdout
    return child, int(await child.stdout.readline())


@pytest.mark.asyncio
async def test_peers_whose_clocks_are_an_hour_off_find_each_other() -> None:
    founder, port = await start(0, 0, 0)
    children = [founder]
    try:
        for number, offset in ((1, 3600), (2, -3600)):
            children.append((await start(number, port, offset))[0])
        for child in children:
            assert child.stdout
            assert await child.stdout.readline() == b"found\n"
        for child in children:
            assert child.stdin
            child.stdin.close()
        assert [await child.wait() for child in children] == [0, 0, 0]
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
                await child.wait()
