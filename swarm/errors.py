"""Every error a person or a peer can meet, as one tree.

    SwarmError
     ├─ OurFault      a person must change something here        (config, ticket, port, disk, clock)
     ├─ TheirFault    a stranger broke a rule                    costs the sender, never us
     └─ Weather       expected every minute on the open internet (gone, late, no group) — try again

Each class has a stable ``code`` for machines; each instance a ``fact`` (what is so) and an ``advice`` (what to do next).
"""

from __future__ import annotations

from typing import ClassVar


class SwarmError(Exception):
    """The root of the tree. ``code`` never changes once released; ``exit_status`` is what the process ends with."""

    code: ClassVar[str] = "swarm"
    exit_status: ClassVar[int] = 1

    def __init__(self, fact: str, advice: str = "") -> None:
        super().__init__(fact)
        self.fact = fact
        self.advice = advice

    def __str__(self) -> str:
        tail = f"\n  try: {self.advice}" if self.advice else ""
        return f"[{self.code}] {self.fact}{tail}"


# --- our fault: a person must change something on this machine ----------------------------------------------------


class OurFault(SwarmError):
    """Something on this machine must be changed by a person."""

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
    """The ticket is not one, was cut short, or belongs to another version."""

    code = "ticket"
    exit_status = 2


class PortTaken(OurFault):
    """Another program listens on the address that was asked for."""

    code = "port"


class HomeInUse(OurFault):
    """Another peer process lives in this home directory."""

    code = "home"


class NoData(OurFault):
    """The data path holds no text to train on."""

    code = "data"


class DiskTrouble(OurFault):
    """A file could not be written: the disk is full, read-only, or not ours."""

    code = "disk"


class WrongVersion(OurFault):
    """The run speaks another version of the protocol than this program."""

    code = "version"


class NotAdmitted(OurFault):
    """The run is by invitation, and this ticket does not carry the secret."""

    code = "admission"


# --- their fault: refused, counted against the sender --------------------------------------------------------------


class TheirFault(SwarmError):
    """A peer or a stranger sent what the protocol forbids."""

    code = "peer"
    exit_status = 4


class Oversized(TheirFault):
    """More bytes than this place accepts."""

    code = "oversized"


class Malformed(TheirFault):
    """The bytes do not have the form of the message they claim to be."""

    code = "malformed"


class BadSignature(TheirFault):
    """The signature does not belong to the bytes and the key that came with it."""

    code = "signature"


class WrongRun(TheirFault):
    """The message belongs to another run."""

    code = "run"


class WrongContent(TheirFault):
    """The bytes do not hash to what was promised."""

    code = "content"


class Impostor(TheirFault):
    """Whoever answered does not hold the key of the peer that was called."""

    code = "impostor"


class Flooding(TheirFault):
    """More requests or bytes per second than one peer may send."""

    code = "flooding"


class Refused(TheirFault):
    """The other side refused the request; ``fact`` is its reason."""

    code = "refused"


# --- weather: happens every minute, nobody is to blame -------------------------------------------------------------


class Weather(SwarmError):
    """Expected on the open internet; the caller tries again or goes on without."""

    code = "weather"
    exit_status = 5


class Unreachable(Weather):
    """The peer is gone, or the network to it is cut."""

    code = "unreachable"


class TooLate(Weather):
    """The deadline of the surrounding work has passed."""

    code = "late"


class Busy(Weather):
    """The other side has no room just now (too many bytes in flight)."""

    code = "busy"


class NobodyThere(Weather):
    """No entry of the ticket answers."""

    code = "nobody"
    exit_status = 6


class NoMajority(Weather):
    """The peers that answered do not agree on the state of the run."""

    code = "majority"
