"""Certificates of the groups that led to states: who is asked for them, and what is kept."""

from __future__ import annotations

import pytest

from peer.sync.origins import ASKED, ASKED_FOR, KEPT, Origins
from peer.sync.position import Position
from peer.training.state import SharedState
from swarm.errors import Refused
from swarm.transport import Request
from tests.peer.company import MANIFEST, Company, decided_by, head_of, in_virtual_time, key, soon

DECISION = decided_by((1, 2, 3), 4)
ROOT = bytes([1]) * 32


def heads(*numbers: int) -> list:  # type: ignore[type-arg]
    """Heads of peers that name the group of `DECISION`."""
    return [head_of(number, 5, ROOT, parent=DECISION.group.id) for number in numbers]


def knows(origins: Origins) -> None:
    """From now on it has the certificate of `DECISION`."""
    state: SharedState | None = None
    origins.observe(Position(origin=DECISION.origin), state)  # type: ignore[arg-type]


@in_virtual_time
async def test_a_peer_that_names_a_group_is_asked_for_its_certificate_once() -> None:
    company = Company()
    donor = Origins(MANIFEST, company.transport(1))
    knows(donor)
    us = Origins(MANIFEST, company.transport(9))
    asked: list[str] = []
    company.network.heard = lambda at, sender, receiver, route, call: asked.append(receiver)
    for _ in range(2):
        (claim,) = await us.claims(heads(1), soon())
        assert claim.decision is not None
        assert claim.decision.group == DECISION.group
    assert asked == [key(1).peer_id]


@in_virtual_time
async def test_a_false_or_foreign_certificate_is_not_kept_and_another_peer_is_asked() -> None:
    company = Company()
    other = decided_by((4, 5), 4).origin.certificate
    for number, lie in ((2, b"noise"), (3, other)):
        company.stranger(number, {"origin": lambda call, lie=lie: lie})
    us = Origins(MANIFEST, company.transport(9))
    assert [claim.decision for claim in await us.claims(heads(2, 3), soon())] == [None, None]
    donor = Origins(MANIFEST, company.transport(1))
    knows(donor)
    assert all(claim.decision for claim in await us.claims(heads(2, 1), soon()))


@in_virtual_time
async def test_liars_that_name_many_groups_cost_a_few_questions() -> None:
    company = Company()
    asked: list[str] = []
    company.network.heard = lambda at, sender, receiver, route, call: asked.append(receiver)
    for number in range(20, 40):
        company.stranger(number, {"origin": lambda call: b"noise"})
    named = [head_of(number, 5, ROOT, parent=bytes([number]) * 16) for number in range(20, 40)]
    await Origins(MANIFEST, company.transport(9)).claims(named, soon())
    assert len(asked) <= ASKED_FOR * ASKED


@in_virtual_time
async def test_a_group_that_is_not_known_is_refused() -> None:
    company = Company()
    Origins(MANIFEST, company.transport(1))
    stranger = company.transport(8)
    for argument in (DECISION.group.id.hex(), "nonsense", ""):
        request = Request("origin", argument=argument)
        with pytest.raises(Refused):
            await stranger.request(key(1).peer_id, request, deadline=soon())


@in_virtual_time
async def test_a_peer_that_never_answers_does_not_keep_us_from_asking_about_another_group() -> None:
    company = Company()
    donor = Origins(MANIFEST, company.transport(1))
    knows(donor)
    us = Origins(MANIFEST, company.transport(9))
    company.transport(20)
    company.network.freeze(key(20).peer_id)
    silent = head_of(20, 5, ROOT, parent=bytes([20]) * 16)
    claims = await us.claims([silent, silent, *heads(1)], soon())
    assert [claim.decision is not None for claim in claims] == [False, False, True]


@in_virtual_time
async def test_certificates_that_liars_show_never_push_out_that_of_our_own_state() -> None:
    company = Company()
    us = Origins(MANIFEST, company.transport(9))
    knows(us)
    for number in range(20, 20 + KEPT + 1):
        lie = decided_by((number,), 4)
        company.stranger(number, {"origin": lambda call, lie=lie: lie.origin.certificate})
        (claim,) = await us.claims([head_of(number, 5, ROOT, parent=lie.group.id)], soon())
        assert claim.decision is not None
    assert us.claim(heads(1)[0]).decision is not None
