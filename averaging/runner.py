"""Runs the machines of a round: signs and sends what they want sent, and has their arithmetic done away from
the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from swarm.machine import Arithmetic, Command, Compute, Computed, Fetch, Machine, Report, Send, Ship, drive
from swarm.transport.post import Expect, Inbox, Post
from swarm.wire import NO_GROUP, Stamp

from .codecs import Raw
from .reduce import Checked, CheckResult, EncodedPart, Reduced
from .signed_rounds import SignedInMemory, SignedStore
from .whole_update import CheckUpdate, CombineUpdates, EncodeUpdate

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ports:
    """What averaging needs from the peer around it."""

    post: Post
    arithmetic: Arithmetic
    tasks: asyncio.TaskGroup
    """Owns the arithmetic under way: it may outlive the round that asked for it."""
    report: Callable[[Report], None]
    """Is told what people should know."""
    signed: SignedStore = field(default_factory=SignedInMemory)
    """Keeps for which round this peer has signed."""


@dataclass(slots=True)
class _Running:
    """One machine that is being run: where its messages go, until when, and where the answers come."""

    stamp: Stamp
    deadline: float
    inbox: Inbox
    is_brief: bool
    shelved: dict[str, Raw] = field(default_factory=dict)


class MachineRunner:
    """Carries out the commands of `Assembly` and `Round`."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def run(
        self,
        machine: Machine[T],
        stamp: Stamp,
        deadline: float,
        *,
        expect: Expect | None = None,
        is_brief: bool = False,
    ) -> T:
        """Run ``machine`` to its end under the topic of ``stamp``; its messages are offered until
        ``deadline``.

        ``expect`` says which bulk items it accepts, None for none. ``is_brief``: its jobs take a millisecond
        or two each.
        """
        post = self._ports.post
        topic = (stamp.round, stamp.group)
        inbox = post.open(topic, expect)
        running = _Running(stamp, deadline, inbox, is_brief)
        try:
            return await drive(machine, lambda command: self._act(command, running), inbox.events)
        finally:
            post.close(topic)
            if expect is not None:  # what earlier exchanges have left on the shelf is not needed any more
                post.shelf = {
                    name: payload for name, payload in post.shelf.items() if name in running.shelved
                }

    def _act(self, command: Command, running: _Running) -> None:
        post = self._ports.post
        stamp = running.stamp
        match command:
            case Send(to, message, group):
                its_stamp = Stamp(stamp.run, stamp.round, stamp.group if group == NO_GROUP else group)
                post.send(to, message, its_stamp, deadline=running.deadline, failures=running.inbox)
            case Ship(to, item, payload):
                post.ship(to, stamp.group, item, payload, deadline=running.deadline, failures=running.inbox)
            case Fetch(source, item, length):
                name = item.split(".")[-1]
                now = asyncio.get_running_loop().time()
                # The other half is for the holders after this one.
                halfway = now + (running.deadline - now) / 2
                post.fetch(source, item, name, length, deadline=halfway, inbox=running.inbox)
            case Compute():
                tasks = self._ports.tasks
                tasks.create_task(self._compute(command, running))
            case Report():
                self._ports.report(command)

    async def _compute(self, command: Compute, running: _Running) -> None:
        job = command.job
        # The sum of whole updates grows with the group: it is never brief.
        is_brief = running.is_brief and not isinstance(job, CombineUpdates)
        result = await self._ports.arithmetic.run(job.run, is_brief=is_brief)
        found = shelved(job, result)
        if found:
            hash_, payload = found
            name = hash_.hex()
            running.shelved[name] = payload
            self._ports.post.shelf[name] = payload
        running.inbox.events.put_nowait(Computed(job, result))


def shelved(job: object, result: object) -> tuple[bytes, Raw] | None:
    """(hash, payload) if a job has made or verified an item that other members may fetch from us."""
    match job, result:
        case _, Reduced(payload, hash_):
            return hash_, payload
        case EncodeUpdate(), (EncodedPart(payload, hash_, _),):
            return hash_, payload
        case CheckResult() | CheckUpdate(), Checked(_, _, True):
            return job.hash, job.payload
    return None
