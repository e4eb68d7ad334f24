"""What a peer tells the others at moments that cannot wait for the DHT, without waiting for their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from averaging.groups import Group
from averaging.hierarchy import Hierarchy
from peer.rounds.announcer import Announcer
from peer.sync.activity import Activity
from peer.sync.position import Position
from swarm.identity import PeerId
from swarm.membership.progress import Phase
from swarm.simulation.clock import simulate
from tests.peer.company import MANIFEST, RUN, soon

SPEC = MANIFEST.round
GROUPS = Hierarchy.of(RUN, 4, 80, SPEC.group_size)
SILENT_SECONDS = 3.0
"""Until a peer that is told has answered."""


class Told:
    """A membership and an averager that note what they are told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float]] = []
        self.rejoined: list[int] = []
        self.finished_at: list[float] = []

    async def announce(self, deadline: float, hierarchy: Hierarchy) -> None:
        """Tell the peers around us."""
        assert hierarchy is GROUPS
        await self._tell("others", deadline)

    async def announce_to_next(self, deadline: float) -> None:
        """Tell the leaders of the next round."""
        await self._tell("leaders", deadline)

    def rejoin(self, round_: int) -> None:
        """The averager is told in which round we are."""
        self.rejoined.append(round_)

    async def _tell(self, peers: str, deadline: float) -> None:
        self.told.append((peers, deadline))
        await asyncio.sleep(SILENT_SECONDS)
        self.finished_at.append(soon(0))


@pytest.mark.parametrize(
    ("act", "phase", "peers", "rejoined"),
    [
        pytest.param(Announcer.announce_round, Phase.WAITING, "others", [4], id="announce the round"),
        pytest.param(Announcer.train, Phase.TRAINING, "others", [], id="train"),
        pytest.param(Announcer.follow, Phase.FOLLOWING, "leaders", [], id="follow"),
    ],
)
def test_announcements(
    act: Callable[[Announcer], None], phase: Phase, peers: str, rejoined: list[int]
) -> None:
    told = Told()

    async def main() -> None:
        activity = Activity(SPEC, asyncio.get_running_loop().time, lambda phase, ends_at: None)
        membership: Any = told
        averager: Any = told
        position: Any = SimpleNamespace(now=Position(round=4), hierarchy=GROUPS)
        async with asyncio.TaskGroup() as tasks:
            nobody: Any = None
            act(Announcer(tasks, membership, averager, nobody, position, activity))
            assert activity.phase is phase
            assert told.rejoined == rejoined
            assert soon(0) == 0, "a silent peer makes nobody late"

    simulate(main())
    assert told.told == [(peers, SPEC.assemble_seconds)]
    assert told.finished_at == [SILENT_SECONDS]


def test_members_of_a_group_without_a_decision_are_told_what_we_have_heard_in_it() -> None:
    me, anna, boris = (PeerId(name) for name in ("me", "anna", "boris"))
    group = Group(RUN, 4, (anna, boris, me), bytes(32))
    compared: list[tuple[bytes, list[PeerId]]] = []

    async def compare_notes(group_id: bytes, others: list[PeerId]) -> None:
        compared.append((group_id, others))

    async def main() -> None:
        membership: Any = SimpleNamespace(me=me, some=lambda at_most, among: among[::-1])
        bans: Any = SimpleNamespace(compare_notes=compare_notes)
        nobody: Any = None
        async with asyncio.TaskGroup() as tasks:
            Announcer(tasks, membership, nobody, bans, nobody, nobody).compare_notes(group)

    simulate(main())
    assert compared == [(group.id, [boris, anna])]
