"""One member's whole update as bytes that need nothing beside them, and the jobs of the gather exchange.

    blob = codec u8 ‖ weight u64 ‖ norm f64 ‖ numbers                little-endian; the hash that is decided on covers all of it

Rule 1: coefficients follow from the heads of the applied blobs. A commit says the same, but a liar may say one thing to one
        member and another to the next; a hash cannot. So equal decisions make equal averages, whatever anybody has heard besides.
Rule 2: everybody sums for itself, one decoded update at a time, in member order (`reduce.weighted_sum`).
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


@dataclass(frozen=True, slots=True)
class UpdateHeader:
    """What a blob says of itself: how its numbers are encoded, the tokens behind them, and their L2 norm once decoded."""

    codec: CodecName
    weight: int
    norm: float

    def pack(self) -> bytes:
        """The first bytes of the blob."""
        return HEAD.pack(self.codec, self.weight, self.norm)

    @property
    def claim(self) -> Claim:
        """The update as one part."""
        return Claim(float(self.weight), self.norm, self.norm)


def header_of(blob: Raw) -> UpdateHeader:
    """Read the head. Raises `Malformed` for what no member may claim."""
    if len(blob) < HEAD.size:
        raise Malformed("the update has no head")
    codec, weight, its_norm = HEAD.unpack_from(blob)
    if codec not in iter(CodecName) or not 0 < weight < MAX_WEIGHT or not 0 <= its_norm <= LARGEST:
        raise Malformed("the update's head is out of range")
    return UpdateHeader(CodecName(codec), weight, its_norm)


def blob_size(part: Part, codec: CodecName) -> int:
    """The exact bytes of the blob of ``part``, which is the whole update."""
    return HEAD.size + codec_of(codec, part.shape).size(part.numbers)


@dataclass(frozen=True, slots=True, eq=False)
class EncodeUpdate:
    """Encode our whole update. Equal to another one over the same tensor object, not over equal numbers."""

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
        """The blob, alone in a tuple. Raises `ValueError` for NaN or infinity."""
        codec = codec_of(self.codec, self.part.shape)
        vector_P = torch.empty_like(self.vector_P)
        numbers = codec.encode(self.vector_P, vector_P)
        measured = norm(vector_P)
        blob = UpdateHeader(self.codec, self.weight, measured).pack() + numbers
        return (EncodedPart(blob, digest(blob), measured, vector_P),)


@dataclass(frozen=True, slots=True)
class CheckUpdate:
    """Hold the blob of the member at ``seat``, which came from ``source``, against the hash that was signed or decided.

    ``codec`` is the run's. ``head`` is what the member has committed to; None where the blob was fetched by its hash: then two
    thirds of the members have held it, and it must only be in order.
    """

    source: PeerId
    seat: int
    part: Part
    payload: Raw
    hash: bytes
    codec: CodecName
    head: UpdateHeader | None = None

    def run(self) -> Checked:
        """The verdict on who sent it; never raises because of what was sent."""
        try:
            reason = self._fault()
        except Malformed as error:
            reason = error.fact
        return Checked(self.source, self.seat, not reason, reason)

    def _fault(self) -> str:
        """Why the blob is not what it should be, cheapest proof first: hash, head, form, norm. Empty where it is."""
        if digest(self.payload) != self.hash:
            return "the bytes do not have the hash that was signed"
        head = header_of(self.payload)
        if self.head and head != self.head:
            return "the update's head says other things than the commit"
        if head.codec not in allowed(self.codec):
            return f"codec {head.codec.name.lower()} has no place in this run"
        measured = norm(
            codec_of(head.codec, self.part.shape).decode(self.payload[HEAD.size :], self.part.numbers)
        )
        return (
            "" if is_near(head.norm, measured) else f"the norm is {measured:.6g}, {head.norm:.6g} was signed"
        )


@dataclass(frozen=True, slots=True)
class CombineUpdates:
    """The average of the applied ``blobs``, which are checked, in member order."""

    blobs: tuple[Raw, ...]
    part: Part

    def run(self) -> Tensor:
        """``[P]`` float32; zero where there is no blob. Holds the sum and one decoded update. Raises `Malformed` if unchecked."""
        total_P = torch.zeros(self.part.numbers, dtype=torch.float32)
        heads = [header_of(blob) for blob in self.blobs]
        terms: list[Tensor] = []
        for head, blob, count in zip(
            heads, self.blobs, coefficients([head.claim for head in heads]), strict=True
        ):
            decoded_P = codec_of(head.codec, self.part.shape).decode(blob[HEAD.size :], self.part.numbers)
            weighted_sum(
                [*terms, decoded_P], [*[1.0] * len(terms), count], out_N=total_P
            )  # times one changes no bit
            terms = [total_P]
        return total_P
