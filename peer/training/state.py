"""What all honest peers share at the start of a round: its number, the model, and any outer momentum.

    anchor [P] ‖ momentum [P]  ──►  float32, little-endian  ──►  1 MiB chunks  ──►  root of the chunks
    state root = sha256( "swarm-state-v1" ‖ round ‖ root of the chunks )

A newcomer learns the state root from several peers, the hashes from one, and the chunks from all of them.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from swarm.errors import WrongContent
from swarm.hashing import digest

from ..chunks.hashes import chunk_count, chunk_length, root_of

CHUNK = 1 << 20
"""Bytes per chunk: what one request to a donor carries, and so what a donor that lies or leaves can waste."""

DOMAIN = b"swarm-state-v1"
"""Keeps the roots of states apart from those of training texts."""

_HEAD = struct.Struct("<I")


@dataclass(frozen=True, eq=False)
class SharedState:
    """A value: its tensors (float32, ``[P]``, on the CPU, contiguous) are never written to."""

    round: int
    anchor_P: Tensor
    momentum_P: Tensor | None = None

    def __repr__(self) -> str:
        root = state_root(self).hex()[:12]
        return f"SharedState(round {self.round}, {self.anchor_P.numel():,} parameters, root {root})"

    @property
    def length(self) -> int:
        """Bytes of anchor and momentum together."""
        return sum(len(piece) for piece in self._pieces)

    @cached_property
    def _pieces(self) -> tuple[memoryview, ...]:
        return tuple(
            bytes_of(vector_P) for vector_P in (self.anchor_P, self.momentum_P) if vector_P is not None
        )

    @cached_property
    def _hashes(self) -> list[bytes]:
        return [digest(chunk(self, index)) for index in range(chunk_count(self.length, CHUNK))]


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of ``tensor`` as bytes, without a copy where it is contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous().flatten().numpy().data.cast("B")


def blob_length(numbers: int, has_momentum: bool) -> int:
    """Bytes of the state of a model of ``numbers`` parameters."""
    return 4 * numbers * (2 if has_momentum else 1)


def chunk(state: SharedState, index: int) -> memoryview:
    """Chunk ``index`` of the state's bytes: a view, or a copy where it spans both anchor and momentum.

    Raises `IndexError` where there is no such chunk.
    """
    start = index * CHUNK
    stop = start + chunk_length(index, state.length, CHUNK)
    parts: list[memoryview] = []
    for piece in state._pieces:
        parts.append(piece[max(start, 0) : max(stop, 0)])
        start -= len(piece)
        stop -= len(piece)
    inside = [part for part in parts if part]
    return inside[0] if len(inside) == 1 else memoryview(b"".join(inside))


def chunk_hashes(state: SharedState) -> list[bytes]:
    """The BLAKE3 digest of every chunk, in order; computed once per state."""
    return state._hashes


def state_root(state: SharedState) -> bytes:
    """32 bytes that are equal on two peers if and only if the round and every bit of the vectors are."""
    return state_root_from(state.round, chunk_hashes(state), state.length)


def state_root_from(round_: int, hashes: Sequence[bytes], length: int) -> bytes:
    """The state root that belongs to ``hashes``: a newcomer checks them by it before it fetches a chunk."""
    return hashlib.sha256(DOMAIN + _HEAD.pack(round_) + root_of(hashes, length, DOMAIN)).digest()


def assemble(round_: int, chunks: Sequence[bytes], numbers: int, has_momentum: bool) -> SharedState:
    """The state from its chunks, which have come from other peers and been checked by their hashes.

    Raises `WrongContent` where the lengths do not fit the model, or a number is not finite. That can happen
    with correct hashes, because a majority can agree on NaN.
    """
    length = blob_length(numbers, has_momentum)
    expected = [chunk_length(index, length, CHUNK) for index in range(chunk_count(length, CHUNK))]
    if [len(part) for part in chunks] != expected:
        raise WrongContent(f"these chunks do not make a model of {numbers} parameters")
    vector = torch.frombuffer(bytearray().join(chunks), dtype=torch.float32)
    # a hundred times faster than isfinite().all(); with a NaN, both minimum and maximum are NaN
    lowest, highest = vector.aminmax()
    if not (lowest.isfinite() and highest.isfinite()):
        raise WrongContent("the model received has numbers that are not finite")
    anchor_P, *momentum = vector.view(-1, numbers).unbind()
    return SharedState(round_, anchor_P, momentum[0] if momentum else None)


@dataclass(frozen=True, slots=True)
class StateContent:
    """A state as `peer.chunks.exchange` serves it: hashes and chunks."""

    state: SharedState

    @property
    def hashes(self) -> Sequence[bytes]:
        """The digest of every chunk."""
        return chunk_hashes(self.state)

    def chunk(self, index: int) -> memoryview:
        """The bytes of one chunk. Raises `IndexError`."""
        return chunk(self.state, index)
