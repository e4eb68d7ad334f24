"""One group, one round: form the group, and average in it. `averager` puts one or two of these together."""

# Axes: P parameters of the whole model

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from swarm.identity import KeyPair
from swarm.manifest import RunManifest
from swarm.wire import LEVEL_2, NO_GROUP, Message, Signed, Stamp, level_of, open_frame, seal

from .assembly import Assembled, Assembly
from .assembly_plan import AssemblyPlan
from .certificate import DecisionCertificate, GroupCertificate, by_seat, origin_of, packed
from .groups import Group
from .hierarchy import Hierarchy
from .messages import Ballot, Ready, Vote
from .outcome import Decided, NoDecision, NoGroup
from .record import Record, plan_parts, recorded
from .reliability import Pace, Reliability
from .round import Round
from .round_plan import Applied, RoundPlan, Schedule, Scratch
from .runner import MachineRunner
from .signed_rounds import SignedRounds
from .terms import GroupTerms
from .update import Update

M = TypeVar("M", bound=Message)

FIRST_LOOK = 1 / 16
"""Of ``assemble_seconds``: when missing peers are first asked for a sign of life."""
BRIEF = 1 << 17
"""Numbers of the largest update whose jobs take only a millisecond or two each. (The sum of whole updates
grows with the group, and is never brief.)"""


@dataclass(frozen=True, slots=True, eq=False)
class GroupResult:
    """What the round of a group came to."""

    plan: RoundPlan
    result: Applied | NoDecision
    seconds: float
    """From the standing group to the result."""
    certificate: DecisionCertificate
    """Of an applied result. Else of the group only."""

    def recorded(self, applied: Applied) -> Record:
        """What others need to take the same step, and to believe it."""
        return recorded(applied, self.plan.group, self.plan.parts, packed(self.certificate))

    def decided(self) -> Decided | NoDecision:
        """The same as an outcome of the peer."""
        result = self.result
        if not isinstance(result, Applied):
            return replace(result, seconds=self.seconds)
        group = self.plan.group
        return Decided(
            average_P=result.average_P,
            group=group,
            missing=result.missing,
            tokens=result.tokens,
            population=group.population,
            seconds=self.seconds,
            origin=origin_of(group, self.certificate),
            record=self.recorded(result),
        )


class GroupAverage:
    """Forms groups and averages in them, for one peer."""

    def __init__(
        self, manifest: RunManifest, key: KeyPair, runner: MachineRunner, signed: SignedRounds
    ) -> None:
        self._manifest = manifest
        self._signed_rounds = signed
        self._key = key
        self._runner = runner
        self.reliability = Reliability()
        """Our experience with the others."""
        self._pace = Pace(manifest.round.average_seconds)
        self._last_P: Tensor | None = None
        """The average that the last exchange has made: in use until `recycle`."""
        self._scratch_P: Tensor | None = None
        """A vector that nobody reads any more. Fresh memory costs more than the work done in it."""

    def recycle(self) -> None:
        """The last average is not in use any more: the next one may be written over it."""
        self._scratch_P = self._last_P
        self._last_P = None

    async def begin(self, round_: int) -> bool:
        """Whether this peer may sign anything in ``round_`` (`signed_rounds`)."""
        self.reliability.begin(round_)
        return await self._signed_rounds.begin(round_)

    async def assemble(
        self, update: Update, terms: GroupTerms, hierarchy: Hierarchy | None = None
    ) -> Assembled | NoGroup:
        """The group of this round, at most 2 × ``assemble_seconds`` after ``terms.close_at``.

        ``hierarchy``: form the level-2 group.
        """
        spec = self._manifest.round
        level = LEVEL_2 if hierarchy else NO_GROUP
        stamp = Stamp(self._manifest.run_id, update.round, level)
        link = update.link
        ready = Ready(update.state_root, link.uplink, link.dialable, link.peers, update.tokens, update.parent)
        now = asyncio.get_running_loop().time()
        close_at = max(terms.close_at, now + spec.assemble_seconds / 4)  # we may be late ourselves
        unawaited = self.reliability.unawaited
        expected = tuple(peer for peer in terms.expected if peer not in unawaited)
        assembly_plan = AssemblyPlan(
            run=self._manifest.run_id,
            ready=open_frame(seal(self._key, ready, stamp), Ready, run=self._manifest.run_id),
            terms=replace(terms, expected=expected, close_at=close_at, unawaited=unawaited),
            patience=spec.assemble_seconds,
            first_look=spec.assemble_seconds * FIRST_LOOK,
            group_size=spec.group_size,
            most_tokens=self._manifest.most_tokens,
            sign_vote=lambda group_id: self._vote(update.round, group_id),
            hierarchy=hierarchy,
        )
        machine = Assembly(assembly_plan)
        try:
            return await self._runner.run(machine, stamp, assembly_plan.give_up_at)
        finally:
            self.reliability.let_down(machine.let_down)

    async def average(
        self, update: Update, assembled: Assembled, vector_P: Tensor, decoded_scratch_P: Tensor | None = None
    ) -> GroupResult:
        """Average ``vector_P`` (the update with its residual) in the group; takes at most
        ``average_seconds``."""
        spec = self._manifest.round
        group = assembled.group
        loop = asyncio.get_running_loop()
        began = loop.time()
        round_plan = RoundPlan(
            group=group,
            parts=plan_parts(
                self._manifest.run_id, spec, group, update.tensors or (update.vector_P.numel(),)
            ),
            codec=spec.codec,
            schedule=Schedule.within(began, self._pace.seconds),
            exchange=spec.exchange,
            unawaited=self.reliability.unawaited.intersection(group.members),
        )
        scratch = Scratch(self._take_scratch(vector_P), decoded_scratch_P)
        machine = Round(round_plan, self._key.peer_id, replace(update, vector_P=vector_P), scratch)
        stamp = Stamp(self._manifest.run_id, update.round, group.id)
        deadline = round_plan.schedule.fetched
        is_brief = vector_P.numel() <= BRIEF
        result: Applied | NoDecision = await self._runner.run(
            machine, stamp, deadline, expect=machine.expect, is_brief=is_brief
        )
        self._last_P = result.average_P if isinstance(result, Applied) else None
        self._learn(machine, loop.time() - began, is_decided=isinstance(result, Applied))
        certificate = self._decision(assembled.certificate, group, result)
        return GroupResult(round_plan, result, loop.time() - began, certificate)

    def _learn(self, machine: Round, seconds: float, *, is_decided: bool) -> None:
        """Remember who kept us waiting, and how long an average takes."""
        self.reliability.let_down(machine.let_down)
        self.reliability.delivered(machine.delivered)
        if is_decided:
            self._pace.took(seconds, was_held_up=bool(machine.let_down))
        else:
            self._pace.failed()

    def _decision(
        self, formed: GroupCertificate, group: Group, result: Applied | NoDecision
    ) -> DecisionCertificate:
        """The certificate of ``result``: the ballots for it, with ours if we have cast it for this.

        A member that the others have outvoted must not sign a second ballot: that would be evidence.
        """
        if not isinstance(result, Applied):
            return DecisionCertificate(formed)
        ballots = list(result.ballots)
        if result.is_our_vote:
            ballots.append(self._signed(Ballot(result.decision), group.round, group.id))
        return DecisionCertificate(formed, result.decision, by_seat(group.members, ballots))

    def _vote(self, round_: int, group_id: bytes) -> Signed[Vote] | None:
        may_vote = self._signed_rounds.may_vote(round_, level_of(group_id))
        return self._signed(Vote(), round_, group_id) if may_vote else None

    def _signed(self, message: M, round_: int, group_id: bytes) -> Signed[M]:
        """Our signed ``message`` for a group."""
        run = self._manifest.run_id
        return open_frame(seal(self._key, message, Stamp(run, round_, group_id)), type(message), run=run)

    def _take_scratch(self, vector_P: Tensor) -> Tensor | None:
        scratch_P = self._scratch_P
        self._scratch_P = None
        # Fragments may differ by a block.
        has_shape = scratch_P is not None and scratch_P.shape == vector_P.shape
        return scratch_P if has_shape else None
