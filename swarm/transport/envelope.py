"""How a call and a refusal look in HTTP. Short heads: what is not needed is not sent.

POST /swarm/1/{route}/{argument}    200 the reply, Content-Length    4xx, 503 a refusal (MessagePack: code, fact, advice)
Host, Content-Length                204 an empty reply               500 a bug over there, without a word about it
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from ..errors import Busy, Flooding, Malformed, OurFault, Oversized, Refused, SwarmError, TooLate
from ..wire import PROTOCOL, pack

REFUSAL_LIMIT = 2048
"""Bytes of the largest refusal that is read."""

HOST = "s"
"""HTTP/1.1 wants a host (RFC 9110, 7.2); the pinned certificate says who is called, so it is as short as it may be."""
NO_REPLY = 204

_ROUTE, _ARGUMENT = r"[a-z0-9-]{1,40}", r"(?!\.{1,2}$)[A-Za-z0-9_.~:,-]{0,200}"
_PATH = re.compile(rf"/swarm/(?P<protocol>[0-9]{{1,6}})/(?P<route>{_ROUTE})/(?P<argument>{_ARGUMENT})")
_STATUS = {Busy: 503, Flooding: 429, Oversized: 413, TooLate: 408}
_LONGEST_TEXT = 200


class _Refusal(msgspec.Struct, frozen=True, array_like=True):
    code: str = ""
    fact: str = ""
    advice: str = ""


def path_of(route: str, argument: str) -> str:
    """The path of a call. Raises `ValueError` for names that no path can carry: that is a bug on this side."""
    path = f"/swarm/{PROTOCOL}/{route}/{argument}"
    if not _PATH.fullmatch(path):
        raise ValueError(f"{route!r} with argument {argument[:80]!r} cannot be the name of a call")
    return path


def read_path(method: str, path: str) -> tuple[str, str]:
    """Route and argument of a stranger's request. Raises `Malformed`, with advice where it speaks another version."""
    found = _PATH.fullmatch(path)
    if method != "POST" or not found:
        raise Malformed("not a call of this protocol")
    if int(found["protocol"]) != PROTOCOL:
        fact = f"this peer speaks protocol {PROTOCOL}, not {found['protocol']}"
        raise Malformed(fact, "install the version of swarm-train that the run uses")
    return found["route"], found["argument"]


def body_length(headers: Mapping[str, str]) -> int:
    """The length that a message states for its body. Raises `Malformed` for one without, and for anything encoded.

    Nothing is ever decompressed: half a megabyte of gzip is half a gigabyte of zeros.
    """
    if headers.get("Content-Encoding") or headers.get("Transfer-Encoding"):
        raise Malformed("a body comes as it is: not compressed, not in chunks")
    stated = headers.get("Content-Length", "")
    if not (stated.isascii() and stated.isdigit() and len(stated) <= 15):
        raise Malformed("the length of the body is not stated")
    return int(stated)


def pack_refusal(error: Exception) -> tuple[int, bytes]:
    """HTTP status and body that tell the other side no. What is wrong with this machine or this program is nobody's business."""
    if not isinstance(error, SwarmError) or isinstance(error, OurFault):
        return 500, b""
    return _STATUS.get(type(error), 400), pack(
        _Refusal(error.code, error.fact[:_LONGEST_TEXT], error.advice[:_LONGEST_TEXT])
    )


def read_refusal(who: str, status: int, raw: bytes) -> SwarmError:
    """The error to raise where ``who`` answered with ``status`` and ``raw``. Its words are a stranger's: cleaned and cut short."""
    try:
        refusal = msgspec.msgpack.decode(raw, type=_Refusal)
    except (msgspec.DecodeError, ValueError, RecursionError):
        refusal = _Refusal(fact=f"HTTP status {status}")
    fact = f"{who}: {_clean(refusal.fact) or f'HTTP status {status}'}"
    return Busy(fact) if status in (503, 429) else Refused(fact, _clean(refusal.advice))


def _clean(text: str) -> str:
    """One line of at most 200 characters that does nothing to a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:_LONGEST_TEXT]).strip()
