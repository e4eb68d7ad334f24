"""A newcomer gets text and model from peers over a simulated network, and believes nothing that does not hash to its root."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import torch

from peer.chunks.download import DownloadProgress
from peer.chunks.exchange import ChunkExchange
from peer.data import corpus as corpora
from peer.sync.head import ChosenHead, Head
from peer.sync.state_sync import Sync
from peer.training.compute import Inline
from peer.training.state import SharedState, StateContent, state_root
from swarm.errors import NobodyThere
from swarm.machine import Report
from swarm.simulation.clock import simulate
from swarm.wire import Stamp, open_frame, seal
from tests.peer.company import MANIFEST, RUN, TEXT, Company, Member, introduce, key, soon

STATE = SharedState(5, torch.arange(1000, dtype=torch.float32))
ROOT = state_root(STATE)


class Syncing:
    """A member that serves and fetches."""

    def __init__(self, company: Company, number: int, tasks: asyncio.TaskGroup) -> None:
        self.member: Member = company.member(number)
        self.told: list[tuple[str, DownloadProgress]] = []
        self.reports: list[Report] = []
        arithmetic = Inline(lambda job: 0.0)
        self.chunks = ChunkExchange(self.member.transport, arithmetic, tasks, self.reports.append)
        self.sync = Sync(
            MANIFEST,
            self.chunks,
            self.member.membership,
            arithmetic,
            lambda what, progress: self.told.append((what, progress)),
        )

    def has_state(self) -> None:
        """Serve `STATE`, and say so."""
        self.chunks.offer(ROOT, StateContent(STATE))
        self.member.offer = (STATE.round, Head(ROOT, 70, 1.5))


Story = Callable[[list[Syncing]], Coroutine[Any, Any, None]]


def among(peers: int) -> Callable[[Story], Callable[[], None]]:
    """A test that is a coroutine with so many peers that know each other; the last one is the newcomer."""

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
    what, progress = newcomer.told[0]
    assert (what, progress.chunks, progress.chunks_whole) == ("text", 0, len(TEXT.hashes))
    assert await members[0].sync.corpus(None, soon(0.5)) != corpus  # and the newcomer, too, serves it now


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


@among(4)
async def test_who_stands_where_we_have_been_has_no_say_about_where_the_run_stands(
    members: list[Syncing],
) -> None:
    *behind, us = members
    for each in behind:
        each.has_state()
    own = open_frame(seal(key(3), Head(bytes(32), 90, 0.0), Stamp(RUN, STATE.round + 1)), Head, run=RUN)
    standing, answers = await us.sync.standing(own, soon())
    assert (standing and standing.state_root, answers) == (ROOT, 3), "elsewhere they are the larger camp"
    standing, answers = await us.sync.standing(own, soon(), passed=[ROOT])
    assert (standing and standing.state_root, answers) == (bytes(32), 3)


@among(2)
async def test_who_has_only_been_told_where_it_stands_believes_who_had_a_part_in_it(
    members: list[Syncing],
) -> None:
    founder, us = members
    founder.has_state()
    for is_participant, fork_choice in ((True, bytes(32)), (False, ROOT)):
        word = Head(bytes(32), 90, 0.0, is_participant=is_participant)
        own = open_frame(seal(key(1), word, Stamp(RUN, STATE.round + 1)), Head, run=RUN)
        standing, _ = await us.sync.standing(own, soon())
        assert standing is not None
        assert standing.state_root == fork_choice


@among(3)
async def test_a_state_comes_whole_from_those_who_have_it(members: list[Syncing]) -> None:
    *donors, newcomer = members
    for donor in donors:
        donor.has_state()
    standing, answers = await newcomer.sync.standing(None, soon())
    assert answers == 2
    assert standing == ChosenHead(
        5, ROOT, 70, 1.5, tuple(sorted(donor.member.transport.me for donor in donors))
    )
    assert standing is not None
    state = await newcomer.sync.state(standing, 1000, soon())
    assert state is not None
    assert state_root(state) == ROOT


@among(2)
async def test_nobody_answering_is_no_standing(members: list[Syncing]) -> None:
    assert await members[1].sync.standing(None, soon()) == (None, 0)


@among(2)
async def test_a_state_of_another_size_than_the_model_is_not_taken(members: list[Syncing]) -> None:
    members[0].has_state()
    standing = ChosenHead(5, ROOT, 70, 1.5, (members[0].member.transport.me,))
    assert await members[1].sync.state(standing, 2000, soon()) is None


@among(2)
async def test_a_state_whose_donors_have_moved_on_is_weather(members: list[Syncing]) -> None:
    standing = ChosenHead(5, ROOT, 70, 1.5, (members[0].member.transport.me, key(40).peer_id))
    assert await members[1].sync.state(standing, 1000, soon()) is None


def test_text_that_is_kept_needs_nobody(tmp_path: Path) -> None:
    corpora.save(TEXT, tmp_path)

    @among(1)
    async def story(members: list[Syncing]) -> None:
        assert bytes((await members[0].sync.corpus(tmp_path, soon(1))).data) == bytes(TEXT.data)
        assert members[0].told == []

    story()


def test_text_that_was_damaged_on_disk_is_fetched_again_and_kept(tmp_path: Path) -> None:
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
    standing = ChosenHead(5, ROOT, 70, 1.5, (donor.member.transport.me,))
    assert await newcomer.sync.state(standing, 1000, soon(60)) is None
    donor.chunks.offer(ROOT, StateContent(STATE))
    assert await newcomer.sync.state(standing, 1000, soon(60)) is None, "a liar is not asked again"


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
