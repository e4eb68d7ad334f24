"""The butterfly exchange: everybody's part j to its owner, the owner's average of it to everybody.

    part.j     our part j to owner j, once the owner's commit is here       (so it is known to be in the round)
    result.j   the owner reduces in member order; receipt and result        to all members
               result = who is in it (one bit per member) ‖ numbers         so whoever applies it, from wherever, knows that too

An item is the result of a part: every peer sends and receives about twice the bytes of its update, whatever the size of the group.
Coefficients come from commits alone; an owner only multiplies and adds.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from swarm.errors import Refused
from swarm.identity import PeerId
from swarm.machine import Command, Compute, Job, Report, Ship

from .codecs import codec_of
from .exchange import Decision, Table
from .messages import Receipt, bits, flags_of
from .partition import Part
from .reduce import Checked, CheckPart, CheckResult, DecodeResults, EncodeParts, Reduced, ReducePart
from .robust import coefficients
from .terms import Outcome


class Butterfly:
    """The `Exchange` of parts, from the seat of one member."""

    def __init__(self, table: Table) -> None:
        self._table, self._plan, self._me, self._voices = table, table.plan, table.me, table.voices
        self._mine = next((part for part in table.plan.parts if part.owner == table.me), None)
        self._inputs: dict[PeerId, bytes] = {}
        self._unchecked: dict[PeerId, bytes] = {}
        self._checked: set[PeerId] = {table.me}
        self._early: dict[int, bytes] = {}
        self._shipped: set[PeerId] = set()
        self._reducing = False

    def encode(self) -> Compute:
        """Our update, part by part."""
        return Compute(EncodeParts(self._table.offering.vector_P, self._plan.parts, self._plan.codec))

    def begin(self) -> None:
        """Our own voice in the part that we own."""
        if self._mine:
            self._inputs[self._me] = self._table.encoded[self._mine.index].payload

    # --- what comes in --------------------------------------------------------------------------------------------

    def expect(self, sender: PeerId, item: str) -> int:
        """The exact bytes of a part for us, or of an owner's result."""
        name, part = self._read(item)
        owner = {"part": self._me, "result": sender}.get(name)
        if part is None or sender not in self._plan.group.members or part.owner != owner:
            raise Refused("that item has no place in this round")
        return self._plan.result_size(part) if name == "result" else codec_of(self._plan.codec, part.shape).size(part.numbers)

    def _read(self, item: str) -> tuple[str, Part | None]:
        name, _, number = item.partition(".")
        index = int(number) if number.isascii() and number.isdigit() and len(number) < 4 else len(self._plan.parts)
        return name, self._plan.parts[index] if index < len(self._plan.parts) else None

    def take(self, sender: PeerId, item: str, payload: bytes) -> None:
        """A part for us waits for its sender's commit, a result for its owner's receipt."""
        name, part = self._read(item)
        if part is None:
            return
        if name == "part" and part is self._mine:
            if not self._reducing and sender not in self._checked:
                self._unchecked.setdefault(sender, payload)
        elif name == "result" and part.owner == sender:
            self._early.setdefault(part.index, payload)

    def learn(self, job: Job, result: object) -> Iterator[Command]:
        """The answers of `CheckPart` and `ReducePart`."""
        match job, result:
            case CheckPart(), Checked(sender, _, ok, reason):
                if ok:
                    self._inputs[sender] = job.payload
                else:
                    self._voices.gone.add(sender)
                    yield Report("bad-part", f"left out of our part: {reason}", sender)
            case ReducePart(), Reduced(payload, hash_):
                self._table.hold(job.part.index, hash_, payload)
                yield self._table.tell(Receipt(job.part.index, hash_))
                for member in self._table.others:
                    yield Ship(member, f"result.{job.part.index}", payload)

    # --- doing what has become possible ---------------------------------------------------------------------------

    def advance(self, now: float) -> Iterator[Command]:
        """Ship, check, reduce, publish."""
        yield from self._ship_parts()
        yield from self._check_parts()
        yield from self._reduce(now)
        yield from self._check_results()

    def _ship_parts(self) -> Iterator[Command]:
        for part in self._plan.parts:
            if part.owner != self._me and part.owner not in self._shipped and part.owner in self._voices.commits:
                self._shipped.add(part.owner)
                yield Ship(part.owner, f"part.{part.index}", self._table.encoded[part.index].payload)

    def _check_parts(self) -> Iterator[Command]:
        """Hold every part that came against its sender's commit; which of the two arrives first is the network's business."""
        for sender in sorted(self._unchecked.keys() & self._voices.commits.keys() - self._checked):
            part, commit = self._plan.parts[self._mine.index if self._mine else 0], self._voices.commits[sender]
            self._checked.add(sender)
            payload = self._unchecked.pop(sender)
            yield Compute(CheckPart(sender, part, payload, commit.hashes[part.index], commit.norms[part.index], self._plan.codec))

    def _reduce(self, now: float) -> Iterator[Command]:
        """Reduce our part once everybody's is here, or the time of those who are missing has passed."""
        if self._mine is None or self._reducing:
            return
        awaited = self._voices.awaited(self._inputs.keys(), now)
        awaited |= self._checked - self._inputs.keys() - self._voices.gone  # arithmetic under way: its answer is certain to come
        if awaited and now < self._plan.schedule.parts:
            return
        self._reducing = True
        members = self._plan.group.members
        included = [member for member in members if member in self._inputs]  # canonical order: same bits everywhere
        claims = [self._voices.claim(member, self._mine.index) for member in included]
        payloads = tuple(self._inputs[member] for member in included)
        head = bits([member in self._inputs for member in members])
        yield Compute(ReducePart(self._mine, payloads, tuple(coefficients(claims)), self._plan.codec, head))

    def _check_results(self) -> Iterator[Command]:
        for index in sorted(self._early.keys() & self._voices.receipts.keys()):
            owner, hash_ = self._plan.parts[index].owner, self._voices.receipts[index].hash
            yield self._table.checks(index, self.check(index, hash_, self._early.pop(index), owner))

    # --- items ----------------------------------------------------------------------------------------------------

    def awaits(self, index: int, now: float) -> bool:
        """Results come from owners that can be reached and have committed in time."""
        return self._plan.parts[index].owner in self._voices.awaited(frozenset(), now)

    def named(self, index: int) -> bytes:
        """The hash of the result that we hold."""
        return next(iter(self._table.held.get(index, ())), b"")

    def check(self, index: int, hash_: bytes, payload: bytes, source: PeerId) -> Job:
        """Hash and form of a result."""
        return CheckResult(self._plan.parts[index], payload, hash_, self._plan.codec, self._plan.head, source)

    def sizes(self, index: int) -> Sequence[int]:
        """All results of a part have the same length."""
        return (self._plan.result_size(self._plan.parts[index]),)

    def combine(self, decision: Decision) -> Job:
        """The numbers of the applied results, one after the other."""
        numbers = (
            (part, self._table.held[part.index][hash_][self._plan.head :] if hash_ else None)
            for part, hash_ in zip(self._plan.parts, decision, strict=True)
        )
        return DecodeResults(tuple(numbers), self._table.offering.vector_P.numel(), self._plan.codec)

    def outcome(self, decision: Decision, average_P: Tensor) -> Outcome:
        """What became of our own parts, and of the others."""
        included = [self._included(part, hash_) for part, hash_ in zip(self._plan.parts, decision, strict=True)]
        present: set[PeerId] = set().union(*included)
        return Outcome(
            average_P=average_P,
            applied=tuple(bool(hash_) for hash_ in decision),
            included=tuple(self._me in members for members in included),
            encoded=tuple(part.payload for part in self._table.encoded),
            missing=tuple(member for member in self._plan.group.members if member not in present),
            tokens=self._voices.tokens(present),
        )

    def _included(self, part: Part, hash_: bytes) -> set[PeerId]:
        """Whose updates are in the applied result: its head says so, and the decision was on the hash of both."""
        if not hash_:
            return set()
        members = self._plan.group.members
        flags = flags_of(self._table.held[part.index][hash_][: self._plan.head], len(members))
        return {member for member, flag in zip(members, flags, strict=True) if flag}
