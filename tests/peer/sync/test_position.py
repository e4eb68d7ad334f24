"""Where a peer stands, what it had a part in, and whom it takes for another camp."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from averaging.averager import Averaged
from peer.observe.metrics import Metrics
from peer.sync.head import Head
from peer.sync.position import Course
from peer.training.state import SharedState, state_root
from swarm.identity import PeerId
from swarm.simulation.clock import simulate
from swarm.wire import Signed, Stamp, open_frame, seal
from tests.peer.company import MANIFEST, RUN, key, soon

STATES = [SharedState(number, torch.full((4,), float(number))) for number in range(12)]
ROOTS = [state_root(state) for state in STATES]
ME, FRIEND = key(1).peer_id, key(2).peer_id
LIBRARY: Any = SimpleNamespace(offer=lambda root, content: None)
WITH_US = Averaged(average_P=torch.zeros(4), members=(ME, FRIEND), population=2)
WITHOUT_US = Averaged(average_P=torch.zeros(4), population=7)
VOID = Averaged(average_P=None, reason="too few of the group answered")


def course() -> Course:
    events: Any = SimpleNamespace()
    return Course(
        MANIFEST, key(1), Metrics(MANIFEST, ME, "", "1", 4, asyncio.get_running_loop().time), events
    )


def scene(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def test() -> None:
        simulate(story())

    test.__name__ = story.__name__
    return test


def says(number: int, round_: int, root: bytes) -> Signed[Head]:
    return open_frame(seal(key(number), Head(root, 10, 0.0), Stamp(RUN, round_)), Head, run=RUN)


class Heard:
    """Neighbours of whom all train without us, and say what is in ``offers_``."""

    def __init__(self, offers: Sequence[Signed[Head]]) -> None:
        self._offers = list(offers)
        self.roster = SimpleNamespace(in_training=lambda now: [offer.signer for offer in offers])

    def some(self, at_most: int, among: Sequence[PeerId]) -> tuple[PeerId, ...]:
        return tuple(among)[:at_most]

    async def offers(self, deadline: float, peers: Sequence[PeerId]) -> list[Signed[Head]]:
        return [offer for offer in self._offers if offer.signer in peers]


@scene
async def test_an_elder_of_a_state_is_who_was_in_the_average_that_led_to_it() -> None:
    ours = course()
    ours.stand_on(STATES[0], LIBRARY)
    assert not ours.is_participant, "it has been given what the founder began with"
    ours.step_on(STATES[1], LIBRARY, WITH_US)
    assert (ours.is_participant, ours.population) == (True, 2)
    ours.step_on(STATES[2], LIBRARY, WITHOUT_US)
    assert (ours.is_participant, ours.population) == (False, 7), "it has only followed"
    ours.step_on(STATES[3], LIBRARY, replace(WITH_US, counted=False))
    assert not ours.is_participant, "its cell had an average, and nobody spoke for that in the council"
    ours.stand_on(STATES[1], LIBRARY)
    assert ours.is_participant, "who comes back to a state had its part in it all the same"
    ours.stand_on(STATES[9], LIBRARY)
    assert not ours.is_participant, "a model that was fetched is others' work"


@scene
async def test_a_void_round_makes_nobody_an_elder_and_takes_it_from_nobody() -> None:
    for averaged, is_participant in ((WITH_US, True), (WITHOUT_US, False)):
        ours = course()
        ours.step_on(STATES[3], LIBRARY, averaged)
        ours.step_on(STATES[4], LIBRARY, VOID)
        assert (ours.is_participant, ours.population) == (is_participant, averaged.population)


@scene
async def test_who_comes_back_from_a_checkpoint_had_a_part_in_it_and_says_so() -> None:
    for begin in (Course.come_back, Course.stand_on):
        ours = course()
        begin(ours, STATES[5], LIBRARY)
        offer = ours.offer()
        assert ours.is_participant == (begin is Course.come_back)
        assert offer is not None
        assert offer[1].is_participant == ours.is_participant


@scene
async def test_newcomers_who_stand_where_we_have_been_are_no_camp_however_many() -> None:
    ours = course()
    ours.stand_on(STATES[7], LIBRARY)
    ours.step_on(STATES[8], LIBRARY, WITH_US)
    behind: Any = Heard([says(number, 7, ROOTS[7]) for number in range(10, 16)])
    await ours.look_around(behind, (ME, FRIEND))
    assert not ours._sees_better
    elsewhere: Any = Heard([says(number, 8, ROOTS[3]) for number in range(10, 16)])
    await ours.look_around(elsewhere, (ME, FRIEND))
    assert ours._sees_better, "six that have another model are one"


@scene
async def test_a_round_that_was_void_is_not_one_that_we_have_gone_on_from() -> None:
    """The others may still be in it, with the same model: they are many, and we come back."""
    ours = course()
    ours.stand_on(STATES[7], LIBRARY)
    ours.step_on(STATES[8], LIBRARY, VOID)
    still_there: Any = Heard([says(number, 7, ROOTS[7]) for number in range(10, 16)])
    await ours.look_around(still_there, (ME,))
    assert ours._sees_better
    assert soon(0) < 1
