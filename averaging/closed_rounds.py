"""What to answer a peer that comes to a round which is not open here: it is over, or this peer does not take
part in it."""

from __future__ import annotations

import asyncio

from swarm.bounded import LeastRecentlyUsed
from swarm.manifest import RunManifest
from swarm.transport.post import Inbox, Post
from swarm.wire import LEVEL_2, Message, Signed, Stamp, level_of

from .certificate import GroupCertificate, packed
from .messages import Decline, DeclineReason, Proposal, Ready

REMEMBERED = 64
"""Rounds back."""


class ClosedRounds:
    """Answers `Ready` and `Proposal` messages for rounds and levels for which this peer has no assembly."""

    def __init__(self, manifest: RunManifest, post: Post) -> None:
        self._run = manifest.run_id
        self._patience = manifest.round.assemble_seconds
        self._post = post
        self._round = 0
        """The round this peer is in."""
        self._last_formed = -1
        """The last round for which it had a group."""
        self._groups: LeastRecentlyUsed[int, tuple[bytes, bytes]] = LeastRecentlyUsed(REMEMBERED)
        """The state roots and the packed certificates of its groups in the last rounds."""
        self._level2_groups: LeastRecentlyUsed[int, tuple[bytes, bytes]] = LeastRecentlyUsed(REMEMBERED)
        """The same of the level-2 groups in which it was."""
        post.stray = self._answer

    def begin(self, round_: int) -> None:
        """This peer now averages ``round_``."""
        self._round = round_

    def formed(self, round_: int, state_root: bytes, certificate: GroupCertificate) -> None:
        """It has a group for ``round_``, whose members train from ``state_root``."""
        self._last_formed = round_
        self._groups[round_] = state_root, packed(certificate)

    def formed_level2(self, round_: int, state_root: bytes, certificate: GroupCertificate) -> None:
        """It is in the level-2 group of ``round_``."""
        self._level2_groups[round_] = state_root, packed(certificate)

    def skip_level2(self, round_: int) -> None:
        """It is not in the level-2 group of ``round_``: answer the peers that wait for it there."""
        topic = (round_, LEVEL_2)
        self._post.open(topic)
        self._post.close(topic)

    def reopen(self, round_: int) -> None:
        """It is now in ``round_``, possibly for the second time, with another model.

        Peers that are ready for that round are no longer told that it is over, and are heard as soon as we
        are ready.
        """
        self._round = round_
        self._last_formed = min(self._last_formed, round_ - 1)
        self._post.reopen(round_)

    def _answer(self, signed: Signed[Message]) -> None:
        if not isinstance(signed.message, (Ready, Proposal)):
            return
        round_ = signed.stamp.round
        if signed.stamp.group == LEVEL_2 and round_ not in self._level2_groups:
            self._decline(signed, self._absent("we are no representative now"))
        elif round_ > self._round + 1:
            self._decline(signed, self._absent("still catching up"))
        elif round_ <= self._last_formed:
            self._decline(signed, self._over(signed))

    def _over(self, signed: Signed[Message]) -> Decline:
        """The answer to a peer that comes when our group of its round stands.

        To a peer with another model this says nothing about its round, only that we will not join it.
        """
        round_ = signed.stamp.round
        message = signed.message
        formed = self._level2_groups if level_of(signed.stamp.group) == LEVEL_2 else self._groups
        if round_ not in formed:
            return self._absent(f"round {round_} is over, the run is at {self._round}")
        root, certificate = formed[round_]
        if isinstance(message, Ready) and message.state_root != root:
            return self._absent("we train from another model")
        reason = f"round {round_} is over, the run is at {self._round}"
        return Decline(self._round, reason, DeclineReason.FORMED, certificate)

    def _absent(self, reason: str) -> Decline:
        return Decline(self._round, reason, DeclineReason.ABSENT)

    def _decline(self, signed: Signed[Message], decline: Decline) -> None:
        deadline = asyncio.get_running_loop().time() + self._patience
        stamp = Stamp(self._run, signed.stamp.round, level_of(signed.stamp.group))
        self._post.send((signed.signer,), decline, stamp, deadline=deadline, failures=Inbox())
