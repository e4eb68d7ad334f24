"""Stock hivemind: `DecentralizedAverager` on its own DHT and p2pd, tensors of at most 4 million numbers as its documents advise.

The group stands when the averager enters RUNNING_ALLREDUCE; what comes before is its matchmaking. One repair is applied here and
nowhere else: numpy 2.4 refuses ``int()`` of an array of one number, which hivemind 1.1.12's 8-bit codecs rely on
(its main branch reads ``[0]``).
"""

from __future__ import annotations

import time
from typing import Any

import hivemind
import numpy as np
import torch
from hivemind.averaging.control import AveragingStage
from hivemind.compression import CompressionBase, Float16Compression, NoCompression, Uniform8BitQuantization
from hivemind.compression.quantization import Quantization
from hivemind.p2p import P2P

from benchmarks.rivals.numbers import error_of, update_of
from benchmarks.rivals.stage import Scene, Times, Verdict, act

CODECS: dict[str, type[CompressionBase]] = {
    "fp32": NoCompression,
    "fp16": Float16Compression,
    "int8": Uniform8BitQuantization,
}
LARGEST_TENSOR = 4_000_000
MATCHMAKING_SECONDS = 3.0
PATIENCE_SECONDS = 240.0
_POLL_SECONDS = 0.002


def extract(self: Quantization, serialized_tensor: Any) -> torch.Tensor:
    """`Quantization.extract` of hivemind 1.1.12 word for word, but for the ``[0]`` that its main branch has too."""
    codebook_size = int(np.frombuffer(serialized_tensor.buffer, count=1, dtype=np.int64)[0])
    codebook = np.frombuffer(
        serialized_tensor.buffer, offset=8, count=codebook_size, dtype=self.codebook_dtype
    )
    quantized = np.frombuffer(serialized_tensor.buffer, offset=8 + codebook.nbytes, dtype=self.indices_dtype)
    quantized = torch.as_tensor(quantized, dtype=torch.int64).reshape(tuple(serialized_tensor.size))
    codebook = torch.as_tensor(codebook).to(dtype=getattr(torch, serialized_tensor.dtype))
    return codebook[quantized].requires_grad_(serialized_tensor.requires_grad)


class HivemindPeer:
    """One averager; its DHT stays from scene to scene."""

    def __init__(self) -> None:
        self._dht: hivemind.DHT | None = None

    def prepare(self, scene: Scene) -> Any:
        """The first peer's DHT is where the others begin."""
        self._scene = scene
        self._update_P = update_of(scene.seat, scene.parameters)
        P2P._UNIX_SOCKET_PREFIX = (
            f"/unix{scene.folder}/"  # it forgets its sockets; there they go with the folder
        )
        if scene.seat == 0 and self._dht is None:
            self._dht = hivemind.DHT(start=True)
        return (
            [str(address) for address in self._dht.get_visible_maddrs()]
            if scene.seat == 0 and self._dht
            else []
        )

    def meet(self, cards: list[Any]) -> None:
        """Join the DHT, start an averager with this scene's codec."""
        if self._dht is None:
            self._dht = hivemind.DHT(initial_peers=cards[0], start=True)
        pieces = -(-self._scene.parameters // LARGEST_TENSOR)
        tensors = [piece.clone() for piece in self._update_P.split(-(-self._scene.parameters // pieces))]
        self._averager = hivemind.averaging.DecentralizedAverager(
            tensors,
            self._dht,
            start=True,
            prefix=self._scene.name.replace(".", "_"),
            compression=CODECS[self._scene.codec](),
            target_group_size=self._scene.peers,
            min_matchmaking_time=MATCHMAKING_SECONDS,
            request_timeout=MATCHMAKING_SECONDS / 2,
        )

    def refill(self) -> None:
        """It averages in place, so the numbers have to come back."""
        with self._averager.get_tensors() as tensors:
            start = 0
            for tensor in tensors:
                tensor.copy_(self._update_P[start : start + tensor.numel()])
                start += tensor.numel()

    def average(self) -> Times:
        """One step. Its stage is looked at every 2 ms: it tells nobody when it changes."""
        called, began = time.monotonic(), 0.0
        step = self._averager.step(wait=False, timeout=PATIENCE_SECONDS, allow_retries=False)
        while not step.done():
            if not began and step.stage == AveragingStage.RUNNING_ALLREDUCE:
                began = time.monotonic()
            time.sleep(_POLL_SECONDS)
        ended, fault = time.monotonic(), ""
        try:
            group = step.result()
            if not group or len(group) != self._scene.peers:
                fault = f"a group of {len(group or ())} instead of {self._scene.peers}"
        except Exception as error:  # noqa: BLE001 - a round of theirs that failed is a result of the benchmark
            fault = f"{type(error).__name__}: {error}"
        return Times(called=called, began=began or ended, ended=ended, fault=fault)

    def check(self) -> Verdict:
        """How far from the mean."""
        with self._averager.get_tensors() as tensors:
            return Verdict(
                error=error_of(torch.cat([tensor.flatten() for tensor in tensors]), self._scene.peers)
            )

    def drop(self) -> None:
        """End the averager; the DHT stays."""
        self._averager.shutdown()
        del self._averager
        self._update_P = torch.empty(0)

    def close(self) -> None:
        """End the DHT and its p2pd, and their sockets under /tmp."""
        if self._dht:
            self._dht.shutdown()


if __name__ == "__main__":
    torch.set_num_threads(1)
    Quantization.extract = extract
    act(HivemindPeer())
