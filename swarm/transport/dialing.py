"""Where a peer can be reached, and how lanes to it are opened.

addresses of the peer, the last good one first ──► may we dial it? ──► connect, handshake ──► is it that peer?
                                                   no answer: try the next address       remember it ◄──┘
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from ..bounded import LeastRecentlyUsed
from ..errors import Impostor, Malformed, SwarmError, Unreachable
from ..hosts import is_address
from ..identity import PeerId, petname
from ..membership.contacts import BOOK_LIMIT, Contacts
from ..ticket import Address
from .dials import Dials, NoAnswer, Target
from .guard import DialLimits, Limits
from .lanes import PREFACE, PROTOCOL_NAME, Lane
from .sockets import Meter, connected, factory, resolved
from .stream import Stream
from .tls import peer_of

T = TypeVar("T")


class Addresses:
    """The addresses of peers as ``contacts`` knows them, and which one of each answered last."""

    def __init__(self, contacts: Contacts, limits: DialLimits) -> None:
        self._contacts = contacts
        self._dials = Dials(limits)
        self._good: LeastRecentlyUsed[PeerId, Address] = LeastRecentlyUsed(BOOK_LIMIT)

    def of(self, peer: PeerId) -> list[Address]:
        """Where to try ``peer``. The address that answered last comes first, if the peer still has it."""
        good = self._good.get(peer)
        return sorted(self._contacts.addresses(peer), key=lambda address: address != good)

    async def first_answer(self, peer: PeerId, attempt: Callable[[Address], Awaitable[T]]) -> T:
        """The result of ``attempt`` at the first IP address of ``peer`` where it succeeds.

        Where ``attempt`` raises `NoAnswer` or `Impostor`, the next address is tried; any other error ends the
        search. So nothing is asked twice once a connection stands. Raises `Unreachable` or `Impostor` where
        no address is left.
        """
        trouble: SwarmError = Unreachable(f"no address of {petname(peer)} is known")
        for address in self.of(peer):
            try:
                result = await self._first_answer_at(peer, address, attempt)
            except Impostor as error:
                trouble = error
            except NoAnswer as error:
                trouble = Unreachable(f"{petname(peer)} does not answer at {address} ({error})")
            else:
                self._good[peer] = address
                return result
        raise trouble

    async def _first_answer_at(
        self, peer: PeerId, address: Address, attempt: Callable[[Address], Awaitable[T]]
    ) -> T:
        """The same at the IP addresses that ``address`` stands for. Raises `NoAnswer` or `Impostor`."""
        trouble = NoAnswer("the name has no address")
        share = self._contacts.share(peer)
        is_entry = self._contacts.is_entry(peer, address)
        is_known = is_entry or is_address(address.host)
        for host in await self._attempt_at(Target(peer, address, share), _hosts_of, is_free=is_known):
            target = Target(peer, Address(host, address.port), share)
            if not self._contacts.allows(peer, address, host):
                trouble = NoAnswer("a private address, named by a peer that is far away")
                continue
            try:
                result = await self._attempt_at(target, attempt, is_free=is_entry)
            except NoAnswer as error:
                trouble = error
            else:
                self._contacts.note_answer(peer, host)
                return result
        raise trouble

    async def _attempt_at(
        self, target: Target, attempt: Callable[[Address], Awaitable[T]], *, is_free: bool
    ) -> T:
        """The result of ``attempt`` at ``target``, within the limits of `Dials` where it is not free."""
        if is_free:
            return await attempt(target.address)
        async with self._dials.one(target):
            return await attempt(target.address)

    def answered(self, peer: PeerId, address: Address) -> None:
        """``peer`` has proven its key at ``address``, an IP address. Those who dial it need not wait."""
        self._dials.answered(peer, address)


class LaneDialer:
    """Opens lanes. ``buffer`` is shared by all streams of the transport."""

    def __init__(
        self, context: ssl.SSLContext, addresses: Addresses, meter: Meter, limits: Limits, buffer: memoryview
    ) -> None:
        self._context = context
        self._addresses = addresses
        self._open_socket = factory(meter, limits.connections.congestion)
        self._handshake_seconds = limits.timeouts.handshake_seconds
        self._buffer = buffer

    async def open(self, to: PeerId) -> Lane:
        """A new lane to ``to``. Raises `Unreachable` or `Impostor`."""
        return Lane(to, await self._addresses.first_answer(to, partial(self._dial, to)))

    async def _dial(self, to: PeerId, address: Address) -> Stream:
        try:
            async with asyncio.timeout(self._handshake_seconds):
                connection = await connected(address, self._open_socket)
                return await self._handshake(connection, to, address)
        except (OSError, TimeoutError, Malformed, ValueError) as error:
            raise no_answer(error) from error

    async def _handshake(self, connection: socket.socket, to: PeerId, address: Address) -> Stream:
        """A stream to ``to`` over ``connection``.

        Raises `Impostor` where another peer is there, `Malformed`, `OSError`.
        """
        stream = Stream(connection, self._context, self._buffer, is_server=False)
        try:
            await asyncio.get_running_loop().sock_sendall(connection, PREFACE)
            await stream.handshake()
            if stream.tls.selected_alpn_protocol() != PROTOCOL_NAME:
                raise Malformed("the other side does not offer lanes")
            if peer_of(stream.tls) != to:
                raise impostor(address, to)
            self._addresses.answered(to, address)
        except ssl.SSLCertVerificationError as error:
            stream.abort()
            raise impostor(address, to) from error
        except BaseException:
            stream.abort()
            raise
        return stream


def impostor(address: Address, to: PeerId) -> Impostor:
    """The error for an address where another peer than ``to`` answers."""
    return Impostor(
        f"{address} does not hold the key of {petname(to)}", "it may have moved: ask others for its address"
    )


async def _hosts_of(address: Address) -> list[str]:
    """The IP addresses that ``address`` stands for. Raises `NoAnswer` for a name that has none."""
    if is_address(address.host):
        return [address.host]
    try:
        infos = await resolved(address)
    except (OSError, ValueError) as error:
        raise no_answer(error) from error
    return list(dict.fromkeys(info[4][0] for info in infos))


def no_answer(error: Exception) -> NoAnswer:
    """The failure of an attempt because of ``error``."""
    return NoAnswer(_reason_of(error))


def _reason_of(error: Exception) -> str:
    """What the system says about a failed connection; aiohttp's own texts name Python objects."""
    cause = getattr(error, "os_error", None) or error
    number = getattr(cause, "errno", None)
    if number:
        return os.strerror(number)
    return str(cause) or type(error).__name__
