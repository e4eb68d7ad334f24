"""What a group has decided in a round: other peers need it to take the same step, bit for bit.

    record = round, members, population, tokens ‖ the applied items as they were hashed

Its size is a few percent of the model's. A peer that was in another group, had no seat or missed a few rounds
downloads the records of these rounds instead of the whole model. Any peer may serve a record, so the record
itself proves nothing: the model that it leads to must have the state root of the other peers.
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

OVERHEAD = 64 * 1024
"""Upper bound of the bytes of a record besides its items: ids of 256 members and the like."""

NO_OWNER = PeerId("")
"""The owner of a part in a record, which does not say who has reduced it."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """The outcome of ``round``.

    ``members`` are the digests of the members' ids, in the order of the ids; ``stops`` says where the parts
    end (a gather exchange has one part). ``items`` is empty if the round was void, and then the model stays
    as it is. An item that was not applied is empty.
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
        """Whether nothing was decided in the round."""
        return not self.items


def recorded(applied: Applied, group: Group, parts: Sequence[Part]) -> Record:
    """The record of a round of ``group``: what others need to come to the same model."""
    return Record(
        round=group.round,
        members=tuple(digest_of(member) for member in group.members),
        population=group.population,
        tokens=applied.tokens,
        stops=tuple(part.stop for part in parts),
        items=cast("tuple[bytes, ...]", applied.items),  # a bytearray or memoryview is packed like bytes
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateShape:
    """What every peer of a run knows of its updates.

    ``spec`` is from the manifest; ``tensors`` are the lengths of the model's tensors in the order of the
    vector.
    """

    spec: RoundSpec
    tensors: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """P, the length of the vector."""
        return sum(self.tensors)

    @property
    def limit(self) -> int:
        """Bytes of the largest record worth downloading: about those of the model itself."""
        return 4 * self.numbers + OVERHEAD

    def fragment(self, record: Record) -> Fragment:
        """Return the fragment that was averaged in the round of ``record``."""
        return fragment_of(self.tensors, self.spec.fragments, record.round)

    def parts(self, record: Record) -> tuple[Part, ...]:
        """Return the parts of the round of ``record``.

        Raises `Malformed` if they do not cover the round's fragment exactly.
        """
        fragment = self.fragment(record)
        if not record.stops or record.stops[-1] != fragment.numbers or record.stops[0] < 1:
            raise Malformed("the parts of the record do not cover the vector")
        starts = (0, *record.stops[:-1])
        parts = [
            Part(index, start, stop, NO_OWNER)
            for index, (start, stop) in enumerate(zip(starts, record.stops, strict=True))
        ]
        return shaped(parts, fragment.tensors)


def packed(record: Record) -> bytes:
    """Return ``record`` as the bytes that travel."""
    return pack(record)


def opened(raw: bytes) -> Record:
    """Return the record in ``raw``, which any peer may have sent. Raises `Malformed` if it is not one."""
    return unpack(raw, Record)


@dataclass(frozen=True, slots=True)
class ReplayRecord:
    """Compute the average that ``record`` describes."""

    record: Record
    shape: UpdateShape

    def run(self) -> Tensor:
        """Return the average of the round's fragment, ``[P]`` float32, with the same bits as the members'.

        Raises `Malformed` for a record that no group of the run can have decided.
        """
        parts = self.shape.parts(self.record)
        spec = self.shape.spec
        if spec.exchange is Exchange.GATHER:
            return self._combined(parts)
        if len(self.record.items) != len(parts):
            raise Malformed("the record does not have one item for each part")
        codec = result_codec(spec.codec)
        head_size = flag_bytes(len(self.record.members))
        average_P = torch.zeros(parts[-1].stop, dtype=torch.float32)
        for part, item in zip(parts, self.record.items, strict=True):
            if item:
                numbers = memoryview(item)[head_size:]
                average_P[part.start : part.stop] = codec_of(codec, part.shape).decode(numbers, part.numbers)
        return average_P

    def _combined(self, parts: tuple[Part, ...]) -> Tensor:
        """Return the average of a gather exchange: its items are the members' whole updates."""
        if len(parts) != 1 or len(self.record.items) != len(self.record.members):
            raise Malformed("the record does not have one update for each member")
        whole = parts[0]
        codecs = allowed(self.shape.spec.codec)
        blobs = tuple(item for item in self.record.items if item)
        for blob in blobs:
            codec = header_of(blob).codec
            if codec not in codecs or len(blob) != blob_size(whole, codec):
                raise Malformed("an update of the record is not of this run")
        return CombineUpdates(blobs, whole).run()


@dataclass(frozen=True, slots=True)
class RecordResidual:
    """Compute the residual of a level-1 group's average after the round of its level-2 group.

    ``update_P`` is that average, which the group's ``representative`` contributed to the level-2 round, whose
    outcome is ``record``. Every member of the level-1 group adds the residual to its next update. All of them
    hold the same bits and encode them in the same way, so each can compute by itself what the
    representative's encoding has left out.
    """

    record: Record
    shape: UpdateShape
    update_P: Tensor
    representative: PeerId

    def run(self) -> Tensor:
        """Return ``[P]``: what the codec left out where the update was applied, everything elsewhere.

        Raises `Malformed` for a record that no group of the run can have decided.
        """
        parts = self.shape.parts(self.record)
        spec = self.shape.spec
        is_gather = spec.exchange is Exchange.GATHER
        encoded: tuple[EncodedPart, ...]
        if is_gather:
            # the weight in the header does not change the encoded numbers
            encoded = EncodeUpdate(self.update_P, parts[0], spec.codec, weight=1).run()
        else:
            encoded = EncodeParts(self.update_P, parts, spec.codec).run()
        settle = Settle(
            sent_P=self.update_P,
            encoded=tuple(part.payload for part in encoded),
            parts=parts,
            applied=self._applied(is_gather),
            codec=spec.codec,
            decay=spec.feedback,
            decoded=tuple(part.vector_N for part in encoded),
        )
        return settle.run()

    def _applied(self, is_gather: bool) -> tuple[bool, ...]:
        """Return, by part, whether the representative's update is in the applied result."""
        members = self.record.members
        representative = digest_of(self.representative)
        if representative not in members:
            return (False,) * len(self.record.stops)
        seat = members.index(representative)
        if is_gather:
            return (bool(self.record.items[seat]),)
        head_size = flag_bytes(len(members))
        return tuple(
            bool(item) and flags_of(item[:head_size], len(members))[seat] for item in self.record.items
        )
