"""Many to one, the same bits everywhere, and the jobs that carry the round's arithmetic to its thread.

Rule 1: ``acc = x · c``, then ``acc += x · c``: a multiply, then an add, in member order. A fused multiply-add (``add_`` with
        ``alpha``) or a sum over a stacked axis rounds differently from machine to machine, thread count to thread count.
Rule 2: what is hashed is what was received; what is measured (norms) is what was decoded.
Rule 3: jobs are values. Equal jobs give equal results, so a round can be tested without running one.
"""

# Axes: P parameters of the whole model, N numbers of one part

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from swarm.errors import Malformed
from swarm.hashing import digest
from swarm.identity import PeerId
from swarm.manifest import Codec as CodecName

from .codecs import PIECE, Packed, Quantised, Raw, codec_of, exact_codec, pieces, room_for
from .one_pass import Vector, Walk, hash_and_norm, is_near, norm
from .partition import Part


def weighted_sum(
    vectors: Iterable[Vector],
    coefficients: Iterable[float],
    *,
    piece: int | None = None,
    out_N: Tensor | None = None,
    look: Callable[[slice], None] | None = None,
) -> Tensor:
    """``Σ coefficient · vector_N`` in the order given, bit for bit the same on every peer (rule 1). ``[N]`` float32.

    Coefficients must be float32 values, as `robust.coefficients` makes them. The sum is put into ``out_N``, which may be the first
    of the vectors, or into a new tensor; ``piece`` (numbers per step: what has been read once stays in the cache) changes no bit.
    ``look`` is called with each piece of the sum while it is near. Raises `ValueError` for no vectors, unequal lengths, or another
    number of coefficients.
    """
    terms = [(vector_N, np.float32(count)) for vector_N, count in zip(vectors, coefficients, strict=True)]
    if not terms:
        raise ValueError("nothing to sum")
    numbers = len(terms[0][0])
    if any(len(vector_N) != numbers for vector_N, _ in terms):
        raise ValueError(
            f"vectors of {', '.join(str(len(vector_N)) for vector_N, _ in terms)} numbers have no sum"
        )
    total_N = room_for(numbers, out_N)
    piece = piece or PIECE
    product = np.empty(min(piece, numbers), np.float32)
    for here in pieces(numbers, piece):
        total = total_N.numpy()[here]
        (first_N, count), *others = terms
        np.multiply(first_N[here].numpy(), count, out=total)
        for vector_N, count in others:
            total += np.multiply(vector_N[here].numpy(), count, out=product[: len(total)])
        if look:
            look(here)
    return total_N


# --- results ------------------------------------------------------------------------------------------------


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

    def numbers(self, part: Part, room: Tensor) -> Vector:
        """``[N]`` float32, or what they are read in, in ``room``, where they are needed."""
        return read(self.payload, part, self.codec, room) if self.vector_N is None else self.vector_N


# --- jobs ---------------------------------------------------------------------------------------------------


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
            made.append(
                encoded(self.vector_P[here], part, self.codec, None if room_P is None else room_P[here])
            )
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
        try:
            vector_N, measured = self._measured()
        except Malformed as error:
            return Checked(self.sender, self.part.index, False, error.fact)
        if not is_near(self.norm, measured):
            return Checked(
                self.sender, self.part.index, False, f"the norm is {measured:.6g}, {self.norm:.6g} was signed"
            )
        return Checked(
            self.sender, self.part.index, True, vector_N=None if isinstance(vector_N, Packed) else vector_N
        )

    def _measured(self) -> tuple[Vector, float]:
        """The numbers and their norm. Raises `Malformed` for other bytes than were signed, and what `encoded` cannot have made."""
        if exact := exact_codec(self.codec):
            vector_N = exact.numbers_in(self.payload, self.part.numbers)
            found, measured = hash_and_norm(self.payload, vector_N)
            require_hash(found, self.hash)
            if measured <= exact.limit:
                return vector_N, measured
        else:
            require_hash(digest(self.payload), self.hash)
        read_N = read(self.payload, self.part, self.codec)
        return read_N, norm(read_N)


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
        room = torch.empty(PIECE)
        vectors, counts = (
            [share.numbers(self.part, room) for share in self.shares],
            [share.coefficient for share in self.shares],
        )
        if exact := exact_codec(self.codec):
            payload, sum_N = exact.room(self.head, self.part.numbers)
            walk = Walk(payload, sum_N)
            weighted_sum(vectors, counts, out_N=sum_N, look=walk.look)
            if walk.norm <= exact.limit:
                return Reduced(payload, walk.hash, sum_N)
        else:
            sum_N = weighted_sum(vectors, counts)
        codec = codec_of(self.codec, self.part.shape)
        read_N = sum_N if isinstance(codec, Quantised) else torch.empty_like(sum_N)
        numbers = codec.encode(sum_N, read_N)
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
        try:
            vector_N = self._read()
        except Malformed as error:
            return Checked(source, self.part.index, False, error.fact)
        return Checked(source, self.part.index, True, vector_N=vector_N)

    def _read(self) -> Tensor:
        """The numbers. Raises `Malformed` for other bytes than were signed, and for what no `ReducePart` can have made."""
        numbers, out_N = memoryview(self.payload)[self.head :], room_for(self.part.numbers, self.out_N)
        if exact := exact_codec(self.codec):
            found, measured = hash_and_norm(self.payload, exact.numbers_in(numbers, self.part.numbers), out_N)
            require_hash(found, self.hash)
            if measured <= exact.limit:
                return out_N
        else:
            require_hash(digest(self.payload), self.hash)
        return codec_of(self.codec, self.part.shape).decode(numbers, self.part.numbers, out_N)


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


def encoded(vector_N: Tensor, part: Part, codec: CodecName, out_N: Tensor | None = None) -> EncodedPart:
    """``vector_N`` as it travels, its hash, the norm of what the others will decode, and these numbers.

    The numbers are put into ``out_N``, where given, unless they are ``vector_N`` itself, or of a codec that reads them as quickly.
    """
    codec_ = codec_of(codec, part.shape)
    if isinstance(codec_, Quantised):
        numbers, measured = codec_.measured(vector_N)
        return EncodedPart(numbers, digest(numbers), measured, None)
    if exact := exact_codec(codec):
        payload = exact.bytes_of(vector_N)
        hash_, measured = hash_and_norm(payload, vector_N)
        if measured <= exact.limit:
            return EncodedPart(payload, hash_, measured, vector_N)
    decoded_N = torch.empty_like(vector_N) if out_N is None else out_N
    numbers = codec_.encode(vector_N, decoded_N)
    return EncodedPart(numbers, digest(numbers), norm(decoded_N), decoded_N)


def read(payload: Raw, part: Part, codec: CodecName, room: Tensor | None = None) -> Vector:
    """The numbers of ``payload``, or what they are read in piece by piece (`Packed`). Both raise `Malformed`, the latter late."""
    codec_ = codec_of(codec, part.shape)
    if isinstance(codec_, Quantised):
        return Packed(codec_, payload, part.numbers, room)
    return codec_.decode(payload, part.numbers)


def require_hash(found: bytes, signed: bytes) -> None:
    """Raise `Malformed` where the bytes are not those that were signed."""
    if found != signed:
        raise Malformed("the bytes do not have the hash that was signed")
