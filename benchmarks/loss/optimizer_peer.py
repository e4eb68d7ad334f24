"""One peer of stock `hivemind.Optimizer` on a link, with its own DHT and p2pd; it trains all the time.

Where it would train it sleeps, and its gradients are noise; everything from `Optimizer.step` downwards is
hivemind's own. These settings are in its favour: groups are complete as soon as all peers have come
(``target_group_size``), matchmaking waits three seconds at most instead of fifteen, progress is fetched from
the DHT every tenth of a second instead of every half, and local updates are averaged in the foreground: in
the background the tracker takes the time of an averaging for training, and ends rounds after a step.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from dataclasses import dataclass
from typing import Any

import hivemind
import torch
from hivemind.compression import Float16Compression

from benchmarks.meters import sent_bytes
from benchmarks.worker import serve
from peer.models.registry import build, presets

MATCHMAKING_SECONDS = 3.0
TRACKER = {"min_refresh_period": 0.1, "default_refresh_period": 0.3}
AVERAGING_SECONDS = 30.0
_AVERAGED = re.compile(r"Averaged (?:parameters|gradients) with (\d+) peers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A run of ``peers``: rounds of ``steps`` local steps, of ``batch`` sequences and ``step_seconds`` each.

    ``local``: hivemind's ``use_local_updates``; else the gradients of a round are averaged for one update.
    """

    run: str
    model: str
    peers: int
    batch: int
    steps: int
    local: bool
    step_seconds: float


class OptimizerPeer:
    """Trains in one run, until its process ends."""

    def __init__(self) -> None:
        self._groups: list[int] = []
        logging.getLogger("hivemind").addHandler(_Listener(self._groups))

    def join(self, *, host: str, entries: list[str], interface: str) -> list[str]:
        """Start the DHT; its addresses, for the others."""
        self._interface = interface
        self._dht = hivemind.DHT(host_maddrs=[f"/ip4/{host}/tcp/0"], initial_peers=entries, start=True)
        return [str(address) for address in self._dht.get_visible_maddrs()]

    def open(self, **training: Any) -> None:
        """Train from now on as the fields of `Training` say."""
        plan = Training(**training)
        torch.manual_seed(0)
        weights = list(build(presets[plan.model], 0).parameters())
        self._weights = weights
        self._steps = 0
        pause = max(0.0, plan.step_seconds - _step_cost(weights))
        half = Float16Compression()
        self._optimizer = hivemind.Optimizer(
            dht=self._dht,
            run_id=plan.run,
            batch_size_per_step=plan.batch,
            target_batch_size=plan.peers * plan.batch * plan.steps,
            params=weights,
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-4),
            use_local_updates=plan.local,
            delay_state_averaging=not plan.local,
            matchmaking_time=MATCHMAKING_SECONDS,
            averaging_timeout=AVERAGING_SECONDS,
            next_chunk_timeout=AVERAGING_SECONDS / 2,
            grad_compression=half,
            state_averaging_compression=half,
            averager_opts={"target_group_size": plan.peers, "request_timeout": MATCHMAKING_SECONDS / 2},
            tracker_opts=TRACKER,
            verbose=True,
        )
        threading.Thread(target=self._train, args=(pause,), daemon=True, name="training").start()

    def _train(self, pause: float) -> None:
        while True:
            for weight in self._weights:
                weight.grad = torch.randn_like(weight)
            time.sleep(pause)
            self._optimizer.step()
            self._steps += 1

    def progress(self) -> dict[str, Any]:
        """The progress since `open`: local steps, epochs, sizes of the groups, bytes sent by this host."""
        return {
            "at": time.monotonic(),
            "steps": self._steps,
            "epoch": self._optimizer.local_epoch,
            "groups": list(self._groups),
            "sent": sent_bytes(self._interface),
        }


class _Listener(logging.Handler):
    """Collects the sizes of groups from hivemind's log, which alone has them."""

    def __init__(self, groups: list[int]) -> None:
        super().__init__()
        self._groups = groups

    def emit(self, record: logging.LogRecord) -> None:
        if found := _AVERAGED.search(record.getMessage()):
            self._groups.append(int(found[1]))


def _step_cost(weights: list[torch.nn.Parameter]) -> float:
    """Seconds of a step that are training and no communication: the noise and AdamW, on copies."""
    copies = [weight.detach().clone() for weight in weights]
    adam = torch.optim.AdamW(copies, lr=1e-4)
    began = time.monotonic()
    for _ in range(10):
        for copy in copies:
            copy.grad = torch.randn_like(copy)
        adam.step()
    return (time.monotonic() - began) / 10


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(OptimizerPeer())
