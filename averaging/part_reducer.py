"""Reducing one part, as its owner or as one of its spares: collect the members' parts, check them, average
them, publish the result.

    part.j.c from a member  ──►  checked against its commit  ──►  inputs  ──►  reduced, in member order

A spare gets parts only from members that miss the result. If it has the owner's result, from the owner or as
a copy, it passes that on instead of making another one. So the members that had the result already and those
that get it now hold the same item.
"""

# Axes: N numbers of one part

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from swarm.identity import PeerId
from swarm.machine import Command, Compute, Report, Ship

from .codecs import Raw, result_codec
from .exchange import ExchangeState
from .messages import Receipt, Takeover
from .partition import Part
from .reduce import Checked, CheckPart, Reduced, ReducePart, Share
from .result_header import ResultHeaders
from .robust import coefficients


class PartReducer:
    """Our work on ``part``; ``rank`` is 0 for the owner, and 1 and up for spares."""

    def __init__(self, state: ExchangeState, headers: ResultHeaders, part: Part, rank: int) -> None:
        self.part = part
        self.rank = rank
        self._state = state
        self._tally = state.tally
        self._headers = headers
        self._inputs: dict[PeerId, Raw] = {}
        """The checked bytes by member; empty bytes once they are being reduced."""
        self._vectors: dict[PeerId, Tensor | None] = {}
        """The same, decoded, unless they stay packed: kept from the check to the reduction, as many numbers
        as the part has."""
        self._unchecked: dict[PeerId, Raw] = {}
        self._checked: dict[PeerId, bool] = {state.me: True}
        """Members whose part we have checked or are checking; False if it is not what they have committed to.
        No other one of them counts then."""
        self._served: set[PeerId] = {state.me}
        """Members that have our result, or do not need it."""
        self._has_called = False
        self._is_reducing = False

    def begin(self) -> None:
        """Add our own part."""
        me = self._state.me
        mine = self._state.encoded[self.part.index]
        self._inputs[me] = mine.payload
        self._vectors[me] = mine.vector_N

    def receive(self, sender: PeerId, payload: Raw) -> None:
        """A part waits for its sender's commit; the first one of a sender counts."""
        if sender not in self._checked:
            self._unchecked.setdefault(sender, payload)

    def check(self) -> Iterator[Command]:
        """Check every part whose commit is here. Part and commit arrive in any order."""
        index = self.part.index
        for sender in sorted(self._unchecked.keys() & self._tally.commits.keys()):
            self._checked[sender] = True
            payload = self._unchecked.pop(sender)
            commit = self._tally.commits[sender]
            if not self._is_reducing:
                hash_ = commit.hashes[index]
                norm = commit.norms[index]
                yield Compute(CheckPart(sender, self.part, payload, hash_, norm, commit.codec))

    def checked(self, job: CheckPart, verdict: Checked) -> Iterator[Command]:
        """Take the part if it is what its sender has committed to; else leave it out."""
        if verdict.ok:
            self._inputs[verdict.sender] = job.payload
            self._vectors[verdict.sender] = verdict.vector_N
        else:
            self._tally.gone.add(verdict.sender)
            self._checked[verdict.sender] = False
            yield Report("bad-part", f"left out of our part: {verdict.reason}", verdict.sender)

    def reduce(self, now: float) -> Iterator[Command]:
        """Reduce once every member's part is here, or the time for parts has passed.

        A spare first asks the members for them.
        """
        schedule = self._state.plan.schedule
        if self.rank and not self._has_called:
            self._has_called = True
            yield self._state.tell(Takeover(self.part.index))
        deadline = schedule.spares if self.rank else schedule.parts
        if self._is_reducing or (self.awaited(now) and now < deadline):
            return
        self._is_reducing = True
        yield Compute(self._reduction())

    def _reduction(self) -> ReducePart:
        """The job. From here on it owns the bytes: ``_inputs`` only says which members sent some."""
        members = self._state.plan.group.members
        index = self.part.index
        # the same order on every peer: the same bits
        included = [member for member in members if member in self._inputs]
        counts = coefficients([self._tally.claim(member, index) for member in included])
        shares = tuple(
            Share(self._inputs[member], self._tally.commits[member].codec, count, self._vectors.get(member))
            for member, count in zip(included, counts, strict=True)
        )
        self._vectors.clear()
        self._inputs = dict.fromkeys(self._inputs, b"")
        header = self._headers.header_of(included)
        return ReducePart(self.part, shares, result_codec(self._state.plan.codec), header)

    def awaited(self, now: float) -> set[PeerId]:
        """The members whose part, or a copy of the result in its stead, is still worth waiting for."""
        awaited = self._tally.awaited(self._inputs.keys(), now)
        # being checked: the answer is certain to come
        awaited |= self._checked.keys() - self._inputs.keys()
        awaited -= {member for member, is_good in self._checked.items() if not is_good}
        if self.rank:
            # A member without a result has given up on this part; a member with one will send a copy.
            holdings = self._tally.holdings.items()
            awaited -= {member for member, held in holdings if not held.hashes[self.part.index]}
        return awaited

    def lacking(self, now: float) -> set[PeerId]:
        """The members that have committed to a part and not sent it."""
        return self._tally.awaited(self._inputs.keys() | self._checked.keys() | self._unchecked.keys(), now)

    def publish(self, reduced: Reduced) -> Iterator[Command]:
        """Send our result to all members."""
        index = self.part.index
        self._state.hold(index, reduced.hash, reduced.payload, reduced.vector_N)
        yield self._state.tell(Receipt(index, reduced.hash))
        for member in self._state.others:
            yield Ship(member, f"result.{index}", reduced.payload)

    def pass_on(self, hash_: bytes) -> Iterator[Command]:
        """Send another reducer's result that we hold to the members that have sent us their part because they
        miss it."""
        index = self.part.index
        senders = (self._unchecked.keys() | self._checked.keys()) - self._served
        if not self.rank or not senders or self._is_reducing:
            return
        if (index, self._state.me) not in self._tally.receipts:
            yield self._state.tell(Receipt(index, hash_))
        self._served |= senders
        for member in sorted(senders):
            yield Ship(member, f"result.{index}", self._state.held[index][hash_])
