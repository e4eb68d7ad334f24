"""The sockets of a transport: tuned when they are made, and every byte that they carry is counted.

The counts are what TCP carries: bodies, HTTP heads, TLS records and handshakes. They leave out IP and TCP
headers and packets that were sent again.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import PortTaken
from ..ticket import Address

AddressInfo = tuple[Any, ...]
"""An entry of ``getaddrinfo``: family, kind, protocol, name, and the address as the socket wants it."""
SocketFactory = Callable[[AddressInfo], socket.socket]
"""Opens a socket for an entry of ``getaddrinfo``."""

_BACKLOG = 256  # connections that the system keeps until we accept them
_ADVICE = {
    errno.EADDRINUSE: "another program listens there: stop it, "
    "or choose another --listen HOST:PORT (port 0 takes any free one)",
    errno.EACCES: "ports below 1024 need special rights: "
    "choose a higher one with --listen HOST:PORT (port 0 takes any free one)",
    errno.EADDRNOTAVAIL: "this machine does not have that address: "
    "listen on all the addresses that it has, with --listen 0.0.0.0:PORT",
}
_OTHER_ADVICE = "give an address of this machine as --listen HOST:PORT, or leave the option out"


class Meter:
    """Bytes sent and received by all sockets that share this meter."""

    def __init__(self) -> None:
        self.up = 0
        self.down = 0

    def __repr__(self) -> str:
        return f"Meter({self.up} up, {self.down} down)"


class MeteredSocket(socket.socket):
    """A TCP socket that counts its bytes. A selector event loop moves them with these four methods only."""

    meter: Meter

    def send(self, data: Any, flags: int = 0, /) -> int:
        """As `socket.send`."""
        sent = super().send(data, flags)
        self.meter.up += sent
        return sent

    def sendmsg(self, buffers: Iterable[Any], *rest: Any) -> int:
        """As `socket.sendmsg`."""
        sent = super().sendmsg(buffers, *rest)
        self.meter.up += sent
        return sent

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """As `socket.recv`."""
        data = super().recv(size, flags)
        self.meter.down += len(data)
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As `socket.recv_into`."""
        received = super().recv_into(buffer, nbytes, flags)
        self.meter.down += received
        return received


def adopt(accepted: socket.socket, meter: Meter, congestion: str) -> MeteredSocket:
    """Take over an accepted connection as a counting socket. ``accepted`` has no descriptor afterwards."""
    connection = MeteredSocket(fileno=accepted.detach())
    return _tuned(connection, meter, congestion)


def factory(meter: Meter, congestion: str) -> SocketFactory:
    """A function that opens counting sockets, as `connected` and aiohttp's connector call it."""

    def open_socket(info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, *_ = info
        return _tuned(MeteredSocket(family, kind, protocol), meter, congestion)

    return open_socket


async def resolved(address: Address, flags: int = 0) -> list[AddressInfo]:
    """The entries of ``getaddrinfo`` for ``address``.

    Raises `OSError` for a name that has none, `UnicodeError` for a text that cannot be a name.

    An IP address needs no thread. A name does, and there are few: names that a stranger invents may wait for
    minutes, and the addresses of all other peers must not wait behind them.
    """
    kind = socket.SOCK_STREAM
    try:
        return socket.getaddrinfo(address.host, address.port, type=kind, flags=flags | socket.AI_NUMERICHOST)
    except socket.gaierror:
        loop = asyncio.get_running_loop()
        return await loop.getaddrinfo(address.host, address.port, type=kind, flags=flags)


async def connected(address: Address, make: SocketFactory) -> socket.socket:
    """Connect a socket of ``make`` to ``address``: to the first of its IP addresses that answers.

    Raises `OSError` where none does.
    """
    loop = asyncio.get_running_loop()
    trouble = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    for info in await resolved(address):
        connection = make(info)
        try:
            await loop.sock_connect(connection, info[4])
        except OSError as error:
            connection.close()
            trouble = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise trouble


async def begins_with(connection: socket.socket, preface: bytes) -> bool:
    """Whether the first bytes on ``connection`` are ``preface``. If so, they are read; if not, nothing is.

    The first byte decides. TLS begins with another one, so a TLS connection never waits here. Raises
    `OSError` where the connection ends, or begins like the preface and goes on differently.
    """
    loop = asyncio.get_running_loop()
    is_readable = asyncio.Event()
    loop.add_reader(connection.fileno(), is_readable.set)
    try:
        await is_readable.wait()
    finally:
        loop.remove_reader(connection.fileno())

    first_byte = socket.socket.recv(connection, 1, socket.MSG_PEEK)  # not counted: only looked at
    if first_byte != preface[:1]:
        return False

    received = b""
    while len(received) < len(preface):
        piece = await loop.sock_recv(connection, len(preface) - len(received))
        received += piece
        if not piece or not preface.startswith(received):
            raise ConnectionResetError("neither TLS nor a lane")
    return True


async def listen_on(address: Address) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises `PortTaken`, with advice for a person."""
    try:
        found = await resolved(address, socket.AI_PASSIVE)
        family, _, _, _, where = found[0]
        is_dual = address.host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server(where[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=is_dual)
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = getattr(error, "strerror", None) or error
        advice = _ADVICE.get(number or 0, _OTHER_ADVICE)
        raise PortTaken(f"cannot listen on {address}: {reason}", advice) from error
    listener.setblocking(False)
    return listener


def _tuned(connection: MeteredSocket, meter: Meter, congestion: str) -> MeteredSocket:
    """Send without waiting for full packets, and set ``congestion`` where the system knows and allows it.

    Buffer sizes are left alone: the system grows them as needed, to megabytes. A size that is set by hand
    ends that, and is usually cut to 208 KiB, which allows 20 Mbit/s at a round trip of 80 ms.
    """
    connection.meter = meter
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if congestion and hasattr(socket, "TCP_CONGESTION"):
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        except OSError:
            return connection  # the system's own choice stays: slower where packets are lost, but correct
    return connection
