"""Many to one, the same bits everywhere, and the jobs that carry the round's arithmetic to its thread.

Rule 1: ``acc += x · c`` is a multiply, then an add, in member order, starting from zero. A fused multiply-add (``add_`` with
        ``alpha``) or a sum over a stacked axis rounds differently from machine to machine, thread count to thread count.
Rule 2: what is hashed is what was received; what is measured (norms) is what was decoded.
Rule 3: jobs are values. Equal jobs give equal results, so a round can be tested without running one.
"""

# Axes: P parameters of the whole model, N numbers of one part

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from swarm.errors import Malformed
from swarm.identity import PeerId
from swarm.manifest import Codec as CodecName

from .codecs import codec_of
from .partition import Part

NORM_TOLERANCE = 1e-4
"""Relative difference between a committed and a measured norm that is still honest: summation order differs between machines."""

_CHUNK = 1 << 18


def digest(payload: bytes) -> bytes:
    """The 32 bytes (SHA-256) by which commits and receipts name ``payload``."""
    return hashlib.sha256(payload).digest()


def norm(vector_N: Tensor) -> float:
    """The L2 norm of ``vector_N``, accumulated in float64: finite for all finite float32 numbers."""
    squares = 0.0
    for chunk in torch.split(vector_N, 1 << 15):
        wide = chunk.double()
        squares += float(torch.dot(wide, wide))
    return math.sqrt(squares)


def is_near(claimed: float, measured: float) -> bool:
    """Whether a norm that was signed is the one that was measured."""
    return abs(measured - claimed) <= NORM_TOLERANCE * measured


def weighted_sum(vectors: Iterable[Tensor], coefficients: Iterable[float], *, chunk: int = _CHUNK) -> Tensor:
    """``Σ coefficient · vector_N`` in the order given, bit for bit the same on every peer (rule 1). ``[N]`` float32, a new tensor.

    Coefficients must be float32 values, as `robust.coefficients` makes them. ``vectors`` are taken one at a time, so a generator
    keeps memory at two of them; ``chunk`` (numbers per step: it bounds the scratch memory) changes no bit. Raises `ValueError`
    for no vectors, unequal lengths, or another number of coefficients.
    """
    total_N: Tensor | None = None
    for vector_N, coefficient in zip(vectors, coefficients, strict=True):
        if total_N is None:
            total_N = torch.zeros(vector_N.shape, dtype=torch.float32)
        if vector_N.shape != total_N.shape:
            raise ValueError(f"vectors of shapes {tuple(total_N.shape)} and {tuple(vector_N.shape)} have no sum")
        for total, vector in zip(torch.split(total_N, chunk), torch.split(vector_N, chunk), strict=True):
            total.add_(vector * coefficient)
    if total_N is None:
        raise ValueError("nothing to sum")
    return total_N


# --- results ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EncodedPart:
    """One part of our update as it travels; ``norm`` is that of the decoded numbers, which is what the others can measure."""

    payload: bytes
    hash: bytes
    norm: float


@dataclass(frozen=True, slots=True)
class Checked:
    """Whether the bytes of ``sender`` for a part are what it had signed; ``reason`` says why not."""

    sender: PeerId
    part_index: int
    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reduced:
    """The average of one part, as whoever reduces it sends it to all."""

    payload: bytes
    hash: bytes
    owed_N: Tensor | None = field(default=None, compare=False)
    """What encoding has lost of the sum, as an update of whoever reduced: with its coefficient it is exactly that. Stays here."""


@dataclass(frozen=True, slots=True)
class Share:
    """One member's encoded numbers of a part, and how much they count."""

    payload: bytes
    codec: CodecName
    coefficient: float


# --- jobs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class EncodeParts:
    """Encode our update part by part. Equal to another one over the same tensor object, not over equal numbers."""

    vector_P: Tensor
    parts: tuple[Part, ...]
    codec: CodecName

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EncodeParts):
            return NotImplemented
        return self.vector_P is other.vector_P and (self.parts, self.codec) == (other.parts, other.codec)

    def __hash__(self) -> int:
        return hash((id(self.vector_P), self.parts, self.codec))

    def run(self) -> tuple[EncodedPart, ...]:
        """One `EncodedPart` per part. Holds one decoded part at a time. Raises `ValueError` for NaN or infinity."""
        return tuple(self._encode(part) for part in self.parts)

    def _encode(self, part: Part) -> EncodedPart:
        codec = codec_of(self.codec, part.shape)
        payload = codec.encode(self.vector_P[part.start : part.stop])
        return EncodedPart(payload, digest(payload), norm(codec.decode(payload, part.numbers)))


@dataclass(frozen=True, slots=True)
class CheckPart:
    """Hold what ``sender`` delivered for our part against the hash and the norm of its commit."""

    sender: PeerId
    part: Part
    payload: bytes
    hash: bytes
    norm: float
    codec: CodecName

    def run(self) -> Checked:
        """The verdict; never raises because of what the sender sent."""
        reason = _fault(self.part, self.payload, self.hash, self.codec, self.norm)
        return Checked(self.sender, self.part.index, not reason, reason)


@dataclass(frozen=True, slots=True)
class ReducePart:
    """Average one part: the members' ``shares`` of it (checked before) in member order, into a result encoded with ``codec``."""

    part: Part
    shares: tuple[Share, ...]
    codec: CodecName
    head: bytes = b""
    """What stands before the numbers in the result: whose they are."""
    own: float = 0.0
    """The coefficient of whoever reduces, 0 where its update is not in it."""

    def run(self) -> Reduced:
        """The encoded average, bit for bit what every other member would get. Holds the sum and one other vector at a time."""
        numbers, shape = self.part.numbers, self.part.shape
        decoded = (codec_of(share.codec, shape).decode(share.payload, numbers) for share in self.shares)
        sum_N = weighted_sum(decoded, (share.coefficient for share in self.shares))
        codec = codec_of(self.codec, shape)
        encoded = codec.encode(sum_N)
        owed_N = (sum_N - codec.decode(encoded, numbers)).div_(self.own) if self.own else None
        payload = self.head + encoded
        return Reduced(payload, digest(payload), owed_N)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Hold the average that came for ``part``, from its owner or any other ``source``, against the hash of the owner's receipt.

    The hash is that of the whole payload; the numbers begin after ``head`` bytes.
    """

    part: Part
    payload: bytes
    hash: bytes
    codec: CodecName
    head: int = 0
    source: PeerId | None = None

    def run(self) -> Checked:
        """The verdict on who sent it; never raises because of what was sent."""
        reason = _fault(self.part, self.payload, self.hash, self.codec, head=self.head)
        return Checked(self.source or self.part.owner, self.part.index, not reason, reason)


@dataclass(frozen=True, slots=True)
class DecodeResults:
    """Put the group's average together from the parts that were applied; ``None`` stands for a part that was not."""

    results: tuple[tuple[Part, bytes | None], ...]
    numbers: int
    codec: CodecName

    def run(self) -> Tensor:
        """``[P]`` float32, zero wherever nothing was applied. Raises `Malformed` for bytes that were never checked."""
        average_P = torch.zeros(self.numbers, dtype=torch.float32)
        for part, payload in self.results:
            if payload is not None:
                average_P[part.start : part.stop] = codec_of(self.codec, part.shape).decode(payload, part.numbers)
        return average_P


def _fault(part: Part, payload: bytes, hash_: bytes, codec: CodecName, claimed: float | None = None, *, head: int = 0) -> str:
    """Why ``payload`` is not what was signed for ``part``, cheapest proof first: hash, form, norm. Empty where it is."""
    if digest(payload) != hash_:
        return "the bytes do not have the hash that was signed"
    try:
        vector_N = codec_of(codec, part.shape).decode(payload[head:], part.numbers)
    except Malformed as error:
        return error.fact
    if claimed is None:
        return ""
    measured = norm(vector_N)
    return "" if is_near(claimed, measured) else f"the norm is {measured:.6g}, {claimed:.6g} was signed"
