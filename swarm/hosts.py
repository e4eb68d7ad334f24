"""IP addresses of other computers: which of them belong together, and which are on the internet."""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from functools import lru_cache

from .identity import PeerId

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_HOST_BITS = 64
"""Bits of an IPv6 address that its owner chooses."""


@lru_cache(maxsize=1 << 12)
def group_of(host: str) -> str:
    """A name for ``host`` and all addresses that cost its owner nothing more.

    A household gets an IPv6 network of 2^64 addresses, so all of them have one name. An IPv4 address stands
    for itself, also where a socket for both protocols writes it as an IPv6 address. Any other text is its own
    name.
    """
    address = _address(host)
    if address is None:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return f"{ipaddress.IPv6Address(int(address) >> _HOST_BITS << _HOST_BITS)}/{_HOST_BITS}"
    return str(address)


@lru_cache(maxsize=1 << 12)
def is_public(host: str) -> bool:
    """Whether ``host`` is an IP address of the internet, and not of this computer or a private network."""
    address = _address(host)
    return address is not None and address.is_global and not address.is_multicast


class Nearness(IntEnum):
    """Where a computer is, as its IP address tells it."""

    INTERNET = 0
    PRIVATE = 1
    HERE = 2


@lru_cache(maxsize=1 << 12)
def nearness(host: str) -> Nearness:
    """How near ``host`` is. A name counts as far: nobody knows before it is looked up."""
    address = _address(host)
    if address is None or is_public(host):
        return Nearness.INTERNET
    if address.is_loopback or address.is_unspecified:
        return Nearness.HERE
    return Nearness.PRIVATE


def is_address(host: str) -> bool:
    """Whether ``host`` is an IP address, and not a name."""
    return _address(host) is not None


def share_of(peer: PeerId, host: str) -> str:
    """With whom ``peer``, which calls from ``host``, has a share of what costs us something.

    All peers behind one public address have one share, because a key costs nothing. In a private network, or
    where no address is known, each peer has its own.
    """
    return group_of(host) if is_public(host) else peer


def _address(host: str) -> IPAddress | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
