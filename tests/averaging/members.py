"""A round without event loop, network or keys: real machines, real (tiny) arithmetic, drawn weather.

A heap holds the events, and one seed decides everything that is drawn. So hundreds of rounds take seconds. In
them messages overtake each other, come twice or never, and members vanish at any time.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from averaging import groups
from averaging.codec_choice import allowed
from averaging.groups import Group
from averaging.outcome import NoDecision
from averaging.partition import Part, plan, shaped
from averaging.reduce import Reduced, ReducePart
from averaging.round import Round
from averaging.round_plan import Applied, RoundPlan, Schedule
from averaging.runner import shelved
from averaging.update import Update
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
"""How long a round may take."""
JOB_SECONDS = 0.05
"""The longest that one job takes."""
NEVER = float("inf")


def peer(number: int) -> PeerId:
    """The id of member ``number``. The order of ids is not that of numbers."""
    return peer_id_from_digest(derive_bytes(RUN, "member", number))


def update_of(vector_P: Tensor, tokens: int, codec: Codec | None = None) -> Update:
    """The update of one member, in round 1."""
    return Update(round=1, vector_P=vector_P, tokens=tokens, seed=bytes(32), state_root=ROOT, codec=codec)


def group_of(count: int, tokens: Mapping[PeerId, int] | None = None) -> Group:
    """A group of ``count`` members that stands. Their updates have one token each, or as many as given."""
    claims = groups.Claims(tokens=tokens or {})
    return groups.form(RUN, 1, (peer(number) for number in range(count)), ROOT, claims)


def signed(sender: PeerId, message: Message, round_: int = 1, group: bytes = bytes(16)) -> Signed[Any]:
    """``message`` as if its signature had been checked."""
    return Signed(message, sender, b"", Stamp(RUN, round_, group), b"")


def heard(sender: PeerId, message: Message) -> Received:
    """The event that ``message`` came from ``sender``."""
    return Received(signed(sender, message))


def applied_items(result: Applied) -> tuple[bool, ...]:
    """By item: whether it was applied."""
    return tuple(bool(item) for item in result.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """The chances of what may happen to one message, and how long it may take."""

    slowest: float = 0.5
    """Seconds that a message takes at most."""
    lost: float = 0.0
    again: float = 0.8
    """The chance that a lost message gets through after all, later."""
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
    """One machine, and what became of it."""

    id: PeerId
    machine: Round
    update: Update
    fetched: float
    """When its round ends at the latest."""
    crash_at: float
    alarm: int = 0
    """The serial number of the last `WakeAt`: earlier ones do not count any more."""
    shelf: dict[str, bytes] = field(default_factory=dict)
    outcome: Applied | NoDecision | None = None
    """None: it vanished before it had come to one."""
    ended_at: float = 0.0
    reports: list[Report] = field(default_factory=list)

    @property
    def vector_P(self) -> Tensor:
        """Its update."""
        return self.update.vector_P

    @property
    def applied(self) -> Applied:
        """The outcome of a member that has an average."""
        assert isinstance(self.outcome, Applied)
        return self.outcome


class Stage:
    """A round of ``count`` members. `act` plays it to the end; ``members`` then tell how it ended."""

    def __init__(self, seed: int, count: int, weather: Weather, play: Play = PLAIN) -> None:
        self._chance = random.Random(seed)
        self._weather = weather
        self.play = play
        self._events: list[tuple[float, int, PeerId, Event, int]] = []
        self._serials = itertools.count(1)
        tokens = {peer(number): 1 + self._chance.randrange(1000) for number in range(count)}
        self.group = group_of(count, tokens)
        owners = groups.owners(RUN, self.group, 1 if play.exchange is Exchange.GATHER else play.owners)
        self.parts = shaped(plan(count * 300, owners), (200, count * 300 - 200))
        self.reduced: dict[bytes, tuple[ReducePart, Reduced]] = {}
        """By the hash of a result: how it was made."""
        noise = torch.Generator().manual_seed(seed)
        self.members: dict[PeerId, Member] = {}
        for id_ in self.group.members:
            begin = weather.skew * self._chance.random()
            vector_P = torch.randn(count * 300, generator=noise)
            self.members[id_] = self._member(id_, begin, vector_P)
            self._push(begin, id_, Woken(), alarm=-1)

    def _member(self, id_: PeerId, begin: float, vector_P: Tensor) -> Member:
        tokens = dict(zip(self.group.members, self.group.tokens, strict=True))[id_]
        codec = self._chance.choice(allowed(self.play.codec)) if self.play.is_mixed else None
        update = update_of(vector_P, tokens, codec)
        plan_ = self._plan(begin)
        machine = Round(plan_, id_, update)
        crashes = self._chance.random() < self._weather.crash
        crash_at = begin + SECONDS * self._chance.random() ** 3 if crashes else NEVER
        return Member(id_, machine, update, plan_.schedule.fetched, crash_at)

    def _plan(self, begin: float) -> RoundPlan:
        return RoundPlan(
            group=self.group,
            parts=self.parts,
            codec=self.play.codec,
            schedule=Schedule.within(begin, SECONDS),
            exchange=self.play.exchange,
        )

    def chain(self, part: Part) -> tuple[PeerId, ...]:
        """The owner of ``part`` and its spares."""
        return self._plan(0.0).chain(part)

    def act(self) -> Stage:
        """Handle all events, in the order of their times."""
        while self._events:
            now, _, id_, event, alarm = heapq.heappop(self._events)
            member = self.members[id_]
            is_outdated = alarm > 0 and alarm != member.alarm
            if member.outcome or now >= member.crash_at or is_outdated:
                continue
            is_start = alarm < 0
            commands = member.machine.start(now) if is_start else member.machine.handle(event, now)
            for command in commands:
                if isinstance(command, Finish):
                    member.outcome = command.outcome
                    member.ended_at = now
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
                    sent = self._sent(member.id, receiver, command)
                    self._carry(member, receiver, heard(member.id, sent.message), Unreached(receiver), now)
            case Ship(to, item, _):
                sent = self._sent(member.id, to, command)
                self._carry(member, to, Delivered(member.id, item, sent.payload), Unreached(to, item), now)
            case Fetch():
                self._fetch(member, command, now)
            case Compute(job):
                result = job.run()
                if isinstance(job, ReducePart) and isinstance(result, Reduced):
                    self.reduced[result.hash] = (job, result)
                found = shelved(job, result)
                if found:
                    hash_, payload = found
                    member.shelf[hash_.hex()] = payload
                self._push(now + JOB_SECONDS * self._chance.random(), member.id, Computed(job, result))
            case WakeAt(time):
                member.alarm = next(self._serials)
                self._push(max(now, time), member.id, Woken(), alarm=member.alarm)
            case Report():
                member.reports.append(command)

    def _fetch(self, member: Member, fetch: Fetch, now: float) -> None:
        source = self.members[fetch.source]
        payload = source.shelf.get(fetch.item.split(".")[-1])
        is_there = now < source.crash_at and payload is not None
        shipped = Ship(member.id, fetch.item, payload if payload else bytes(fetch.length))
        sent = self._sent(source.id, member.id, shipped)
        failure = Unreached(source.id, fetch.item)
        answer = Delivered(source.id, fetch.item, sent.payload) if is_there else failure
        self._carry(member, member.id, answer, failure, now)

    def _sent(self, sender: PeerId, receiver: PeerId, command: Any) -> Any:
        return self.play.lie(self, sender, receiver, command) if self.play.lie else command

    def _carry(self, sender: Member, to: PeerId, event: Event, failure: Event, now: float) -> None:
        """``event`` reaches ``to``, maybe late, maybe twice; or never: then the sender gets ``failure``."""
        weather = self._weather
        chance = self._chance
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
