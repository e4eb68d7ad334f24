"""What all members of a round know before it begins: deadlines, sizes, and who may reduce which part."""

from __future__ import annotations

from dataclasses import replace

import pytest

from averaging import groups
from averaging.groups import LinkClaim
from averaging.partition import plan
from averaging.round_plan import SPARES, RoundPlan, Schedule
from swarm.manifest import Codec, Exchange
from tests.averaging.members import ROOT, RUN, group_of
from tests.averaging.test_round import AT, GROUP, PARTS, PLAN, A, B, C, D, result


def test_the_phases_of_a_schedule_follow_each_other_and_end_in_time() -> None:
    schedule = Schedule.within(100.0, 30.0)
    times = [getattr(schedule, name) for name in Schedule.__slots__ if name != "patience"]
    assert times == sorted(times)
    assert [schedule.next(time) for time in times[:-1]] == times[1:]
    assert times[0] > 100.0
    assert times[-1] == 130.0
    assert schedule.patience == 2.0


def test_no_deadline_comes_after_the_last_one() -> None:
    with pytest.raises(ValueError, match="empty"):
        AT.next(AT.fetched)


def test_a_plan_knows_the_length_of_every_result() -> None:
    assert PLAN.result_size(PARTS[0]) == len(result(A))
    assert PLAN.header_bytes == 4 + 32
    assert replace(PLAN, group=group_of(33)).header_bytes == 8 + 32


def test_an_item_is_a_part_or_in_a_gather_exchange_a_member() -> None:
    plan_of_three = replace(PLAN, parts=plan(1024, GROUP.members[:3]))
    assert plan_of_three.items == 3
    gather = replace(PLAN, parts=plan(1024, GROUP.members[:1]), exchange=Exchange.GATHER)
    assert gather.items == len(GROUP.members)


def test_every_part_has_an_owner_and_two_spares() -> None:
    assert [PLAN.chain(part) for part in PARTS] == [(A, B, C), (B, C, D), (C, D, A), (D, A, B)]
    single = replace(PLAN, parts=PARTS[:1])
    assert len(set(single.chain(PARTS[0]))) == 1 + SPARES


def test_a_spare_that_owns_no_part_is_a_member_that_all_others_can_dial() -> None:
    links = {A: LinkClaim(), B: LinkClaim(dialable=False), C: LinkClaim(), D: LinkClaim(dialable=False)}
    group = groups.form(RUN, 1, GROUP.members, ROOT, groups.Claims(links))
    (part,) = plan(1024, [A])
    round_plan = RoundPlan(group=group, parts=(part,), codec=Codec.INT8, schedule=AT)
    assert round_plan.chain(part) == (A, C)
