"""One rank of synchronous data parallel: a gradient's worth of numbers, `all_reduce` over gloo."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
import torch.distributed as distributed

from benchmarks.meters import sent_bytes
from benchmarks.worker import serve


class GlooPeer:
    """One rank; `exchange` is the communication of one step."""

    def join(self, *, seat: int, hosts: list[str], port: int, interface: str) -> None:
        """Become rank ``seat``; all ranks meet at rank 0."""
        self._interface = interface
        os.environ["GLOO_SOCKET_IFNAME"] = interface
        meeting = f"tcp://{hosts[0]}:{port}"
        distributed.init_process_group("gloo", init_method=meeting, rank=seat, world_size=len(hosts))

    def open(self, *, numbers: int, half: bool) -> None:
        """Exchange gradients of ``numbers`` values from now on."""
        self._gradient_P = torch.randn(numbers).to(torch.float16 if half else torch.float32)

    def exchange(self) -> dict[str, Any]:
        """One all-reduce."""
        began = time.monotonic()
        distributed.all_reduce(self._gradient_P)
        self._gradient_P /= distributed.get_world_size()
        return {"seconds": time.monotonic() - began, "fault": ""}

    def sent(self) -> int:
        """Bytes that this host has sent so far."""
        return sent_bytes(self._interface)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(GlooPeer())
