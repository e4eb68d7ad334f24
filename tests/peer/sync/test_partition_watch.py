"""When a peer sees the other side of a partition, and changes to it at the end of a round."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from peer.network.membership import ASKED
from peer.sync.head import ChosenHead
from peer.sync.head_exchange import SCOUTS
from peer.sync.partition_watch import PartitionWatch
from peer.training.state import SharedState, state_root
from swarm.simulation.clock import simulate
from tests.peer.company import MANIFEST, Company, Member, in_virtual_time, introduce, key, led_to_by, step_of

STATES = [SharedState(number, torch.full((4,), float(number))) for number in range(12)]
ROOTS = [state_root(state) for state in STATES]
ELSEWHERE = SharedState(8, torch.full((4,), -8.0))
US = 1
OUTSIDERS = range(10, 16)


class CatchingUp:
    """Takes over states, or fails to."""

    def __init__(self, *, is_there: bool = True) -> None:
        self.adopted: list[ChosenHead] = []
        self._is_there = is_there

    async def adopt(self, head: ChosenHead, asked_at: float) -> bool:
        """Note that the state of ``head`` was taken."""
        assert asked_at <= asyncio.get_running_loop().time()
        self.adopted.append(head)
        return self._is_there


class Partition:
    """We have averaged with a friend. ``outsiders`` train without us."""

    def __init__(self, outsiders: Sequence[int] = OUTSIDERS) -> None:
        self.company = Company()
        self.us = self.company.member(US)
        self.numbers = tuple(outsiders)
        self.outsiders: list[Member] = [self.company.member(number) for number in outsiders]
        introduce(self.us, *self.outsiders)
        self.asked: list[str] = []
        self.company.network.heard = self._hear
        position = self.us.position
        position.take_own(STATES[7], led_to_by((US, 2), STATES[7]))
        position.companions = (self.us.id, key(2).peer_id)
        self.watch = PartitionWatch(MANIFEST, self.us.membership, self.us.heads, position)

    def _hear(self, at: float, sender: str, receiver: str, route: str, call: object) -> None:
        """Note which peers are asked for their heads."""
        if route == "offer":
            self.asked.append(receiver)

    def step(self) -> None:
        """Our group has decided the next round, and we take the step."""
        self.us.position.step(STATES[8], step_of(0, 2, is_participant=True))

    def put_outsiders_at(self, state: SharedState) -> None:
        """All outsiders are at ``state``, and had a part in it."""
        group = (US, 2) if state is STATES[7] else self.numbers
        for member in self.outsiders:
            member.position.take_own(state, led_to_by(group, state))

    async def changes_sides(self, catching_up: CatchingUp | None = None) -> bool:
        """Look, and change sides if there is one to change to."""
        await self.watch.look()
        return await self.changes_now(catching_up or CatchingUp())

    async def changes_now(self, catching_up: Any) -> bool:
        """The end of the round."""
        return await self.watch.change_sides(catching_up)


@in_virtual_time
async def test_peers_at_a_state_that_we_have_passed_are_no_other_side_however_many_they_are() -> None:
    partition = Partition()
    partition.step()
    partition.put_outsiders_at(STATES[7])
    assert not await partition.changes_sides()
    partition.put_outsiders_at(ELSEWHERE)
    assert await partition.changes_sides(), "six that have another model are one"


@in_virtual_time
async def test_the_state_of_a_void_round_is_not_one_that_we_have_passed() -> None:
    """The others may still be in that round, with the same model: they are many, and we come back."""
    partition = Partition()
    partition.us.position.skip(STATES[8])
    partition.put_outsiders_at(STATES[7])
    assert await partition.changes_sides()


@in_virtual_time
async def test_the_state_of_the_other_side_is_taken_over() -> None:
    partition = Partition()
    partition.put_outsiders_at(ELSEWHERE)
    catching_up = CatchingUp()
    assert await partition.changes_sides(catching_up)
    (head,) = catching_up.adopted
    assert (head.round, head.state_root) == (8, state_root(ELSEWHERE))
    assert set(head.donors) == {member.id for member in partition.outsiders}
    assert not await partition.changes_now(catching_up), "once"


@in_virtual_time
async def test_if_that_state_cannot_be_had_the_peer_stays_on_its_side() -> None:
    partition = Partition()
    partition.put_outsiders_at(ELSEWHERE)
    assert not await partition.changes_sides(CatchingUp(is_there=False))


@in_virtual_time
async def test_a_side_that_is_gone_at_the_end_of_the_round_is_not_changed_to() -> None:
    partition = Partition()
    partition.put_outsiders_at(ELSEWHERE)
    await partition.watch.look()
    partition.put_outsiders_at(STATES[7])
    assert not await partition.changes_now(CatchingUp())


@in_virtual_time
async def test_a_peer_that_has_seen_no_other_side_asks_nobody_at_the_end_of_a_round() -> None:
    partition = Partition()
    partition.put_outsiders_at(STATES[7])
    await partition.watch.look()
    partition.asked.clear()
    partition.put_outsiders_at(ELSEWHERE)
    assert not await partition.changes_now(CatchingUp())
    assert partition.asked == []


@pytest.mark.parametrize("reason", ["no companions", "no outsiders", "no state"])
def test_without_one_of_the_two_sides_nobody_is_asked(reason: str) -> None:
    async def story() -> None:
        partition = Partition(outsiders=() if reason == "no outsiders" else OUTSIDERS)
        partition.put_outsiders_at(ELSEWHERE)
        if reason == "no companions":
            partition.us.position.companions = ()
        if reason == "no state":
            partition.us.position.has_state = False
        assert not await partition.changes_sides()
        assert partition.asked == []

    simulate(story())


@in_virtual_time
async def test_in_a_large_population_a_peer_that_is_one_round_away_is_on_our_side() -> None:
    partition = Partition()
    partition.us.position.step(STATES[8], step_of(0, 80, is_participant=True))
    for round_, is_other_side in ((7, False), (9, False), (8, True), (10, True)):
        partition.put_outsiders_at(SharedState(round_, torch.full((4,), -1.0)))
        assert await partition.changes_sides() == is_other_side, round_


@in_virtual_time
async def test_in_a_large_population_a_look_asks_a_few_and_a_change_of_sides_more_with_the_organiser() -> (
    None
):
    partition = Partition(outsiders=(0, *range(10, 30)))
    partition.us.position.step(STATES[8], step_of(0, 80, is_participant=True))
    partition.put_outsiders_at(ELSEWHERE)
    looks = 10
    for _ in range(looks):
        await partition.watch.look()
    assert len(partition.asked) == looks * SCOUTS
    assert partition.asked.count(MANIFEST.organiser_id) < looks, "it is not asked by all peers all the time"
    partition.asked.clear()
    assert await partition.changes_now(CatchingUp())
    assert len(partition.asked) == ASKED
    assert MANIFEST.organiser_id in partition.asked


@in_virtual_time
async def test_it_looks_again_and_again() -> None:
    partition = Partition()
    partition.put_outsiders_at(STATES[7])
    looking = asyncio.create_task(partition.watch.keep_looking(5.0))
    await asyncio.sleep(16.0)
    looking.cancel()
    assert len(partition.asked) == 3 * len(partition.outsiders)
