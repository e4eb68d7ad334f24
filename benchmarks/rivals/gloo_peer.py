"""gloo:

``torch.distributed.all_reduce`` in float32 over loopback. Plain text, no hashes, and one dead member ends it
for all.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed

from benchmarks.rivals.numbers import error_of, update_of
from benchmarks.worker import Check, Times, Trial, serve


class GlooPeer:
    """One rank."""

    def prepare(self, trial: Trial) -> Any:
        """The vector; ranks meet by a file in the trial's folder."""
        self._trial = trial
        self._update_P = update_of(trial.seat, trial.parameters)
        self._vector_P = torch.empty_like(self._update_P)

    def connect(self, contacts: list[Any]) -> None:
        """Join the group, once per process."""
        if distributed.is_initialized():
            return
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        store = Path(self._trial.folder) / "gloo"
        distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=self._trial.seat, world_size=self._trial.peers
        )

    def reset(self) -> None:
        """Restore the numbers, which all_reduce has overwritten."""
        self._vector_P.copy_(self._update_P)

    def average(self) -> Times:
        """Sum and divide, once all ranks have called."""
        called = time.monotonic()
        distributed.barrier()
        began = time.monotonic()
        distributed.all_reduce(self._vector_P)
        self._vector_P.div_(self._trial.peers)
        return Times(called=called, began=began, ended=time.monotonic())

    def check(self) -> Check:
        """The distance from the mean."""
        return Check(error=error_of(self._vector_P, self._trial.peers))

    def release(self) -> None:
        """Free the vectors; the group stays."""
        self._update_P = torch.empty(0)
        self._vector_P = torch.empty(0)

    def close(self) -> None:
        """Leave the group."""
        distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(GlooPeer())
