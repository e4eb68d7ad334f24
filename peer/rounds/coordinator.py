"""With whom this peer averages in a round: with everybody in one group, or, in a population, with its cell, which the council follows.

    up to 64 peers      average ──────────────────────────────────────────────►  the next state
    more                average in the cell ──► delegate: confer in the council ──► the next state, and its record
                                            └─► the others: wait for that record ──► the same step, to the same state

Rule 1: whoever takes a record compares what it leads to with what those have who should have decided it.
Rule 2: where the council comes to nothing, or cannot be heard, nothing is lost: all of the cell bring its average again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from torch import Tensor

from averaging.averager import Averaged, Averager, Company, Update
from averaging.hierarchy import CELL, Hierarchy, least
from averaging.record import Record, UpdateShape
from swarm.errors import Malformed
from swarm.identity import PeerId, digest_of, peer_id_from_digest
from swarm.manifest import RunManifest

from ..network.membership import Membership
from ..sync.position import Course, Means
from ..sync.state_sync import POLL_SECONDS
from ..training.state import SharedState, state_root

ASKED = 4
"""Peers that are asked at a time, for a record or whether they have come to the same state."""
OTHERS_ASKED = 2
"""And as many of all: whoever names its friends as those who have decided is not the only one to be heard."""
PAUSE_SECONDS = 0.5
LOST = 3
"""After so many rounds without an average a peer looks for one group of all: its cell may have nobody else in it."""
COMPANY_PATIENCE = 120.0
"""Seconds to wait for `RunManifest.start_with` peers before the first round."""


Ask = Callable[[], None]


class Coordinator:
    """The averages of one peer."""

    def __init__(
        self,
        manifest: RunManifest,
        course: Course,
        membership: Membership,
        averager: Averager,
        means: Means,
        ask_to_wait: Ask,
    ) -> None:
        """``ask_to_wait`` tells those who lead the next round that we come to it, though we are late for this one."""
        self._manifest, self._course, self._membership, self._averager = (
            manifest,
            course,
            membership,
            averager,
        )
        self._learner, self._round_log, self._ask_to_wait = means.learner, means.round_log, ask_to_wait
        self._frame = UpdateShape(spec=manifest.round, tensors=means.learner.tensors)
        self._me = membership.me
        self._missed = 0

    async def company(self) -> None:
        """Before the first round: wait until as many are ready for it as the run wants to start with, somebody who knows of more of
        them has begun, or patience ends. The organiser, whose round it is, says so if it is here."""
        loop, roster, organiser = (
            asyncio.get_running_loop(),
            self._membership.roster,
            self._manifest.organiser_id,
        )
        give_up_at, seen = loop.time() + COMPANY_PATIENCE, -1
        while loop.time() < give_up_at and not roster.has_begun:
            if roster.news != seen and not roster.is_present(
                organiser, loop.time()
            ):  # a population looks often, and seldom sees news
                seen = roster.news
                if len(roster.in_training(loop.time())) + 1 >= self._manifest.start_with:
                    return
            await asyncio.sleep(POLL_SECONDS)

    async def average(self, update: Update, members: Collection[PeerId]) -> Averaged:
        """The average with whoever is there; ``members`` were in the last one. Where it is without us, with ``members`` empty."""
        now, roster, spec = asyncio.get_running_loop().time(), self._membership.roster, self._manifest.round
        still_here = {peer for peer in members if peer not in roster or roster.is_present(peer, now)}
        near = still_here | set(self._course.companions)
        close_at = self._course.train_until + spec.assemble_seconds
        population = self._course.population
        around = 1 + len(roster.peers(now))
        update = replace(update, is_participant=self._course.is_participant)
        hierarchy = (
            self._course.hierarchy if self._missed < LOST else replace(self._course.hierarchy, count=1)
        )
        if hierarchy.count == 1:
            expected = sorted((near | set(roster.at_round(update.round, now))) - {self._me})
            first = (
                self._manifest.organiser_id if population == 1 else None
            )  # many come at once to a run that has no population yet,
            close_at += (
                spec.assemble_seconds if population == 1 else 0.0
            )  # and the organiser has been waiting the longest
            left = sum(not roster.is_present(peer, now) for peer in members if peer in roster)
            enough, others = least(max(1, population - left), self._missed), roster.in_training(now)
            if (
                update.is_participant and population - left <= 1
            ):  # we alone are the majority: those who are behind us have to come after us
                others = [peer for peer in others if roster.round_of(peer) >= update.round]
            company = Company(
                expected,
                close_at,
                not others,
                elders=enough,
                population=population,
                around=around,
                leads=first,
            )
            averaged = await self._averager.average(update, company)
        else:
            known = {self._me, *near, *roster.peers(now)}
            expected = hierarchy.group_mates(self._me, known)
            few = max(1, (min(CELL, population // hierarchy.count) // 4) >> self._missed)
            company = Company(
                expected, close_at, alone_is_fine=False, least=few, population=population, around=around
            )
            averaged = await self._in_cells(update, hierarchy, company, known)
        if averaged.declined and averaged.by:
            if hierarchy.count == 1 and averaged.round <= update.round and self._course.is_quick:
                self._ask_to_wait()
            deadline = asyncio.get_running_loop().time() + spec.average_seconds
            averaged = await self._follow(
                update, averaged, (averaged.by, *self._membership.some(ASKED)), deadline
            )
        self._missed = 0 if averaged.average_P is not None or averaged.declined else self._missed + 1
        return averaged

    def others_went_on(self) -> None:
        """We have found them further than we are. In a population the rounds that we have missed were not missed by all then; of a few
        those whom we have found have missed as many."""
        if self._course.hierarchy.count > 1:
            self._missed = 0

    async def _in_cells(
        self, update: Update, hierarchy: Hierarchy, company: Company, known: Collection[PeerId]
    ) -> Averaged:
        """In a population: first the cell, then the council of the delegates."""
        cell = await self._averager.average(update, company)
        present = [peer for peer in cell.members if peer not in cell.missing]
        representative = hierarchy.representative(present) if cell.average_P is not None else None
        if representative != self._me:
            self._averager.abstain(update.round)
        if cell.average_P is None:
            return cell
        outside = [
            peer
            for peer in hierarchy.representatives(known)
            if hierarchy.group_index(peer) != hierarchy.group_index(self._me)
        ]
        spec = self._manifest.round
        close_at = (
            company.close_at + spec.assemble_seconds + spec.average_seconds
        )  # cells are not done at the same moment
        if representative != self._me:
            donors = (hierarchy.representative(present), *self._membership.some(ASKED, outside))
            return await self._follow(
                update, cell, donors, close_at + spec.assemble_seconds + spec.average_seconds
            )
        line = replace(update.line, peers=cell.population)
        brought = replace(update, vector_P=cell.average_P, tokens=cell.tokens, line=line, codec=None)
        enough = max(
            2, least(hierarchy.count, max(0, self._missed - 1))
        )  # one that failed for bad luck must not make room for two
        level2 = await self._averager.confer(
            brought, hierarchy, replace(company, expected=outside, close_at=close_at, least=enough)
        )
        if level2.record is None:
            self._averager.owe(cell.average_P)
            return replace(level2, members=(), missing=(), signed=True)
        average_P = await self._averager.accept(level2.record, self._frame, cell.average_P, self._me)
        return _concluded(cell, average_P, level2.record)

    async def _follow(
        self, update: Update, ours: Averaged, donors: Sequence[PeerId], deadline: float
    ) -> Averaged:
        """Wait until ``deadline`` for what others decide, and take the same step. ``ours`` is what our cell came to, or that there
        was no group for us; the first of ``donors`` is our delegate, or who turned us away."""
        loop = asyncio.get_running_loop()
        began, state = loop.time(), self._learner.state
        reason = ours.reason or "the council of the cells was not heard"
        missed = replace(ours, average_P=None, members=(), missing=(), reason=reason)
        found = await self._round_log.record(update.state_root, donors, deadline)
        record = found[0] if found and not found[0].is_void else None
        try:
            after = await self._round_log.following(state, record) if record else None
            tokens = await self._shared(after, record, deadline) if record and after else None
            if record and tokens is not None:
                if ours.average_P is None:
                    concluded = _concluded(missed, await self._round_log.average(record), record)
                else:
                    average_P = await self._averager.accept(record, self._frame, ours.average_P, donors[0])
                    concluded = _concluded(
                        replace(ours, counted=digest_of(donors[0]) in record.members), average_P, record
                    )
                return replace(concluded, tokens=tokens, seconds=ours.seconds + loop.time() - began)
        except Malformed as error:
            missed = replace(missed, reason=f"what came as the others' result is none: {error.fact}")
        if ours.average_P is not None:
            self._averager.owe(ours.average_P)
        return missed

    def deciders(self, record: Record) -> tuple[PeerId, ...]:
        """Those of the members of ``record`` that we know."""
        roster = self._membership.roster
        return tuple(sorted(peer for peer in map(peer_id_from_digest, record.members) if peer in roster))

    async def _shared(self, after: SharedState, record: Record, deadline: float) -> int | None:
        """Whether ``after`` is where those are who should have decided it, or anybody else that is as far: more than half of the
        first that answer. Then the tokens of this round, by what they say of the run; else None."""
        loop, root, members = asyncio.get_running_loop(), state_root(after), self.deciders(record)
        while loop.time() < deadline:
            asked = dict.fromkeys(
                [*self._membership.some(ASKED, members), *self._membership.some(OTHERS_ASKED)]
            )
            offers = await self._membership.offers(deadline, tuple(asked))
            as_far = [offer.message for offer in offers if offer.stamp.round >= after.round]
            same = sorted(
                said.tokens
                for said in as_far
                if (said.state_root, said.population) == (root, record.population)
            )
            if as_far:
                return (
                    max(0, same[len(same) // 2] - self._course.run_tokens)
                    if 2 * len(same) > len(as_far)
                    else None
                )
            await asyncio.sleep(PAUSE_SECONDS)
        return None


def _concluded(ours: Averaged, average_P: Tensor, record: Record) -> Averaged:
    """``ours`` with what the others have made of it, or without it."""
    return replace(
        ours, average_P=average_P, tokens=record.tokens, population=record.population, record=record
    )
