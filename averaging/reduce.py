"""Many to one, the same bits everywhere, and the jobs that carry the round's arithmetic to its thread.

Rule 1: ``acc = x · c``, then ``acc += x · c``: a multiply, then an add, in member order. A fused multiply-add (``add_`` with
        ``alpha``) or a sum over a stacked axis rounds differently from machine to machine, thread count to thread count.
Rule 2: what is hashed is what was received; what is measured (norms) is what was decoded.
Rule 3: jobs are values. Equal jobs give equal results, so a round can be tested without running one.
"""

# Axes: P parameters of the whole model, N numbers of one part

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from swarm.errors import Malformed
from swarm.hashing import digest
from swarm.identity import PeerId
from swarm.manifest import Codec as CodecName

from .codecs import Quantised, Raw, codec_of, exact_codec, room_for
from .partition import Part

NORM_TOLERANCE = 1e-4
"""Relative difference between a committed and a measured norm that is still honest: summation order differs between machines."""

_CHUNK = 1 << 18
"""Numbers per step of a sum: the product is near when it is added, and the calls are few."""
_ROW = 512
"""Numbers whose squares are summed in float32: an order of summation cannot be further than 512 roundings from another one."""
_NARROW = (1e-10, math.inf)
"""Between these a norm was computed in float32 without anything of weight falling out of its range."""


def norm(vector_N: Tensor) -> float:
    """The L2 norm of ``vector_N``, to 2e-5 of itself: finite for all finite numbers, NaN or infinite where one of them is not."""
    rows = len(vector_N) // _ROW
    wide = torch.linalg.vector_norm(vector_N[: rows * _ROW].view(rows, _ROW), dim=1).to(torch.float64)
    last = vector_N[rows * _ROW :].to(torch.float64)
    found = math.sqrt(float(torch.dot(wide, wide)) + float(torch.dot(last, last)))
    return found if _NARROW[0] < found < _NARROW[1] else _wide_norm(vector_N)


def _wide_norm(vector_N: Tensor) -> float:
    """The same, for numbers whose squares no float32 can hold."""
    squares = 0.0
    for chunk in torch.split(vector_N, _CHUNK):
        here = chunk.to(torch.float64)
        squares += float(torch.dot(here, here))
    return math.sqrt(squares)


def is_near(claimed: float, measured: float) -> bool:
    """Whether a norm that was signed is the one that was measured."""
    return abs(measured - claimed) <= NORM_TOLERANCE * measured


def weighted_sum(
    vectors: Iterable[Tensor], coefficients: Iterable[float], *, chunk: int = _CHUNK, out_N: Tensor | None = None
) -> Tensor:
    """``Σ coefficient · vector_N`` in the order given, bit for bit the same on every peer (rule 1). ``[N]`` float32.

    Coefficients must be float32 values, as `robust.coefficients` makes them. The sum is put into ``out_N``, which may be the first
    of the vectors, or into a new tensor; ``chunk`` (numbers per step: what has been read once stays in the cache) changes no bit.
    Raises `ValueError` for no vectors, unequal lengths, or another number of coefficients.
    """
    terms = [(vector_N.numpy(), np.float32(count)) for vector_N, count in zip(vectors, coefficients, strict=True)]
    if not terms:
        raise ValueError("nothing to sum")
    numbers = len(terms[0][0])
    if any(vector_N.shape != (numbers,) for vector_N, _ in terms):
        raise ValueError(f"vectors of {', '.join(str(len(vector_N)) for vector_N, _ in terms)} numbers have no sum")
    total_N = room_for(numbers, out_N)
    product = np.empty(min(chunk, numbers), np.float32)
    for start in range(0, numbers, chunk):
        total = total_N.numpy()[start : start + chunk]
        (first_N, count), *others = terms
        np.multiply(first_N[start : start + chunk], count, out=total)
        for vector_N, count in others:
            total += np.multiply(vector_N[start : start + chunk], count, out=product[: len(total)])
    return total_N


# --- results ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EncodedPart:
    """One part of our update as it travels; ``norm`` is that of the decoded numbers, which is what the others can measure."""

    payload: Raw
    hash: bytes
    norm: float
    vector_N: Tensor | None = field(compare=False, repr=False)
    """What the others will read in the payload, unless it is quicker to read it again. Where nothing is lost both are views of our
    own vector: nobody may write to it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Whether the bytes of ``sender`` for a part are what it had signed; ``reason`` says why not."""

    sender: PeerId
    part_index: int
    ok: bool
    reason: str = ""
    vector_N: Tensor | None = field(default=None, compare=False, repr=False)
    """What was decoded to find out: nobody needs to do it again."""


@dataclass(frozen=True, slots=True)
class Reduced:
    """The average of one part, as whoever reduces it sends it to all."""

    payload: Raw
    hash: bytes
    vector_N: Tensor | None = field(default=None, compare=False, repr=False)
    """The average as everybody will decode it."""


@dataclass(frozen=True, slots=True)
class Share:
    """One member's encoded numbers of a part, and how much they count."""

    payload: Raw
    codec: CodecName
    coefficient: float
    vector_N: Tensor | None = field(default=None, compare=False, repr=False)
    """The decoded numbers, where somebody has them."""

    def decoded(self, part: Part) -> Tensor:
        """The numbers, ``[N]`` float32."""
        return codec_of(self.codec, part.shape).decode(self.payload, part.numbers) if self.vector_N is None else self.vector_N


# --- jobs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class EncodeParts:
    """Encode our update part by part. Equal to another one over the same tensor object, not over equal numbers."""

    vector_P: Tensor
    parts: tuple[Part, ...]
    codec: CodecName
    room_P: Tensor | None = None
    """Where what the others will read may be put, unless it is ``vector_P`` itself."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EncodeParts):
            return NotImplemented
        return self.vector_P is other.vector_P and (self.parts, self.codec) == (other.parts, other.codec)

    def __hash__(self) -> int:
        return hash((id(self.vector_P), self.parts, self.codec))

    def run(self) -> tuple[EncodedPart, ...]:
        """One `EncodedPart` per part. Raises `ValueError` for NaN or infinity."""
        room_P = self.room_P
        if room_P is None and not (exact_codec(self.codec) or isinstance(codec_of(self.codec), Quantised)):
            room_P = torch.empty_like(self.vector_P)
        made = []
        for part in self.parts:
            here = slice(part.start, part.stop)
            made.append(encoded(self.vector_P[here], part, self.codec, None if room_P is None else room_P[here]))
        return tuple(made)


@dataclass(frozen=True, slots=True)
class CheckPart:
    """Hold what ``sender`` delivered for our part against the hash and the norm of its commit."""

    sender: PeerId
    part: Part
    payload: Raw
    hash: bytes
    norm: float
    codec: CodecName

    def run(self) -> Checked:
        """The verdict; never raises because of what the sender sent."""
        if digest(self.payload) != self.hash:
            return Checked(self.sender, self.part.index, False, OTHER_HASH)
        try:
            vector_N, measured = read(self.payload, self.part, self.codec)
        except Malformed as error:
            return Checked(self.sender, self.part.index, False, error.fact)
        if not is_near(self.norm, measured):
            return Checked(self.sender, self.part.index, False, f"the norm is {measured:.6g}, {self.norm:.6g} was signed")
        return Checked(self.sender, self.part.index, True, vector_N=vector_N)


@dataclass(frozen=True, slots=True)
class ReducePart:
    """Average one part: the members' ``shares`` of it (checked before) in member order, into a result encoded with ``codec``."""

    part: Part
    shares: tuple[Share, ...]
    codec: CodecName
    head: bytes = b""
    """What stands before the numbers in the result: whose they are."""

    def run(self) -> Reduced:
        """The encoded average, bit for bit what every other member would get."""
        exact = exact_codec(self.codec)
        payload, room_N = exact.room(self.head, self.part.numbers) if exact else (memoryview(b""), None)
        vectors = [share.decoded(self.part) for share in self.shares]
        sum_N = weighted_sum(vectors, [share.coefficient for share in self.shares], out_N=room_N)
        if exact and norm(sum_N) <= exact.limit:
            return Reduced(payload, digest(payload), sum_N)
        read_N = torch.empty_like(sum_N)
        numbers = codec_of(self.codec, self.part.shape).encode(sum_N, read_N)
        payload = memoryview(b"".join((self.head, numbers)))
        return Reduced(payload, digest(payload), read_N)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Hold the average that came for ``part``, from its owner or any other ``source``, against the hash of the owner's receipt.

    The hash is that of the whole payload; the numbers begin after ``head`` bytes.
    """

    part: Part
    payload: Raw
    hash: bytes
    codec: CodecName
    head: int = 0
    source: PeerId | None = None
    out_N: Tensor | None = field(default=None, compare=False, repr=False)
    """Where in the average the numbers may be put at once."""

    def run(self) -> Checked:
        """The verdict on who sent it; never raises because of what was sent."""
        source = self.source or self.part.owner
        if digest(self.payload) != self.hash:
            return Checked(source, self.part.index, False, OTHER_HASH)
        try:
            vector_N = decoded(memoryview(self.payload)[self.head :], self.part, self.codec, self.out_N)
        except Malformed as error:
            return Checked(source, self.part.index, False, error.fact)
        return Checked(source, self.part.index, True, vector_N=vector_N)


@dataclass(frozen=True, slots=True)
class DecodeResults:
    """Put the group's average together from the applied results, by part, as they were decoded when they were checked or made."""

    results: tuple[tuple[Part, Tensor], ...]
    average_P: Tensor

    def run(self) -> Tensor:
        """``average_P``, zero wherever nothing was applied. Most results lie in it already."""
        applied = {part.start: (part, vector_N) for part, vector_N in self.results}
        stop = 0
        for start in sorted(applied):
            part, vector_N = applied[start]
            self.average_P[stop:start].zero_()
            if vector_N.data_ptr() != self.average_P[start : part.stop].data_ptr():
                self.average_P[start : part.stop].copy_(vector_N)
            stop = part.stop
        self.average_P[stop:].zero_()
        return self.average_P


OTHER_HASH = "the bytes do not have the hash that was signed"


def encoded(vector_N: Tensor, part: Part, codec: CodecName, out_N: Tensor | None = None) -> EncodedPart:
    """``vector_N`` as it travels, its hash, the norm of what the others will decode, and these numbers.

    The numbers are put into ``out_N``, where given, unless they are ``vector_N`` itself, or of a codec that reads them as quickly.
    """
    codec_ = codec_of(codec, part.shape)
    if isinstance(codec_, Quantised):
        numbers, measured = codec_.measured(vector_N)
        return EncodedPart(numbers, digest(numbers), measured, None)
    exact, decoded_N, measured = exact_codec(codec), vector_N, math.inf
    if exact:
        measured = norm(vector_N)
    if exact and measured <= exact.limit:
        numbers = exact.bytes_of(vector_N)
    else:
        decoded_N = torch.empty_like(vector_N) if out_N is None else out_N
        numbers = codec_.encode(vector_N, decoded_N)
        measured = norm(decoded_N)
    return EncodedPart(numbers, digest(numbers), measured, decoded_N)


def decoded(payload: Raw, part: Part, codec: CodecName, out_N: Tensor | None) -> Tensor:
    """The numbers of ``payload``, in ``out_N`` where given. Raises `Malformed` for whatever `encoded` cannot have made."""
    if exact := exact_codec(codec):
        vector_N = exact.numbers_in(payload, part.numbers)
        if norm(vector_N) <= exact.limit:
            return vector_N if out_N is None else out_N.copy_(vector_N)
    return codec_of(codec, part.shape).decode(payload, part.numbers, out_N)


def read(payload: Raw, part: Part, codec: CodecName) -> tuple[Tensor, float]:
    """The numbers of ``payload``, to be read only, and their norm. Raises `Malformed` for whatever `encoded` cannot have made."""
    if exact := exact_codec(codec):
        vector_N = exact.numbers_in(payload, part.numbers)
        measured = norm(vector_N)
        if measured <= exact.limit:
            return vector_N, measured
    vector_N = codec_of(codec, part.shape).decode(payload, part.numbers)
    return vector_N, norm(vector_N)
