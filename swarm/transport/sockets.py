"""The sockets under a transport: tuned once, and every byte that crosses them is counted.

Counted is what TCP carries: bodies, HTTP heads, TLS records and handshakes; not IP and TCP headers or repeated packets.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import PortTaken
from ..ticket import Address

_BACKLOG = 256
_ADVICE = {
    errno.EADDRINUSE: "another program listens there: stop it, or choose another --listen HOST:PORT (port 0 takes any free one)",
    errno.EACCES: "ports below 1024 need special rights: choose a higher --port (0 takes any free one)",
    errno.EADDRNOTAVAIL: "this machine does not have that address: listen on 0.0.0.0 (or ::) and announce the outside one",
}


class Meter:
    """Bytes sent and received by all sockets that share it."""

    def __init__(self) -> None:
        self.up = 0
        self.down = 0

    def __repr__(self) -> str:
        return f"Meter({self.up} up, {self.down} down)"


class MeteredSocket(socket.socket):
    """A TCP socket that counts. An event loop on selectors moves its bytes through these four methods and no other."""

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
    """Take over a connection that a listener accepted; the other object is empty afterwards."""
    connection = MeteredSocket(fileno=accepted.detach())
    return _tuned(connection, meter, congestion)


def factory(meter: Meter, congestion: str) -> Callable[[tuple[Any, ...]], socket.socket]:
    """What aiohttp's connector calls with the first entries of an address info to open a socket."""

    def open_socket(info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, *_ = info
        return _tuned(MeteredSocket(family, kind, protocol), meter, congestion)

    return open_socket


async def connected(address: Address, make: Callable[[tuple[Any, ...]], socket.socket]) -> socket.socket:
    """A connection to ``address``, on a socket of ``make``. Raises `OSError` where nobody answers at what the name stands for."""
    loop = asyncio.get_running_loop()
    trouble = OSError(errno.EADDRNOTAVAIL, "the name stands for no address")
    for info in await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
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
    """Whether what comes first on ``connection`` is ``preface``, which is then taken from it; else all of it stays.

    The first byte decides, so TLS, which begins with another one, waits for nothing. Raises `OSError` where the connection ends.
    """
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection.fileno(), heard.set)
    try:
        await heard.wait()
    finally:
        loop.remove_reader(connection.fileno())
    if socket.socket.recv(connection, 1, socket.MSG_PEEK) != preface[:1]:  # not metered: it stays where it is
        return False
    said = b""
    while len(said) < len(preface):
        piece = await loop.sock_recv(connection, len(preface) - len(said))
        said += piece
        if not piece or not preface.startswith(said):
            raise ConnectionResetError("neither TLS nor a lane")
    return True


async def listen_on(address: Address) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises `PortTaken` with what a person can do about it."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, where = found[0][0], found[0][4]
        both = address.host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server(where[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        advice = _ADVICE.get(number or 0, "give an address of this machine as --host, or leave it out")
        raise PortTaken(
            f"cannot listen on {address}: {getattr(error, 'strerror', None) or error}", advice
        ) from error
    listener.setblocking(False)
    return listener


def _tuned(connection: MeteredSocket, meter: Meter, congestion: str) -> MeteredSocket:
    """No waiting for full packets, and the congestion control that was asked for, where the system knows and allows it.

    Buffer sizes are left alone: the system grows them with the path up to megabytes, and a size set by hand ends that and is
    usually cut to 208 KiB, which is 20 Mbit/s at 80 ms.
    """
    connection.meter = meter
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if congestion and hasattr(socket, "TCP_CONGESTION"):
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        except OSError:
            return connection  # the kernel's own choice stays: slower over lossy lines, never wrong
    return connection
