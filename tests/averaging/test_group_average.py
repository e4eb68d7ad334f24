"""Forming one group and averaging in it: what the machines are told, and what their results become."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import torch

from averaging.assembly import Assembled, Assembly
from averaging.certificate import origin_of, packed
from averaging.group_average import FIRST_LOOK, GroupAverage, GroupResult
from averaging.groups import Group, LinkClaim
from averaging.hierarchy import Hierarchy
from averaging.messages import Ballot
from averaging.outcome import Decided, TooFew, Undecided, Void
from averaging.record import recorded
from averaging.reliability import AVERAGES, FEWEST_AVERAGES
from averaging.round_plan import Applied, RoundPlan, Schedule
from averaging.signed_rounds import SignedInMemory, SignedRounds
from averaging.terms import GroupTerms
from swarm.manifest import Codec
from swarm.simulation.clock import simulate
from swarm.wire import LEVEL_2, NO_GROUP, Stamp
from tests.averaging.averagers import KEYS, MANIFEST, ROOT, ROUND, Slow, drawn, manifest_with, update_of
from tests.averaging.members import group_of
from tests.averaging.test_round import AT, GROUP, PARTS, PLAN, A, D
from tests.certificates import Company
from tests.certificates import signed as signed_by

PARENT = bytes([4]) * 16
APPLIED = Applied(
    average_P=torch.ones(1024),
    included=(True,) * 4,
    encoded=(b"",) * 4,
    decoded=(None,) * 4,
    missing=(D,),
    tokens=70,
    items=(b"one", b"two", b"", b"four"),
    decision=(bytes([1]) * 32, bytes([2]) * 32, b"", bytes([4]) * 32),
)


class Runner:
    """Notes which machine it should run, and how, and ends it with ``outcome``."""

    def __init__(self, outcome: object) -> None:
        self.outcome = outcome
        self.ran: list[tuple[Any, Stamp, float, dict[str, Any]]] = []

    async def run(self, machine: object, stamp: Stamp, deadline: float, **how: Any) -> Any:
        self.ran.append((machine, stamp, deadline, how))
        await asyncio.sleep(3)
        return self.outcome


def layer(outcome: object, codec: Codec = Codec.INT8) -> tuple[GroupAverage, Runner]:
    runner: Any = Runner(outcome)
    return GroupAverage(manifest_with(codec=codec), KEYS[0], runner, signed()), runner


def signed(last: int = -1) -> SignedRounds:
    store = SignedInMemory()
    store.keep(last)
    return SignedRounds(store, Slow())


def formed(group: Group) -> Assembled:
    """A group that stands, with a certificate that this test does not look at."""
    return Assembled(group, COMPANY.group_certificate())


COMPANY = Company(run=MANIFEST.run_id, keys=KEYS)


def test_a_decision_becomes_an_outcome_with_the_record_for_others() -> None:
    certificate = COMPANY.decision()
    found = GroupResult(PLAN, APPLIED, 2.5, certificate).decided()
    assert isinstance(found, Decided)
    assert found.average_P is APPLIED.average_P
    assert (found.group, found.missing, found.tokens, found.seconds) == (GROUP, (D,), 70, 2.5)
    assert (found.population, found.is_counted) == (4, True)
    assert found.record == recorded(APPLIED, GROUP, PARTS, packed(certificate))
    assert found.origin == origin_of(GROUP, certificate)


@pytest.mark.parametrize("form", [Undecided, Void])
def test_a_round_without_a_decision_is_an_outcome_with_its_duration(form: type) -> None:
    undecided = form("too few ballots", GROUP, (A,))
    result = GroupResult(PLAN, undecided, 2.5, COMPANY.decision())
    assert result.decided() == form("too few ballots", GROUP, (A,), 2.5)


@pytest.mark.parametrize("hierarchy", [None, Hierarchy(MANIFEST.run_id, 0, 4)])
def test_a_group_is_formed_at_its_level_with_our_claims(hierarchy: Hierarchy | None) -> None:
    too_few = TooFew("only 1 came", 3)
    groups, runner = layer(too_few)
    update = replace(update_of(drawn(0), 3), link=LinkClaim(250, False, 16), parent=PARENT)
    terms = GroupTerms(expected=(), close_at=50.0)
    assert simulate(groups.assemble(update, terms, hierarchy)) is too_few
    ((machine, stamp, deadline, how),) = runner.ran
    assert isinstance(machine, Assembly)
    assert stamp == Stamp(groups._manifest.run_id, 3, LEVEL_2 if hierarchy else NO_GROUP)
    assert deadline == 50.0 + 2 * ROUND.assemble_seconds
    assert how == {}, "no bulk items"
    plan = machine._plan
    ready = plan.ready.message
    assert (ready.state_root, ready.uplink, ready.dialable) == (ROOT, 250, False)
    assert (ready.peers, ready.tokens, ready.parent) == (16, 100, PARENT)
    assert plan.ready.stamp == replace(plan.ready.stamp, round=3, group=stamp.group)
    assert (plan.hierarchy, plan.terms) == (hierarchy, terms)
    assert plan.first_look == ROUND.assemble_seconds * FIRST_LOOK


def test_a_late_leader_waits_a_moment_for_the_others() -> None:
    groups, runner = layer(TooFew("only 1 came", 3))
    simulate(groups.assemble(update_of(drawn(0), 3), GroupTerms(expected=(), close_at=-50.0)))
    waits = runner.ran[0][0]._plan.terms.close_at
    assert waits == pytest.approx(ROUND.assemble_seconds / 4, abs=0.02)


def test_a_round_has_the_time_of_the_manifest_and_accepts_bulk_items() -> None:
    groups, runner = layer(APPLIED)
    group = replace(group_of(3), id=bytes([5]) * 16)
    found = simulate(groups.average(update_of(drawn(0), 1), formed(group), drawn(0)))
    ((machine, stamp, deadline, how),) = runner.ran
    assert stamp == Stamp(groups._manifest.run_id, 1, group.id)
    assert deadline == ROUND.average_seconds
    assert how == {"expect": machine.expect, "is_brief": True}
    assert (found.result, found.seconds) == (APPLIED, 3.0)
    assert found.plan.group is group
    assert sum(part.numbers for part in found.plan.parts) == 1000


def test_the_last_average_is_used_again_once_and_only_if_it_has_the_right_length() -> None:
    groups, runner = layer(APPLIED)
    group = group_of(3)

    async def scratch(numbers: int) -> object:
        await groups.average(update_of(drawn(0, numbers), 1), formed(group), drawn(0, numbers))
        return runner.ran[-1][0]._state.scratch.average_P

    async def scene() -> None:
        assert await scratch(1024) is None
        assert await scratch(1024) is None, "the last average is still in use"
        groups.recycle()
        assert await scratch(1024) is APPLIED.average_P
        groups.recycle()
        assert await scratch(1000) is None
        groups.recycle()
        runner.outcome = Undecided("too few ballots", group, ())
        assert await scratch(1024) is APPLIED.average_P
        groups.recycle()
        assert await scratch(1024) is None, "this round has no average"

    simulate(scene())


def test_the_plan_of_a_round_is_the_same_for_all_members() -> None:
    group = group_of(3)
    plans: list[RoundPlan] = []
    for key in KEYS:
        runner: Any = Runner(APPLIED)
        groups = GroupAverage(MANIFEST, key, runner, signed())
        found = simulate(groups.average(update_of(drawn(0), 1), formed(group), drawn(0)))
        plans.append(found.plan)
    assert plans[0] == plans[1] == plans[2]
    assert plans[0].schedule == Schedule.within(0.0, ROUND.average_seconds)
    assert plans[0].schedule != AT


def test_after_some_averages_one_has_a_few_times_as_long_as_they_took_until_one_fails() -> None:
    groups, runner = layer(APPLIED)
    group = group_of(3)

    async def seconds() -> float:
        began = asyncio.get_running_loop().time()
        found = await groups.average(update_of(drawn(0), 1), formed(group), drawn(0))
        return found.plan.schedule.fetched - began

    async def scene() -> None:
        took = [await seconds() for _ in range(AVERAGES)]
        first = [ROUND.average_seconds] * FEWEST_AVERAGES
        assert took == [*first, *[15.0] * (AVERAGES - FEWEST_AVERAGES)], "five times the three seconds"
        runner.outcome = Undecided("too few ballots", group, ())
        assert await seconds() == 15.0
        assert await seconds() == ROUND.average_seconds

    simulate(scene())


@pytest.mark.parametrize("is_our_vote", [True, False])
def test_only_a_member_that_has_voted_for_a_decision_signs_its_certificate(is_our_vote: bool) -> None:
    """Two different ballots of one peer are evidence against it."""
    group = COMPANY.seated.group
    others = [
        signed_by(key, Ballot(APPLIED.decision), MANIFEST.run_id, 0, group.id)
        for key in COMPANY.keys
        if key is not KEYS[0]
    ]
    groups, _ = layer(replace(APPLIED, ballots=tuple(others), is_our_vote=is_our_vote))
    found = simulate(groups.average(update_of(drawn(0)), formed(group), drawn(0)))
    signers = [group.members[each.seat] for each in found.certificate.ballots]
    assert (KEYS[0].peer_id in signers) == is_our_vote
    assert len(signers) == 2 + is_our_vote
