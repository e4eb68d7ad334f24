"""Heads over a simulated network: a false one costs only its sender, and our own counts beside the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from peer.network.membership import MANY, Welcome
from peer.sync.head import ChosenHead, Head
from peer.training.state import SharedState, state_root
from swarm.errors import Refused
from swarm.membership.progress import Phase
from swarm.simulation.clock import simulate
from swarm.transport import Call, Request
from swarm.wire import CONTROL_LIMIT, Kind, Stamp, open_frame, pack, seal_body
from tests.peer.company import (
    MANIFEST,
    RUN,
    Company,
    Member,
    decided_by,
    in_virtual_time,
    introduce,
    key,
    led_to_by,
    progress_of,
    sealed_head,
    soon,
    step_of,
)

STATES = [SharedState(number, torch.full((4,), float(number))) for number in range(12)]
ROOTS = [state_root(state) for state in STATES]
ELSEWHERE = SharedState(6, torch.full((4,), -6.0))
HEAD = Head(bytes(32), 7, 1.5)


def members_of(company: Company, count: int) -> list[Member]:
    """So many members, that know each other and have no state yet."""
    members = [company.member(number) for number in range(count)]
    introduce(*members)
    return members


async def asks(member: Member, other: Member) -> Head:
    """The head that ``other`` tells ``member``."""
    raw = await member.transport.request(other.id, Request("offer"), deadline=soon())
    return open_frame(raw, Head, run=RUN).message


# --- answering ----------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_peer_without_a_state_refuses_to_tell_a_head() -> None:
    one, other = members_of(Company(), 2)
    with pytest.raises(Refused, match="no state yet"):
        await asks(one, other)
    assert one.heads.own() is None
    assert one.heads.sealed() is None


@in_virtual_time
async def test_a_peer_tells_where_it_is_now_and_what_is_left_of_its_training() -> None:
    one, other = members_of(Company(), 2)
    other.position.take_own(STATES[3])
    assert await asks(one, other) == Head(ROOTS[3], 0, 0.0)
    assert await asks(one, other) == Head(ROOTS[3], 0, 0.0)
    other.activity.enter(Phase.WAITING)
    seconds = other.activity.spec.seconds
    assert await asks(one, other) == Head(ROOTS[3], 0, seconds)
    other.position.step(STATES[4], step_of(50, 9, is_participant=False))
    assert await asks(one, other) == Head(
        ROOTS[4], 50, seconds, population=9, parent=decided_by((0, 1), 0).group.id
    )
    own = other.heads.own()
    assert own is not None
    assert (own.signer, own.stamp.round, own.message.state_root) == (other.id, 4, ROOTS[4])


# --- asking -------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_heads_come_from_the_peers_that_have_a_state() -> None:
    members = members_of(Company(), 4)
    members[1].position.take_own(STATES[3])
    members[2].position.take_own(STATES[4])
    heads = await members[0].heads.heads(soon())
    assert {(signed.signer, signed.stamp.round, signed.message) for signed in heads} == {
        (members[1].id, 3, Head(ROOTS[3], 0, 0.0)),
        (members[2].id, 4, Head(ROOTS[4], 0, 0.0)),
    }
    (only,) = await members[0].heads.heads(soon(), [members[2].id, members[3].id])
    assert only.signer == members[2].id


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lambda call: b"garbage", id="garbage"),
        pytest.param(lambda call: b"", id="nothing"),
        pytest.param(lambda call: sealed_head(1, 3, HEAD), id="the head of another peer"),
        pytest.param(lambda call: sealed_head(7, 3, HEAD)[:-1] + b"\2", id="a broken seal"),
        pytest.param(lambda call: sealed_head(7, 3, HEAD, run=bytes(32)), id="of another run"),
        pytest.param(lambda call: progress_of(7), id="another message"),
        pytest.param(lambda call: bytes(CONTROL_LIMIT + 1), id="too much"),
        pytest.param(
            lambda call: seal_body(key(7), Kind.HEAD, pack((bytes(31), 0, 0.0)), Stamp(RUN)),
            id="half a root",
        ),
        pytest.param(
            lambda call: seal_body(key(7), Kind.HEAD, pack((bytes(32), 0, -1.0)), Stamp(RUN)),
            id="negative time",
        ),
        pytest.param(lambda call: sealed_head(7, MANIFEST.rounds + 1, HEAD), id="after the end of the run"),
        pytest.param(lambda call: sealed_head(7, (1 << 32) - 1, HEAD), id="the last round of all"),
    ],
)
def test_a_false_head_costs_its_sender_only(lie: Callable[[Call], bytes]) -> None:
    async def story() -> None:
        company = Company()
        us, other = members_of(company, 2)
        company.stranger(7, {"offer": lie})
        other.position.take_own(STATES[3])
        us.membership.learn({other.id: Welcome("", 1.0, (), (progress_of(7),))})
        assert [signed.signer for signed in await us.heads.heads(soon())] == [other.id]

    simulate(story())


# --- choosing -----------------------------------------------------------------------------------------------


@in_virtual_time
async def test_the_head_of_the_run_and_the_peers_that_have_its_state() -> None:
    *donors, newcomer = members_of(Company(), 3)
    for donor in donors:
        donor.position.take_own(STATES[5])
        donor.activity.enter(Phase.WAITING)
    head, answers = await newcomer.heads.choose(soon())
    assert answers == 2
    seconds = newcomer.activity.spec.seconds
    assert head == ChosenHead(5, ROOTS[5], 0, seconds, tuple(sorted(donor.id for donor in donors)))


@in_virtual_time
async def test_if_no_peer_answers_there_is_no_head_but_our_own() -> None:
    (alone,) = members_of(Company(), 1)
    assert await alone.heads.choose(soon()) == (None, 0)
    alone.position.take_own(STATES[2])
    head, answers = await alone.heads.choose(soon())
    assert (head and head.donors, answers) == ((alone.id,), 0)


@in_virtual_time
async def test_peers_at_a_state_that_we_have_passed_are_ignored_however_many_they_are() -> None:
    *behind, us = members_of(Company(), 4)
    for other in behind:
        other.position.take_own(STATES[5], led_to_by((0, 1, 2), STATES[5]))
    us.position.take_own(ELSEWHERE, led_to_by((3,), ELSEWHERE))
    head, answers = await us.heads.choose(soon())
    assert (head and head.state_root, answers) == (ROOTS[5], 3), "from another state they are the larger side"
    us.position.take_own(STATES[5], led_to_by((3,), STATES[5]))
    us.position.step(STATES[6], step_of(0, 1, is_participant=True))
    head, answers = await us.heads.choose(soon())
    assert (head and head.state_root, answers) == (ROOTS[6], 3)


@pytest.mark.parametrize("is_participant", [True, False])
def test_a_peer_that_has_downloaded_its_state_believes_one_that_had_a_part_in_another(
    is_participant: bool,
) -> None:
    async def story() -> None:
        founder, us = members_of(Company(), 2)
        founder.position.take_own(STATES[5])
        if is_participant:
            us.position.take_own(ELSEWHERE)
        else:
            us.position.adopt(ELSEWHERE, ChosenHead(6, state_root(ELSEWHERE), 0, 0.0, ()))
        head, _ = await us.heads.choose(soon())
        assert head is not None
        assert head.state_root == (state_root(ELSEWHERE) if is_participant else ROOTS[5])

    simulate(story())


@pytest.mark.parametrize("own", ["no state", "a downloaded state", "a state in which it had a part"])
def test_only_a_newcomer_takes_the_trusted_head_into_account(own: str) -> None:
    async def story() -> None:
        _, other, third, us = members_of(Company(), 4)
        for peer in (other, third):
            peer.position.take_own(STATES[5])
        is_participant = own == "a state in which it had a part"
        if is_participant:
            us.position.take_own(STATES[4])
        elif own == "a downloaded state":
            us.position.adopt(STATES[4], ChosenHead(4, ROOTS[4], 0, 0.0, ()))
        us.heads.trusted.learn(sealed_head(0, 5, Head(state_root(ELSEWHERE), 0, 0.0)))
        head, answers = await us.heads.choose(soon())
        assert answers == 2
        assert (head and head.state_root) == (ROOTS[5] if is_participant else None), (
            "it contradicts that head"
        )

    simulate(story())


# --- news ---------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_in_a_small_run_it_is_always_worth_asking() -> None:
    company = Company()
    us, _ = members_of(company, 2)
    asked: list[str] = []
    company.network.heard = lambda at, sender, receiver, route, call: asked.append(route)
    us.position.take_own(STATES[3])
    assert await us.heads.is_news(soon())
    assert asked == []


@in_virtual_time
async def test_in_a_large_run_it_is_worth_asking_if_one_of_a_few_is_further_or_none_answers() -> None:
    company = Company()
    us, *others = members_of(company, MANY + 2)
    asked: list[str] = []
    company.network.heard = lambda at, sender, receiver, route, call: asked.append(route)
    for other in others:
        other.position.take_own(STATES[3])
    assert await us.heads.is_news(soon()), "we have no state yet"
    assert asked == []
    us.position.take_own(STATES[3])
    assert not await us.heads.is_news(soon())
    assert asked == ["offer"] * 2
    for other in others:
        other.position.skip(STATES[4])
    assert await us.heads.is_news(soon())
    for other in others:
        company.network.crash(other.id)
    assert await us.heads.is_news(soon())
