"""What every codec costs and loses as it turns an update into bytes and back, and hivemind's beside ours.

    python -m benchmarks.codecs [--quick] [--json FILE]

The numbers are a real update: the nano model, trained for some steps on Python's library, each tensor
repeated (with a tenth of noise, so that no two numbers are equal) until the vector is as large as a part of a
larger model. One thread. The codecs take turns, and the least CPU time of each counts: other work on the
machine can only add to it.

``relative_error`` is ‖update − decoded‖ / ‖update‖ of one round. The sparse codecs leave most of an update
behind on purpose: it is carried over to the next rounds (error feedback), so their error says how long an
update is on its way, and not what is lost.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from averaging.codecs import Codec, Shape, codec_of
from peer.app import malloc as memory
from peer.config.run import RunSettings, manifest_of
from peer.data.corpus import build
from peer.training.learner import Assignment, Learner
from swarm.identity import KeyPair, PeerId
from swarm.manifest import Codec as CodecName

NUMBERS = 1 << 22
TEXT_BYTES = 2_000_000
AT_ONCE = 3
"""Calls in a turn: the first call after another codec's also pays for memory that the system has to hand out
again."""
HIVEMIND_PART = 1 << 17
"""Numbers that hivemind encodes at a time: its averager cuts tensors into parts of 512 KiB."""


@dataclass(frozen=True, slots=True)
class Row:
    """One codec.

    CPU time in ms per million numbers, one thread; bytes per number of the payload, without heads of
    messages.
    """

    codec: str
    encode_ms_per_mparam: float
    decode_ms_per_mparam: float
    bytes_per_param: float
    relative_error: float


@dataclass(frozen=True, slots=True)
class Entrant:
    """A codec under test: from a vector to a payload, whose bytes on the wire are ``size``, and back."""

    name: str
    encode: Callable[[Tensor], Any]
    decode: Callable[[Any], Tensor]
    size: Callable[[Any], int] = len


def update(steps: int) -> tuple[Tensor, tuple[int, ...]]:
    """An update of nano after ``steps`` steps, stretched to about `NUMBERS`; the lengths of its tensors."""
    corpus = build(None, limit=TEXT_BYTES)
    learner = Learner(
        manifest_of(RunSettings(max_steps=steps), corpus.spec, KeyPair.generate()), corpus, PeerId("p0")
    )
    task = Assignment(
        members=(PeerId("p0"),), max_steps=steps, until=lambda: False, on_step=lambda step, loss: None
    )
    update_N = learner.work(task).update_N
    times = NUMBERS // learner.numbers
    noise = torch.Generator().manual_seed(0)
    stretched = [piece.repeat(times) for piece in torch.split(update_N, list(learner.tensors))]
    vector_N = torch.cat(stretched)
    vector_N *= 1 + 0.1 * torch.randn(len(vector_N), generator=noise)
    return vector_N, tuple(len(piece) for piece in stretched)


def swarm_codecs(shape: Shape, numbers: int) -> list[Entrant]:
    """Every codec of the manifest, for tensors of ``shape``."""
    return [_swarm_codec(name.name.lower(), codec_of(name, shape), numbers) for name in CodecName]


def _swarm_codec(name: str, codec: Codec, numbers: int) -> Entrant:
    return Entrant(name, codec.encode, lambda payload: codec.decode(payload, numbers))


def hivemind_codecs() -> list[Entrant]:
    """The two codecs that hivemind recommends, as its averager calls them."""
    from hivemind.compression import CompressionInfo, Float16Compression, Uniform8BitQuantization

    def entrant(name: str, codec: Any) -> Entrant:
        def encode(vector_N: Tensor) -> list[Any]:
            parts = torch.split(vector_N, HIVEMIND_PART)
            return [
                codec.compress(part, CompressionInfo.from_tensor(part), allow_inplace=False) for part in parts
            ]

        def size(messages: list[Any]) -> int:
            return sum(message.ByteSize() for message in messages)

        return Entrant(
            name, encode, lambda messages: torch.cat([codec.extract(message) for message in messages]), size
        )

    return [
        entrant("hivemind float16", Float16Compression()),
        entrant("hivemind uniform8", Uniform8BitQuantization()),
    ]


def measure(entrants: Sequence[Entrant], vector_N: Tensor, turns: int) -> tuple[list[Row], dict[str, str]]:
    """A row for every entrant that works, and the reasons why the others do not."""
    failed: dict[str, str] = {}
    best: dict[str, tuple[float, float]] = {}
    loss: dict[str, tuple[float, float]] = {}
    for _ in range(turns):
        for entrant in entrants:
            if entrant.name in failed:
                continue
            try:
                encode, payload = _timed(lambda: entrant.encode(vector_N))  # noqa: B023 - called at once
                decode, back_N = _timed(lambda: entrant.decode(payload))  # noqa: B023 - called at once
            except (TypeError, ValueError, RuntimeError) as error:
                failed[entrant.name] = f"{type(error).__name__}: {error}"
                continue
            before = best.get(entrant.name, (encode, decode))
            best[entrant.name] = (min(before[0], encode), min(before[1], decode))
            loss[entrant.name] = (entrant.size(payload) / len(vector_N), _relative_error(vector_N, back_N))
    to_ms = 1e3 / (len(vector_N) / 1e6)
    rows = [Row(name, encode * to_ms, decode * to_ms, *loss[name]) for name, (encode, decode) in best.items()]
    return rows, failed


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """The least CPU time of `AT_ONCE` calls in seconds, and the result of the last one."""
    least = math.inf
    result = None
    for _ in range(AT_ONCE):
        result = None  # frees its memory for the next call
        began = time.process_time()
        result = call()
        least = min(least, time.process_time() - began)
    return least, result


def _relative_error(vector_N: Tensor, back_N: Tensor) -> float:
    exact_N = vector_N.double()
    return float((exact_N - back_N.double()).norm() / exact_N.norm())


def show(rows: Sequence[Row], failed: Mapping[str, str], console: Console) -> None:
    """Print the table, and the codecs that failed."""
    table = Table("codec", title=f"{NUMBERS / 1e6:.1f} million numbers, one thread")
    for title in ("encode ms/M", "decode ms/M", "bytes/number", "relative error"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row.codec,
            f"{row.encode_ms_per_mparam:.2f}",
            f"{row.decode_ms_per_mparam:.2f}",
            f"{row.bytes_per_param:.4f}",
            f"{row.relative_error:.4f}",
        )
    console.print(table)
    for name, why in failed.items():
        console.print(f"{name} fails: {why}", markup=False)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer turns and a younger update: below a minute"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    memory.keep_freed_memory()  # as every peer does
    vector_N, pieces = update(20 if chosen.quick else 200)
    entrants = swarm_codecs(Shape(pieces), len(vector_N)) + hivemind_codecs()
    rows, failed = measure(entrants, vector_N, 4 if chosen.quick else 25)
    show(rows, failed, Console())
    if chosen.json:
        notes = [f"{name} fails: {why}" for name, why in failed.items()]
        chosen.json.write_text(
            json.dumps({"rows": [asdict(row) for row in rows], "notes": notes}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
