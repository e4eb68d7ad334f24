"""Stock hivemind: `DecentralizedAverager` on its own DHT and p2pd, in tensors of at most 4 million numbers.

The group is complete when the averager enters RUNNING_ALLREDUCE; before that it is matchmaking. One repair is
applied here and nowhere else: numpy 2.4 refuses ``int()`` of an array of one number, which hivemind 1.1.12's
8-bit codecs rely on (its main branch reads ``[0]``).
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
from benchmarks.worker import Check, Times, Trial, serve

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
    """`Quantization.extract` of hivemind 1.1.12, with the ``[0]`` that its main branch has."""
    codebook_size = int(np.frombuffer(serialized_tensor.buffer, count=1, dtype=np.int64)[0])
    codebook = np.frombuffer(
        serialized_tensor.buffer, offset=8, count=codebook_size, dtype=self.codebook_dtype
    )
    quantized = np.frombuffer(serialized_tensor.buffer, offset=8 + codebook.nbytes, dtype=self.indices_dtype)
    quantized = torch.as_tensor(quantized, dtype=torch.int64).reshape(tuple(serialized_tensor.size))
    codebook = torch.as_tensor(codebook).to(dtype=getattr(torch, serialized_tensor.dtype))
    return codebook[quantized].requires_grad_(serialized_tensor.requires_grad)


class HivemindPeer:
    """One averager; its DHT stays from trial to trial."""

    def __init__(self) -> None:
        self._dht: hivemind.DHT | None = None

    def prepare(self, trial: Trial) -> Any:
        """The first peer returns the addresses of its DHT, through which the others join."""
        self._trial = trial
        self._update_P = update_of(trial.seat, trial.parameters)
        # hivemind does not remove its sockets; in this folder they are removed with it
        P2P._UNIX_SOCKET_PREFIX = f"/unix{trial.folder}/"
        if trial.seat == 0 and self._dht is None:
            self._dht = hivemind.DHT(start=True)
        if trial.seat or self._dht is None:
            return []
        return [str(address) for address in self._dht.get_visible_maddrs()]

    def connect(self, contacts: list[Any]) -> None:
        """Join the DHT, and start an averager with this trial's codec."""
        if self._dht is None:
            self._dht = hivemind.DHT(initial_peers=contacts[0], start=True)
        pieces = -(-self._trial.parameters // LARGEST_TENSOR)
        tensors = [piece.clone() for piece in self._update_P.split(-(-self._trial.parameters // pieces))]
        self._averager = hivemind.averaging.DecentralizedAverager(
            tensors,
            self._dht,
            start=True,
            prefix=self._trial.name.replace(".", "_"),
            compression=CODECS[self._trial.codec](),
            target_group_size=self._trial.peers,
            min_matchmaking_time=MATCHMAKING_SECONDS,
            request_timeout=MATCHMAKING_SECONDS / 2,
        )

    def reset(self) -> None:
        """Restore the numbers, which the averager has overwritten."""
        with self._averager.get_tensors() as tensors:
            start = 0
            for tensor in tensors:
                tensor.copy_(self._update_P[start : start + tensor.numel()])
                start += tensor.numel()

    def average(self) -> Times:
        """One step. Its stage is read every 2 ms, because hivemind does not report when it changes."""
        called = time.monotonic()
        began = 0.0
        step = self._averager.step(wait=False, timeout=PATIENCE_SECONDS, allow_retries=False)
        while not step.done():
            if not began and step.stage == AveragingStage.RUNNING_ALLREDUCE:
                began = time.monotonic()
            time.sleep(_POLL_SECONDS)
        ended = time.monotonic()
        fault = ""
        try:
            group = step.result()
            if not group or len(group) != self._trial.peers:
                fault = f"a group of {len(group or ())} instead of {self._trial.peers}"
        except Exception as error:  # noqa: BLE001 - a failed round of a rival is a result of the benchmark
            fault = f"{type(error).__name__}: {error}"
        return Times(called=called, began=began or ended, ended=ended, fault=fault)

    def check(self) -> Check:
        """The distance from the mean."""
        with self._averager.get_tensors() as tensors:
            return Check(
                error=error_of(torch.cat([tensor.flatten() for tensor in tensors]), self._trial.peers)
            )

    def release(self) -> None:
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
    serve(HivemindPeer())
