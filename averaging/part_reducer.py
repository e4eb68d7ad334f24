"""Reducing one part: its owner's duty, and its spares' where the owner is gone.

    unchecked  ──►  checked against the sender's commit  ──►  inputs  ──►  reduced, in member order

A spare gets parts only from members that miss the result. Where it has the owner's result itself, from the owner or as a copy, it
hands that on instead of making another one: so those who had it already and those who get it now hold the same item.
"""

# Axes: N numbers of one part

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from swarm.identity import PeerId
from swarm.machine import Command, Compute, Report, Ship

from .codecs import Raw, result_codec
from .exchange import ExchangeState
from .messages import Receipt, Takeover, bits
from .partition import Part
from .reduce import Checked, CheckPart, Reduced, ReducePart, Share
from .robust import coefficients


class PartReducer:
    """Our work on ``part``; ``rank`` 0 is the owner, 1 and up are spares."""

    def __init__(self, state_: ExchangeState, part: Part, rank: int) -> None:
        self.part, self.rank = part, rank
        self._state, self._tally = state_, state_.tally
        self._inputs: dict[PeerId, Raw] = {}
        self._vectors: dict[PeerId, Tensor | None] = {}
        """The same, decoded, unless it stays packed: from the check to the reduction, as many numbers as the update has."""
        self._unchecked: dict[PeerId, Raw] = {}
        self._checked: set[PeerId] = {state_.me}
        self._served: set[PeerId] = {state_.me}
        self._called = self._reducing = False

    def begin(self) -> None:
        """Our own voice."""
        mine = self._state.encoded[self.part.index]
        self._inputs[self._state.me], self._vectors[self._state.me] = mine.payload, mine.vector_N

    def take(self, sender: PeerId, payload: Raw) -> None:
        """A part waits for its sender's commit; of two of one sender the first counts."""
        if sender not in self._checked:
            self._unchecked.setdefault(sender, payload)

    def check(self) -> Iterator[Command]:
        """Hold every part that came against its sender's commit; which of the two arrives first is the network's business."""
        for sender in sorted(self._unchecked.keys() & self._tally.commits.keys()):
            self._checked.add(sender)
            payload, commit, index = (
                self._unchecked.pop(sender),
                self._tally.commits[sender],
                self.part.index,
            )
            if not self._reducing:
                yield Compute(
                    CheckPart(
                        sender, self.part, payload, commit.hashes[index], commit.norms[index], commit.codec
                    )
                )

    def learn(self, job: CheckPart, verdict: Checked) -> Iterator[Command]:
        """A part is what its sender has committed to, or it is left out."""
        if verdict.ok:
            self._inputs[verdict.sender], self._vectors[verdict.sender] = job.payload, verdict.vector_N
        else:
            self._tally.gone.add(verdict.sender)
            yield Report("bad-part", f"left out of our part: {verdict.reason}", verdict.sender)

    def reduce(self, now: float) -> Iterator[Command]:
        """Reduce once everybody's part is here, or the time of those who are missing has passed. A spare asks for them first."""
        schedule = self._state.plan.schedule
        if self.rank and not self._called:
            self._called = True
            yield self._state.tell(Takeover(self.part.index))
        if self._reducing or (self.awaited(now) and now < (schedule.spares if self.rank else schedule.parts)):
            return
        self._reducing = True
        members, index = self._state.plan.group.members, self.part.index
        included = [
            member for member in members if member in self._inputs
        ]  # canonical order: same bits everywhere
        counts = coefficients([self._tally.claim(member, index) for member in included])
        shares = tuple(
            Share(self._inputs[member], self._tally.commits[member].codec, count, self._vectors.get(member))
            for member, count in zip(included, counts, strict=True)
        )
        self._vectors.clear()
        self._inputs = dict.fromkeys(
            self._inputs, b""
        )  # the job has the bytes; from here on it counts only who has sent some
        head = bits([member in self._inputs for member in members])
        codec = result_codec(self._state.plan.codec)
        yield Compute(ReducePart(self.part, shares, codec, head))

    def awaited(self, now: float) -> set[PeerId]:
        """Whose part, or the result in its stead, is still worth waiting for."""
        awaited = self._tally.awaited(self._inputs.keys(), now)
        awaited |= (
            self._checked - self._inputs.keys() - self._tally.gone
        )  # arithmetic under way: its answer is certain to come
        if self.rank:  # who has said that it holds nothing has given up on this part; who holds a result will send a copy
            awaited -= {
                member for member, held in self._tally.holdings.items() if not held.hashes[self.part.index]
            }
        return awaited

    def publish(self, reduced: Reduced) -> Iterator[Command]:
        """Our result, to all."""
        index = self.part.index
        self._state.hold(index, reduced.hash, reduced.payload, reduced.vector_N)
        yield self._state.tell(Receipt(index, reduced.hash))
        for member in self._state.others:
            yield Ship(member, f"result.{index}", reduced.payload)

    def hand_on(self, hash_: bytes) -> Iterator[Command]:
        """Somebody else's result that we hold, to those who have sent us their part because they miss it."""
        index = self.part.index
        senders = (self._unchecked.keys() | self._checked) - self._served
        if self.rank and senders and not self._reducing:
            if (index, self._state.me) not in self._tally.receipts:
                yield self._state.tell(Receipt(index, hash_))
            self._served |= senders
            for member in sorted(senders):
                yield Ship(member, f"result.{index}", self._state.held[index][hash_])
