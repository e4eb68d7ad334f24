"""The one call a peer makes: its update in, the average of its group, or of the whole population, out.

    a small population       one group                                                    ──►  `Decided`
    a large population       level-1 group ──► representative: level-2 group              ──►  `Decided`
                                           └─► the others: follow its record              ──►  `Decided`
    turned away by a leader  follow the record of the group that stands without us        ──►  `Followed`
    our group may have       ask its members for its record                               ──►  `Followed`
      decided without us
    anything else            the update is carried over to the next round                 ──►  one of `Missed`

Rule 1: what a round has not applied of an update is never lost: the residual rides with the next update of
        the same fragment.
Rule 2: a peer follows only a record with a certificate: of a group for which enough of those have voted who
        led to its own state (`record.judge_for`). One such record is enough, whoever has it.
Rule 3: if nothing comes of the level-2 group, or it cannot be heard, nothing is lost: all members of the
        level-1 group carry its average over.
"""

# Axes: P parameters of what the round averages: the whole model, or one fragment of it

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from swarm.identity import KeyPair, PeerId, digest_of
from swarm.manifest import RunManifest

from .assembly import Assembled
from .certificate import DecisionCertificate, Electorate, Origin, origin_of
from .closed_rounds import ClosedRounds
from .feedback import ErrorFeedback, Settle
from .following import DecidedElsewhere
from .group_average import BRIEF, GroupAverage, GroupResult
from .hierarchy import Hierarchy
from .outcome import (
    Alone,
    Decided,
    Declined,
    Followed,
    Missed,
    NoGroup,
    NotMerged,
    Outcome,
    Unanswered,
    Undecided,
    Void,
    cause_of,
)
from .record import Record, RecordResidual, ReplayRecord, UpdateShape, VerifiedRecord, judge_for
from .round_plan import Applied
from .runner import MachineRunner, Ports
from .signed_rounds import SignedRounds
from .terms import Attendance, GroupTerms
from .update import Update

NOT_HEARD = "the level-2 group was not heard"
NOTHING_APPLIED = "nothing was applied in our level-1 group"


@dataclass(frozen=True, slots=True)
class _Asking:
    """Whom to ask for a round's record, through which port, and whose votes must be in its certificate."""

    elsewhere: DecidedElsewhere
    donors: Sequence[PeerId]
    electorate: Electorate


class Averager:
    """Averages one update per round.

    Keeps the residual, and answers peers that come to rounds which are over.
    """

    def __init__(self, manifest: RunManifest, key: KeyPair, ports: Ports) -> None:
        self._manifest = manifest
        self._me = key.peer_id
        self._arithmetic = ports.arithmetic
        signed = SignedRounds(ports.signed, ports.arithmetic)
        self._groups = GroupAverage(manifest, key, MachineRunner(ports), signed)
        self._closed = ClosedRounds(manifest, ports.post)
        self._feedbacks: dict[int, ErrorFeedback] = {}
        """By fragment."""

    def residual(self, fragment: int = 0) -> Tensor | None:
        """The part of the updates of ``fragment`` that no round has applied yet, ``[P]``.

        None before the first update. Do not write into it.
        """
        return self._feedbacks[fragment].residual if fragment in self._feedbacks else None

    def restore(self, residual_P: Tensor, fragment: int = 0) -> None:
        """Go on with the residual of a checkpoint; the tensor becomes ours."""
        self._feedbacks[fragment] = ErrorFeedback(residual_P.numel())
        self._feedbacks[fragment].adopt(residual_P)

    def rejoin(self, round_: int) -> None:
        """This peer is now in ``round_``, possibly for the second time, with another model than before."""
        self._closed.reopen(round_)

    async def average(
        self, update: Update, attendance: Attendance, elsewhere: DecidedElsewhere | None = None
    ) -> Outcome:
        """Average ``update`` with the peers that attend, or follow what others decide ``elsewhere``.

        Always returns, as every wait has a deadline that follows from ``attendance.close_at`` and the
        manifest's ``assemble_seconds`` and ``average_seconds``. Without ``elsewhere`` there is one group, and
        no following. Calling this invalidates the average that the previous call has returned.
        """
        self._groups.recycle()
        may_sign = await self._groups.begin(update.round)
        attendance = attendance.without(self._me, self._groups.reliability.unawaited)
        run = self._manifest.run_id
        group_size = self._manifest.round.group_size
        hierarchy = attendance.hierarchy(run, update.round, group_size)
        self._closed.begin(update.round)
        if not may_sign:
            return await self._stay_out(update, attendance, hierarchy, elsewhere)
        if hierarchy.count == 1 or elsewhere is None:
            outcome: Outcome = await self._in_group(update, attendance.one_group(self._me))
        else:
            outcome = await self._in_two_levels(update, attendance, hierarchy, elsewhere)
        if elsewhere is None:
            return outcome
        is_one_group = hierarchy.count == 1
        electorate = attendance.deciding(self._me, hierarchy, self._manifest.round.average_seconds)
        if is_one_group and isinstance(outcome, (Undecided, Void)):
            members = [member for member in outcome.group.members if member != self._me]
            return await self._ask_own_group(update, outcome, _Asking(elsewhere, members, electorate))
        cause = cause_of(outcome)
        if not isinstance(cause, Declined) or cause.by is None:
            return outcome
        if is_one_group:  # with two levels, groups of the next round do not wait for single peers
            elsewhere.announce(cause.round)
        asking = _Asking(elsewhere, elsewhere.donors(cause.by), electorate)
        followed = await self._follow(update, cause.reason, asking, self._manifest.round.average_seconds)
        return followed or outcome

    # --- one group ------------------------------------------------------------------------------------------

    async def _in_group(self, update: Update, terms: GroupTerms) -> Decided | Missed:
        """Form one group, average in it, and keep what was not applied of our update."""
        feedback = self._feedbacks.setdefault(update.fragment, ErrorFeedback(update.vector_P.numel()))
        is_brief = update.vector_P.numel() <= BRIEF
        sent_P = await self._arithmetic.run(lambda: feedback.to_send(update.vector_P), is_brief=is_brief)
        assembled = await self._groups.assemble(update, terms)
        is_alone = isinstance(assembled, Assembled) and len(assembled.group.members) == 1
        if not isinstance(assembled, Assembled) or (is_alone and not terms.alone_is_fine):
            await self._arithmetic.run(lambda: feedback.adopt(sent_P), is_brief=True)
            return assembled if isinstance(assembled, NoGroup) else _alone(update)
        self._closed.formed(update.round, update.state_root, assembled.certificate)
        if is_alone:
            await self._arithmetic.run(feedback.reset, is_brief=True)
            return _decided_alone(assembled, sent_P)
        averaged = await self._groups.average(update, assembled, sent_P, feedback.take_scratch())
        await self._settle(update, feedback, sent_P, averaged)
        return averaged.decided()

    async def _settle(
        self, update: Update, feedback: ErrorFeedback, sent_P: Tensor, averaged: GroupResult
    ) -> None:
        """Keep what the round has not applied of ``sent_P``: without a decision all of it."""
        result = averaged.result
        spec = self._manifest.round
        is_brief = sent_P.numel() <= BRIEF
        if not isinstance(result, Applied):
            await self._arithmetic.run(lambda: feedback.adopt(sent_P), is_brief=is_brief)
            return
        settled = Settle(
            sent_P,
            result.encoded,
            averaged.plan.parts,
            result.included,
            spec.codec if update.codec is None else update.codec,
            spec.feedback,
            result.decoded,
        )
        await self._arithmetic.run(lambda: feedback.settle(settled), is_brief=is_brief)

    async def _stay_out(
        self,
        update: Update,
        attendance: Attendance,
        hierarchy: Hierarchy,
        elsewhere: DecidedElsewhere | None,
    ) -> Followed | Unanswered:
        """This peer may have signed in this round before: it carries its update over, and follows."""
        feedback = self._feedbacks.setdefault(update.fragment, ErrorFeedback(update.vector_P.numel()))
        sent_P = await self._arithmetic.run(lambda: feedback.to_send(update.vector_P))
        await self._arithmetic.run(lambda: feedback.adopt(sent_P), is_brief=True)
        unanswered = Unanswered("this peer may have signed for another group of this round", update.round)
        others = [*attendance.near, *attendance.at_round, *attendance.present]
        if elsewhere is None or not others:
            return unanswered
        spec = self._manifest.round
        electorate = attendance.deciding(self._me, hierarchy, spec.average_seconds)
        asking = _Asking(elsewhere, elsewhere.donors(others[0], others), electorate)
        seconds = spec.assemble_seconds + spec.average_seconds
        return await self._follow(update, unanswered.reason, asking, seconds) or unanswered

    # --- two levels -----------------------------------------------------------------------------------------

    async def _in_two_levels(
        self, update: Update, attendance: Attendance, hierarchy: Hierarchy, elsewhere: DecidedElsewhere
    ) -> Decided | Missed:
        """First our level-1 group; then its representative joins the level-2 group, and the others follow."""
        ours = await self._in_group(update, attendance.level1(self._me, hierarchy))
        if not isinstance(ours, Decided):
            self._closed.skip_level2(update.round)
            return ours
        if not ours.present:
            self._closed.skip_level2(update.round)
            return NotMerged(Undecided(NOTHING_APPLIED, ours.group, ours.missing, ours.seconds))
        terms = attendance.level2(self._me, hierarchy, self._manifest.round.average_seconds)
        representative = hierarchy.representative(ours.present)
        if representative != self._me:
            self._closed.skip_level2(update.round)
            donors = elsewhere.donors(representative, attendance.other_representatives(self._me, hierarchy))
            return await self._follow_level2(update, ours, donors, terms, elsewhere)
        return await self._in_level2(update, ours, terms, hierarchy, elsewhere.shape)

    async def _in_level2(
        self, update: Update, ours: Decided, terms: GroupTerms, hierarchy: Hierarchy, shape: UpdateShape
    ) -> Decided | NotMerged:
        """As the representative of our level-1 group: average its average with those of the other groups."""
        brought = replace(
            update,
            vector_P=ours.average_P,
            tokens=ours.tokens,
            link=replace(update.link, peers=ours.population),
            codec=None,
        )
        assembled = await self._groups.assemble(brought, terms, hierarchy)
        if not isinstance(assembled, Assembled):
            self._add_to_residual(update, ours.average_P)
            return NotMerged(assembled)
        self._closed.formed_level2(update.round, update.state_root, assembled.certificate)
        averaged = await self._groups.average(brought, assembled, brought.vector_P)
        if not isinstance(averaged.result, Applied):
            self._add_to_residual(update, ours.average_P)
            return NotMerged(averaged.result)
        record = averaged.recorded(averaged.result)
        average_P = await self._take_over(update, ours, record, self._me, shape)
        return _merged(ours, average_P, record, origin_of(assembled.group, averaged.certificate))

    async def _follow_level2(
        self,
        update: Update,
        ours: Decided,
        donors: Sequence[PeerId],
        terms: GroupTerms,
        elsewhere: DecidedElsewhere,
    ) -> Decided | NotMerged:
        """As a member that is not the representative: wait for the level-2 group's record, and take the same
        step."""
        spec = self._manifest.round
        # Forming the level-2 group may take twice ``assemble_seconds`` from ``close_at``.
        deadline = terms.close_at + 2 * spec.assemble_seconds + spec.average_seconds
        loop = asyncio.get_running_loop()
        began = loop.time()
        representative = donors[0]
        asking = _Asking(elsewhere, donors, terms.electorate)
        found = await self._record(update, asking, deadline)
        if found is None:
            self._add_to_residual(update, ours.average_P)
            return NotMerged(Undecided(NOT_HEARD, ours.group, ours.missing))
        record = found.record
        average_P = await self._take_over(update, ours, record, representative, elsewhere.shape)
        merged = _merged(ours, average_P, record, found.decision.origin)
        is_counted = digest_of(representative) in record.members
        return replace(merged, is_counted=is_counted, seconds=ours.seconds + loop.time() - began)

    async def _take_over(
        self, update: Update, ours: Decided, record: Record, representative: PeerId, shape: UpdateShape
    ) -> Tensor:
        """Return the level-2 average, ``[P]``, and carry over the part of our level-1 average that it
        lacks."""
        average_P = await self._arithmetic.run(ReplayRecord(record, shape).run)
        left = RecordResidual(record, shape, ours.average_P, representative)
        self._add_to_residual(update, await self._arithmetic.run(left.run))
        return average_P

    def _add_to_residual(self, update: Update, left_P: Tensor) -> None:
        """``left_P`` of our level-1 average was not applied: it rides with the next updates of all members of
        the group."""
        feedback = self._feedbacks[update.fragment]
        feedback.adopt(feedback.residual + left_P)

    # --- following ------------------------------------------------------------------------------------------

    async def _ask_own_group(
        self, update: Update, outcome: Undecided | Void, asking: _Asking
    ) -> Followed | Undecided | Void:
        """Our group stood, and we know of no decision: one of its members may.

        What its record has applied of our update is not carried over a second time.
        """
        followed = await self._follow(update, outcome.reason, asking, self._manifest.round.assemble_seconds)
        if followed is None:
            return outcome
        feedback = self._feedbacks[update.fragment]
        shape = asking.elsewhere.shape
        left = RecordResidual(followed.record, shape, feedback.residual, self._me, update.codec)
        feedback.adopt(await self._arithmetic.run(left.run))
        return followed

    async def _follow(self, update: Update, reason: str, asking: _Asking, seconds: float) -> Followed | None:
        """A group stands, or has decided, without us: wait for its record, and take the same step."""
        began = asyncio.get_running_loop().time()
        found = await self._record(update, asking, began + seconds)
        if found is None:
            return None
        average_P = await self._arithmetic.run(ReplayRecord(found.record, asking.elsewhere.shape).run)
        return Followed(
            average_P=average_P,
            record=found.record,
            origin=found.decision.origin,
            seconds=asyncio.get_running_loop().time() - began,
            reason=reason or NOT_HEARD,
        )

    async def _record(self, update: Update, asking: _Asking, deadline: float) -> VerifiedRecord | None:
        """The record of this round, if one of the donors has one that we believe by ``deadline``."""
        elsewhere = asking.elsewhere
        run = self._manifest.run_id
        judge = judge_for(run, elsewhere.shape, update.state_root, update.parent, asking.electorate)
        return await elsewhere.record(update.state_root, asking.donors, judge, deadline)


def _alone(update: Update) -> Alone:
    return Alone("nobody else came, though others are here", update.round)


def _decided_alone(assembled: Assembled, average_P: Tensor) -> Decided:
    """The outcome of a group of one: its own update."""
    group = assembled.group
    return Decided(
        average_P=average_P,
        group=group,
        tokens=group.tokens_of(group.members),
        population=group.population,
        origin=origin_of(group, DecisionCertificate(assembled.certificate)),
    )


def _merged(ours: Decided, average_P: Tensor, record: Record, origin: Origin) -> Decided:
    """Our level-1 outcome as that of the whole population: with the average of the level-2 group."""
    return replace(
        ours,
        average_P=average_P,
        tokens=record.tokens,
        population=record.population,
        record=record,
        origin=origin,
    )
