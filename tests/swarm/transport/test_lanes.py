"""Lanes carry bodies one after the other; a refused body is not sent, a body longer than planned not read."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import cast

import pytest

from swarm.errors import Busy, Impostor, Malformed, Refused, TooLate, Unreachable
from swarm.identity import PeerId
from swarm.machine import Delivered
from swarm.ticket import Address
from swarm.transport import Allowance, Call, Request, Route
from swarm.transport.guard import ConnectionLimits, Limits, Timeouts
from swarm.transport.http import HttpTransport
from swarm.transport.lanes import PREFACE, PROTOCOL_NAME, REPLY_LIMIT, Lane, Lanes
from swarm.transport.post import Inbox, Post
from swarm.transport.stream import Stream
from swarm.transport.tls import client_context
from tests.swarm.loopback import BULK, RUN, Loopback, key, soon

pytestmark = pytest.mark.asyncio
BORIS = key(2).peer_id
LARGE = 300_000
PATH = b"/swarm/2/bulk/x"
VERDICT = struct.Struct("<HI")
TLS_RECORD = 22
"""Bytes around what one write sends: a head of 5, a type, a tag of 16."""


def head(length: int, path: bytes = PATH, size: int | None = None) -> bytes:
    """The head of a message on a lane."""
    return struct.pack("<QB119s", length, len(path) if size is None else size, path)


async def refused(whom: HttpTransport, reasons: dict[str, int]) -> None:
    """Wait until ``whom`` has counted so many refusals."""
    async with asyncio.timeout(10):
        while sum(whom.refusals.values()) < sum(reasons.values()):  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.01)
    assert whom.refusals == reasons


async def nothing(call: Call) -> bytes:
    """Accept the call with an empty reply."""
    return b""


@asynccontextmanager
async def lane(address: Address) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A lane opened by hand, by a peer that may then send anything."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(PREFACE)
        await writer.start_tls(client_context(key(9), RUN, protocol=PROTOCOL_NAME), server_hostname="x")
        yield reader, writer
    finally:
        writer.transport.abort()


async def verdict(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    status, length = VERDICT.unpack(await reader.readexactly(VERDICT.size))
    return status, await reader.readexactly(length)


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """The bytes that still come until the lane is closed."""
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    except (ConnectionError, ssl.SSLError):
        return b""


async def test_bodies_arrive_whole_one_after_the_other_over_one_connection() -> None:
    bodies: list[bytes] = []

    async def keep(call: Call) -> bytes:
        bodies.append(call.body)
        return call.argument.encode()

    sent = [os.urandom(length) for length in (LARGE, 1 << 16 | 1, (4 << 20) + 1, 20 << 20)]
    async with Loopback() as net:
        anna = await net.caller(1)
        boris, _ = await net.peer(2, Route("bulk", keep, BULK.admit))
        for number, body in enumerate(sent):
            assert (
                await anna.request(BORIS, Request("bulk", body, argument=f"part.{number}"), deadline=soon())
                == f"part.{number}".encode()
            )
        assert boris.bytes_down < sum(map(len, sent)) * 1.01 + 5000, (
            "one handshake, and hardly anything besides the bodies"
        )
    assert bodies == sent


async def test_bodies_to_one_peer_at_the_same_time_take_lanes_of_their_own() -> None:
    async with Loopback(limits=Limits(connections=ConnectionLimits(per_peer=3))) as net:
        anna = await net.caller(1)
        await net.peer(2, BULK)
        replies = await asyncio.gather(
            *(anna.request(BORIS, Request("bulk", bytes(LARGE + n)), deadline=soon()) for n in range(8))
        )
    assert replies == [str(LARGE + n).encode() for n in range(8)]


async def test_a_refused_body_is_not_sent_and_the_lane_is_used_again() -> None:
    open_now = False

    def admit(sender: PeerId, argument: str) -> Allowance:
        if not open_now:
            raise Busy("no round is open")
        return Allowance(exact=LARGE)

    async with Loopback() as net:
        anna = await net.caller(1)
        boris, _ = await net.peer(2, Route("bulk", BULK.handler, admit))
        for _ in range(3):
            with pytest.raises(Busy, match="no round is open"):
                await anna.request(BORIS, Request("bulk", bytes(LARGE)), deadline=soon())
        assert anna.bytes_up < 5000
        open_now = True
        with pytest.raises(Refused, match="the plan says 300000"):
            await anna.request(BORIS, Request("bulk", bytes(LARGE + 1)), deadline=soon())
        assert await anna.request(BORIS, Request("bulk", bytes(LARGE)), deadline=soon()) == b"300000"
        assert boris.bytes_down < LARGE + 5000, "over the same connection"


async def test_a_bug_in_a_handler_fails_the_call_and_reveals_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(call: Call) -> bytes:
        raise KeyError("secret")

    async with Loopback() as net:
        anna = await net.caller(1)
        await net.peer(2, Route("bulk", broken, BULK.admit))
        for number in range(3):
            request = Request("bulk", bytes(LARGE), argument=str(number))
            with pytest.raises(Refused) as refusal:
                await anna.request(BORIS, request, deadline=soon())
            assert "secret" not in str(refusal.value)
    assert "secret" in caplog.text
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1, "the same bug is logged once, whatever arguments a stranger thinks of"


async def test_a_reply_too_long_for_a_lane_is_refused_and_is_no_bug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Any peer can ask for a long reply by lane: that must not fill our log."""

    async def talkative(call: Call) -> bytes:
        return bytes(REPLY_LIMIT + 1)

    async with Loopback() as net:
        anna = await net.caller(1)
        await net.peer(2, Route("talk", talkative, BULK.admit))
        with pytest.raises(Refused, match="ask for it by HTTP"):
            await anna.request(BORIS, Request("talk", bytes(LARGE)), deadline=soon())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_call_that_is_given_up_ends_its_lane_and_the_next_one_opens_another() -> None:
    stuck = asyncio.Event()

    async def slow(call: Call) -> bytes:
        await stuck.wait()
        return b""

    async with Loopback() as net:
        anna = await net.caller(1)
        await net.peer(2, Route("bulk", slow, BULK.admit))
        with pytest.raises(TooLate):
            await anna.request(BORIS, Request("bulk", bytes(LARGE)), deadline=soon(0.3))
        stuck.set()
        assert await anna.request(BORIS, Request("bulk", bytes(LARGE)), deadline=soon()) == b""


async def test_a_lane_whose_other_side_has_gone_is_not_used_again() -> None:
    async with Loopback() as net:
        anna = await net.caller(1)
        boris, _ = await net.peer(2, BULK)
        await anna.request(BORIS, Request("bulk", bytes(LARGE)), deadline=soon())
        boris._server._connections.copy().pop().cancel()  # the connection ends over there, between two calls
        await asyncio.sleep(0.1)
        assert await anna.request(BORIS, Request("bulk", bytes(LARGE)), deadline=soon()) == b"300000"


async def test_a_peer_that_leaves_in_the_middle_of_a_body_is_unreachable() -> None:
    async with Loopback() as net:
        anna = await net.caller(1)
        boris, _ = await net.peer(2, BULK)

        async def leave(call: Call) -> bytes:
            boris._server._connections.copy().pop().cancel()
            await asyncio.Event().wait()
            return b""

        boris.serve(Route("bulk", leave, BULK.admit))
        with pytest.raises(Unreachable):
            await anna.request(BORIS, Request("bulk", bytes(LARGE)), deadline=soon())


async def test_nothing_is_sent_on_a_lane_to_another_peer() -> None:
    async with Loopback() as net:
        anna = await net.caller(1)
        _, address = await net.peer(3, BULK)
        net.know(key(2), address)  # Carla answers at the address of Boris
        for body in (bytes(LARGE), b"mail"):
            with pytest.raises(Impostor, match="does not hold the key"):
                await anna.request(BORIS, Request("bulk", body, limit=0), deadline=soon())
        boris, at_home = await net.peer(2, Route("bulk", nothing, BULK.admit))
        net.know(key(2), address, at_home)
        assert await anna.request(BORIS, Request("bulk", b"mail", limit=0), deadline=soon()) == b""
        assert boris.bytes_down > 0


async def test_a_lane_to_nobody_is_unreachable_and_says_where_it_was_tried() -> None:
    async with Loopback() as net:
        anna = await net.caller(1)
        with pytest.raises(Unreachable, match="no address of"):
            await anna.request(BORIS, Request("mail", b"", limit=0), deadline=soon())
        listener = socket.create_server(("127.0.0.1", 0))
        host, port = listener.getsockname()
        listener.close()
        net.know(key(2), Address(host, port), Address("no.such.host.invalid", 1))
        with pytest.raises(Unreachable, match=r"does not answer at"):
            await anna.request(BORIS, Request("mail", b"", limit=0), deadline=soon())


async def test_a_peer_without_the_secret_of_a_private_run_gets_no_lane() -> None:
    async with Loopback(secret=bytes(16)) as net:
        boris, _ = await net.peer(2, Route("mail", nothing))
        stranger = await net.caller(1, secret=b"guessed")
        with pytest.raises((Impostor, Unreachable)):
            await stranger.request(BORIS, Request("mail", b"", limit=0), deadline=soon())
        await refused(boris, {"handshake": 1})


# --- peers that break the rules -----------------------------------------------------------------------------


async def test_a_lane_by_hand_works_as_the_module_says() -> None:
    async with Loopback() as net:
        _, address = await net.peer(2, BULK)
        async with lane(address) as (reader, writer):
            for _ in range(2):
                writer.write(head(LARGE))
                assert await verdict(reader) == (100, b"")
                writer.write(bytes(LARGE))
                assert await verdict(reader) == (200, b"300000")
                writer.write(head(5) + b"12345")
                assert await verdict(reader) == (200, b"5")
                writer.write(head(0))
                assert await verdict(reader) == (200, b"0")


async def test_a_small_body_may_come_in_pieces() -> None:
    async with Loopback() as net:
        _, address = await net.peer(2, BULK)
        async with lane(address) as (reader, writer):
            for cuts in ((1, 127, 1, 59_999), (128, 60_000), (5_000, 55_128)):
                message = head(60_000) + bytes(60_000)
                for cut in cuts:
                    writer.write(message[:cut])
                    message = message[cut:]
                    await asyncio.sleep(0.01)
                assert await verdict(reader) == (200, b"60000")


async def test_short_messages_take_one_lane_and_cost_their_heads_only() -> None:
    async with Loopback() as net:
        anna = await net.caller(1)
        boris, _ = await net.peer(2, Route("mail", nothing))
        await anna.request(BORIS, Request("mail", bytes(300), limit=0), deadline=soon())
        before = boris.bytes_down, boris.bytes_up
        for _ in range(10):
            assert await anna.request(BORIS, Request("mail", bytes(300), limit=0), deadline=soon()) == b""
        assert boris.bytes_down - before[0] == 10 * (300 + 128 + TLS_RECORD)
        assert boris.bytes_up - before[1] == 10 * (VERDICT.size + TLS_RECORD)


async def test_small_parts_of_a_round_take_that_lane_too() -> None:
    async with Loopback() as net, asyncio.TaskGroup() as tasks:
        anna = await net.caller(1)
        boris, _ = await net.peer(2)
        sender = Post(anna, key(1), RUN, tasks, {})
        post = Post(boris, key(2), RUN, tasks, {})
        inbox = post.open((1, bytes(16)), lambda sender, item: 1000)
        for item in ("part.0", "part.1"):
            before = boris.bytes_down
            sender.ship(BORIS, bytes(16), item, bytes(1000), deadline=soon(), failures=Inbox())
            assert await inbox.events.get() == Delivered(key(1).peer_id, item, bytes(1000))
            await sender.flush(10)
        assert boris.bytes_down - before == 1000 + 128 + TLS_RECORD


async def test_a_refused_message_does_not_end_its_lane() -> None:
    async def refuse(call: Call) -> bytes:
        raise Refused("not yours")

    async with Loopback() as net:
        anna = await net.caller(1)
        boris, _ = await net.peer(2, Route("mail", refuse))
        for _ in range(3):
            with pytest.raises(Refused, match="not yours"):
                await anna.request(BORIS, Request("mail", bytes(300), limit=0), deadline=soon())
        assert boris.bytes_down < 5000, "one handshake"
        with pytest.raises(Refused, match="does not answer to 'nothing'"):
            await anna.request(BORIS, Request("nothing", bytes(300), limit=0), deadline=soon())
        assert boris.bytes_down < 6000


@pytest.mark.parametrize(
    "wrong",
    {
        "another version": head(LARGE, b"/swarm/9/bulk/x"),
        "no path": head(LARGE, b"GET / HTTP/1.1"),
        "not ascii": head(LARGE, b"/swarm/2/bulk/\xff"),
        "no such route": head(LARGE, b"/swarm/2/nothing/"),
        "a path longer than its room": head(LARGE, size=120),
        "padding that is not zero": head(LARGE, size=3),
        "more bytes than anybody may send": head(1 << 40),
        "noise": bytes(range(128)),
    }.items(),
    ids=lambda item: item[0],
)
async def test_a_wrong_head_is_refused_without_a_byte_of_a_body(wrong: tuple[str, bytes]) -> None:
    async with Loopback() as net:
        boris, address = await net.peer(2, BULK)
        async with lane(address) as (reader, writer):
            writer.write(wrong[1])
            status, _ = await verdict(reader)
            assert 400 <= status < 500
            assert sum(boris.refusals.values()) == 1
            writer.write(head(LARGE))
            assert await verdict(reader) == (100, b"")


async def test_a_peer_that_sends_more_than_its_body_is_cut_off() -> None:
    taken: list[int] = []

    async def keep(call: Call) -> bytes:
        taken.append(len(call.body))
        return b""

    async with Loopback() as net:
        _, address = await net.peer(2, Route("bulk", keep, BULK.admit))
        async with lane(address) as (reader, writer):
            writer.write(head(LARGE))
            assert await verdict(reader) == (100, b"")
            writer.write(bytes(LARGE) + bytes(100_000))
            await end_of(reader)
    assert taken == []


async def test_a_connection_that_only_begins_like_a_lane_is_refused() -> None:
    async with Loopback() as net:
        boris, address = await net.peer(2, Route("mail", nothing))
        for context, preface in (
            # somebody on the line has put it in front of a call by HTTP
            (client_context(key(9), RUN), PREFACE),
            # or has taken it away
            (client_context(key(9), RUN, protocol=PROTOCOL_NAME), b""),
            (client_context(key(9), RUN, protocol=PROTOCOL_NAME), PREFACE[:8] + b"WRONG"),
        ):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(preface)
            with suppress(ConnectionError, ssl.SSLError):
                await writer.start_tls(context, server_hostname="x")
                writer.write(head(0, b"/swarm/2/mail/") + b"\r\n\r\n")
                assert await end_of(reader) == b""
            writer.transport.abort()
        await refused(boris, {"handshake": 2, Malformed.code: 1})


async def test_a_connection_that_sends_the_preface_only_times_out() -> None:
    async with Loopback(limits=Limits(timeouts=Timeouts(handshake_seconds=0.2))) as net:
        boris, address = await net.peer(2, Route("mail", nothing))
        for first_bytes in (b"", PREFACE[:4], PREFACE):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(first_bytes)
            assert await end_of(reader) == b""
            writer.transport.abort()
        await refused(boris, {"handshake": 3})


async def test_a_lane_without_a_first_message_is_closed_sooner() -> None:
    async with Loopback(limits=Limits(timeouts=Timeouts(first_request_seconds=0.2))) as net:
        boris, address = await net.peer(2, BULK)
        async with lane(address) as (reader, _):
            assert await end_of(reader) == b""
        await refused(boris, {"silent": 1})


@pytest.mark.parametrize(
    "message", [head(LARGE) + b"1", head(5) + b"123456", head(0) + b"1"], ids=["large", "small", "empty"]
)
async def test_more_bytes_than_the_head_announces_end_the_lane(message: bytes) -> None:
    async with Loopback() as net:
        _, address = await net.peer(2, BULK)
        async with lane(address) as (reader, writer):
            writer.write(message)
            assert await end_of(reader) == b""


async def test_a_small_body_that_stops_half_way_ends_the_lane() -> None:
    async with Loopback(limits=Limits(timeouts=Timeouts(grace_seconds=0.2))) as net:
        _, address = await net.peer(2, BULK)
        async with lane(address) as (reader, writer):
            writer.write(head(1000) + bytes(10))
            assert await end_of(reader) == b""


async def test_a_large_body_that_stops_half_way_is_refused_and_ends_the_lane() -> None:
    async with Loopback(limits=Limits(timeouts=Timeouts(grace_seconds=0.3, minimum_rate=1e9))) as net:
        boris, address = await net.peer(2, BULK)
        async with lane(address) as (reader, writer):
            writer.write(head(LARGE))
            assert await verdict(reader) == (100, b"")
            writer.write(bytes(10))
            assert (await verdict(reader))[0] == 408
            assert await end_of(reader) == b""
        assert boris.refusals == {TooLate.code: 1}


async def test_an_idle_lane_is_closed() -> None:
    async with Loopback(limits=Limits(timeouts=Timeouts(idle_seconds=0.2))) as net:
        _, address = await net.peer(2, BULK)
        async with lane(address) as (reader, writer):
            writer.write(head(1) + b"1")
            assert await verdict(reader) == (200, b"1")
            assert await end_of(reader) == b""


async def test_idle_lanes_are_ended_even_if_no_other_lane_is_opened() -> None:
    ended = asyncio.Event()

    class Silent:
        """A stream whose other side never closes it."""

        is_open = True

        def __init__(self, to: PeerId) -> None:
            self.to = to
            self.answers = 0

        async def write(self, body: bytes) -> None: ...

        async def read_into(self, target: memoryview, least: int) -> int:
            self.answers += 1
            target[: VERDICT.size] = VERDICT.pack(100 * (2 - self.answers % 2), 0)
            return VERDICT.size

        def abort(self) -> None:
            self.is_open = False
            if self.to == BORIS:
                ended.set()

    async def open_lane(to: PeerId) -> Lane:
        return Lane(to, cast(Stream, Silent(to)))

    lanes = Lanes(open_lane, parallel=1, idle_seconds=0.2)
    await lanes.send(BORIS, "/swarm/2/bulk/x", memoryview(bytes(LARGE)))
    while not ended.is_set():
        await lanes.send(key(3).peer_id, "/swarm/2/bulk/x", memoryview(bytes(LARGE)))
        await asyncio.sleep(0.01)
    lanes.close()


async def send_at_once(what: bytes, stream: Stream, *_: object) -> None:
    """A server of lanes that sends ``what`` at once, and then reads."""
    await stream.write(what)
    await stream.read(1 << 20)


async def test_a_server_that_breaks_the_order_of_a_lane_is_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for sent, error in {
        VERDICT.pack(200, 0): Malformed,
        VERDICT.pack(100, 0) + b"more": Malformed,
        VERDICT.pack(100, REPLY_LIMIT + 1): Malformed,
        VERDICT.pack(400, 3) + b"???": Refused,
    }.items():

        async def rogue(call: Call) -> bytes:
            return b""

        async with Loopback() as net:
            anna = await net.caller(1)
            await net.peer(2, Route("bulk", rogue, BULK.admit))
            with monkeypatch.context() as patch:
                patch.setattr("swarm.transport.server.serve", partial(send_at_once, sent))
                lane_of = await anna._dialer.open(BORIS)
                with pytest.raises(error):
                    await lane_of.send("/swarm/2/bulk/x", memoryview(bytes(LARGE)))
            assert not lane_of.is_open or error is Refused
            lane_of.abort()
