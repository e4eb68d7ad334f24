"""All errors of this project, as one tree. The branch says who has to do something about the error.

    SwarmError
     ├─ OurFault      a person must change something on this computer (config, ticket, port, disk)
     ├─ TheirFault    another peer broke a rule of the protocol: its message is refused and counted against it
     └─ Weather       nobody's fault, and common on the open internet (peer gone, deadline passed): try again

Each class has a ``code``, a stable name for programs. Each instance has a ``fact`` (what happened) and an
``advice`` (what to do about it, may be empty), both for people. docs/errors.md lists all codes.
"""

from __future__ import annotations

from typing import ClassVar


class SwarmError(Exception):
    """The root of the tree.

    ``code`` never changes once it is released. ``exit_status`` is the exit status of a process that this
    error ends.
    """

    code: ClassVar[str] = "swarm"
    exit_status: ClassVar[int] = 1

    def __init__(self, fact: str, advice: str = "") -> None:
        super().__init__(fact)
        self.fact = fact
        self.advice = advice

    def __str__(self) -> str:
        tail = f"\n  try: {self.advice}" if self.advice else ""
        return f"[{self.code}] {self.fact}{tail}"


# --- our fault: a person must change something on this computer ---------------------------------------


class OurFault(SwarmError):
    """A person must change something on this computer."""

    code = "local"
    exit_status = 3


class ConfigError(OurFault):
    """A setting is out of range or contradicts another one."""

    code = "config"
    exit_status = 2


class IdentityError(OurFault):
    """The identity key file cannot be read, is not a key, or is readable by others."""

    code = "identity"


class TicketError(OurFault):
    """The text is not a ticket, or the ticket was cut short or has a typing error."""

    code = "ticket"
    exit_status = 2


class PortTaken(OurFault):
    """Another program listens on the address that was asked for."""

    code = "port"


class HomeInUse(OurFault):
    """Another peer process uses this home directory."""

    code = "home"


class NoData(OurFault):
    """The data path holds no text to train on."""

    code = "data"


class DiskTrouble(OurFault):
    """A file could not be written: the disk is full, read-only, or not ours."""

    code = "disk"


class WrongVersion(OurFault):
    """The run uses another version of the protocol than this program."""

    code = "version"


# --- their fault: the message is refused and counted against its sender -------------------------------


class TheirFault(SwarmError):
    """A peer or a stranger sent what the protocol forbids."""

    code = "peer"
    exit_status = 4


class Oversized(TheirFault):
    """The message has more bytes than its receiver accepts."""

    code = "oversized"


class Malformed(TheirFault):
    """The bytes are not a valid message of the kind that they claim to be."""

    code = "malformed"


class BadSignature(TheirFault):
    """The signature does not verify with the bytes and the public key that came with it."""

    code = "signature"


class WrongRun(TheirFault):
    """The message belongs to another run."""

    code = "run"


class WrongContent(TheirFault):
    """The bytes do not have the hash that was promised."""

    code = "content"


class Impostor(TheirFault):
    """The peer that answered does not hold the key of the peer that was called."""

    code = "impostor"


class Flooding(TheirFault):
    """A peer sent more requests or bytes per second than one peer may send."""

    code = "flooding"


class Refused(TheirFault):
    """The other peer refused the request; ``fact`` is the reason it gave."""

    code = "refused"


# --- weather: common on the open internet, nobody is to blame -----------------------------------------


class Weather(SwarmError):
    """Expected on the open internet: the caller tries again or goes on without the answer."""

    code = "weather"
    exit_status = 5


class Unreachable(Weather):
    """The peer is gone, or the network to it is cut."""

    code = "unreachable"


class TooLate(Weather):
    """The deadline of the surrounding work has passed."""

    code = "late"


class Busy(Weather):
    """The other peer cannot take the request now (too many bytes in flight)."""

    code = "busy"


class NobodyThere(Weather):
    """None of the peers that the ticket names answers."""

    code = "nobody"
    exit_status = 6
