import asyncio
import logging
import socket
import ssl

import pytest

from swarm.errors import Busy, DiskTrouble, Malformed, Refused, TooLate
from swarm.identity import PeerId
from swarm.ticket import Address
from swarm.transport import Allowance, Call, Request, Route
from swarm.transport.guard import Limits, RequestLimits, Timeouts
from swarm.transport.http import HttpTransport
from swarm.transport.tls import client_context
from tests.swarm.loopback import ANY_PORT, RUN, Loopback, echo, key, soon

pytestmark = pytest.mark.asyncio
BORIS = key(2).peer_id


async def post(address: Address, request: bytes) -> bytes:
    """What the server answers to bytes of a peer, until it closes."""
    reader, writer = await asyncio.open_connection(
        address.host, address.port, ssl=client_context(key(9), RUN), server_hostname="x"
    )
    try:
        writer.write(request)
        return await reader.read()
    except (ConnectionError, ssl.SSLError):
        return b""
    finally:
        writer.transport.abort()


async def test_an_answer_has_a_short_head_that_does_not_tell_versions() -> None:
    async with Loopback() as net:
        _, address = await net.peer(2, Route("echo", echo))
        request = (
            b"POST /swarm/2/echo/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"
        )
        assert (
            await post(address, request)
            == b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
        )


async def test_a_route_knows_sender_and_argument_before_the_body_and_refuses_without_reading_it() -> None:
    asked: list[tuple[PeerId, str]] = []
    handled: list[Call] = []

    def admit(sender: PeerId, argument: str) -> Allowance:
        asked.append((sender, argument))
        raise Busy("not now")

    async def handler(call: Call) -> bytes:
        handled.append(call)
        return b""

    async with Loopback() as net:
        anna = await net.caller(1)
        boris, _ = await net.peer(2, Route("part", handler, admit))
        with pytest.raises(Busy, match="not now"):
            await anna.request(BORIS, Request("part", bytes(32 << 20), argument="7"), deadline=soon())
        assert boris.bytes_down < 16 << 20
    assert asked == [(anna.me, "7")]
    assert handled == []


async def test_the_latest_route_of_a_name_wins_also_while_it_runs() -> None:
    async def second(call: Call) -> bytes:
        return b"second"

    async with Loopback() as net:
        anna = await net.caller(1)
        boris, _ = await net.peer(2, Route("verb", echo))
        assert await anna.request(BORIS, Request("verb", b"first"), deadline=soon()) == b"first"
        boris.serve(Route("verb", second))
        assert await anna.request(BORIS, Request("verb", b"first"), deadline=soon()) == b"second"


async def test_a_length_outside_the_plan_is_refused() -> None:
    async with Loopback() as net:
        anna = await net.caller(1)
        await net.peer(2, Route("part", echo, lambda sender, argument: Allowance(exact=4)))
        assert await anna.request(BORIS, Request("part", b"1234"), deadline=soon()) == b"1234"
        for body in (b"", b"123", b"12345"):
            with pytest.raises(Refused, match="where the plan says 4"):
                await anna.request(BORIS, Request("part", body), deadline=soon())


@pytest.mark.parametrize("error", [ZeroDivisionError("bug"), DiskTrouble("full")])
async def test_a_bug_is_logged_once_with_its_traceback_and_kept_from_the_caller(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(call: Call) -> bytes:
        raise error

    async with Loopback() as net:
        anna = await net.caller(1)
        boris, _ = await net.peer(2, Route("verb", handler))
        for number in range(3):
            with pytest.raises(Refused, match="HTTP status 500"):
                await anna.request(BORIS, Request("verb", argument=str(number)), deadline=soon())
        assert boris.refusals == {}, "a bug of ours is no refusal"
    logged = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(logged) == 1
    assert logged[0].exc_info is not None
    assert logged[0].exc_info[1] is error
    assert "'verb'" in logged[0].getMessage()


async def test_bytes_in_flight_are_bounded_over_all_callers() -> None:
    inside = asyncio.Event()
    release = asyncio.Event()

    async def slow(call: Call) -> bytes:
        inside.set()
        await release.wait()
        return b""

    async with Loopback(limits=Limits(requests=RequestLimits(in_flight_bytes=100_000))) as net:
        anna = await net.caller(1)
        carla = await net.caller(3)
        await net.peer(2, Route("slow", slow), Route("echo", echo))
        first = asyncio.ensure_future(anna.request(BORIS, Request("slow", bytes(60_000)), deadline=soon()))
        await inside.wait()
        with pytest.raises(Busy, match="no room"):
            await carla.request(BORIS, Request("echo", bytes(60_000)), deadline=soon())
        release.set()
        await first
        assert len(await carla.request(BORIS, Request("echo", bytes(60_000)), deadline=soon())) == 60_000


async def test_a_reply_counts_as_bytes_in_flight_too() -> None:
    async def large(call: Call) -> bytes:
        return bytes(200_000)

    async with Loopback(limits=Limits(requests=RequestLimits(in_flight_bytes=100_000))) as net:
        anna = await net.caller(1)
        await net.peer(2, Route("large", large))
        with pytest.raises(Busy):
            await anna.request(BORIS, Request("large", limit=1 << 20), deadline=soon())


async def test_a_route_hears_how_much_of_a_reply_could_not_be_sent_and_the_log_hears_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    length = 64 << 20
    unsent: list[tuple[PeerId, str, int]] = []
    hung_up = asyncio.Event()

    async def give(call: Call) -> bytes:
        return bytes(length)

    def note(call: Call, left: int) -> None:
        unsent.append((call.sender, call.argument, left))
        hung_up.set()

    async with Loopback() as net:
        anna = await net.caller(1)
        _, address = await net.peer(2, Route("give", give, on_unsent=note))
        await anna.request(BORIS, Request("give", argument="all", limit=length), deadline=soon())
        assert unsent == []
        context = client_context(key(9), RUN)
        reader, writer = await asyncio.open_connection(
            address.host, address.port, ssl=context, server_hostname="x", limit=1024
        )
        writer.write(b"POST /swarm/2/give/some HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await reader.readexactly(1 << 20)
        writer.transport.abort()
        async with asyncio.timeout(20):
            await hung_up.wait()
    ((sender, argument, left),) = unsent
    assert (sender, argument) == (key(9).peer_id, "some")
    assert 0 < left < length - (1 << 20)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_handler_ends_with_the_connection_of_its_caller() -> None:
    inside = asyncio.Event()
    ended = asyncio.Event()

    async def slow(call: Call) -> bytes:
        inside.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return b""

    async with Loopback() as net:
        anna = await net.caller(1)
        await net.peer(2, Route("slow", slow))
        call = asyncio.ensure_future(anna.request(BORIS, Request("slow"), deadline=soon()))
        await inside.wait()
        call.cancel()
        async with asyncio.timeout(10):
            await ended.wait()


async def test_a_server_listens_at_several_addresses() -> None:
    async with Loopback() as net:
        anna = await net.caller(1)
        boris, first = await net.peer(2, Route("echo", echo))
        second = await boris.listen(ANY_PORT)
        assert second.port != first.port
        for address in (first, second):
            net.know(key(2), address)
            assert await anna.request(BORIS, Request("echo", b"x"), deadline=soon()) == b"x"


async def test_an_address_of_version_six_works_where_the_machine_has_one() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    async with Loopback() as net:
        anna = await net.caller(1)
        boris = await net.caller(2)
        boris.serve(Route("echo", echo))
        net.know(key(2), await boris.listen(Address("::1", 0)))
        assert await anna.request(BORIS, Request("echo", b"six"), deadline=soon()) == b"six"


async def test_a_listener_that_cannot_accept_for_a_moment_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    accept = loop.sock_accept
    failures = [OSError(24, "Too many open files")]

    async def sock_accept(listener: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop()
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", sock_accept)
    async with Loopback() as net:
        anna = await net.caller(1)
        boris, _ = await net.peer(2, Route("echo", echo))
        assert await anna.request(BORIS, Request("echo", b"x"), deadline=soon()) == b"x"
        assert boris.refusals == {"accept": 1}


async def test_an_error_within_the_context_of_a_transport_comes_through_as_it_is() -> None:
    with pytest.raises(TooLate):
        async with HttpTransport(key(1), RUN, b"", Loopback().contacts):
            raise TooLate("mine")


async def test_a_body_that_is_not_what_http_says_is_malformed_and_nothing_is_handled() -> None:
    handled: list[Call] = []

    async def handler(call: Call) -> bytes:
        handled.append(call)
        return b""

    async with Loopback(limits=Limits(timeouts=Timeouts(idle_seconds=0.2))) as net:
        boris, address = await net.peer(2, Route("verb", handler))
        request = b"POST /swarm/2/verb/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        assert not (await post(address, request)).startswith(b"HTTP/1.1 200")
        assert boris.refusals == {Malformed.code: 1}
    assert handled == []
