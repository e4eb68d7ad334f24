"""gloo: ``torch.distributed.all_reduce`` in float32 over loopback. Plain text, no hashes, and one dead member ends it for all."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed

from benchmarks.rivals.numbers import error_of, update_of
from benchmarks.rivals.stage import Scene, Times, Verdict, act


class GlooPeer:
    """One rank."""

    def prepare(self, scene: Scene) -> Any:
        """The vector; ranks meet by a file in the scene's folder."""
        self._scene = scene
        self._update_P = update_of(scene.seat, scene.parameters)
        self._vector_P = torch.empty_like(self._update_P)

    def meet(self, cards: list[Any]) -> None:
        """Join the group, once per process."""
        if distributed.is_initialized():
            return
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        store = Path(self._scene.folder) / "gloo"
        distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=self._scene.seat, world_size=self._scene.peers
        )

    def refill(self) -> None:
        """all_reduce works in place, so the numbers have to come back."""
        self._vector_P.copy_(self._update_P)

    def average(self) -> Times:
        """Sum and divide, once everybody is here."""
        called = time.monotonic()
        distributed.barrier()
        began = time.monotonic()
        distributed.all_reduce(self._vector_P)
        self._vector_P.div_(self._scene.peers)
        return Times(called=called, began=began, ended=time.monotonic())

    def check(self) -> Verdict:
        """How far from the mean."""
        return Verdict(error=error_of(self._vector_P, self._scene.peers))

    def drop(self) -> None:
        """Let go of the vectors; the group stays."""
        self._update_P = self._vector_P = torch.empty(0)

    def close(self) -> None:
        """Leave the group."""
        distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    act(GlooPeer())
