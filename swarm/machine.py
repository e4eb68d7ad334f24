"""Protocols are machines: they think, one driver acts.

    event  ──►  machine.handle(event, now)  ──►  commands  ──►  driver

A machine never awaits, reads a clock, opens a socket or draws a random number; so every rule of a protocol can be tested as a
play (event in, commands out) without waiting, and the same machine runs on sockets and in a rehearsal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from .hashing import Bytes
from .identity import PeerId
from .wire import NO_GROUP, Message, Signed

Outcome = TypeVar("Outcome")
Outcome_co = TypeVar("Outcome_co", covariant=True)
T = TypeVar("T")


# --- events: what happens to a machine ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A signed control message came in; form, signature, run and group have been checked."""

    signed: Signed[Message]

    @property
    def sender(self) -> PeerId:
        """Who signed the message."""
        return self.signed.signer


@dataclass(frozen=True, slots=True)
class Delivered:
    """Bulk bytes came in from ``sender``: ``item`` says which, their length has been checked, their content has not."""

    sender: PeerId
    item: str
    payload: Bytes


@dataclass(frozen=True, slots=True)
class Unreached:
    """A message to ``peer`` could not be delivered; ``item`` names the bulk item, empty for a control message.

    ``code`` is that of the error, for machines to whom a peer that is busy is another one than a peer that has gone.
    """

    peer: PeerId
    item: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Computed:
    """The result of a `Compute` command; ``result`` is whatever ``job.run()`` returned."""

    job: Job
    result: Any


@dataclass(frozen=True, slots=True)
class Woken:
    """The time asked for by the last `WakeAt` has come."""


Event = Received | Delivered | Unreached | Computed | Woken


# --- commands: what a machine asks for ----------------------------------------------------------------------------


class Job(Protocol):
    """A piece of arithmetic as a value: a frozen dataclass whose ``run`` is pure and may take long."""

    def run(self) -> Any:
        """Do the work; called away from the event loop."""


@dataclass(frozen=True, slots=True)
class Send:
    """Sign ``message`` once, for ``group``, and send it to every peer of ``to``."""

    to: tuple[PeerId, ...]
    message: Message
    group: bytes = NO_GROUP


@dataclass(frozen=True, slots=True)
class Ship:
    """Send bulk bytes, to which nobody writes any more; ``item`` names them for the receiver.

    Comes back as `Unreached` with ``item`` where it fails.
    """

    to: PeerId
    item: str
    payload: Bytes


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask ``source`` for bulk bytes of exactly ``length``. Comes back as `Delivered` or `Unreached` with the same ``item``.

    ``by`` is when to give up on it, in the clock of ``now``; None where whoever carries it out knows.
    """

    source: PeerId
    item: str
    length: int
    by: float | None = None


@dataclass(frozen=True, slots=True)
class Compute:
    """Run ``job`` away from the event loop. Comes back as `Computed`."""

    job: Job


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call back at ``time``, in the clock of ``now``. A later `WakeAt` replaces an earlier one."""

    time: float


@dataclass(frozen=True, slots=True)
class Report:
    """Tell people: something worth a line in the log (``code`` is stable, ``fact`` is a sentence)."""

    code: str
    fact: str
    peer: PeerId | None = None


@dataclass(frozen=True, slots=True)
class Finish(Generic[Outcome_co]):
    """The machine is done."""

    outcome: Outcome_co


Command = Send | Ship | Fetch | Compute | WakeAt | Report | Finish[Any]


class Machine(Protocol[Outcome_co]):
    """A protocol as a value that changes only in these two calls."""

    def start(self, now: float) -> Iterable[Command]:
        """The first commands."""

    def handle(self, event: Event, now: float) -> Iterable[Command]:
        """What follows from ``event``. An event that is none of its business yields nothing."""


class Arithmetic(Protocol):
    """The one place where arithmetic runs: a thread in real life, inline at a price in virtual seconds in a rehearsal."""

    def run(self, job: Callable[[], T], *, is_brief: bool = False) -> Awaitable[T]:
        """The result of ``job()``; its exceptions are raised here. ``is_brief``: it takes a millisecond or two."""


async def drive(
    machine: Machine[Outcome], act: Callable[[Command], None], inbox: asyncio.Queue[Event]
) -> Outcome:
    """Run ``machine`` to its end. Starts no task: ``act`` hands every command but time and the end to owners that outlive it."""
    loop = asyncio.get_running_loop()
    alarm: asyncio.TimerHandle | None = None

    def ring() -> None:
        nonlocal alarm
        alarm = None
        inbox.put_nowait(Woken())

    commands = machine.start(loop.time())
    try:
        while True:
            for command in commands:
                if isinstance(command, Finish):
                    outcome: Outcome = command.outcome
                    return outcome
                if isinstance(command, WakeAt):
                    if alarm and alarm.when() == command.time:
                        continue  # most events change nothing about it
                    if alarm:
                        alarm.cancel()
                    alarm = loop.call_at(command.time, ring)
                else:
                    act(command)
            commands = machine.handle(await inbox.get(), loop.time())
    finally:
        if alarm:
            alarm.cancel()
