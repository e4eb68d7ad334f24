"""The two faces of a liar's work: what it shows to one half of the peers, and what to the other half.

    our update, a reduced part ──► payload, hash          for those who see the first face
    the same with other numbers ──► payload', hash'       for the others, in every message that names the hash

Both faces are in order by themselves: each payload has the hash and the norm that goes with it. `Poison` is
the same without a first face: all peers get the other numbers.
"""

# Axes: P parameters of the whole model (of a fragment, where the run averages fragments in turn)

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import msgspec
import torch

from averaging.reduce import EncodedPart, EncodeParts, Reduced, ReducePart
from averaging.whole_update import EncodeUpdate
from swarm.bounded import LeastRecentlyUsed
from swarm.hashing import digest
from swarm.machine import Arithmetic
from swarm.transport import Payload

from .strategies import Deed

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)
Work = EncodeParts | EncodeUpdate | ReducePart
"""The jobs whose results a liar shows to others."""

KEPT = 256
"""Hashes with two faces."""


class Faces:
    """The second face of everything that the liar's work has made."""

    def __init__(self) -> None:
        self._others: LeastRecentlyUsed[bytes, tuple[bytes, Payload]] = LeastRecentlyUsed(KEPT)
        """By the hash of the first face: hash and payload of the second."""
        self._payloads: LeastRecentlyUsed[str, Payload] = LeastRecentlyUsed(KEPT)
        """By hash in hexadecimal: the payloads of second faces, for peers that fetch them."""

    def note(self, result: object, other: object) -> None:
        """``other`` is the second face of ``result``: both of the same job, with other numbers."""
        match result, other:
            case ((EncodedPart() | Reduced()), (EncodedPart() | Reduced())):
                self._others[result.hash] = other.hash, other.payload
                self._payloads[other.hash.hex()] = other.payload
            case tuple(), tuple():
                for part, other_part in zip(result, other, strict=True):
                    self.note(part, other_part)

    def other_payload(self, payload: Payload) -> Payload | None:
        """The second face of bulk bytes; None where there is none."""
        other = self._others.get(digest(payload))
        return other[1] if other else None

    def fetched(self, hash_: str) -> Payload | None:
        """The bytes that a peer asks for that has seen the second face; None if it has not."""
        return self._payloads.get(hash_)

    def other_message(self, message: S) -> S | None:
        """``message`` with the hashes of second faces; None if it names none that has one."""
        changes: dict[str, object] = {}
        for name in message.__struct_fields__:
            value = getattr(message, name)
            if isinstance(value, tuple) and any(element in self._others for element in value):
                changes[name] = tuple(self._other_hash(element) for element in value)
            elif isinstance(value, bytes) and value in self._others:
                changes[name] = self._other_hash(value)
        return msgspec.structs.replace(message, **changes) if changes else None

    def _other_hash(self, value: bytes) -> bytes:
        return self._others[value][0] if value in self._others else value


class LyingArithmetic:
    """Does a liar's arithmetic, poisons it where ``draw`` says so, and makes the second face beside it."""

    def __init__(
        self, arithmetic: Arithmetic, draw: Callable[[str], Deed], chance: random.Random, faces: Faces
    ) -> None:
        self._arithmetic = arithmetic
        self._draw = draw
        self._chance = chance
        self._faces = faces

    async def run(self, job: Callable[[], T], *, is_brief: bool = False) -> T:
        """The result of ``job()``, or of a harmful job of the same form."""
        work = getattr(job, "__self__", None)
        if not isinstance(work, Work):
            return await self._arithmetic.run(job, is_brief=is_brief)
        if self._draw("reduce" if isinstance(work, ReducePart) else "encode") is Deed.POISON:
            job = poisoned(work, self._chance).run  # type: ignore[assignment]  # it has the result of the job
        result = await self._arithmetic.run(job, is_brief=is_brief)
        self._faces.note(result, second_face(work).run())
        return result


def second_face(work: Work) -> Work:
    """The same work with other numbers: an update against the true one, a sum without the last member."""
    match work:
        case ReducePart():
            return replace(work, shares=work.shares[:-1] or work.shares)
        case EncodeParts():
            return replace(work, vector_P=-work.vector_P, scratch_P=None)
        case _:
            return replace(work, vector_P=-work.vector_P)


def poisoned(work: Work, chance: random.Random) -> Work:
    """The same work with harmful numbers, which keep within what the codecs allow."""
    factor = chance.choice((-1.0, -10.0, 100.0, 0.0))
    if isinstance(work, ReducePart):
        shares = tuple(replace(share, coefficient=factor * share.coefficient) for share in work.shares)
        return replace(work, shares=shares)
    if chance.random() < 0.3:
        generator = torch.Generator().manual_seed(chance.getrandbits(63))
        poison_P = torch.randn(len(work.vector_P), generator=generator)
    else:
        poison_P = factor * work.vector_P
    if isinstance(work, EncodeParts):
        return replace(work, vector_P=poison_P, scratch_P=None)
    return replace(work, vector_P=poison_P)
