"""Evidence: two frames of one peer of which an honest one never sends both. It proves itself to everybody.

    two votes of one round and level, for different groups
    two commits, two holdings or two ballots of one group, with different content

`Watch` sees every frame that comes in and keeps the first of its kind; `culprit` judges what others bring.
A peer that tells different things to different members shows nobody two frames. So after a round without a
decision the members compare what they have heard (`Watch.heard_in`).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from swarm.bounded import LeastRecentlyUsed
from swarm.errors import Malformed, TheirFault
from swarm.identity import PeerId
from swarm.wire import CONTROL_LIMIT, Message, Signed, body_of, level_of, open_frame, unpack

from .certificate import GroupCertificate, vote_frames
from .messages import Ballot, Commit, Decline, Holdings, Vote

WATCHED = 4096
"""Frames that are kept to be compared: those of some rounds."""
LIMIT = 2 * CONTROL_LIMIT + 64
"""Bytes of the largest evidence."""

KINDS = (Vote, Commit, Holdings, Ballot)
"""The messages of which an honest peer sends only one."""

_Slot = tuple[PeerId, int, int, bytes]


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Two frames as their signer has sent them."""

    first: bytes
    second: bytes


def culprit(evidence: Evidence, run: bytes) -> PeerId:
    """The peer that ``evidence`` convicts. Raises `TheirFault` if it convicts nobody."""
    first = open_frame(evidence.first, *KINDS, run=run)
    second = open_frame(evidence.second, *KINDS, run=run)
    if _slot(first) != _slot(second) or _said(first) == _said(second):
        raise Malformed("an honest peer may send both of these")
    return first.signer


class Watch:
    """Compares the frames that one peer gets."""

    def __init__(self, run: bytes) -> None:
        self._run = run
        self._seen: LeastRecentlyUsed[_Slot, bytes] = LeastRecentlyUsed(WATCHED)

    def see(self, signed: Signed[Message]) -> list[Evidence]:
        """What ``signed`` proves together with the frames before it."""
        found = (self._compare(frame) for frame in self._frames(signed))
        return [evidence for evidence in found if evidence]

    def heard_in(self, group: bytes) -> tuple[bytes, ...]:
        """The frames of a group that we have, without votes: those are in its certificate."""
        return tuple(raw for (_, _, _, place), raw in self._seen.items() if place == group)

    def _frames(self, signed: Signed[Message]) -> Iterable[Signed[Message]]:
        """The frames in a message that must be the only ones of their kind: itself, or the votes that it
        brings."""
        message = signed.message
        if isinstance(message, KINDS):
            return [signed]
        if isinstance(message, Decline) and message.certificate:
            try:
                return vote_frames(unpack(message.certificate, GroupCertificate), self._run)
            except TheirFault:
                return []
        return []

    def _compare(self, signed: Signed[Message]) -> Evidence | None:
        slot = _slot(signed)
        known = self._seen.get(slot)
        if known is None:
            self._seen[slot] = signed.raw
            return None
        before = open_frame(known, *KINDS, run=self._run)
        return Evidence(known, signed.raw) if _said(before) != _said(signed) else None


def _slot(signed: Signed[Message]) -> _Slot:
    """Where an honest peer says only one thing: in a round and level for a vote, in a group for the rest."""
    stamp = signed.stamp
    place = level_of(stamp.group) if isinstance(signed.message, Vote) else stamp.group
    return signed.signer, signed.message.kind, stamp.round, place


def _said(signed: Signed[Message]) -> tuple[bytes, bytes]:
    return signed.stamp.group, body_of(signed.raw)
