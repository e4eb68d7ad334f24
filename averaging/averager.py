"""The one call a peer makes: its update in, the average of its group, or of the whole population, out.

    a small population       one group                                                    ──►  `Decided`
    a large population       level-1 group ──► representative: level-2 group              ──►  `Decided`
                                           └─► the others: follow its record              ──►  `Decided`
    turned away by a leader  follow the record of the group that stands without us        ──►  `Followed`
    anything else            the update is carried over to the next round                 ──►  one of `Missed`

Rule 1: what a round has not applied of an update is never lost: the residual rides with the next update of
        the same fragment.
Rule 2: before following a record, a peer compares what it leads to with the state of those who should have
        decided it.
Rule 3: if nothing comes of the level-2 group, or it cannot be heard, nothing is lost: all members of the
        level-1 group carry its average over.
"""

# Axes: P parameters of what the round averages: the whole model, or one fragment of it

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from swarm.errors import Malformed
from swarm.identity import KeyPair, PeerId, digest_of
from swarm.manifest import RunManifest

from .closed_rounds import ClosedRounds
from .feedback import ErrorFeedback, Settle
from .following import DecidedElsewhere
from .group_average import BRIEF, GroupAverage, GroupResult
from .groups import Group
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
    Undecided,
    cause_of,
)
from .record import Record, RecordResidual, ReplayRecord, UpdateShape, recorded
from .round_plan import Applied
from .runner import MachineRunner, Ports
from .terms import Attendance, GroupTerms
from .update import Update

NOT_HEARD = "the level-2 group was not heard"
NOTHING_APPLIED = "nothing was applied in our level-1 group"


@dataclass(frozen=True, slots=True)
class _Confirmed:
    """A record that leads to the state of those who decided it; ``tokens`` of its round, as they count."""

    record: Record
    tokens: int


class Averager:
    """Averages one update per round.

    Keeps the residual, and answers peers that come to rounds which are over.
    """

    def __init__(self, manifest: RunManifest, key: KeyPair, ports: Ports) -> None:
        self._manifest = manifest
        self._me = key.peer_id
        self._arithmetic = ports.arithmetic
        self._groups = GroupAverage(manifest, key, MachineRunner(ports))
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
        run = self._manifest.run_id
        group_size = self._manifest.round.group_size
        hierarchy = attendance.hierarchy(run, update.round, group_size)
        self._closed.begin(update.round)
        if hierarchy.count == 1 or elsewhere is None:
            outcome: Outcome = await self._in_group(update, attendance.one_group(self._me))
        else:
            outcome = await self._in_two_levels(update, attendance, hierarchy, elsewhere)
        cause = cause_of(outcome)
        if elsewhere is None or not isinstance(cause, Declined) or cause.by is None:
            return outcome
        if hierarchy.count == 1:  # with two levels, groups of the next round do not wait for single peers
            elsewhere.announce(cause.round)
        followed = await self._follow(update, cause, cause.by, elsewhere)
        if isinstance(outcome, NotMerged) and isinstance(followed, Declined):
            return NotMerged(followed)
        return followed

    # --- one group ------------------------------------------------------------------------------------------

    async def _in_group(self, update: Update, terms: GroupTerms) -> Decided | Missed:
        """Form one group, average in it, and keep what was not applied of our update."""
        feedback = self._feedbacks.setdefault(update.fragment, ErrorFeedback(update.vector_P.numel()))
        is_brief = update.vector_P.numel() <= BRIEF
        sent_P = await self._arithmetic.run(lambda: feedback.to_send(update.vector_P), is_brief=is_brief)
        group = await self._groups.assemble(update, terms)
        is_alone = isinstance(group, Group) and len(group.members) == 1
        if not isinstance(group, Group) or (is_alone and not terms.alone_is_fine):
            await self._arithmetic.run(lambda: feedback.adopt(sent_P), is_brief=True)
            return group if isinstance(group, NoGroup) else _alone(update)
        self._closed.formed(update.round, update.state_root)
        if is_alone:
            await self._arithmetic.run(feedback.reset, is_brief=True)
            return Decided(average_P=sent_P, group=group, tokens=update.tokens, population=group.population)
        averaged = await self._groups.average(update, group, sent_P, feedback.take_scratch())
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
            return await self._follow_level2(update, ours, donors, terms.close_at, elsewhere)
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
        group = await self._groups.assemble(brought, terms, hierarchy)
        if not isinstance(group, Group):
            self._add_to_residual(update, ours.average_P)
            return NotMerged(group)
        self._closed.formed_level2(update.round)
        averaged = await self._groups.average(brought, group, brought.vector_P)
        if not isinstance(averaged.result, Applied):
            self._add_to_residual(update, ours.average_P)
            return NotMerged(averaged.result)
        record = recorded(averaged.result, group, averaged.plan.parts)
        average_P = await self._take_over(update, ours, record, self._me, shape)
        return _merged(ours, average_P, record, record.tokens)

    async def _follow_level2(
        self,
        update: Update,
        ours: Decided,
        donors: Sequence[PeerId],
        close_at: float,
        elsewhere: DecidedElsewhere,
    ) -> Decided | NotMerged:
        """As a member that is not the representative: wait for the level-2 group's record, and take the same
        step."""
        spec = self._manifest.round
        deadline = close_at + spec.assemble_seconds + spec.average_seconds
        loop = asyncio.get_running_loop()
        began = loop.time()
        representative = donors[0]
        reason = NOT_HEARD
        try:
            confirmed = await self._confirmed(update, donors, deadline, elsewhere)
            if confirmed:
                record = confirmed.record
                average_P = await self._take_over(update, ours, record, representative, elsewhere.shape)
                merged = _merged(ours, average_P, record, confirmed.tokens)
                is_counted = digest_of(representative) in record.members
                return replace(merged, is_counted=is_counted, seconds=ours.seconds + loop.time() - began)
        except Malformed as error:
            reason = _invalid(error)
        self._add_to_residual(update, ours.average_P)
        return NotMerged(Undecided(reason, ours.group, ours.missing))

    async def _take_over(
        self, update: Update, ours: Decided, record: Record, representative: PeerId, shape: UpdateShape
    ) -> Tensor:
        """Return the level-2 average, ``[P]``, and carry over the part of our level-1 average that it lacks.

        Raises `Malformed` for a record that no level-2 group can have made.
        """
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

    async def _follow(
        self, update: Update, declined: Declined, by: PeerId, elsewhere: DecidedElsewhere
    ) -> Followed | Declined:
        """A group stands without us: wait for its record, and take the same step."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._manifest.round.average_seconds
        donors = elsewhere.donors(by)
        began = loop.time()
        reason = declined.reason or NOT_HEARD
        try:
            confirmed = await self._confirmed(update, donors, deadline, elsewhere)
            if confirmed:
                record = confirmed.record
                average_P = await self._arithmetic.run(ReplayRecord(record, elsewhere.shape).run)
                return Followed(
                    average_P=average_P,
                    record=record,
                    tokens=confirmed.tokens,
                    seconds=loop.time() - began,
                    reason=reason,
                )
        except Malformed as error:
            reason = _invalid(error)
        return replace(declined, reason=reason)

    async def _confirmed(
        self, update: Update, donors: Sequence[PeerId], deadline: float, elsewhere: DecidedElsewhere
    ) -> _Confirmed | None:
        """The record of this round, once those who decided it confirm what it leads to; None if that does not
        happen by ``deadline``."""
        record = await elsewhere.record(update.state_root, donors, deadline)
        if record is None or record.is_void:
            return None
        tokens = await elsewhere.confirm(record, deadline)
        return None if tokens is None else _Confirmed(record, tokens)


def _alone(update: Update) -> Alone:
    return Alone("nobody else came, though others are here", update.round)


def _invalid(error: Malformed) -> str:
    return f"the round's record is invalid: {error.fact}"


def _merged(ours: Decided, average_P: Tensor, record: Record, tokens: int) -> Decided:
    """Our level-1 outcome as that of the whole population: with the average of the level-2 group."""
    return replace(ours, average_P=average_P, tokens=tokens, population=record.population, record=record)
