import asyncio
import errno
import socket

import pytest

from swarm.errors import PortTaken
from swarm.ticket import Address
from swarm.transport.sockets import Meter, MeteredSocket, adopt, connected, factory, listen_on, resolved

pytestmark = pytest.mark.asyncio


async def test_any_port_is_a_port() -> None:
    with await listen_on(Address("127.0.0.1", 0)) as listener:
        assert listener.getsockname()[1] > 0


async def test_the_error_for_a_taken_port_gives_advice() -> None:
    with await listen_on(Address("127.0.0.1", 0)) as listener:
        with pytest.raises(PortTaken, match="cannot listen") as caught:
            await listen_on(Address("127.0.0.1", listener.getsockname()[1]))
        assert "--listen" in caught.value.advice


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b", "a" * 70])
async def test_the_error_for_an_address_that_is_not_ours_gives_advice(host: str) -> None:
    with pytest.raises(PortTaken) as caught:
        await listen_on(Address(host, 0))
    assert "--listen" in caught.value.advice


async def test_the_error_for_a_forbidden_port_gives_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", forbidden)
    with pytest.raises(PortTaken, match="Permission denied") as caught:
        await listen_on(Address("127.0.0.1", 80))
    assert "higher one with --listen" in caught.value.advice


async def test_both_sides_count_what_tcp_carries() -> None:
    loop = asyncio.get_running_loop()
    meter = Meter()
    other = Meter()
    new = factory(meter, "")
    with (
        await listen_on(Address("127.0.0.1", 0)) as listener,
        new((socket.AF_INET, socket.SOCK_STREAM, 0, "", ())) as near,
    ):
        await loop.sock_connect(near, listener.getsockname())
        accepted, _ = await loop.sock_accept(listener)
        with adopt(accepted, other, "") as far:
            assert accepted.fileno() == -1, "two owners of one descriptor"
            assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            near.send(b"12345")
            assert await loop.sock_recv(far, 100) == b"12345"
            far.sendmsg([b"ab", b"c"])
            assert await loop.sock_recv_into(near, bytearray(10)) == 3
    assert (meter.up, meter.down) == (other.down, other.up) == (5, 3)
    assert repr(meter) == "Meter(5 up, 3 down)"


async def test_an_unknown_congestion_control_leaves_the_systems_own() -> None:
    with factory(Meter(), "no such thing")((socket.AF_INET, socket.SOCK_STREAM, 0, "", ())) as connection:
        assert isinstance(connection, MeteredSocket)


async def test_an_ip_address_needs_no_thread_and_does_not_wait_behind_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    async def in_a_thread(host: object, port: object, **options: object) -> list[object]:
        asked.append(host)
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", in_a_thread)
    with await listen_on(Address("127.0.0.1", 0)) as listener:
        address = Address("127.0.0.1", listener.getsockname()[1])
        (await connected(address, factory(Meter(), ""))).close()
    assert [info[4][:2] for info in await resolved(Address("::1", 5))] == [("::1", 5)]
    assert asked == []
    await resolved(Address("peer.example.org", 5))
    assert asked == ["peer.example.org"]
