"""What a peer keeps on disk and finds again; and that no disk, full or damaged, ends its training."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from peer.observe.events import Events
from peer.observe.metrics import About, Metrics
from peer.rounds.checkpointer import FIRST_RETRY, Checkpointer
from peer.sync.position import PositionTracker
from peer.training import checkpoint
from peer.training.compute import Inline
from peer.training.learner import Assignment, Learner
from peer.training.state import state_root
from swarm.simulation.clock import running_loop, simulate
from tests.peer.company import MANIFEST, TEXT, in_virtual_time, key, step_of

ME = key(1).peer_id


class Notes:
    """An event sink that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def round_finished(self, report: object) -> None:
        """Rounds are not told here."""

    def event(self, name: str, /, **fields: object) -> None:
        """Note the event."""
        self.events.append((name, fields))


class Residual:
    """As much of an averager as a checkpointer asks for."""

    def __init__(self) -> None:
        self.kept: dict[int, Tensor] = {}

    def restore(self, residual_P: Tensor, fragment: int = 0) -> None:
        """Go on with the residual of a checkpoint."""
        self.kept[fragment] = residual_P

    def residual(self, fragment: int = 0) -> Tensor | None:
        """What has not been applied of the updates of ``fragment``."""
        return self.kept.get(fragment)


class Start:
    """One start of a peer at ``home``, as far as its checkpoints are concerned."""

    def __init__(self, home: Path | None) -> None:
        self.notes = Notes()
        self.metrics = Metrics(MANIFEST, About(ME, "", "1", 9000), running_loop().time)
        events = Events(self.metrics, self.notes, None, ME)  # type: ignore[arg-type]
        self.learner = Learner(MANIFEST, TEXT, ME)
        self.averager = Residual()
        self.has_part = True
        self.position = PositionTracker(MANIFEST)
        self.position.take_own(self.learner.state)
        arithmetic = Inline(lambda job: 0.0)
        self.checkpointer = Checkpointer(home, MANIFEST, arithmetic, self.position, self.metrics, events)

    async def restore(self) -> bool:
        """Whether a checkpoint was found."""
        before = await self.checkpointer.restore(self.learner, self.averager)  # type: ignore[arg-type]
        if before:
            self.position.take_own(self.learner.state, before)
        return before is not None

    async def save(self, *, now: bool = True) -> None:
        """Save, if it is due or ``now``."""
        await self.checkpointer.save_if_due(self.learner, self.averager, now=now)  # type: ignore[arg-type]

    def train(self) -> None:
        """One round alone."""
        task = Assignment(members=(ME,), max_steps=1, until=lambda: False, on_step=lambda step, loss: None)
        work = self.learner.work(task)
        state = self.learner.conclude(work.update_N)
        self.averager.kept[self.learner.fragment(self.learner.state.round - 1).index] = work.update_N
        self.metrics.training.given_tokens += work.trained.tokens
        self.position.step(state, step_of(2 * work.trained.tokens, 2, is_participant=self.has_part))

    @property
    def warnings(self) -> list[str]:
        """The codes of the warnings so far."""
        return [str(fields["code"]) for name, fields in self.notes.events if name == "warning"]


def test_everything_a_peer_has_comes_back_after_a_restart(tmp_path: Path) -> None:
    async def story() -> None:
        first = Start(tmp_path)
        assert not await first.restore()
        first.train()
        first.train()
        await first.save()
        second = Start(tmp_path)
        assert await second.restore()
        assert state_root(second.learner.state) == state_root(first.learner.state)
        before = first.learner.export_inner()
        after = second.learner.export_inner()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert torch.equal(first.averager.kept[0], second.averager.kept[0])
        assert second.position.now == first.position.now
        assert second.position.now.tokens > 0
        assert second.position.now.origin is not None
        assert second.metrics.training.given_tokens == first.metrics.training.given_tokens > 0
        first.train()
        second.train()
        assert state_root(second.learner.state) == state_root(first.learner.state), (
            "the same text, the same steps, the same bits"
        )

    simulate(story())


def test_the_checkpoint_of_a_follower_makes_it_no_participant(tmp_path: Path) -> None:
    async def story() -> None:
        first = Start(tmp_path)
        first.has_part = False
        first.train()
        await first.save()
        second = Start(tmp_path)
        assert await second.restore()
        assert not second.position.now.is_participant

    simulate(story())


@pytest.mark.parametrize("harm", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 100])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(tmp_path: Path, harm: bytes) -> None:
    async def story() -> None:
        first = Start(tmp_path)
        for _ in range(2):
            first.train()
            await first.save()
        (tmp_path / "checkpoints" / "round-00000002.safetensors").write_bytes(harm)
        second = Start(tmp_path)
        assert await second.restore()
        assert second.learner.state.round == 1
        (warning,) = [fields for name, fields in second.notes.events if name == "warning"]
        assert warning["code"] == "checkpoint"
        assert "round-00000002.safetensors is damaged and was passed over" in str(warning["fact"])

    simulate(story())


def test_a_checkpoint_of_another_run_is_told_and_not_taken(tmp_path: Path) -> None:
    async def story() -> None:
        peer = Start(tmp_path)
        checkpoint.save(tmp_path / "checkpoints", peer.learner.state, {}, None, {"run": "another"})
        assert not await peer.restore()
        assert peer.warnings == ["checkpoint"]

    simulate(story())


def test_a_full_disk_is_told_now_and_then_and_saving_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        peer = Start(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _full)
            for _ in range(600):
                peer.train()
                await peer.save(now=False)
                await _seconds(1.0)
        assert 3 <= len(peer.warnings) <= 7, "not with every round"
        assert set(peer.warnings) == {"disk"}
        await _seconds(16 * FIRST_RETRY)
        await peer.save(now=False)
        assert peer.notes.events[-1][0] == "checkpoint"

    simulate(story())


@in_virtual_time
async def test_without_a_home_nothing_is_kept() -> None:
    peer = Start(None)
    assert not await peer.restore()
    peer.train()
    await peer.save()
    assert peer.notes.events == []


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def _seconds(seconds: float) -> None:
    await asyncio.sleep(seconds)
