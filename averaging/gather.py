"""The gather exchange: everybody's whole update to everybody, and everybody computes the average for itself.

    update.c    our update, encoded with codec c, to every member whose commit is here
    item        one member's update (`updates`: the bytes need nothing beside them); held once it is as its sender has committed

Nobody has to trust an owner, nothing is encoded twice, and a member that dies takes nothing with it but its own update. Whoever
could not be reached directly gets an applied update by its hash from any holder. Bytes grow with the group: for very small updates
and small groups they are fewer than those of a butterfly's two legs.

Memory: the encoded updates of all members, the sum, and one decoded update.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from swarm.errors import Refused
from swarm.identity import PeerId
from swarm.machine import Command, Compute, Job, Ship
from swarm.manifest import Codec

from .codec_choice import allowed
from .codecs import Raw
from .exchange import Decision, ExchangeState
from .round_plan import Outcome
from .whole_update import HEAD, CheckUpdate, CombineUpdates, EncodeUpdate, UpdateHeader, blob_size, header_of


class Gather:
    """The `Exchange` of whole updates, from the seat of one member."""

    def __init__(self, state_: ExchangeState) -> None:
        self._state, self._plan, self._tally = state_, state_.plan, state_.tally
        (self._whole,) = state_.plan.parts
        self._seats = {member: seat for seat, member in enumerate(state_.plan.group.members)}
        self._unchecked: dict[PeerId, Raw] = {}
        self._checked: set[PeerId] = {state_.me}
        self._shipped: set[PeerId] = {state_.me}

    def encode(self) -> Compute:
        """Our whole update."""
        contribution = self._state.contribution
        return Compute(
            EncodeUpdate(contribution.vector_P, self._whole, self._state.codec, contribution.weight)
        )

    def begin(self) -> None:
        """We hold our own update."""
        (mine,) = self._state.encoded
        self._state.hold(self._seats[self._state.me], mine.hash, mine.payload)

    # --- what comes in --------------------------------------------------------------------------------------------

    def expect(self, sender: PeerId, item: str) -> int:
        """The exact bytes of an update: its name says how it is encoded, so its length is known before its commit is here."""
        codec = next((codec for codec in allowed(self._plan.codec) if item == _name(codec)), None)
        if codec is None or sender not in self._seats:
            raise Refused("that item has no place in this round")
        return blob_size(self._whole, codec)

    def take(self, sender: PeerId, item: str, payload: Raw) -> Iterator[Command]:
        """An update waits for its sender's commit."""
        yield from ()
        if sender in self._seats and sender not in self._checked:
            self._unchecked.setdefault(sender, payload)

    def learn(self, job: Job, result: object) -> Iterator[Command]:
        """There are no jobs but those of the round."""
        yield from ()

    # --- doing what has become possible ---------------------------------------------------------------------------

    def advance(self, now: float) -> Iterator[Command]:
        """Ship to whoever has committed, check what has come from them."""
        (mine,) = self._state.encoded
        for member in self._plan.group.members:
            if member in self._tally.commits and member not in self._shipped:
                self._shipped.add(member)
                yield Ship(member, _name(self._state.codec), mine.payload)
        for member in sorted(self._unchecked.keys() & self._tally.commits.keys()):
            self._checked.add(member)
            commit, seat = self._tally.commits[member], self._seats[member]
            head = UpdateHeader(commit.codec, commit.weight, commit.norms[0])
            payload = self._unchecked.pop(member)
            yield self._state.checks(
                seat,
                CheckUpdate(member, seat, self._whole, payload, commit.hashes[0], self._plan.codec, head),
            )

    def awaited(self, now: float) -> set[PeerId]:
        """Whose update is not here."""
        return self._tally.awaited(self._checked | self._unchecked.keys(), now)

    # --- items ----------------------------------------------------------------------------------------------------

    def awaits(self, index: int, now: float) -> bool:
        """Updates come from members that can be reached and have committed in time."""
        return self._plan.group.members[index] in self._tally.awaited(self._checked, now)

    def named(self, index: int) -> bytes:
        """The hash of the update that we hold."""
        return next(iter(self._state.held.get(index, ())), b"")

    def check(self, index: int, hash_: bytes, payload: Raw, source: PeerId) -> Job:
        """An update in order, of this hash: what its sender has told us about it does not matter any more."""
        return CheckUpdate(source, index, self._whole, payload, hash_, self._plan.codec)

    def sizes(self, index: int) -> Sequence[int]:
        """As long as its commit says, or in turn what it may be."""
        commit = self._tally.commits.get(self._plan.group.members[index])
        sizes = [blob_size(self._whole, codec) for codec in allowed(self._plan.codec)]
        return (
            sorted(sizes, key=lambda size: size != blob_size(self._whole, commit.codec)) if commit else sizes
        )

    def combine(self, decision: Decision) -> Job:
        """The sum over the applied updates."""
        return CombineUpdates(tuple(self._applied(decision).values()), self._whole)

    def outcome(self, decision: Decision, average_P: Tensor) -> Outcome:
        """What became of our own update, and of the others'."""
        applied = self._applied(decision)
        return Outcome(
            average_P=average_P,
            applied=tuple(bool(hash_) for hash_ in decision),
            included=(self._state.me in applied,),
            encoded=tuple(mine.payload[HEAD.size :] for mine in self._state.encoded),
            decoded=tuple(mine.vector_N for mine in self._state.encoded),
            missing=tuple(member for member in self._plan.group.members if member not in applied),
            tokens=sum(header_of(blob).weight for blob in applied.values()),
            items=self._state.items(decision),
        )

    def _applied(self, decision: Decision) -> dict[PeerId, Raw]:
        """The applied updates by member, in member order."""
        members = self._plan.group.members
        return {members[seat]: self._state.held[seat][hash_] for seat, hash_ in enumerate(decision) if hash_}


def _name(codec: Codec) -> str:
    return f"update.{codec.value}"
