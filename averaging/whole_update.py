"""One member's whole update as bytes that describe themselves, and the jobs of the gather exchange.

    blob = codec u8 ‖ weight u64 ‖ norm f64 ‖ numbers   little-endian; the decided hash covers all of it

Rule 1: Coefficients follow from the headers of the applied blobs. A commit says the same, but a dishonest
        member can send different commits to different members, while one hash stands for one header. So equal
        decisions make equal averages, whatever else each member has received.
Rule 2: Every member computes the sum by itself, one decoded update at a time, in member order
        (`reduce.weighted_sum`).
"""

# Axes: P parameters of the whole model

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch
from torch import Tensor

from swarm.errors import Malformed
from swarm.hashing import digest
from swarm.identity import PeerId
from swarm.manifest import Codec as CodecName

from .codec_choice import allowed
from .codecs import Raw, codec_of
from .messages import MAX_WEIGHT
from .one_pass import is_near, norm
from .partition import Part
from .reduce import Checked, EncodedPart, weighted_sum
from .robust import LARGEST, Claim, coefficients

HEAD = struct.Struct("<BQd")
"""The header of a blob: codec, weight in tokens, L2 norm."""


@dataclass(frozen=True, slots=True)
class UpdateHeader:
    """What a blob says of itself: the codec, the tokens behind the update, and the L2 norm once decoded."""

    codec: CodecName
    weight: int
    norm: float

    def pack(self) -> bytes:
        """Return the first bytes of the blob."""
        return HEAD.pack(self.codec, self.weight, self.norm)

    @property
    def claim(self) -> Claim:
        """The claim of the member, with the whole update as its only part."""
        return Claim(weight=float(self.weight), norm=self.norm, part_norm=self.norm)


def header_of(blob: Raw) -> UpdateHeader:
    """Return the header of ``blob``.

    Raises `Malformed` if the blob is too short or a value is out of range.
    """
    if len(blob) < HEAD.size:
        raise Malformed("the update is too short for its header")
    codec, weight, its_norm = HEAD.unpack_from(blob)
    if codec not in iter(CodecName) or not 0 < weight < MAX_WEIGHT or not 0 <= its_norm <= LARGEST:
        raise Malformed("the header of the update is out of range")
    return UpdateHeader(CodecName(codec), weight, its_norm)


def blob_size(part: Part, codec: CodecName) -> int:
    """Return the exact bytes of a blob in ``codec``; ``part`` is the whole update."""
    return HEAD.size + codec_of(codec, part.shape).size(part.numbers)


@dataclass(frozen=True, slots=True, eq=False)
class EncodeUpdate:
    """Encode our whole update.

    Two jobs are equal only if they have the same tensor object, not equal numbers.
    """

    vector_P: Tensor
    part: Part
    codec: CodecName
    weight: int

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EncodeUpdate):
            return NotImplemented
        return self.vector_P is other.vector_P and self._values == other._values

    def __hash__(self) -> int:
        return hash((id(self.vector_P), self._values))

    @property
    def _values(self) -> tuple[object, ...]:
        return self.part, self.codec, self.weight

    def run(self) -> tuple[EncodedPart, ...]:
        """Return a tuple with the blob as its only part. Raises `ValueError` for NaN or infinity."""
        codec = codec_of(self.codec, self.part.shape)
        decoded_P = torch.empty_like(self.vector_P)
        numbers = codec.encode(self.vector_P, decoded_P)
        measured = norm(decoded_P)
        blob = UpdateHeader(self.codec, self.weight, measured).pack() + numbers
        return (EncodedPart(blob, digest(blob), measured, decoded_P),)


@dataclass(frozen=True, slots=True)
class CheckUpdate:
    """Check the blob of the member at ``seat``, sent by ``source``, against the signed or decided hash.

    ``codec`` is the run's. ``head`` is the header that the member has committed to. It is None where the blob
    was fetched by its hash: then two thirds of the members have held it, and it need only be well-formed.
    """

    source: PeerId
    seat: int
    part: Part
    payload: Raw
    hash: bytes
    codec: CodecName
    head: UpdateHeader | None = None

    def run(self) -> Checked:
        """Return whether it is what was signed. Nothing that a sender can send raises an error."""
        try:
            reason = self._fault()
        except Malformed as error:
            reason = error.fact
        return Checked(self.source, self.seat, not reason, reason)

    def _fault(self) -> str:
        """Return what is wrong with the blob, or an empty text.

        The cheapest checks come first: hash, header, form, norm.
        """
        if digest(self.payload) != self.hash:
            return "the bytes do not have the hash that was signed"
        header = header_of(self.payload)
        if self.head and header != self.head:
            return "the header of the update differs from the commit"
        if header.codec not in allowed(self.codec):
            return f"codec {header.codec.name.lower()} is not allowed in this run"

        codec = codec_of(header.codec, self.part.shape)
        measured = norm(codec.decode(self.payload[HEAD.size :], self.part.numbers))
        if not is_near(header.norm, measured):
            return f"the norm is {measured:.6g}, {header.norm:.6g} was signed"
        return ""


@dataclass(frozen=True, slots=True)
class CombineUpdates:
    """Average the applied ``blobs``, already checked, in member order. ``part`` is the whole update."""

    blobs: tuple[Raw, ...]
    part: Part

    def run(self) -> Tensor:
        """Return the average, ``[P]`` float32, all zeros without blobs.

        Needs memory for the sum and for one decoded update. Raises `Malformed` for a blob that was not
        checked.
        """
        total_P = torch.zeros(self.part.numbers, dtype=torch.float32)
        headers = [header_of(blob) for blob in self.blobs]
        counts = coefficients([header.claim for header in headers])
        sum_so_far: list[Tensor] = []
        for header, blob, count in zip(headers, self.blobs, counts, strict=True):
            codec = codec_of(header.codec, self.part.shape)
            decoded_P = codec.decode(blob[HEAD.size :], self.part.numbers)
            # a multiplication by 1 changes no bit of the sum so far
            weighted_sum([*sum_so_far, decoded_P], [*[1.0] * len(sum_so_far), count], out_N=total_P)
            sum_so_far = [total_P]
        return total_P
