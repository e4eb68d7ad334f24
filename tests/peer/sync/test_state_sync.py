"""A newcomer downloads text and model from other peers, and takes nothing that does not hash to its root."""

from __future__ import annotations

import asyncio
import errno
import math
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import torch

from peer.chunks.exchange import ChunkExchange
from peer.data import corpus as corpora
from peer.observe.snapshot import Fetching
from peer.sync.head import ChosenHead
from peer.sync.state_sync import StateSync
from peer.training.compute import Inline
from peer.training.state import SharedState, StateContent, state_root
from swarm.errors import NobodyThere
from swarm.identity import PeerId
from swarm.machine import Report
from swarm.simulation.clock import simulate
from tests.peer.company import MANIFEST, TEXT, Company, Member, introduce, key, soon

STATE = SharedState(5, torch.arange(1000, dtype=torch.float32))
ROOT = state_root(STATE)


class Syncing:
    """A member that serves content and downloads it."""

    def __init__(self, company: Company, number: int, tasks: asyncio.TaskGroup) -> None:
        self.member: Member = company.member(number)
        self.told: list[Fetching] = []
        self.reports: list[Report] = []
        arithmetic = Inline(lambda job: 0.0)
        self.chunks = ChunkExchange(self.member.transport, arithmetic, tasks, self.reports.append)
        self.sync = StateSync(MANIFEST, self.chunks, self.member.membership, arithmetic, self.told.append)

    def serve_state(self) -> None:
        """Have `STATE` ready for others."""
        self.chunks.offer(ROOT, StateContent(STATE))


def head_of(*donors: PeerId) -> ChosenHead:
    """The run is at `STATE`, and so are ``donors``."""
    return ChosenHead(STATE.round, ROOT, 70, 1.5, donors)


Story = Callable[[list[Syncing]], Coroutine[Any, Any, None]]


def among(peers: int) -> Callable[[Story], Callable[[], None]]:
    """A decorator for tests that are coroutines: they get so many members, the newcomer last."""

    def wrap(story: Story) -> Callable[[], None]:
        def test() -> None:
            async def main() -> None:
                company = Company()
                async with asyncio.TaskGroup() as tasks:
                    members = [Syncing(company, number, tasks) for number in range(peers)]
                    introduce(*(each.member for each in members))
                    await story(members)

            simulate(main())

        test.__name__ = story.__name__
        return test

    return wrap


@among(4)
async def test_the_text_comes_from_peers_in_chunks(members: list[Syncing]) -> None:
    *donors, newcomer = members
    for donor in donors:
        donor.chunks.offer(TEXT.spec.root, TEXT, always=True)
    corpus = await newcomer.sync.corpus(None, soon())
    assert bytes(corpus.data) == bytes(TEXT.data)
    told = newcomer.told[0]
    assert (told.what, told.here, told.whole) == ("text", 0, len(TEXT.hashes))
    told = newcomer.told[-1]
    assert (told.what, told.here, told.whole) == ("text", len(TEXT.hashes), len(TEXT.hashes))


@among(3)
async def test_a_peer_that_has_the_text_serves_it(members: list[Syncing]) -> None:
    founder, second, third = members
    founder.chunks.offer(TEXT.spec.root, TEXT, always=True)
    await second.sync.corpus(None, soon())
    third.member.membership.roster.mark_lost(founder.member.id, soon(0))
    assert bytes((await third.sync.corpus(None, soon())).data) == bytes(TEXT.data)


@among(2)
async def test_without_a_donor_the_newcomer_gives_up_at_its_deadline_with_advice(
    members: list[Syncing],
) -> None:
    with pytest.raises(NobodyThere, match="training text") as refused:
        await members[1].sync.corpus(None, soon(3))
    assert refused.value.advice
    assert soon(0) <= 3


@among(2)
async def test_a_donor_that_comes_later_is_found(members: list[Syncing]) -> None:
    asyncio.get_running_loop().call_at(soon(2), members[0].chunks.offer, TEXT.spec.root, TEXT)
    assert bytes((await members[1].sync.corpus(None, soon(5))).data) == bytes(TEXT.data)


@among(3)
async def test_a_state_comes_whole_from_the_peers_that_have_it(members: list[Syncing]) -> None:
    *donors, newcomer = members
    for donor in donors:
        donor.serve_state()
    state = await newcomer.sync.state(head_of(*(donor.member.id for donor in donors)), 1000, soon())
    assert state is not None
    assert state_root(state) == ROOT
    assert {told.what for told in newcomer.told} == {"model"}
    assert newcomer.told[-1].here == newcomer.told[-1].whole


@among(2)
async def test_a_state_of_another_size_than_the_model_is_not_taken(members: list[Syncing]) -> None:
    members[0].serve_state()
    assert await members[1].sync.state(head_of(members[0].member.id), 2000, soon()) is None


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_state_with_a_number_that_is_not_finite_is_refused_and_reported(number: float) -> None:
    vector_P = torch.arange(1000, dtype=torch.float32)
    vector_P[500] = number
    state = SharedState(5, vector_P)

    @among(2)
    async def story(members: list[Syncing]) -> None:
        donor, newcomer = members
        donor.chunks.offer(state_root(state), StateContent(state))
        head = ChosenHead(5, state_root(state), 70, 1.5, (donor.member.id,))
        assert await newcomer.sync.state(head, 1000, soon()) is None
        (report,) = newcomer.reports
        assert report == Report("bad-state", "the model received has numbers that are not finite")
        donor.serve_state()
        assert await newcomer.sync.state(head_of(donor.member.id), 1000, soon()) is not None, (
            "its donor has not lied: another state of it is taken"
        )

    story()


@among(2)
async def test_a_state_whose_donors_have_moved_on_is_not_to_be_had_this_time(members: list[Syncing]) -> None:
    head = head_of(members[0].member.id, key(40).peer_id)
    assert await members[1].sync.state(head, 1000, soon()) is None


def test_text_that_is_kept_is_not_downloaded(tmp_path: Path) -> None:
    corpora.save(TEXT, tmp_path)

    @among(1)
    async def story(members: list[Syncing]) -> None:
        assert bytes((await members[0].sync.corpus(tmp_path, soon(1))).data) == bytes(TEXT.data)
        assert members[0].told == []

    story()


def test_text_that_was_damaged_on_disk_is_downloaded_again_and_kept(tmp_path: Path) -> None:
    path = corpora.save(TEXT, tmp_path)
    path.write_bytes(b"x" + path.read_bytes()[1:])

    @among(2)
    async def story(members: list[Syncing]) -> None:
        members[0].chunks.offer(TEXT.spec.root, TEXT, always=True)
        await members[1].sync.corpus(tmp_path, soon())

    story()
    assert path.read_bytes() == bytes(TEXT.data)


@among(2)
async def test_a_state_of_which_one_bit_is_wrong_is_never_taken(members: list[Syncing]) -> None:
    wrong = SharedState(5, torch.arange(1, 1001, dtype=torch.float32))

    class Swapped:
        """The list of hashes of one state, the chunks of another."""

        hashes = StateContent(STATE).hashes
        chunk = staticmethod(StateContent(wrong).chunk)

    donor, newcomer = members
    donor.chunks.offer(ROOT, Swapped())
    head = head_of(donor.member.id)
    assert await newcomer.sync.state(head, 1000, soon(60)) is None
    donor.serve_state()
    assert await newcomer.sync.state(head, 1000, soon(60)) is None, "a peer that has lied is not asked again"


def test_a_full_disk_costs_the_copy_of_the_text_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)

    @among(2)
    async def story(members: list[Syncing]) -> None:
        members[0].chunks.offer(TEXT.spec.root, TEXT, always=True)
        corpus = await members[1].sync.corpus(tmp_path / "data", soon())
        assert bytes(corpus.data) == bytes(TEXT.data)
        assert [report.code for report in members[1].reports] == ["disk"]

    story()
