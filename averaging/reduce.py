"""The average of a part, with the same bits on every member, and a round's arithmetic as jobs for a thread.

Rule 1: ``acc = x · c``, then ``acc += x · c``: a separate multiply and add, in the order of the members. A
        fused multiply-add (``add_`` with ``alpha``) or a sum over a stacked axis rounds differently from
        machine to machine, or with another count of threads.
Rule 2: What is hashed is the bytes that were received; what is measured (norms) is the numbers that they
        decode to.
Rule 3: Jobs are values. Equal jobs give equal results, so a test of a round can compare jobs without running
        them.
"""

# Axes: P parameters of the whole model, N numbers of one part

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from swarm.errors import Malformed
from swarm.hashing import digest
from swarm.identity import PeerId
from swarm.manifest import Codec as CodecName

from .codecs import PIECE, LazyVector, Quantised, Raw, codec_of, output_for, pieces, zero_copy_codec
from .one_pass import NORM_TOLERANCE, HashAndNorm, Vector, hash_and_norm, is_near, norm
from .partition import Part

SUM_TOLERANCE = 2 * NORM_TOLERANCE
"""How much longer an average may be, relative to what its terms' committed norms allow: these norms are
confirmed within `NORM_TOLERANCE`, and every product and sum is rounded."""

SMALLEST = 2.0**-140
"""How far rounding may move one number of a sum of 256 numbers that are almost zero."""


def weighted_sum(
    vectors: Iterable[Vector],
    coefficients: Iterable[float],
    *,
    piece: int | None = None,
    out_N: Tensor | None = None,
    on_piece: Callable[[slice], None] | None = None,
) -> Tensor:
    """Return ``Σ coefficient · vector_N``, ``[N]`` float32, summed in the order given (rule 1).

    Coefficients must be float32 values, as `robust.coefficients` returns them. The sum is written into
    ``out_N``, which may be the first of the vectors, or into a new tensor. ``piece`` is how many numbers are
    summed at a time, so that they stay in the cache; it does not change the bits. ``on_piece`` is called with
    each piece of the sum while it is in the cache. Raises `ValueError` for no vectors, unequal lengths, or
    another number of coefficients than of vectors.
    """
    terms = [(vector_N, np.float32(count)) for vector_N, count in zip(vectors, coefficients, strict=True)]
    if not terms:
        raise ValueError("nothing to sum")
    numbers = len(terms[0][0])
    if any(len(vector_N) != numbers for vector_N, _ in terms):
        raise ValueError(
            f"vectors of {', '.join(str(len(vector_N)) for vector_N, _ in terms)} numbers have no sum"
        )
    total_N = output_for(numbers, out_N)
    piece = piece or PIECE
    product = np.empty(min(piece, numbers), np.float32)
    for here in pieces(numbers, piece):
        total = total_N.numpy()[here]
        (first_N, count), *others = terms
        np.multiply(first_N[here].numpy(), count, out=total)
        for vector_N, count in others:
            total += np.multiply(vector_N[here].numpy(), count, out=product[: len(total)])
        if on_piece:
            on_piece(here)
    return total_N


# --- results ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EncodedPart:
    """One part of our update as it travels.

    ``norm`` is that of the decoded numbers, which is what others can measure.
    """

    payload: Raw
    hash: bytes
    norm: float
    vector_N: Tensor | None = field(compare=False, repr=False)
    """What the payload decodes to; None for codecs that decode it again as quickly. For a codec without loss,
    payload and vector are both views of our own update: they must only be read."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Whether the bytes that ``sender`` sent for a part are what had been signed; ``reason`` says why not."""

    sender: PeerId
    part_index: int
    ok: bool
    reason: str = ""
    vector_N: Tensor | None = field(default=None, compare=False, repr=False)
    """The numbers that were decoded for the check, so that they need not be decoded again."""


@dataclass(frozen=True, slots=True)
class Reduced:
    """The average of one part, as its reducer sends it to all members."""

    payload: Raw
    hash: bytes
    vector_N: Tensor | None = field(default=None, compare=False, repr=False)
    """The average as everybody will decode it."""


@dataclass(frozen=True, slots=True)
class Share:
    """One member's encoded numbers of a part, and the coefficient with which they count."""

    payload: Raw
    codec: CodecName
    coefficient: float
    vector_N: Tensor | None = field(default=None, compare=False, repr=False)
    """The decoded numbers, if they are known."""

    def numbers(self, part: Part, scratch: Tensor) -> Vector:
        """Return the numbers, ``[N]`` float32: decoded, or a `LazyVector` over ``scratch``."""
        if self.vector_N is not None:
            return self.vector_N
        return decode_or_defer(self.payload, part, self.codec, scratch)


# --- jobs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class EncodeParts:
    """Encode our update part by part.

    Two jobs are equal only if they have the same tensor object, not equal numbers.
    """

    vector_P: Tensor
    parts: tuple[Part, ...]
    codec: CodecName
    scratch_P: Tensor | None = None
    """A buffer for what the payloads decode to, unless that is ``vector_P`` itself."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EncodeParts):
            return NotImplemented
        return self.vector_P is other.vector_P and (self.parts, self.codec) == (other.parts, other.codec)

    def __hash__(self) -> int:
        return hash((id(self.vector_P), self.parts, self.codec))

    def run(self) -> tuple[EncodedPart, ...]:
        """Return one `EncodedPart` per part. Raises `ValueError` for NaN or infinity."""
        scratch_P = self.scratch_P
        if scratch_P is None and self._needs_scratch:
            scratch_P = torch.empty_like(self.vector_P)
        encoded = []
        for part in self.parts:
            here = slice(part.start, part.stop)
            scratch_N = None if scratch_P is None else scratch_P[here]
            encoded.append(encode_part(self.vector_P[here], part, self.codec, scratch_N))
        return tuple(encoded)

    @property
    def _needs_scratch(self) -> bool:
        return not (zero_copy_codec(self.codec) or isinstance(codec_of(self.codec), Quantised))


@dataclass(frozen=True, slots=True)
class CheckPart:
    """Check what ``sender`` sent of a part that we reduce against the hash and the norm of its commit."""

    sender: PeerId
    part: Part
    payload: Raw
    hash: bytes
    norm: float
    codec: CodecName

    def run(self) -> Checked:
        """Return whether it is what was signed. Nothing that a sender can send raises an error."""
        index = self.part.index
        try:
            vector_N, measured = self._measured()
        except Malformed as error:
            return Checked(self.sender, index, False, error.fact)
        if not is_near(self.norm, measured):
            reason = f"the norm is {measured:.6g}, {self.norm:.6g} was signed"
            return Checked(self.sender, index, False, reason)
        decoded_N = None if isinstance(vector_N, LazyVector) else vector_N
        return Checked(self.sender, index, True, vector_N=decoded_N)

    def _measured(self) -> tuple[Vector, float]:
        """Return the numbers and their norm.

        Raises `Malformed` for bytes with another hash, and for bytes that `encode_part` cannot have made.
        """
        if codec := zero_copy_codec(self.codec):
            vector_N = codec.vector_view(self.payload, self.part.numbers)
            found, measured = hash_and_norm(self.payload, vector_N)
            require_hash(found, self.hash)
            if measured <= codec.limit:
                return vector_N, measured
        else:
            require_hash(digest(self.payload), self.hash)
        decoded_N = decode_or_defer(self.payload, self.part, self.codec)
        return decoded_N, norm(decoded_N)


@dataclass(frozen=True, slots=True)
class ReducePart:
    """Average one part: the members' ``shares`` of it, already checked, in member order.

    ``codec`` is that of the result.
    """

    part: Part
    shares: tuple[Share, ...]
    codec: CodecName
    head: bytes = b""
    """The bytes of the result in front of the numbers: flags that say whose shares are in it."""

    def run(self) -> Reduced:
        """Return the encoded average, with the same bits on every member that reduces the part."""
        scratch = torch.empty(PIECE)
        vectors = [share.numbers(self.part, scratch) for share in self.shares]
        coefficients = [share.coefficient for share in self.shares]
        if zero_copy := zero_copy_codec(self.codec):
            payload, sum_N = zero_copy.empty_payload(self.head, self.part.numbers)
            measure = HashAndNorm(payload, sum_N)
            weighted_sum(vectors, coefficients, out_N=sum_N, on_piece=measure.update)
            if measure.norm <= zero_copy.limit:
                return Reduced(payload, measure.hash, sum_N)
        else:
            sum_N = weighted_sum(vectors, coefficients)

        codec = codec_of(self.codec, self.part.shape)
        decoded_N = sum_N if isinstance(codec, Quantised) else torch.empty_like(sum_N)
        numbers = codec.encode(sum_N, decoded_N)
        payload = memoryview(b"".join((self.head, numbers)))
        return Reduced(payload, digest(payload), decoded_N)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Check the average that came for ``part`` against the hash in the receipt of its owner, and against
    the commits.

    ``source`` is the peer that sent it, by default the owner. The hash is that of the whole payload; the
    numbers begin after ``head`` bytes.
    """

    part: Part
    payload: Raw
    hash: bytes
    codec: CodecName
    head: int = 0
    source: PeerId | None = None
    most: float = math.inf
    """The largest norm that the commits allow; infinite for a result that more than two thirds hold."""
    out_N: Tensor | None = field(default=None, compare=False, repr=False)
    """The slice of the whole average that the numbers may be written into."""

    def run(self) -> Checked:
        """Return whether it is what was signed. Nothing that a sender can send raises an error."""
        source = self.source or self.part.owner
        try:
            vector_N = self._decoded()
        except Malformed as error:
            return Checked(source, self.part.index, False, error.fact)
        return Checked(source, self.part.index, True, vector_N=vector_N)

    def _decoded(self) -> Tensor:
        """Return the numbers.

        Raises `Malformed` for bytes with another hash, for bytes that no `ReducePart` can have made, and for
        numbers that are too long.
        """
        numbers = memoryview(self.payload)[self.head :]
        out_N = output_for(self.part.numbers, self.out_N)
        if codec := zero_copy_codec(self.codec):
            vector_N = codec.vector_view(numbers, self.part.numbers)
            found, measured = hash_and_norm(self.payload, vector_N, out_N)
            require_hash(found, self.hash)
            if measured <= codec.limit:
                self._require_norm(measured, numbers, out_N)
                return out_N
        else:
            require_hash(digest(self.payload), self.hash)
        vector_N = codec_of(self.codec, self.part.shape).decode(numbers, self.part.numbers, out_N)
        if self.most < math.inf:
            self._require_norm(norm(vector_N), numbers, vector_N)
        return vector_N

    def _require_norm(self, measured: float, numbers: Raw, vector_N: Tensor) -> None:
        """Raise `Malformed` if the average that was encoded is longer than the commits allow.

        Its rounding may make it a little longer. To find that out takes another pass, which is hardly ever
        needed.
        """
        most = self.most * (1 + SUM_TOLERANCE) + math.sqrt(len(vector_N)) * SMALLEST
        if measured <= most:
            return
        if not codec_of(self.codec, self.part.shape).least_norm(numbers, vector_N) <= most:
            raise Malformed(f"the norm is {measured:.6g}, the commits allow {self.most:.6g}")


@dataclass(frozen=True, slots=True)
class DecodeResults:
    """Put the average together from the applied ``results``, which are decoded already."""

    results: tuple[tuple[Part, Tensor], ...]
    average_P: Tensor

    def run(self) -> Tensor:
        """Return ``average_P`` with all results in it, zero where nothing was applied.

        Results that were decoded into ``average_P`` already are not copied again.
        """
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


def encode_part(
    vector_N: Tensor, part: Part, codec: CodecName, scratch_N: Tensor | None = None
) -> EncodedPart:
    """Return ``vector_N`` as it travels, its hash, and the norm of what the others will decode.

    What they will decode goes into ``scratch_N`` or a new tensor, unless it is ``vector_N`` itself or the
    codec decodes it again as quickly. Raises `ValueError` for NaN or infinity.
    """
    if zero_copy := zero_copy_codec(codec):
        payload = zero_copy.payload_view(vector_N)
        hash_, measured = hash_and_norm(payload, vector_N)
        if measured <= zero_copy.limit:
            return EncodedPart(payload, hash_, measured, vector_N)

    part_codec = codec_of(codec, part.shape)
    if isinstance(part_codec, Quantised):
        numbers, measured = part_codec.encode_with_norm(vector_N)
        return EncodedPart(numbers, digest(numbers), measured, None)
    decoded_N = torch.empty_like(vector_N) if scratch_N is None else scratch_N
    numbers = part_codec.encode(vector_N, decoded_N)
    return EncodedPart(numbers, digest(numbers), norm(decoded_N), decoded_N)


def decode_or_defer(payload: Raw, part: Part, codec: CodecName, scratch: Tensor | None = None) -> Vector:
    """Return the decoded numbers of ``payload``, or for a quantised codec a `LazyVector` over ``scratch``.

    Raises `Malformed` for bytes that no encoder can have made; a `LazyVector` raises it for a code when it is
    read.
    """
    part_codec = codec_of(codec, part.shape)
    if isinstance(part_codec, Quantised):
        return LazyVector(part_codec, payload, part.numbers, scratch)
    return part_codec.decode(payload, part.numbers)


def require_hash(found: bytes, signed: bytes) -> None:
    """Raise `Malformed` unless the two hashes are equal."""
    if found != signed:
        raise Malformed("the bytes do not have the hash that was signed")
