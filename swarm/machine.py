"""A protocol is a machine without I/O: it takes events and returns commands, and one driver carries them out.

    event  ──►  machine.handle(event, now)  ──►  commands  ──►  driver

    events     Received     a signed control message came
               Delivered    bulk bytes came
               Unreached    a send, a shipment or a fetch failed
               Computed     a computation has its result
               Woken        the time of the last WakeAt has come

    commands   Send         a control message to some peers
               Ship         bulk bytes to one peer
               Fetch        bulk bytes from one peer
               Compute      a computation, outside the event loop
               WakeAt       an alarm
               Report       a line for the log
               Finish       the end of the machine, with its outcome

A machine never awaits, reads a clock, opens a socket or draws a random number. So each rule of a protocol can
be tested without waiting (an event in, commands out), and the same machine runs on sockets and in a
simulation.
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


# --- events: what happens to a machine ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A signed control message came. Its form, signature, run and group have been checked."""

    signed: Signed[Message]

    @property
    def sender(self) -> PeerId:
        """The peer that signed the message."""
        return self.signed.signer


@dataclass(frozen=True, slots=True)
class Delivered:
    """Bulk bytes came from ``sender``; ``item`` names them. Their length is checked, their content is not."""

    sender: PeerId
    item: str
    payload: Bytes


@dataclass(frozen=True, slots=True)
class Unreached:
    """A message to ``peer`` could not be delivered, or a fetch from it failed.

    ``item`` names the bulk bytes; it is empty for a control message. ``code`` is the error's code, for
    machines that treat a busy peer differently from one that is gone.
    """

    peer: PeerId
    item: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Computed:
    """A `Compute` command is done; ``result`` is what ``job.run()`` returned."""

    job: Job
    result: Any


@dataclass(frozen=True, slots=True)
class Woken:
    """The time that the last `WakeAt` asked for has come."""


Event = Received | Delivered | Unreached | Computed | Woken


# --- commands: what a machine asks for ----------------------------------------------------------------


class Job(Protocol):
    """A computation as a value: a frozen dataclass whose ``run`` is a pure function and may take long."""

    def run(self) -> Any:
        """Compute the result. The driver calls this outside the event loop."""


@dataclass(frozen=True, slots=True)
class Send:
    """Sign ``message`` once, for ``group``, and send it to every peer of ``to``."""

    to: tuple[PeerId, ...]
    message: Message
    group: bytes = NO_GROUP


@dataclass(frozen=True, slots=True)
class Ship:
    """Send bulk bytes to one peer; ``item`` names them for the receiver.

    Nobody may write to ``payload`` after this. A failure comes back as `Unreached` with the same ``item``.
    """

    to: PeerId
    item: str
    payload: Bytes


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask ``source`` for bulk bytes of exactly ``length``.

    Comes back as `Delivered` or `Unreached` with the same ``item``. ``by`` is the time to give up, in the
    clock of ``now``; None leaves that to the code that carries the command out.
    """

    source: PeerId
    item: str
    length: int
    by: float | None = None


@dataclass(frozen=True, slots=True)
class Compute:
    """Run ``job`` outside the event loop. Comes back as `Computed`."""

    job: Job


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send `Woken` at ``time``, in the clock of ``now``. A later `WakeAt` replaces an earlier one."""

    time: float


@dataclass(frozen=True, slots=True)
class Report:
    """Write a line to the log: ``code`` is a stable name for programs, ``fact`` a sentence for people."""

    code: str
    fact: str
    peer: PeerId | None = None


@dataclass(frozen=True, slots=True)
class Finish(Generic[Outcome_co]):
    """The machine is done; ``outcome`` is its result. Commands after this one are not carried out."""

    outcome: Outcome_co


Command = Send | Ship | Fetch | Compute | WakeAt | Report | Finish[Any]


class Machine(Protocol[Outcome_co]):
    """A protocol as an object that changes only in these two calls."""

    def start(self, now: float) -> Iterable[Command]:
        """Begin, at time ``now``: the first commands."""

    def handle(self, event: Event, now: float) -> Iterable[Command]:
        """The commands that follow from ``event``; none where the event does not concern this machine."""


class Arithmetic(Protocol):
    """The one place where long computations run.

    A real peer runs them in a thread; a simulation runs them inline and charges virtual seconds for them.
    """

    def run(self, job: Callable[[], T], *, is_brief: bool = False) -> Awaitable[T]:
        """The result of ``job()``; its exceptions are raised here. ``is_brief``: it takes 2 ms or less."""


async def drive(
    machine: Machine[Outcome], act: Callable[[Command], None], inbox: asyncio.Queue[Event]
) -> Outcome:
    """Run ``machine`` until it finishes, and return its outcome.

    Handles `WakeAt` and `Finish` itself and gives all other commands to ``act``, which must not block. Events
    come from ``inbox``. Starts no task, so nothing is left running when it ends or is cancelled.
    """
    loop = asyncio.get_running_loop()
    alarm: asyncio.TimerHandle | None = None

    def wake() -> None:
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
                        continue  # most events ask for the time that is set already
                    if alarm:
                        alarm.cancel()
                    alarm = loop.call_at(command.time, wake)
                else:
                    act(command)
            commands = machine.handle(await inbox.get(), loop.time())
    finally:
        if alarm:
            alarm.cancel()
