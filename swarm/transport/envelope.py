"""How a call and a refusal look in HTTP. Heads are short: headers that nobody needs are not sent.

POST /swarm/1/{route}/{argument}    200         the reply, Content-Length
Host, Content-Length                204         an empty reply
                                    4xx, 503    a refusal (MessagePack: code, fact)
                                    500         a bug at the other side, without details
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from ..errors import Busy, Flooding, Malformed, OurFault, Oversized, Refused, SwarmError, TooLate
from ..wire import PROTOCOL, pack

CHUNK = 1 << 20
"""Bytes that are handed to an HTTP connection at once: asyncio would encrypt a whole body before its first
byte leaves."""

REFUSAL_LIMIT = 2048
"""Largest refusal that is read, in bytes."""

HOST = "s"
"""HTTP/1.1 requires a host (RFC 9110, 7.2). The pinned certificate says who is called, so this one is as
short as possible."""
NO_REPLY = 204
"""HTTP status of an empty reply."""

_ROUTE = r"[a-z0-9-]{1,40}"
_ARGUMENT = r"(?!\.{1,2}$)[A-Za-z0-9_.~:,-]{0,200}"
_PATH = re.compile(rf"/swarm/(?P<protocol>[0-9]{{1,6}})/(?P<route>{_ROUTE})/(?P<argument>{_ARGUMENT})")
_STATUS = {Busy: 503, Flooding: 429, Oversized: 413, TooLate: 408}
_LONGEST_TEXT = 200  # characters of a fact


class _Refusal(msgspec.Struct, frozen=True, array_like=True):
    code: str = ""
    fact: str = ""


def path_of(route: str, argument: str) -> str:
    """The path of a call.

    Raises `ValueError` for names that no path can carry, which is a bug on this side.
    """
    path = f"/swarm/{PROTOCOL}/{route}/{argument}"
    if not _PATH.fullmatch(path):
        raise ValueError(f"{route!r} with argument {argument[:80]!r} cannot be the name of a call")
    return path


def read_path(method: str, path: str) -> tuple[str, str]:
    """(route, argument) of a request from outside.

    Raises `Malformed`, also where it has another protocol version.
    """
    found = _PATH.fullmatch(path)
    if method != "POST" or not found:
        raise Malformed("not a call of this protocol")
    if int(found["protocol"]) != PROTOCOL:
        fact = f"this peer speaks protocol {PROTOCOL}, not {found['protocol']}"
        raise Malformed(f"{fact}: install the version of swarm-train that the run uses")
    return found["route"], found["argument"]


def body_length(headers: Mapping[str, str]) -> int:
    """Bytes of the body, as the message states them.

    Raises `Malformed` where it states none, or where the body is encoded.

    Nothing is ever decompressed: half a megabyte of gzip can become half a gigabyte of zeros.
    """
    if headers.get("Content-Encoding") or headers.get("Transfer-Encoding"):
        raise Malformed("a body must be neither compressed nor sent in chunks")
    stated = headers.get("Content-Length", "")
    if not (stated.isascii() and stated.isdigit() and len(stated) <= 15):
        raise Malformed("the length of the body is not stated")
    return int(stated)


def pack_refusal(error: Exception) -> tuple[int, bytes]:
    """(HTTP status, body) that refuse a call because of ``error``.

    Bugs and faults of this machine are not described.
    """
    if not isinstance(error, SwarmError) or isinstance(error, OurFault):
        return 500, b""
    refusal = _Refusal(error.code, error.fact[:_LONGEST_TEXT])
    return _STATUS.get(type(error), 400), pack(refusal)


def read_refusal(who: str, status: int, raw: bytes) -> SwarmError:
    """The error to raise where ``who`` answered with ``status`` and ``raw``.

    A stranger has written the words: they are cleaned and cut, and stand in quotation marks after its name.
    It gives no advice, because a person would take that for ours.
    """
    try:
        refusal = msgspec.msgpack.decode(raw, type=_Refusal)
    except (msgspec.DecodeError, ValueError, RecursionError):
        refusal = _Refusal()
    words = _clean(refusal.fact)
    fact = f'{who} says: "{words}"' if words else f"{who} answers with HTTP status {status}"
    return Busy(fact) if status in (503, 429) else Refused(fact)


def _clean(text: str) -> str:
    """One line of at most 200 printable characters, without control codes for a terminal and double quotation
    marks."""
    printable = "".join(c if c.isprintable() else " " for c in text[:_LONGEST_TEXT])
    return printable.replace('"', "'").strip()
