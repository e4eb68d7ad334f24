"""The one call a peer makes: its update in, the group's average out. The only file of the room that awaits.

`Averager` builds the two machines of a round, `Assembly` and `Round`, and is their driver's hands: it signs and sends what they
want sent, runs their arithmetic away from the event loop, and keeps the results on the shelf for members that missed one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from swarm.identity import KeyPair, PeerId
from swarm.machine import Arithmetic, Command, Compute, Computed, Fetch, Report, Send, Ship, drive
from swarm.manifest import Codec, Exchange, RunManifest
from swarm.transport.post import Inbox, Post
from swarm.wire import LEVEL_2, NO_GROUP, Message, Signed, Stamp, level_of, open_frame, seal

from . import groups
from .assembly import Assembly, Call, LeftOut
from .codecs import Raw
from .feedback import ErrorFeedback, Settle
from .groups import Group, LinkClaim
from .hierarchy import Hierarchy
from .messages import (
    Ballot,
    Commit,
    Decline,
    DeclineReason,
    Holdings,
    Proposal,
    Ready,
    Receipt,
    Takeover,
    Vote,
)
from .partition import Part, plan, shaped
from .record import Record, RecordResidual, ReplayRecord, UpdateShape, recorded
from .reduce import Checked, CheckResult, EncodedPart, Reduced
from .round import Round
from .round_plan import Contribution, Outcome, Plan, Schedule
from .whole_update import CheckUpdate, CombineUpdates, EncodeUpdate

LOOKS = 16
"""First looks for the missing that would fit into ``assemble_seconds``."""
REMEMBERED = 64
"""Rounds back."""
BRIEF = 1 << 17
"""Numbers of an update whose jobs take a millisecond or two each, but for the sum of whole updates, which grows with the group."""
FORMS: dict[type[Message], bool] = {
    Ready: True, Proposal: True, Vote: True, Decline: True,
    Commit: False, Receipt: False, Takeover: False, Holdings: False, Ballot: False,
}  # fmt: skip
"""The messages of this room; True for those that form a group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a peer brings: ``vector_P`` = start − end (float32), the ``tokens`` behind it and the ``seed`` of their data.

    ``vector_P`` is never written to again, by nobody: as float32 it travels from where it lies, and may do so after the round.
    """

    round: int
    vector_P: Tensor
    tokens: int
    seed: bytes
    state_root: bytes
    tensors: tuple[int, ...] = ()
    """Lengths of the tensors in the vector, in order; empty where it is one."""
    fragment: int = 0
    """Which of the model's fragments it is: what is not applied of one rides with the next update of the same."""
    codec: Codec | None = None
    """How to encode it, if not as the manifest says: smaller, for a slow uplink (`strength.allowed`)."""
    line: LinkClaim = field(default_factory=LinkClaim)
    """What we tell the others of our own line."""
    is_participant: bool = True
    """Whether we were in the run's last average, or there has been none."""


@dataclass(frozen=True, slots=True)
class Company:
    """With whom to average. ``expected`` should come; the leader stops waiting for them at ``close_at`` (the loop's clock)."""

    expected: Sequence[PeerId]
    close_at: float
    alone_is_fine: bool = True
    """Whether the average is the update itself where nobody comes; else it is kept for later."""
    least: int = 1
    """Members without whom there is no group (`cells.least`)."""
    elders: int = 0
    """So many of them must have been in the last average."""
    population: int = 1
    """Peers that were ready for the last round."""
    around: int = 1
    """Peers that are here, as far as we know."""
    leads: PeerId | None = None
    """Who leads if it is there; else a hash decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaged:
    """What became of it. ``average_P`` is None where nothing was decided, ``members`` are empty where it was without us: then
    ``reason`` says why, and the whole update is kept for the next round. ``round`` is where the run stands, as far as a leader
    told us."""

    average_P: Tensor | None
    members: tuple[PeerId, ...] = ()
    missing: tuple[PeerId, ...] = ()
    reason: str = ""
    declined: bool = False
    """Whether a leader turned us away: then there is a group, and its result is worth waiting for."""
    by: PeerId | None = None
    """Who turned us away."""
    counted: bool = True
    """Whether the ``members`` had a part in it: a council may have decided without their delegate."""
    signed: bool = True
    """Whether we have voted for the group of this round: then the round is void for us where it came to nothing."""
    alone: bool = False
    """Whether nobody else came, though others are here."""
    is_void: bool = False
    """Whether the others cannot have an average either, as far as we can tell: then there is nothing to wait for."""
    round: int = 0
    tokens: int = 0
    """Behind the updates that were applied, by their senders' own word."""
    seconds: float = 0.0
    """From the standing group to the average."""
    population: int = 1
    """Peers that were ready for this round, as all its members know it."""
    record: Record | None = None
    """The same for those who were not in the group."""


@dataclass(slots=True)
class _Line:
    """What a machine's commands need to become deeds: whom it speaks for, until when, and where answers go."""

    stamp: Stamp
    deadline: float
    inbox: Inbox
    is_brief: bool = False
    """Whether its jobs are."""
    shelved: dict[str, Raw] = field(default_factory=dict)


class Averager:
    """Averages one update per round. ``report`` is told what people should know."""

    def __init__(
        self,
        manifest: RunManifest,
        key: KeyPair,
        post: Post,
        arithmetic: Arithmetic,
        tasks: asyncio.TaskGroup,
        report: Callable[[Report], None],
    ) -> None:
        self._manifest, self._key, self._post, self._arithmetic, self._tasks, self._report = (
            manifest, key, post, arithmetic, tasks, report,
        )  # fmt: skip
        self._run, self._me = manifest.run_id, key.peer_id
        self._round = 0
        self._formed = -1
        self._models: dict[int, bytes] = {}
        """State roots of the last rounds for which we had a group."""
        self._conferred: deque[int] = deque(maxlen=REMEMBERED)
        """Rounds in whose council we were."""
        self._feedbacks: dict[int, ErrorFeedback] = {}
        self._fragment = 0
        self._lent_P: Tensor | None = None
        self._room_P: Tensor | None = None
        post.stray = self._answer_stray

    def residual(self, fragment: int = 0) -> Tensor | None:
        """What has not been applied yet of the updates of ``fragment``; None before the first of them. To be read only."""
        return self._feedbacks[fragment].residual if fragment in self._feedbacks else None

    def take_back(self, average_P: Tensor | None) -> None:
        """Nobody reads ``average_P`` any more: if the last `average` or `confer` has made it, the next one is put there.

        Fresh memory costs more than what is done with it.
        """
        if average_P is not None and average_P is self._lent_P:
            self._room_P = average_P
        self._lent_P = None

    def restore(self, residual_P: Tensor, fragment: int = 0) -> None:
        """Go on with the residual of an earlier life (a checkpoint); the tensor becomes ours."""
        self._feedbacks[fragment] = ErrorFeedback(residual_P.numel())
        self._feedbacks[fragment].adopt(residual_P)

    def stand(self, round_: int) -> None:
        """From now on we stand in ``round_``, which may be one that we have been in before, with another model: who is ready for it
        is not told any more that it is over, and is heard as soon as we are."""
        self._round, self._formed = round_, min(self._formed, round_ - 1)
        self._post.reopen(round_)

    async def average(self, update: Update, company: Company) -> Averaged:
        """Average ``update`` with whoever comes of the ``company``.

        Always returns: at the latest after ``assemble_seconds`` and ``average_seconds`` of the manifest beyond ``close_at``.
        """
        self._round = update.round
        self._fragment, is_brief = update.fragment, update.vector_P.numel() <= BRIEF
        feedback = self._feedbacks.setdefault(update.fragment, ErrorFeedback(update.vector_P.numel()))
        carried_P = await self._arithmetic.run(lambda: feedback.carried(update.vector_P), is_brief=is_brief)
        group = await self._assemble(update, company)
        alone = isinstance(group, Group) and len(group.members) == 1
        if alone and not company.alone_is_fine:
            group = LeftOut("nobody else came, though others are here", update.round)
        if isinstance(group, LeftOut):
            await self._arithmetic.run(lambda: feedback.adopt(carried_P), is_brief=True)
            return replace(_without(group), alone=alone)
        self._formed = update.round
        self._remember(update)
        if alone:
            await self._arithmetic.run(feedback.reset, is_brief=True)
            return Averaged(
                average_P=carried_P,
                members=group.members,
                round=update.round,
                tokens=update.tokens,
                population=group.population,
            )
        outcome, averaged = await self._exchange(update, group, carried_P, feedback.room())
        parts = self._parts(group, update)
        codec = self._manifest.round.codec if update.codec is None else update.codec
        settled = Settle(
            carried_P,
            outcome.encoded,
            parts,
            outcome.included,
            codec,
            self._manifest.round.feedback,
            outcome.decoded,
        )
        keeps_all = outcome.average_P is None
        settle = (lambda: feedback.adopt(carried_P)) if keeps_all else (lambda: feedback.settle(settled))
        await self._arithmetic.run(settle, is_brief=is_brief)
        return averaged

    def _remember(self, update: Update) -> None:
        self._models.pop(update.round, None)
        self._models[update.round] = update.state_root
        if len(self._models) > REMEMBERED:
            del self._models[next(iter(self._models))]

    def abstain(self, round_: int) -> None:
        """We are not in the council of ``round_``: whoever waits for us there should know."""
        topic = (round_, LEVEL_2)
        self._post.open(topic)
        self._post.close(topic)

    async def confer(self, update: Update, hierarchy: Hierarchy, company: Company) -> Averaged:
        """In a council: average ``update``, the average of our cell, with those of the others. What of it is lost, see `accept`."""
        group = await self._assemble(update, company, hierarchy)
        if isinstance(group, LeftOut):
            return _without(group)
        self._conferred.append(update.round)
        return (await self._exchange(update, group, update.vector_P, None))[1]

    async def accept(
        self, record: Record, frame: UpdateShape, brought_P: Tensor, representative: PeerId
    ) -> Tensor:
        """The council's average, ``[P]``, from its ``record``; what it has left of our cell's average rides with our next update.

        Raises `Malformed` for a record that no council can have made.
        """
        average_P = await self._arithmetic.run(ReplayRecord(record, frame).run)
        left_P = await self._arithmetic.run(RecordResidual(record, frame, brought_P, representative).run)
        self.owe(left_P)
        return average_P

    def owe(self, left_P: Tensor) -> None:
        """``left_P`` of our cell's average was not applied: it rides with the next updates of all its members."""
        if feedback := self._feedbacks.get(self._fragment):
            feedback.adopt(feedback.residual + left_P)

    async def _assemble(
        self, update: Update, company: Company, level2: Hierarchy | None = None
    ) -> Group | LeftOut:
        spec, level = self._manifest.round, LEVEL_2 if level2 else NO_GROUP
        stamp = Stamp(self._run, update.round, level)
        said = Ready(
            update.state_root, update.line.up, update.line.dialable, update.line.peers, update.is_participant
        )
        ready = open_frame(seal(self._key, said, stamp), Ready, run=self._run)
        close_at = max(
            company.close_at, asyncio.get_running_loop().time() + spec.assemble_seconds / 4
        )  # we may be late ourselves
        call = Call(
            run=self._run,
            me=ready,
            expected=tuple(company.expected),
            close_at=close_at,
            patience=spec.assemble_seconds,
            first_look=spec.assemble_seconds / LOOKS,
            group_size=spec.group_size,
            least=company.least,
            elders=company.elders,
            population=company.population,
            around=company.around,
            level2=level2,
            leads=company.leads,
        )
        topic = (update.round, level)
        inbox = self._post.open(topic)
        line = _Line(stamp, close_at + 2 * spec.assemble_seconds, inbox)
        try:
            return await drive(Assembly(call), lambda command: self._act(command, line), inbox.events)
        finally:
            self._post.close(topic)

    async def _exchange(
        self, update: Update, group: Group, carried_P: Tensor, read_P: Tensor | None
    ) -> tuple[Outcome, Averaged]:
        """What the round of ``group`` came to, for us and for everybody else. ``read_P``: as in `Contribution`."""
        spec, loop = self._manifest.round, asyncio.get_running_loop()
        began = loop.time()
        schedule = Schedule.within(began, spec.average_seconds)
        parts = self._parts(group, update)
        the_plan = Plan(group=group, parts=parts, codec=spec.codec, schedule=schedule, exchange=spec.exchange)

        room_P, self._room_P = self._room_P, None
        if room_P is not None and room_P.shape != carried_P.shape:  # fragments may differ by a block
            room_P = None
        contribution = Contribution(
            vector_P=carried_P,
            weight=update.tokens,
            seed=update.seed,
            codec=update.codec,
            room_P=room_P,
            read_P=read_P,
        )
        machine = Round(the_plan, self._key.peer_id, contribution)
        topic = (update.round, group.id)
        inbox = self._post.open(topic, machine.expect)
        line = _Line(
            Stamp(self._run, update.round, group.id), schedule.fetched, inbox, carried_P.numel() <= BRIEF
        )
        try:
            outcome: Outcome = await drive(machine, lambda command: self._act(command, line), inbox.events)
        finally:
            self._post.close(topic)
            self._post.shelf = {
                name: payload for name, payload in self._post.shelf.items() if name in line.shelved
            }

        self._lent_P = outcome.average_P
        averaged = Averaged(
            average_P=outcome.average_P,
            members=group.members,
            missing=outcome.missing,
            reason=outcome.reason,
            is_void=outcome.is_void,
            round=update.round,
            tokens=outcome.tokens,
            seconds=loop.time() - began,
            population=group.population,
            record=recorded(outcome, group, parts),
        )
        return outcome, averaged

    def _parts(self, group: Group, update: Update) -> tuple[Part, ...]:
        numbers, spec = update.vector_P.numel(), self._manifest.round
        at_most = 1 if spec.exchange is Exchange.GATHER else spec.owners
        owners = groups.owners(self._run, group, at_most)
        parts = plan(numbers, owners, groups.shares(group, owners))
        return shaped(parts, update.tensors or (numbers,), update.round)

    def _act(self, command: Command, line: _Line) -> None:
        """The hands of both machines."""
        stamp = line.stamp
        match command:
            case Send(to, message, group):
                its_stamp = Stamp(stamp.run, stamp.round, stamp.group if group == NO_GROUP else group)
                self._post.send(to, message, its_stamp, deadline=line.deadline, failures=line.inbox)
            case Ship(to, item, payload):
                self._post.ship(to, stamp.group, item, payload, deadline=line.deadline, failures=line.inbox)
            case Fetch(source, item, length):
                name, now = item.split(".")[-1], asyncio.get_running_loop().time()
                halfway = now + (line.deadline - now) / 2  # the other half is for the holders after this one
                self._post.fetch(source, item, name, length, deadline=halfway, inbox=line.inbox)
            case Compute():
                self._tasks.create_task(self._compute(command, line))
            case Report():
                self._report(command)

    async def _compute(self, command: Compute, line: _Line) -> None:
        job = command.job
        result = await self._arithmetic.run(
            job.run, is_brief=line.is_brief and not isinstance(job, CombineUpdates)
        )
        if found := shelved(job, result):
            self._post.shelf[found[0].hex()] = line.shelved[found[0].hex()] = found[1]
        line.inbox.events.put_nowait(Computed(job, result))

    def _answer_stray(self, signed: Signed[Message]) -> None:
        """Somebody is ready for a round whose group stands already, or for a council or a round in which we are not: tell it."""
        if not isinstance(signed.message, (Ready, Proposal)):
            return
        if signed.stamp.group == LEVEL_2 and signed.stamp.round not in self._conferred:
            self._decline(signed, Decline(self._round, "we do not speak for our cell", DeclineReason.ABSENT))
        elif signed.stamp.round > self._round + 1:
            self._decline(signed, Decline(self._round, "still catching up", DeclineReason.ABSENT))
        elif signed.stamp.round <= self._formed:
            self._decline(signed, self._over(signed))

    def _over(self, signed: Signed[Message]) -> Decline:
        """What to say to one that comes when our group of its round stands: if it comes with another model, that is no word on its
        round, but only on us, who do not come."""
        round_, message = signed.stamp.round, signed.message
        if isinstance(message, Ready) and self._models.get(round_, message.state_root) != message.state_root:
            return Decline(self._round, "we train from another model", DeclineReason.ABSENT)
        return Decline(self._round, f"round {round_} is over, the run is at {self._round}")

    def _decline(self, signed: Signed[Message], decline: Decline) -> None:
        deadline = asyncio.get_running_loop().time() + self._manifest.round.assemble_seconds
        stamp = Stamp(self._run, signed.stamp.round, level_of(signed.stamp.group))
        self._post.send((signed.signer,), decline, stamp, deadline=deadline, failures=Inbox())


def _without(left: LeftOut) -> Averaged:
    """There is no group for us."""
    return Averaged(
        average_P=None,
        reason=left.reason,
        declined=left.declined,
        by=left.by,
        signed=left.signed,
        round=left.round,
    )


def shelved(job: object, result: object) -> tuple[bytes, Raw] | None:
    """(hash, payload) where a job has made or verified an item that others may have missed."""
    match job, result:
        case _, Reduced(payload, hash_):
            return hash_, payload
        case EncodeUpdate(), (EncodedPart(payload, hash_, _),):
            return hash_, payload
        case CheckResult() | CheckUpdate(), Checked(_, _, True):
            return job.hash, job.payload
    return None
