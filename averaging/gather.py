"""The gather exchange: every member sends its whole update to all others, and each computes the average for
itself.

    update.c    our update, encoded with codec c, to every member whose commit is here
    item        one member's update (`whole_update`: the bytes need nothing beside them);
                we hold it once it matches its commit

No member has to trust an owner, nothing is encoded twice, and a member that dies takes nothing with it but
its own update. A member that could not be reached directly gets an applied update by its hash from any
holder. The bytes grow with the size of the group: for very small updates and small groups they are fewer than
those of a butterfly exchange, which sends everything twice.

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
from .round_plan import Applied
from .whole_update import HEAD, CheckUpdate, CombineUpdates, EncodeUpdate, UpdateHeader, blob_size


class Gather:
    """The `Exchange` of whole updates, as one member sees it."""

    def __init__(self, state: ExchangeState) -> None:
        self._state = state
        self._plan = state.plan
        self._tally = state.tally
        (self._whole,) = state.plan.parts
        self._seats = {member: seat for seat, member in enumerate(state.plan.group.members)}
        self._unchecked: dict[PeerId, Raw] = {}
        self._checked: set[PeerId] = {state.me}
        self._shipped: set[PeerId] = {state.me}

    def encode(self) -> Compute:
        """Encode our whole update."""
        update = self._state.update
        job = EncodeUpdate(update.vector_P, self._whole, self._state.codec, update.tokens)
        return Compute(job)

    def begin(self) -> None:
        """We hold our own update."""
        (mine,) = self._state.encoded
        self._state.hold(self._seats[self._state.me], mine.hash, mine.payload)

    # --- what comes in --------------------------------------------------------------------------------------

    def expect(self, sender: PeerId, item: str) -> int:
        """The exact bytes of an update: its name says how it is encoded, so its length is known before its
        commit is here."""
        codec = next((codec for codec in allowed(self._plan.codec) if item == _name(codec)), None)
        if codec is None or sender not in self._seats:
            raise Refused("that item has no place in this round")
        return blob_size(self._whole, codec)

    def receive(self, sender: PeerId, item: str, payload: Raw) -> Iterator[Command]:
        """An update waits for its sender's commit."""
        yield from ()
        if sender in self._seats and sender not in self._checked:
            self._unchecked.setdefault(sender, payload)

    def computed(self, job: Job, result: object) -> Iterator[Command]:
        """This exchange has no jobs besides those of the round."""
        yield from ()

    # --- doing what has become possible ---------------------------------------------------------------------

    def advance(self, now: float) -> Iterator[Command]:
        """Ship our update to the members that have committed, and check what has come from them."""
        (mine,) = self._state.encoded
        for member in self._plan.group.members:
            if member in self._tally.commits and member not in self._shipped:
                self._shipped.add(member)
                yield Ship(member, _name(self._state.codec), mine.payload)
        for member in sorted(self._unchecked.keys() & self._tally.commits.keys()):
            yield self._check_against_commit(member)

    def _check_against_commit(self, member: PeerId) -> Compute:
        self._checked.add(member)
        payload = self._unchecked.pop(member)
        commit = self._tally.commits[member]
        seat = self._seats[member]
        header = UpdateHeader(commit.codec, commit.weight, commit.norms[0])
        job = CheckUpdate(member, seat, self._whole, payload, commit.hashes[0], self._plan.codec, header)
        return self._state.begin_check(seat, job)

    def awaited(self, now: float) -> set[PeerId]:
        """The members whose update is not here."""
        return self._tally.awaited(self._checked | self._unchecked.keys(), now)

    def overdue(self, now: float) -> set[PeerId]:
        """The members whose update is not here when the time for updates has passed."""
        return self.awaited(now) if now >= self._plan.schedule.results else set()

    # --- items ----------------------------------------------------------------------------------------------

    def may_still_come(self, index: int, now: float) -> bool:
        """Updates come from members that can be reached and have committed in time."""
        return self._plan.group.members[index] in self._tally.awaited(self._checked, now)

    def held_hash(self, index: int) -> bytes:
        """The hash of the update that we hold."""
        return next(iter(self._state.held.get(index, ())), b"")

    def check(self, index: int, hash_: bytes, payload: Raw, source: PeerId) -> Job:
        """Check a well-formed update of this hash.

        What its sender has committed to does not matter any more.
        """
        return CheckUpdate(source, index, self._whole, payload, hash_, self._plan.codec)

    def possible_sizes(self, index: int) -> Sequence[int]:
        """The size that its commit says, and then the other sizes that are allowed."""
        commit = self._tally.commits.get(self._plan.group.members[index])
        sizes = [blob_size(self._whole, codec) for codec in allowed(self._plan.codec)]
        if commit is None:
            return sizes
        committed = blob_size(self._whole, commit.codec)
        return sorted(sizes, key=lambda size: size != committed)

    def combine(self, decision: Decision) -> Job:
        """Sum the applied updates."""
        return CombineUpdates(tuple(self._applied_updates(decision).values()), self._whole)

    def applied(self, decision: Decision, average_P: Tensor) -> Applied:
        """What became of our own update, and of the others'."""
        updates = self._applied_updates(decision)
        return Applied(
            average_P=average_P,
            included=(self._state.me in updates,),
            encoded=tuple(mine.payload[HEAD.size :] for mine in self._state.encoded),
            decoded=tuple(mine.vector_N for mine in self._state.encoded),
            missing=tuple(member for member in self._plan.group.members if member not in updates),
            tokens=self._plan.group.tokens_of(updates),
            items=self._state.items(decision),
        )

    def _applied_updates(self, decision: Decision) -> dict[PeerId, Raw]:
        """The applied updates by member, in member order."""
        members = self._plan.group.members
        return {members[seat]: self._state.held[seat][hash_] for seat, hash_ in enumerate(decision) if hash_}


def _name(codec: Codec) -> str:
    return f"update.{codec.value}"
