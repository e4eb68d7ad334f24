"""What a group has decided, for those who were not in it: enough to take the same step to the same model, bit for bit.

    record = round, members, population, tokens ‖ the applied items, as they were hashed         (a few percent of the model's bytes)

Who was in another cell, had no seat or missed a round or two takes the records of the rounds since, instead of the whole model. A
record is a stranger's word and proves nothing: what it leads to must have the state root that the others have.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import msgspec
import torch
from torch import Tensor

from swarm.errors import Malformed
from swarm.identity import PeerId, digest_of
from swarm.manifest import Exchange, RoundSpec
from swarm.wire import pack, sized, unpack

from .codec_choice import allowed
from .codecs import codec_of, result_codec
from .feedback import Settle
from .fragments import Fragment, fragment_of
from .groups import Group
from .messages import MAX_MEMBERS, MAX_PARTS, MAX_POPULATION, MAX_WEIGHT, flag_bytes, flags_of
from .partition import Part, shaped
from .reduce import EncodedPart, EncodeParts
from .round_plan import Applied
from .whole_update import CombineUpdates, EncodeUpdate, blob_size, header_of

ROOM = 64 * 1024
"""Bytes of a record beside its items, at most."""
NOBODY = PeerId("")


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """The outcome of ``round``. ``members``: digests of the ids, in their order. ``stops``: where the parts end; one in a gather.

    ``items`` is empty where the round was void: then the model stays as it is. An item that was not applied is empty.
    """

    round: int
    members: tuple[bytes, ...] = ()
    population: int = 1
    tokens: int = 0
    stops: tuple[int, ...] = ()
    items: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if (
            not 0 <= self.round < 1 << 32
            or not 1 <= self.population <= MAX_POPULATION
            or not 0 <= self.tokens < MAX_MEMBERS * MAX_WEIGHT
        ):
            raise ValueError("record: out of range")
        if max(len(self.members), len(self.items)) > MAX_MEMBERS or len(self.stops) > MAX_PARTS:
            raise ValueError("record: too many members, parts or items")
        if list(self.stops) != sorted(set(self.stops)) or len(set(self.members)) < len(self.members):
            raise ValueError("record: members or parts out of order")
        for member in self.members:
            sized("member", member, 32)

    @property
    def is_void(self) -> bool:
        """Whether nothing was decided in its round."""
        return not self.items


def recorded(applied: Applied, group: Group, parts: Sequence[Part]) -> Record:
    """What others need to come to the same model."""
    return Record(
        round=group.round,
        members=tuple(digest_of(member) for member in group.members),
        population=group.population,
        tokens=applied.tokens,
        stops=tuple(part.stop for part in parts),
        items=cast("tuple[bytes, ...]", applied.items),  # whatever lies in memory packs alike
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateShape:
    """What every peer of the run knows of its updates: ``tensors`` are the lengths of the model's, in the order of the vector."""

    spec: RoundSpec
    tensors: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """P."""
        return sum(self.tensors)

    @property
    def limit(self) -> int:
        """Bytes of the largest record that is worth having: about the model itself."""
        return 4 * self.numbers + ROOM

    def fragment(self, record: Record) -> Fragment:
        """What was averaged in the round."""
        return fragment_of(self.tensors, self.spec.fragments, record.round)

    def parts(self, record: Record) -> tuple[Part, ...]:
        """The parts of the round. Raises `Malformed` where they do not cover what was averaged in it."""
        fragment = self.fragment(record)
        if not record.stops or record.stops[-1] != fragment.numbers or record.stops[0] < 1:
            raise Malformed("the parts of the record do not make the model")
        starts = (0, *record.stops[:-1])
        cuts = enumerate(zip(starts, record.stops, strict=True))
        return shaped(
            [Part(index, start, stop, NOBODY) for index, (start, stop) in cuts],
            fragment.tensors,
            record.round,
        )


def packed(record: Record) -> bytes:
    """The bytes that travel."""
    return pack(record)


def opened(raw: bytes) -> Record:
    """A stranger's bytes as a record. Raises `Malformed`."""
    return unpack(raw, Record)


@dataclass(frozen=True, slots=True)
class ReplayRecord:
    """Compute the average that a record tells of. Raises `Malformed` for what no group of the run can have decided."""

    record: Record
    frame: UpdateShape

    def run(self) -> Tensor:
        """``[P]`` float32, of the round's fragment, the same bits that the members have."""
        parts, items, spec = self.frame.parts(self.record), self.record.items, self.frame.spec
        if spec.exchange is Exchange.GATHER:
            return self._combined(parts)
        codec, head = result_codec(spec.codec), flag_bytes(len(self.record.members))
        if len(items) != len(parts):
            raise Malformed("the record has not one item for each part")
        average_P = torch.zeros(parts[-1].stop, dtype=torch.float32)
        for part, item in zip(parts, items, strict=True):
            if item:
                average_P[part.start : part.stop] = codec_of(codec, part.shape).decode(
                    memoryview(item)[head:], part.numbers
                )
        return average_P

    def _combined(self, parts: tuple[Part, ...]) -> Tensor:
        whole, codecs = parts[0], allowed(self.frame.spec.codec)
        if len(parts) != 1 or len(self.record.items) != len(self.record.members):
            raise Malformed("the record has not one update for each member")
        blobs = tuple(item for item in self.record.items if item)
        for blob in blobs:
            if header_of(blob).codec not in codecs or len(blob) != blob_size(whole, header_of(blob).codec):
                raise Malformed("an update of the record is none of this run's")
        return CombineUpdates(blobs, whole).run()


@dataclass(frozen=True, slots=True)
class RecordResidual:
    """What a council has left of ``brought_P``, which its member ``representative`` brought: everybody in its cell brings it again.

    All of the cell hold the same bits and encode them alike, so each knows what the delegate's encoding has lost.
    """

    record: Record
    frame: UpdateShape
    brought_P: Tensor
    representative: PeerId

    def run(self) -> Tensor:
        """``[P]``: what was lost in encoding where the delegate's update was applied, and everything elsewhere."""
        parts, spec = self.frame.parts(self.record), self.frame.spec
        is_gather = spec.exchange is Exchange.GATHER
        encoded: tuple[EncodedPart, ...]
        if is_gather:
            encoded = EncodeUpdate(self.brought_P, parts[0], spec.codec, 1).run()
        else:
            encoded = EncodeParts(self.brought_P, parts, spec.codec).run()
        decoded = tuple(part.vector_N for part in encoded)
        payloads = tuple(part.payload for part in encoded)
        return Settle(
            self.brought_P, payloads, parts, self._applied(is_gather), spec.codec, spec.feedback, decoded
        ).run()

    def _applied(self, is_gather: bool) -> tuple[bool, ...]:
        """By part: whether the delegate is in what was applied of it."""
        record, whom = self.record, digest_of(self.representative)
        if whom not in record.members:
            return (False,) * len(record.stops)
        seat = record.members.index(whom)
        if is_gather:
            return (bool(record.items[seat]),)
        head = flag_bytes(len(record.members))
        return tuple(bool(item) and flags_of(item[:head], len(record.members))[seat] for item in record.items)
