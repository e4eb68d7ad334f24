"""What a group has decided in a round: other peers need it to take the same step, bit for bit.

    record = round, members, population, tokens ‖ the applied items as they were hashed

Its size is a few percent of the model's. A peer that was in another group, had no seat or missed a few rounds
downloads the records of these rounds instead of the whole model. Any peer may serve a record, so it carries
the certificate of the group's decision (`certificate`), and `verified` compares everything in it with that.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import msgspec
import torch
from torch import Tensor

from swarm.errors import Malformed
from swarm.hashing import digest
from swarm.identity import PeerId, digest_of
from swarm.manifest import Codec, Exchange, RoundSpec
from swarm.wire import pack, sized, unpack

from . import groups
from .certificate import CertifiedDecision, Electorate, unpacked_decision
from .codec_choice import allowed
from .codecs import codec_of, result_codec
from .feedback import Settle
from .fragments import Fragment, fragment_of
from .groups import Group
from .messages import (
    MAX_MEMBERS,
    MAX_PARTS,
    MAX_POPULATION,
    MAX_WEIGHT,
    flag_bytes,
    flags_of,
    header_bytes,
)
from .partition import Part, plan, shaped
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
    as it is. An item that was not applied is empty. ``certificate`` is a `DecisionCertificate`, packed; a
    void round has none.
    """

    round: int
    members: tuple[bytes, ...] = ()
    population: int = 1
    tokens: int = 0
    stops: tuple[int, ...] = ()
    items: tuple[bytes, ...] = ()
    certificate: bytes = b""

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


def recorded(applied: Applied, group: Group, parts: Sequence[Part], certificate: bytes = b"") -> Record:
    """The record of a round of ``group``: what others need to come to the same model, and to believe it."""
    return Record(
        round=group.round,
        members=tuple(digest_of(member) for member in group.members),
        population=group.population,
        tokens=applied.tokens,
        stops=tuple(part.stop for part in parts),
        items=cast("tuple[bytes, ...]", applied.items),  # a bytearray or memoryview is packed like bytes
        certificate=certificate,
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
class VerifiedRecord:
    """A record that is what the group of its certificate has decided."""

    record: Record
    decision: CertifiedDecision


Judge = Callable[[Record], VerifiedRecord]
"""Checks a stranger's record; raises `TheirFault` for one that is not to be believed."""


def judge_for(run: bytes, shape: UpdateShape, root: bytes, parent: bytes, electorate: Electorate) -> Judge:
    """What a peer at the state ``root``, to which the group ``parent`` led, believes of its round's record.

    It must be what a group has decided (`verified`) that trained from this very state, and among whose voters
    are enough members of ``parent``.
    """

    def judge(record: Record) -> VerifiedRecord:
        checked = verified(record, run, shape)
        decision = checked.decision
        if (decision.group.state_root, decision.parent) != (root, parent):
            raise Malformed("the record goes on from another state")
        if decision.formed.seated.level1_groups != electorate.level1_groups:
            raise Malformed("the record is of a group of another level")
        if not electorate.believes(decision.formed.voters):
            raise Malformed("too few of those in the last average have voted for the record's group")
        return checked

    return judge


def verified(record: Record, run: bytes, shape: UpdateShape) -> VerifiedRecord:
    """Check ``record`` against its own certificate. Raises `TheirFault` if they do not fit."""
    decision = unpacked_decision(record.certificate, run)
    group = decision.group
    parts = plan_parts(run, shape.spec, group, shape.fragment(record).tensors)
    found = tuple(digest(item) if item else b"" for item in record.items)
    if found != decision.hashes:
        raise Malformed("the items of the record are not those that were decided")
    is_gather = shape.spec.exchange is Exchange.GATHER
    if len(found) != len(group.members if is_gather else parts):
        raise Malformed("a group of the run decides about another number of items")
    expected = Record(
        round=group.round,
        members=tuple(digest_of(member) for member in group.members),
        population=group.population,
        tokens=group.tokens_of(contributors(record, group, shape.spec)),
        stops=tuple(part.stop for part in parts),
        items=record.items,
        certificate=record.certificate,
    )
    if record != expected:
        raise Malformed("the record is not what its certificate says")
    return VerifiedRecord(record, decision)


def contributors(record: Record, group: Group, spec: RoundSpec) -> list[PeerId]:
    """The members of ``group`` of whose update something was applied."""
    count = len(group.members)
    if spec.exchange is Exchange.GATHER:
        return [member for member, item in zip(group.members, record.items, strict=True) if item]
    included = [flags_of(bytes(item[: flag_bytes(count)]), count) for item in record.items if item]
    return [member for seat, member in enumerate(group.members) if any(flags[seat] for flags in included)]


def plan_parts(run: bytes, spec: RoundSpec, group: Group, tensors: tuple[int, ...]) -> tuple[Part, ...]:
    """How ``group`` cuts an update whose tensors have these lengths.

    Every member, and every peer that is shown the group's certificate, comes to the same parts.
    """
    at_most = 1 if spec.exchange is Exchange.GATHER else spec.owners
    owners = groups.owners(run, group, at_most)
    parts = plan(sum(tensors), owners, groups.shares(group, owners))
    return shaped(parts, tensors)


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
        head_size = header_bytes(len(self.record.members))
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
    codec: Codec | None = None
    """How it was encoded, if not as the manifest says."""

    def run(self) -> Tensor:
        """Return ``[P]``: what the codec left out where the update was applied, everything elsewhere.

        Raises `Malformed` for a record that no group of the run can have decided.
        """
        parts = self.shape.parts(self.record)
        spec = self.shape.spec
        codec = spec.codec if self.codec is None else self.codec
        is_gather = spec.exchange is Exchange.GATHER
        encoded: tuple[EncodedPart, ...]
        if is_gather:
            # the weight in the header does not change the encoded numbers
            encoded = EncodeUpdate(self.update_P, parts[0], codec, weight=1).run()
        else:
            encoded = EncodeParts(self.update_P, parts, codec).run()
        settle = Settle(
            sent_P=self.update_P,
            encoded=tuple(part.payload for part in encoded),
            parts=parts,
            applied=self._applied(is_gather),
            codec=codec,
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
