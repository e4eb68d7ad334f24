"""The status page tells the truth to this machine and nothing to anybody else."""

from __future__ import annotations

import asyncio
import math

import pytest

from peer.observe import status_page
from peer.observe.snapshot import Point
from peer.observe.status_page import StatusPage, fetch
from swarm.errors import Malformed, PortTaken, Unreachable
from tests.peer.dashboard.pictures import a_snapshot

pytestmark = pytest.mark.asyncio


def soon():
    return asyncio.get_running_loop().time() + 20


async def said(address, request):
    """The raw answer to a raw request."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode())
    raw = await reader.read()
    writer.close()
    return raw.decode()


def asking(path="/v1/status", host="127.0.0.1:1", method="GET", more=""):
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n"


async def test_the_fetched_snapshot_is_the_one_that_was_shown():
    snapshot = a_snapshot(ticket="")
    async with StatusPage(lambda: snapshot) as page:
        assert await fetch(page.address, soon()) == snapshot


async def test_each_request_sees_a_fresh_snapshot(monkeypatch):
    monkeypatch.setattr(status_page, "FRESH_SECONDS", 0.0)
    rounds = iter(range(1, 9))
    async with StatusPage(lambda: a_snapshot(round=next(rounds))) as page:
        assert [(await fetch(page.address, soon())).round for _ in range(3)] == [1, 2, 3]


async def test_a_snapshot_is_made_once_in_a_moment_however_many_read_it(monkeypatch):
    monkeypatch.setattr(status_page, "FRESH_SECONDS", math.inf)
    rounds = iter(range(1, 9))
    async with StatusPage(lambda: a_snapshot(round=next(rounds))) as page:
        seen = [await fetch(page.address, soon()) for _ in range(3)]
        await said(page.address, asking("/v1/health"))
        assert [snapshot.round for snapshot in seen] == [1, 1, 1]
        assert page.status() is page.status()
        assert next(rounds) == 2


async def test_numbers_that_are_none_do_not_break_the_page():
    snapshot = a_snapshot(
        cpu=math.nan, losses=(Point(1, 3.0), Point(2, math.nan)), up=(math.inf, 1.0), reason="null"
    )
    async with StatusPage(lambda: snapshot) as page:
        shown = await fetch(page.address, soon())
    assert (shown.cpu, shown.losses, shown.up, shown.reason) == (0.0, (Point(1, 3.0),), (0.0, 1.0), "null")


@pytest.mark.parametrize(
    ("health", "status"),
    [
        ("HEALTHY", 200),
        ("WAITING", 200),
        ("SYNCING", 200),
        ("FINISHED", 200),
        ("DEGRADED", 503),
    ],
)
async def test_health_is_a_status_and_a_word(health, status):
    async with StatusPage(lambda: a_snapshot(health=health, reason="be\x1b[31mcause")) as page:
        answer = await said(page.address, asking("/v1/health"))
    assert answer.startswith(f"HTTP/1.1 {status}")
    assert answer.endswith(f"{health} because\n")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example:80", "localhost.evil:1", ""]
)
async def test_a_page_that_came_under_another_name_is_refused(host):
    async with StatusPage(a_snapshot) as page:
        answer = await said(page.address, asking(host=host))
    assert answer.startswith("HTTP/1.1 403")
    assert "tiny-gpt" not in answer


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1"])
async def test_this_machine_may_ask_through_a_forwarded_port(host):
    async with StatusPage(a_snapshot) as page:
        assert (await said(page.address, asking(host=host))).startswith("HTTP/1.1 200")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
async def test_the_page_only_reads(method):
    async with StatusPage(a_snapshot) as page:
        assert (await said(page.address, asking(method=method, more="Content-Length: 0\r\n"))).startswith(
            "HTTP/1.1 405"
        )


async def test_no_other_page_exists_and_no_other_origin_may_read():
    async with StatusPage(a_snapshot) as page:
        assert (await said(page.address, asking("/"))).startswith("HTTP/1.1 404")
        assert (
            "access-control"
            not in (await said(page.address, asking(more="Origin: http://evil.example\r\n"))).lower()
        )


async def test_it_listens_on_the_loopback_address_alone():
    async with StatusPage(a_snapshot) as page:
        assert page.address.startswith("127.0.0.1:")
        assert not page.address.endswith(":0")


async def test_a_taken_port_is_named():
    async with StatusPage(a_snapshot) as page:
        port = int(page.address.split(":")[1])
        with pytest.raises(PortTaken, match=str(port)):
            async with StatusPage(a_snapshot, port):
                pass


async def test_connections_beyond_the_limit_are_closed():
    async with StatusPage(a_snapshot) as page:
        host, port = page.address.split(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(40)]
        closed = [reader for reader, _ in held[32:] if await reader.read() == b""]
        assert len(closed) == 8
        for _, writer in held:
            writer.close()


async def test_an_address_without_a_status_page_is_unreachable():
    async with StatusPage(a_snapshot) as page:
        address = page.address
    with pytest.raises(Unreachable, match="nobody answers"):
        await fetch(address, soon())
    with pytest.raises(Unreachable):
        await fetch("not an address", soon())


async def answering(raw):
    """A server that says ``raw`` to whoever asks."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nno\xff",
        b"HTTP/1.1 302 Found\r\nLocation: /v1/status\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b" " * 9_000_000,
    ],
)
async def test_an_answer_that_is_no_status_is_malformed(raw):
    server, address = await answering(raw)
    async with server:
        with pytest.raises(Malformed):
            await fetch(address, soon())


async def test_silence_ends_at_the_deadline():
    silent = asyncio.Event()

    async def never(reader, writer):
        await silent.wait()
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    async with server:
        with pytest.raises(Unreachable, match="in time"):
            await fetch(
                f"127.0.0.1:{server.sockets[0].getsockname()[1]}", asyncio.get_running_loop().time() + 0.05
            )
        silent.set()
