"""Clients that break the rules meet a real server: it refuses and counts them, and serves honest peers."""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import psutil
import pytest

from peer.network.membership import Membership, NetworkPorts
from swarm.dht.directory import Directory
from swarm.errors import BadSignature, Impostor, Refused, Unreachable
from swarm.membership.contacts import seal_contact
from swarm.membership.progress import Progress
from swarm.ticket import Address
from swarm.transport import Allowance, Call, Request, Route
from swarm.transport.guard import ConnectionLimits, DialLimits, Limits, RequestLimits, Timeouts
from swarm.transport.http import HttpTransport
from swarm.transport.lanes import PREFACE, PROTOCOL_NAME
from swarm.transport.sockets import begins_with
from swarm.transport.stream import Stream
from swarm.transport.tls import HTTP, client_context, server_context
from swarm.wire import Stamp, open_frame, seal_body
from tests.peer.company import MANIFEST, described
from tests.swarm.loopback import RUN, Loopback, echo, key, soon
from tests.swarm.transport.test_tls import elliptic_context

pytestmark = pytest.mark.asyncio

MIB = 1 << 20
PATIENCE = 240.0
"""Seconds after which a test fails because the server should have closed a connection and did not."""

LEAK = 32 * MIB
"""Less than what 200 connections take: memory that grows so much with every visit is never given back."""
VISITS = 6
"""How many connections overlap depends on how busy the computer is, so memory may grow a few times."""
TIMEOUTS = Timeouts(
    handshake_seconds=3,
    first_request_seconds=2,
    idle_seconds=3,
    grace_seconds=3,
    minimum_rate=64 * MIB,
    linger_seconds=0.1,
)
LIMITS = Limits(TIMEOUTS, ConnectionLimits(per_host=64), RequestLimits(in_flight_bytes=64 * MIB))


async def give(call: Call) -> bytes:
    """Return much more than fits into the buffers of a connection."""
    return bytes(32 * MIB)


async def check(call: Call) -> bytes:
    """Open a signed message, as every handler of such messages does first."""
    open_frame(call.body, Progress, run=RUN)
    return b""


ROUTES = (
    Route("echo", echo),
    Route("check", check),
    Route("give", give),
    Route("plan", echo, lambda sender, argument: Allowance(exact=1000, seconds=1)),
    Route("huge", echo, lambda sender, argument: Allowance(at_most=1 << 40, seconds=1)),
)


def member() -> ssl.SSLContext:
    """The TLS settings of a peer of the run."""
    return client_context(key(9), RUN)


def trusting(context: ssl.SSLContext) -> ssl.SSLContext:
    """Make a client accept every certificate."""
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def outdated() -> ssl.SSLContext:
    """The TLS settings of a peer, but with TLS 1.2."""
    context = member()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def post(route: str, *lines: str, body: bytes = b"") -> bytes:
    """The bytes of a request."""
    return "\r\n".join([f"POST /swarm/2/{route}/ HTTP/1.1", "Host: x", *lines, "", ""]).encode() + body


@dataclass(frozen=True)
class Stranger:
    """Connects, sends ``words``, and waits until the server closes the connection for ``reason``."""

    reason: str
    words: bytes = b""
    context: Callable[[], ssl.SSLContext] | None = member
    status: int = 0
    """The HTTP status that it gets before; 0 where it gets no answer."""
    leaves: bool = False
    """It closes the connection itself, right after ``words``."""

    async def visit(self, address: Address) -> None:
        """Raises `TimeoutError` where the server does not close the connection."""
        said = b""
        try:
            context = self.context() if self.context else None
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=context, server_hostname="x" if context else None
            )
        except (ConnectionError, ssl.SSLError):
            return
        try:
            writer.write(self.words)
            await writer.drain()
            if not self.leaves:
                async with asyncio.timeout(PATIENCE):
                    said = await reader.read()
        except (ConnectionError, ssl.SSLError):
            said = said or b""
        finally:
            writer.transport.abort()
        if self.status:
            assert said.startswith(b"HTTP/1.1 %d " % self.status), said[:80]


BOMB = gzip.compress(bytes(64 * MIB))
STRANGERS = {
    "random bytes": Stranger("handshake", os.urandom(5000), context=None),
    "silent TCP": Stranger("handshake", context=None),
    "leaves at once": Stranger("handshake", context=None, leaves=True),
    "plaintext HTTP": Stranger("handshake", post("echo", "Content-Length: 0"), context=None),
    "half a hello": Stranger("handshake", bytes.fromhex("16030100f8010000f40303") + bytes(20), context=None),
    "no certificate": Stranger(
        "handshake", context=lambda: trusting(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    ),
    "another run": Stranger("handshake", context=lambda: trusting(client_context(key(9), bytes(32)))),
    "another secret": Stranger("handshake", context=lambda: trusting(client_context(key(9), RUN, bytes(16)))),
    "TLS 1.2": Stranger("handshake", context=outdated),
    "a key of another kind": Stranger(
        "certificate", post("echo", "Content-Length: 0"), context=lambda: elliptic_context(RUN)
    ),
    "silent TLS": Stranger("silent"),
    "half a head": Stranger("silent", b"POST /swarm/2/echo/ HTTP/1.1\r\nHost: x\r\nX-"),
    "random bytes in TLS": Stranger("malformed", b"\x00" + os.urandom(5000)),
    "a long line": Stranger("malformed", b"POST /" + b"a" * 9000),
    "a long header": Stranger("malformed", post("echo", "X: " + "a" * 9000)),
    "a thousand headers": Stranger("malformed", post("echo", *["X: y"] * 1000)),
    "a browser": Stranger("malformed", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", status=400),
    "an unknown route": Stranger("malformed", post("nothing", "Content-Length: 0"), status=400),
    "another version": Stranger(
        "malformed", post("echo", "Content-Length: 0").replace(b"/2/", b"/999/"), status=400
    ),
    "no length": Stranger("malformed", post("echo"), status=400),
    "two lengths": Stranger(
        "malformed", post("echo", "Content-Length: 3", "Content-Length: 4", body=b"abcd")
    ),
    "chunks": Stranger(
        "malformed", post("echo", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n"), status=400
    ),
    "a gzip bomb": Stranger(
        "malformed",
        post("huge", "Content-Encoding: gzip", f"Content-Length: {len(BOMB)}", body=BOMB),
        status=400,
    ),
    "a wrong length": Stranger("malformed", post("plan", "Content-Length: 999", body=bytes(999)), status=400),
    "an oversized body": Stranger(
        "malformed", post("echo", "Content-Length: 99999999999", body=bytes(MIB)), status=400
    ),
    "a body without room": Stranger(
        "busy", post("huge", "Content-Length: 99999999999", body=bytes(MIB)), status=503
    ),
    "a stalled body": Stranger("late", post("plan", "Content-Length: 1000", body=b"abc"), status=408),
    "a body cut short": Stranger("broken", post("plan", "Content-Length: 1000", body=b"abc"), leaves=True),
}


async def until_counted(server: HttpTransport, reason: str) -> None:
    """Wait until the server has counted ``reason``: it does so a moment after the client sees the end."""
    async with asyncio.timeout(PATIENCE):
        while reason not in server.refusals:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.01)


async def honest_call(caller: HttpTransport, server: HttpTransport) -> None:
    """Check that the server still answers an honest peer."""
    assert await caller.request(server.me, Request("echo", b"honest"), deadline=soon(PATIENCE)) == b"honest"


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS)
async def test_a_stranger_is_refused_and_counted_and_the_next_honest_call_succeeds(
    stranger: Stranger, caplog: pytest.LogCaptureFixture
) -> None:
    async with Loopback(limits=LIMITS) as net:
        caller, (server, address) = await net.caller(1), await net.peer(2, *ROUTES)
        await stranger.visit(address)
        await until_counted(server, stranger.reason)
        await honest_call(caller, server)
        assert set(server.refusals) == {stranger.reason}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def memory_of(visit: Callable[[], Awaitable[object]]) -> list[int]:
    """The memory of this process after each visit, until one takes hardly more than the visit before it."""
    memory = [psutil.Process().memory_info().rss]
    while len(memory) <= VISITS:
        await visit()
        gc.collect()
        memory.append(psutil.Process().memory_info().rss)
        if memory[-1] - memory[-2] < LEAK:
            break
    return memory


async def test_all_strangers_at_once_cost_no_memory() -> None:
    async with Loopback(limits=LIMITS) as net:
        caller, (server, address) = await net.caller(1), await net.peer(2, *ROUTES)
        population = [stranger for stranger in STRANGERS.values() if len(stranger.words) < MIB]

        async def one_visit_each() -> None:
            await asyncio.gather(*(stranger.visit(address) for stranger in population))
            await honest_call(caller, server)

        await one_visit_each()
        memory = await memory_of(one_visit_each)
        assert memory[-1] - memory[-2] < LEAK, f"memory grows with every visit: {memory}"


async def test_two_hundred_sockets_of_one_address_get_their_share_and_no_more() -> None:
    # The caller stays connected, because it would not get another connection.
    async with Loopback(limits=replace(LIMITS, timeouts=replace(TIMEOUTS, idle_seconds=600))) as net:
        caller, (server, address) = await net.caller(1), await net.peer(2, *ROUTES)
        await honest_call(caller, server)
        context = member()
        silent = Stranger("silent", context=lambda: context)

        async def two_hundred() -> None:
            await asyncio.gather(*(silent.visit(address) for _ in range(200)), honest_call(caller, server))
            await honest_call(caller, server)

        await two_hundred()
        memory = await memory_of(two_hundred)
        visits = len(memory)
        assert server.refusals["crowded"] >= visits * (200 - LIMITS.connections.per_host)
        assert memory[-1] - memory[-2] < LEAK, f"memory grows with every visit: {memory}"


async def test_a_client_that_does_not_read_its_reply_is_disconnected() -> None:
    async with Loopback(limits=LIMITS) as net:
        caller, (server, address) = await net.caller(1), await net.peer(2, *ROUTES)
        _, writer = await asyncio.open_connection(address.host, address.port, ssl=member(), limit=1024)
        writer.write(post("give", "Content-Length: 0"))
        await until_counted(server, "broken")
        writer.transport.abort()
        await honest_call(caller, server)


async def test_a_message_with_a_wrong_signature_is_refused_by_name() -> None:
    body = bytearray(seal_body(key(1), Progress.kind, b"whatever", Stamp(RUN)))
    body[-1] ^= 1
    async with Loopback(limits=LIMITS) as net:
        caller, (server, _) = await net.caller(1), await net.peer(2, *ROUTES)
        with pytest.raises(Refused, match="signature"):
            await caller.request(server.me, Request("check", body), deadline=soon(PATIENCE))
        assert server.refusals == {BadSignature.code: 1}


async def test_too_many_requests_of_one_peer_are_refused_and_those_of_others_are_not() -> None:
    limits = Limits(requests=RequestLimits(rate=0.001, burst=3))
    async with Loopback(limits=limits) as net:
        eager, calm, (server, _) = await net.caller(1), await net.caller(3), await net.peer(2, *ROUTES)
        answers = await asyncio.gather(
            *(eager.request(server.me, Request("echo"), deadline=soon(PATIENCE)) for _ in range(10)),
            return_exceptions=True,
        )
        assert answers.count(b"") == 3
        assert server.refusals == {"flooding": 7}
        await honest_call(calm, server)


@pytest.mark.parametrize(
    ("body", "limit"), [(b"", 100), (b"small", 100), (bytes(MIB), 100), (b"", MIB), (b"mail", 0)]
)
async def test_an_impostor_with_a_valid_certificate_reads_not_one_byte(body: bytes, limit: int) -> None:
    by_lane = len(body) == MIB or limit == 0

    async def listen_in(listener: socket.socket) -> bytes:
        """The first byte that arrives after the handshake."""
        connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        connection.setblocking(False)
        assert await begins_with(connection, PREFACE) == by_lane
        context = server_context(key(3), RUN, protocol=PROTOCOL_NAME if by_lane else HTTP)
        stream = Stream(connection, context, memoryview(bytearray(MIB)), is_server=True)
        try:
            await stream.handshake()
            return bytes(await stream.read(1))
        except (OSError, Unreachable):
            return b""
        finally:
            stream.abort()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with Loopback(limits=LIMITS) as net, asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(listen_in(listener))
            caller = await net.caller(1)
            net.know(key(2), Address("127.0.0.1", listener.getsockname()[1]))
            with pytest.raises(Impostor):
                await caller.request(
                    key(2).peer_id, Request("echo", body, limit=limit), deadline=soon(PATIENCE)
                )
            async with asyncio.timeout(PATIENCE):
                assert await listening == b""


# --- a member that would make others scan for it ------------------------------------------------------------


@dataclass
class Ports:
    """Ports of one host where somebody listens that is no peer. ``connections`` counts who has come."""

    numbers: list[int] = field(default_factory=list)
    connections: int = 0

    @asynccontextmanager
    async def open(self, host: str, count: int) -> AsyncIterator[None]:
        """Listen within this context."""
        async with AsyncExitStack() as stack:
            for _ in range(count):
                server = await stack.enter_async_context(await asyncio.start_server(self._accept, host, 0))
                self.numbers.append(server.sockets[0].getsockname()[1])
            yield

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.transport.abort()


def describe() -> tuple[int, Progress]:
    """What the victim tells about itself."""
    return 0, described(2)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
async def test_a_member_that_signs_contacts_with_other_addresses_makes_nobody_its_port_scanner(
    host: str,
) -> None:
    """Each of 300 contacts names a port at ``host``, and each time the member asks to be dialled there."""
    ports = Ports()
    limits = DialLimits()
    async with ports.open(host, 300), Loopback(run=MANIFEST.run_id) as net:
        mallory = await net.caller(9)
        victim, _ = await net.peer(2)
        network = NetworkPorts(
            transport=victim, directory=cast(Directory, None), contacts=net.contacts, wall=lambda: 0.0
        )
        Membership(MANIFEST, b"", key(2), network, describe)

        began = soon(0)
        for seq, port in enumerate(ports.numbers, 1):
            contact = seal_contact(key(9), MANIFEST.run_id, (Address(host, port),), seq)
            await mallory.request(victim.me, Request("hello", contact), deadline=soon(PATIENCE))
            with pytest.raises(Refused):
                await mallory.request(victim.me, Request("dial-back"), deadline=soon(PATIENCE))
        seconds = soon(0) - began
    assert 0 < ports.connections <= limits.teller_burst + limits.teller_rate * seconds
