import asyncio
import gc
import os
import warnings

import pytest

from swarm.errors import Busy, Impostor, Malformed, Oversized, PortTaken, Refused, TooLate, Unreachable
from swarm.identity import PeerId
from swarm.ticket import Address
from swarm.transport import Allowance, Call, Request, Route
from swarm.transport.guard import DialLimits, Limits, Timeouts
from swarm.transport.http import HttpTransport
from tests.swarm.loopback import ANY_PORT, BULK, RUN, Loopback, echo, key, soon

pytestmark = pytest.mark.asyncio
ECHO = Route("echo", echo)
ANNA = key(1).peer_id
BORIS = key(2).peer_id


async def test_a_peer_that_does_not_listen_calls_one_that_does() -> None:
    seen: list[Call] = []

    async def handler(call: Call) -> bytes:
        seen.append(call)
        return b"reply"

    async with Loopback() as net:
        anna = await net.caller(1)
        await net.peer(2, Route("verb", handler))
        assert (
            await anna.request(BORIS, Request("verb", b"body", argument="part-3"), deadline=soon())
            == b"reply"
        )
    assert seen == [Call(ANNA, "part-3", b"body", "127.0.0.1")]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, 65536, 65537, (1 << 20) + 1, 9 << 20])
async def test_bodies_and_replies_of_any_size_arrive_as_they_were(size: int, kind: type) -> None:
    body = os.urandom(size)

    async def reply(call: Call) -> bytes:
        return kind(call.body)  # type: ignore[no-any-return]

    async with Loopback() as net:
        anna = await net.caller(1)
        await net.peer(2, Route("echo", reply, lambda sender, argument: Allowance(exact=size)))
        answer = await anna.request(BORIS, Request("echo", kind(body), limit=size), deadline=soon())
    assert answer == body
    assert isinstance(answer, bytes)


async def test_the_peer_that_answers_at_the_address_must_be_the_one_that_was_called() -> None:
    """Nothing of a request is sent to anybody but the pinned peer, on a new or a kept connection."""
    calls: list[PeerId] = []

    async def handler(call: Call) -> bytes:
        calls.append(call.sender)
        return b""

    limits = Limits(dials=DialLimits(tries=8))  # one for each call that fails below
    async with Loopback(limits=limits) as net:
        anna = await net.caller(1)
        carla, address = await net.peer(3, Route("verb", handler, BULK.admit))
        net.know(key(2), address)
        for body, limit in ((b"", 100), (b"small", 100), (bytes(1 << 20), 100), (b"", 1 << 20)):
            with pytest.raises(Impostor):
                await anna.request(BORIS, Request("verb", body, limit=limit), deadline=soon())
            await anna.request(carla.me, Request("verb", body, limit=limit), deadline=soon())
            with pytest.raises(Impostor):
                await anna.request(BORIS, Request("verb", body, limit=limit), deadline=soon())
        assert calls == [ANNA] * 4
        assert anna.bytes_up < carla.bytes_down + 3 * 4096, "the refused connections carried handshakes only"


async def test_a_member_without_the_secret_is_an_impostor() -> None:
    async with Loopback(secret=bytes(16)) as net:
        stranger = await net.caller(1, secret=b"")
        await net.peer(2, ECHO)
        with pytest.raises(Impostor):
            await stranger.request(BORIS, Request("echo", b""), deadline=soon())


async def test_nobody_can_call_a_peer_whose_address_nobody_knows() -> None:
    async with Loopback() as net:
        anna = await net.caller(1)
        with pytest.raises(Unreachable, match="no address of"):
            await anna.request(BORIS, Request("echo"), deadline=soon())


@pytest.mark.parametrize("host", ["127.0.0.1", "a..b", "-", ":::", "x" * 250])
async def test_an_address_where_nobody_answers_is_unreachable(host: str) -> None:
    async with Loopback() as net:
        anna = await net.caller(1)
        net.know(key(2), Address(host, 1))
        with pytest.raises(Unreachable):
            await anna.request(BORIS, Request("echo"), deadline=soon())


async def test_addresses_are_tried_in_turn_until_the_peer_answers() -> None:
    async with Loopback() as net:
        anna = await net.caller(1)
        _, good = await net.peer(2, ECHO)
        _, of_another = await net.peer(3, ECHO)
        net.know(key(2), Address("127.0.0.1", 1), of_another, good)
        assert await anna.request(BORIS, Request("echo", b"here"), deadline=soon()) == b"here"


async def test_a_connection_is_kept_and_used_again() -> None:
    async with Loopback() as net:
        anna = await net.caller(1)
        await net.peer(2, ECHO)
        await anna.request(BORIS, Request("echo", b"x"), deadline=soon())
        up = anna.bytes_up
        down = anna.bytes_down
        await anna.request(BORIS, Request("echo", b"x"), deadline=soon())
        assert anna.bytes_up - up < 130, "a short head, and no second handshake"
        assert anna.bytes_down - down < 100


async def test_a_call_ends_at_its_deadline_whatever_the_other_side_does() -> None:
    async def never(call: Call) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with Loopback() as net:
        anna = await net.caller(1)
        await net.peer(2, Route("never", never), ECHO)
        for deadline in (soon(0.1), soon(-1)):
            with pytest.raises(TooLate):
                await anna.request(BORIS, Request("never"), deadline=deadline)
        assert await anna.request(BORIS, Request("echo", b"on"), deadline=soon()) == b"on"


async def test_a_peer_that_accepts_and_stays_silent_is_too_late() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with Loopback() as net, await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        anna = await net.caller(1)
        net.know(key(2), Address("127.0.0.1", server.sockets[0].getsockname()[1]))
        with pytest.raises(TooLate):
            await anna.request(BORIS, Request("echo"), deadline=soon(0.2))


async def test_a_peer_without_tls_is_unreachable() -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        await reader.read()
        writer.close()

    async with Loopback() as net, await asyncio.start_server(rude, "127.0.0.1", 0) as server:
        anna = await net.caller(1)
        net.know(key(2), Address("127.0.0.1", server.sockets[0].getsockname()[1]))
        with pytest.raises(Unreachable):
            await anna.request(BORIS, Request("echo"), deadline=soon())


@pytest.mark.parametrize(
    ("error", "kind", "fact"),
    [
        (Malformed("no such part", "ask for another"), Refused, "no such part"),
        (Oversized("too long"), Refused, "too long"),
        (Busy("come back later"), Busy, "come back later"),
        (TooLate("the round is over"), Refused, "the round is over"),
        (ZeroDivisionError("our secret"), Refused, "HTTP status 500"),
        (PortTaken("our secret"), Refused, "HTTP status 500"),
    ],
)
async def test_why_the_other_side_refuses_arrives_as_an_error(
    error: Exception, kind: type, fact: str
) -> None:
    async def refuse(call: Call) -> bytes:
        raise error

    def refuse_before_the_body(sender: PeerId, argument: str) -> Allowance:
        raise error

    async with Loopback() as net:
        anna = await net.caller(1)
        await net.peer(2, Route("a", refuse), Route("b", echo, refuse_before_the_body), ECHO)
        for route, body in (("a", b"x"), ("b", b"x"), ("b", bytes(8 << 20))):
            with pytest.raises(kind, match=fact) as caught:
                await anna.request(BORIS, Request(route, body), deadline=soon())
            assert "secret" not in str(caught.value)
        assert await anna.request(BORIS, Request("echo", b"on"), deadline=soon()) == b"on"


async def test_a_reply_over_the_limit_is_not_read() -> None:
    async def flood(call: Call) -> bytes:
        return bytes(32 << 20)

    async with Loopback() as net:
        anna = await net.caller(1)
        await net.peer(2, Route("flood", flood))
        with pytest.raises(Oversized):
            await anna.request(BORIS, Request("flood", limit=1000), deadline=soon())
        assert anna.bytes_down < 16 << 20


async def test_many_calls_to_one_peer_share_a_few_connections() -> None:
    async with Loopback() as net:
        anna = await net.caller(1)
        boris, _ = await net.peer(2, BULK, ECHO)
        bulk = [anna.request(BORIS, Request("bulk", bytes(1 << 20)), deadline=soon()) for _ in range(20)]
        short = [
            anna.request(BORIS, Request("echo", str(number).encode()), deadline=soon())
            for number in range(100)
        ]
        answers = await asyncio.gather(*bulk, *short)
        assert answers[20:] == [str(number).encode() for number in range(100)]
        assert boris._guard.connections <= 16


async def test_what_a_burst_opened_is_closed_though_there_is_traffic() -> None:
    async with Loopback(limits=Limits(timeouts=Timeouts(idle_seconds=1.0))) as net:
        anna = await net.caller(1)
        boris, _ = await net.peer(2, ECHO)
        await asyncio.gather(*(anna.request(BORIS, Request("echo"), deadline=soon()) for _ in range(40)))
        burst = boris._guard.connections
        async with asyncio.timeout(20):
            while boris._guard.connections > 1:
                await anna.request(BORIS, Request("echo"), deadline=soon())
                await asyncio.sleep(0.01)
        assert burst > 4


async def test_bytes_on_the_wire_are_within_five_percent_of_the_bodies() -> None:
    size = 1 << 18
    async with Loopback() as net:
        anna = await net.caller(1)
        boris, _ = await net.peer(2, BULK)
        for _ in range(4):
            await anna.request(BORIS, Request("bulk", os.urandom(size)), deadline=soon())
        assert 4 * size < anna.bytes_up < 4 * size * 1.01
        assert (anna.bytes_up, anna.bytes_down) == (boris.bytes_down, boris.bytes_up)


async def test_a_name_that_no_path_can_carry_is_our_bug() -> None:
    async with Loopback() as net:
        anna = await net.caller(1)
        with pytest.raises(ValueError, match="cannot be the name"):
            await anna.request(BORIS, Request("echo", argument="../x"), deadline=soon())
        with pytest.raises(ValueError, match="cannot be the name"):
            anna.serve(Route("No Route", echo))


async def test_a_taken_port_is_an_error_for_people() -> None:
    async with Loopback() as net:
        anna = await net.caller(1)
        _, address = await net.peer(2)
        with pytest.raises(PortTaken):
            await anna.listen(address)
        assert (await anna.listen(ANY_PORT)).port > 0, "and not the end"


async def test_nothing_is_left_behind_even_where_everything_hangs() -> None:
    """Closing ends kept connections, calls in progress on both sides, and connections without a byte."""

    async def never(call: Call) -> bytes:
        await asyncio.Event().wait()
        return b""

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = asyncio.all_tasks()
        async with Loopback() as net:
            anna = await net.caller(1)
            _, address = await net.peer(2, Route("never", never), ECHO)
            await anna.request(BORIS, Request("echo"), deadline=soon())
            with pytest.raises(TooLate):
                await anna.request(BORIS, Request("never", bytes(60000)), deadline=soon(0.1))
            _, silent = await asyncio.open_connection(address.host, address.port)
            hanging = asyncio.ensure_future(anna.request(BORIS, Request("never"), deadline=soon()))
            await anna.request(BORIS, Request("echo"), deadline=soon())
            before.add(hanging)
        with pytest.raises(Unreachable):
            await hanging
        silent.close()
        assert asyncio.all_tasks() == before - {hanging}
        gc.collect()


async def test_a_transport_shows_who_it_is_and_what_it_has_carried() -> None:
    async with HttpTransport(key(1), RUN, b"", Loopback().contacts) as anna:
        assert anna.me == ANNA
        assert "0 up, 0 down" in repr(anna)
        assert anna.refusals == {}
