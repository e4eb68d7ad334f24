"""Members of a round on a stage of their own: real machines and real (tiny) arithmetic; who hears what, and when, is drawn.

No event loop, no network, no keys: a heap of events, and chance from one seed. So hundreds of rounds take seconds, and in them
messages overtake each other, come twice or never, and members vanish between any two of them.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from averaging import groups
from averaging.averager import shelved
from averaging.codec_choice import allowed
from averaging.groups import Group
from averaging.partition import Part, plan, shaped
from averaging.reduce import Reduced, ReducePart
from averaging.round import Round
from averaging.round_plan import Contribution, Outcome, Plan, Schedule
from swarm.identity import PeerId, peer_id_from_digest
from swarm.machine import (
    Command,
    Compute,
    Computed,
    Delivered,
    Event,
    Fetch,
    Finish,
    Received,
    Report,
    Send,
    Ship,
    Unreached,
    WakeAt,
    Woken,
)
from swarm.manifest import Codec, Exchange
from swarm.seeds import derive_bytes
from swarm.wire import Message, Signed, Stamp

RUN = bytes(32)
ROOT = bytes([7]) * 32
SECONDS = 10.0
"""What a round may take."""
JOB_SECONDS = 0.05
"""The longest piece of arithmetic."""


def peer(number: int) -> PeerId:
    """The id of member ``number``; ids come in another order than numbers."""
    return peer_id_from_digest(derive_bytes(RUN, "member", number))


def group_of(count: int) -> Group:
    """A standing group of ``count`` members."""
    return groups.form(RUN, 1, (peer(number) for number in range(count)), ROOT)


def signed(sender: PeerId, message: Message, round_: int = 1, group: bytes = bytes(16)) -> Signed[Any]:
    """``message`` as if its signature had been checked."""
    return Signed(message, sender, b"", Stamp(RUN, round_, group), b"")


def heard(sender: PeerId, message: Message) -> Received:
    """The event that ``message`` came from ``sender``."""
    return Received(signed(sender, message))


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """The chances of what may happen to one message, and how long it may take."""

    slowest: float = 0.5
    lost: float = 0.0
    again: float = 0.8
    """The chance that what was lost gets through after all, later."""
    twice: float = 0.0
    crash: float = 0.0
    """The chance that a member vanishes, some time within the round."""
    skew: float = 0.0
    """Seconds within which the members begin."""


Lie = Callable[["Stage", PeerId, PeerId, Any], Any]
"""(stage, member, receiver, what it would send) -> what it sends instead."""
Kill = Callable[["Stage", PeerId, Command], bool]
"""(stage, member, what it is about to do) -> whether it dies first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """What is averaged how, and by whom."""

    codec: Codec = Codec.INT4
    exchange: Exchange = Exchange.BUTTERFLY
    is_mixed: bool = False
    """Whether members draw a codec of their own from those that are allowed."""
    owners: int = 16
    lie: Lie | None = None
    kill: Kill | None = None


PLAIN = Play()


@dataclass(slots=True, eq=False)
class Member:
    """One machine, its line to the stage, and what became of it."""

    id: PeerId
    machine: Round
    contribution: Contribution
    fetched: float
    crash_at: float
    alarm: int = 0
    shelf: dict[str, bytes] = field(default_factory=dict)
    outcome: Outcome | None = None
    ended_at: float = 0.0
    reports: list[Report] = field(default_factory=list)

    @property
    def vector_P(self) -> Tensor:
        """What it has brought."""
        return self.contribution.vector_P

    @property
    def average(self) -> Tensor | None:
        """What it ended with."""
        return self.outcome.average_P if self.outcome else None


class Stage:
    """A round of ``count`` members. `act` plays it to the end; ``members`` then tell how it ended."""

    def __init__(self, seed: int, count: int, weather: Weather, play: Play = PLAIN) -> None:
        self._chance, self._weather, self.play = random.Random(seed), weather, play
        self._events: list[tuple[float, int, PeerId, Event, int]] = []
        self._serials = itertools.count(1)
        self.group = group_of(count)
        owners = groups.owners(RUN, self.group, 1 if play.exchange is Exchange.GATHER else play.owners)
        self.parts = shaped(plan(count * 300, owners), (200, count * 300 - 200), 1)
        self.reduced: dict[bytes, tuple[ReducePart, Reduced]] = {}
        """By the hash of a result: how it was made."""
        noise = torch.Generator().manual_seed(seed)
        self.members: dict[PeerId, Member] = {}
        for id_ in self.group.members:
            begin, vector_P = weather.skew * self._chance.random(), torch.randn(count * 300, generator=noise)
            schedule = Schedule.within(begin, SECONDS)
            contribution = Contribution(
                vector_P=vector_P,
                weight=1 + self._chance.randrange(1000),
                seed=bytes(32),
                codec=self._chance.choice(allowed(play.codec)) if play.is_mixed else None,
            )
            the_plan = Plan(
                group=self.group,
                parts=self.parts,
                codec=play.codec,
                schedule=schedule,
                exchange=play.exchange,
            )
            machine = Round(the_plan, id_, contribution)
            crashes = self._chance.random() < weather.crash
            crash_at = begin + SECONDS * self._chance.random() ** 3 if crashes else float("inf")
            self.members[id_] = Member(id_, machine, contribution, schedule.fetched, crash_at)
            self._push(begin, id_, Woken(), alarm=-1)

    def chain(self, part: Part) -> tuple[PeerId, ...]:
        """The owner of ``part`` and its spares."""
        schedule = Schedule.within(0.0, SECONDS)
        return Plan(group=self.group, parts=self.parts, codec=self.play.codec, schedule=schedule).chain(part)

    def act(self) -> Stage:
        """Everything, in the order of its time."""
        while self._events:
            now, _, id_, event, alarm = heapq.heappop(self._events)
            member = self.members[id_]
            if member.outcome or now >= member.crash_at or (alarm > 0 and alarm != member.alarm):
                continue
            for command in member.machine.start(now) if alarm < 0 else member.machine.handle(event, now):
                if isinstance(command, Finish):
                    member.outcome, member.ended_at = command.outcome, now
                    break
                if self.play.kill and self.play.kill(self, member.id, command):
                    member.crash_at = now
                    break
                self._do(member, command, now)
        return self

    def _do(self, member: Member, command: Command, now: float) -> None:
        match command:
            case Send(to, _, _):
                for receiver in to:
                    told = self._told(member.id, receiver, command)
                    self._carry(member, receiver, heard(member.id, told.message), Unreached(receiver), now)
            case Ship(to, item, _):
                told = self._told(member.id, to, command)
                self._carry(member, to, Delivered(member.id, item, told.payload), Unreached(to, item), now)
            case Fetch(source, item, length):
                payload = self.members[source].shelf.get(item.split(".")[-1])
                is_there = now < self.members[source].crash_at and payload is not None
                told = self._told(
                    source, member.id, Ship(member.id, item, payload if payload else bytes(length))
                )
                answer = Delivered(source, item, told.payload) if is_there else Unreached(source, item)
                self._carry(member, member.id, answer, Unreached(source, item), now)
            case Compute(job):
                result = job.run()
                if isinstance(job, ReducePart) and isinstance(result, Reduced):
                    self.reduced[result.hash] = (job, result)
                if found := shelved(job, result):
                    member.shelf[found[0].hex()] = found[1]
                self._push(now + JOB_SECONDS * self._chance.random(), member.id, Computed(job, result))
            case WakeAt(time):
                member.alarm = next(self._serials)
                self._push(max(now, time), member.id, Woken(), alarm=member.alarm)
            case Report():
                member.reports.append(command)

    def _told(self, sender: PeerId, receiver: PeerId, command: Any) -> Any:
        return self.play.lie(self, sender, receiver, command) if self.play.lie else command

    def _carry(self, sender: Member, to: PeerId, event: Event, failure: Event, now: float) -> None:
        """``event`` reaches ``to``, maybe late, maybe twice; or never, and then the sender learns of it, at once or at the end."""
        weather, chance = self._weather, self._chance
        arrives = now + weather.slowest * chance.random()
        if arrives >= self.members[to].crash_at:
            self._push(arrives, sender.id, failure)
        elif chance.random() < weather.lost:
            self._push(arrives, sender.id, failure)
            if chance.random() < weather.again:
                self._push(arrives + weather.slowest * chance.random(), to, event)
        else:
            self._push(arrives, to, event)
            if chance.random() < weather.twice:
                self._push(arrives + weather.slowest * chance.random(), to, event)

    def _push(self, when: float, to: PeerId, event: Event, *, alarm: int = 0) -> None:
        heapq.heappush(self._events, (when, next(self._serials), to, event, alarm))
