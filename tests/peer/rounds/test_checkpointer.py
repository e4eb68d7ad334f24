"""What a peer keeps and finds again; and that no disk, full or damaged, ends its training."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from peer.observe.events import Events
from peer.observe.metrics import Metrics
from peer.rounds.checkpointer import FIRST_RETRY, Checkpointer
from peer.training import checkpoint
from peer.training.compute import Inline
from peer.training.learner import Assignment, Learner
from peer.training.state import state_root
from swarm.simulation.clock import running_loop, simulate
from tests.peer.company import MANIFEST, TEXT, key

ME = key(1).peer_id


class Notes:
    """A teller that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def round_finished(self, report: object) -> None:
        """Not told here."""

    def event(self, name: str, /, **fields: object) -> None:
        """Keep it."""
        self.events.append((name, fields))


class Residual:
    """As much of an averager as a keeper asks for."""

    def __init__(self) -> None:
        self.kept: dict[int, Tensor] = {}

    def restore(self, residual_P: Tensor, fragment: int = 0) -> None:
        """Go on with it."""
        self.kept[fragment] = residual_P

    def residual(self, fragment: int = 0) -> Tensor | None:
        """What is owed."""
        return self.kept.get(fragment)


class Life:
    """One life of a peer at ``home``, as far as its keeper is concerned."""

    def __init__(self, home: Path | None) -> None:
        self.notes = Notes()
        self.metrics = Metrics(MANIFEST, ME, "", "1", 9000, running_loop().time)
        events = Events(self.metrics, self.notes, None, ME)  # type: ignore[arg-type]
        self.learner, self.averager = Learner(MANIFEST, TEXT, ME), Residual()
        self.keeper = Checkpointer(home, MANIFEST, Inline(lambda job: 0.0), self.metrics, events)

    async def restore(self) -> bool:
        """Whether something was found."""
        return await self.keeper.restore(self.learner, self.averager)  # type: ignore[arg-type]

    async def save(self, *, now: bool = True) -> None:
        """Where it is due."""
        await self.keeper.save_if_due(self.learner, self.averager, now=now)  # type: ignore[arg-type]

    def train(self) -> None:
        """One round alone."""
        task = Assignment(members=(ME,), max_steps=1, until=lambda: False, on_step=lambda step, loss: None)
        work = self.learner.work(task)
        self.learner.conclude(work.update_P)
        self.averager.kept[self.learner.fragment(self.learner.state.round - 1).index] = work.update_P
        self.metrics.given_tokens += work.trained.tokens
        self.metrics.run_tokens += 2 * work.trained.tokens

    @property
    def warnings(self) -> list[str]:
        """Their codes."""
        return [str(fields["code"]) for name, fields in self.notes.events if name == "warning"]


Story = Callable[[], Coroutine[Any, Any, None]]


def told(story: Story) -> Callable[[], None]:
    """A test without arguments that is a coroutine on virtual time."""

    def test() -> None:
        simulate(story())

    test.__name__ = story.__name__
    return test


def test_everything_a_peer_has_comes_back_in_its_next_life(tmp_path: Path) -> None:
    async def story() -> None:
        first = Life(tmp_path)
        assert not await first.restore()
        first.train()
        first.train()
        await first.save()
        second = Life(tmp_path)
        assert await second.restore()
        assert state_root(second.learner.state) == state_root(first.learner.state)
        mine, theirs = first.learner.export_inner(), second.learner.export_inner()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        assert torch.equal(first.averager.kept[0], second.averager.kept[0])
        assert (second.metrics.run_tokens, second.metrics.given_tokens) == (
            first.metrics.run_tokens,
            first.metrics.given_tokens,
        )
        first.train()
        second.train()
        assert state_root(second.learner.state) == state_root(first.learner.state), (
            "the same text, the same steps, the same bits"
        )

    simulate(story())


@pytest.mark.parametrize("harm", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 100])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(tmp_path: Path, harm: bytes) -> None:
    async def story() -> None:
        first = Life(tmp_path)
        for _ in range(2):
            first.train()
            await first.save()
        (tmp_path / "checkpoints" / "round-00000002.safetensors").write_bytes(harm)
        second = Life(tmp_path)
        assert await second.restore()
        assert second.learner.state.round == 1
        (warning,) = [fields for name, fields in second.notes.events if name == "warning"]
        assert warning["code"] == "checkpoint"
        assert "round-00000002.safetensors is damaged and was passed over" in str(warning["fact"])

    simulate(story())


def test_a_checkpoint_of_another_run_is_told_and_not_taken(tmp_path: Path) -> None:
    async def story() -> None:
        life = Life(tmp_path)
        checkpoint.save(tmp_path / "checkpoints", life.learner.state, {}, None, {"run": "another"})
        assert not await life.restore()
        assert life.warnings == ["checkpoint"]

    simulate(story())


def test_a_full_disk_is_told_now_and_then_and_the_next_free_moment_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        life = Life(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _full)
            for _ in range(600):
                life.train()
                await life.save(now=False)
                await _seconds(1.0)
        assert 3 <= len(life.warnings) <= 7, "not with every round"
        assert set(life.warnings) == {"disk"}
        await _seconds(16 * FIRST_RETRY)
        await life.save(now=False)
        assert life.notes.events[-1][0] == "checkpoint"

    simulate(story())


@told
async def test_without_a_home_nothing_is_kept() -> None:
    life = Life(None)
    assert not await life.restore()
    life.train()
    await life.save()
    assert life.notes.events == []


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def _seconds(seconds: float) -> None:
    await asyncio.sleep(seconds)
