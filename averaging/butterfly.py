"""The butterfly exchange: everybody's part j to its owner, the owner's average of it to everybody.

    part.j.c    our part j, encoded with codec c, to its owner, once         (so it is known to be in the round)
                the owner's commit is here
    result.j    the owner reduces in member order; receipt and result        to all members
                result = who is in it (one bit per member) ‖ numbers         so whoever applies it, from wherever, knows that too
    takeover    a spare that has lost the owner asks for part j              to all members; who has the result sends a copy instead
    copy.j.h    a result that we hold, to a spare that has asked

An item is the result of a part: every peer sends and receives about twice the bytes of its update, whatever the size of the group.

Rule 1: coefficients come from commits alone; an owner only multiplies and adds: a spare with the same voices makes the same bits.
Rule 2: an owner is out for us when it cannot be reached, has not committed in time, or has not signed a result by ``takeover``.
        Then the first of its spares that is not out gets our part: we still have the encoded bytes.
Rule 3: an owner that was thought gone and a spare may both come to a result. They are two items; the round applies at most one.
        We name the one that stands first in the chain of those that we hold, as all others do.
Rule 4: what an average loses in its own encoding is lost: every way of handing it back costs more than it brings (decision 12).
"""

# Axes: P parameters of the whole model

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from functools import cached_property

import torch
from torch import Tensor

from swarm.errors import Busy, Refused
from swarm.identity import PeerId
from swarm.machine import Command, Compute, Job, Ship
from swarm.manifest import Codec

from .codec_choice import allowed
from .codecs import Raw, codec_of, result_codec
from .exchange import Decision, ExchangeState
from .messages import flags_of
from .part_reducer import PartReducer
from .partition import Part
from .reduce import Checked, CheckPart, CheckResult, DecodeResults, EncodeParts, Reduced, ReducePart
from .round_plan import Outcome


class Butterfly:
    """The `Exchange` of parts, from the seat of one member."""

    def __init__(self, state_: ExchangeState) -> None:
        self._state, self._plan, self._me, self._tally = state_, state_.plan, state_.me, state_.tally
        self._chains = state_.tally.chains
        self._reducers = {
            index: PartReducer(state_, state_.plan.parts[index], chain.index(state_.me))
            for index, chain in enumerate(self._chains)
            if state_.me in chain
        }
        self._names = {
            _part(part, codec): (part, codec)
            for part in self._plan.parts
            for codec in allowed(self._plan.codec)
        }
        self._results = {f"result.{part.index}": part for part in self._plan.parts}
        self._early: dict[tuple[int, PeerId], Raw] = {}
        self._shipped: set[tuple[int, PeerId]] = set()

    @cached_property
    def _average_P(self) -> Tensor:
        """Where results are put as they come."""
        contribution = self._state.contribution
        return torch.empty_like(contribution.vector_P) if contribution.room_P is None else contribution.room_P

    def encode(self) -> Compute:
        """Our update, part by part."""
        contribution = self._state.contribution
        return Compute(
            EncodeParts(contribution.vector_P, self._plan.parts, self._state.codec, contribution.read_P)
        )

    def begin(self) -> None:
        """Our own voice in the parts that we reduce."""
        for reducer_ in self._reducers.values():
            reducer_.begin()

    # --- what comes in --------------------------------------------------------------------------------------------

    def expect(self, sender: PeerId, item: str) -> int:
        """The exact bytes of a part for us, of a result, or of a copy. Raises `Busy` for a copy whose receipt is not here yet."""
        if sender in self._plan.group.members:
            if item in self._names and self._names[item][0].index in self._reducers:
                part, codec = self._names[item]
                return codec_of(codec, part.shape).size(part.numbers)
            if item in self._results and sender in self._chains[self._results[item].index]:
                return self._plan.result_size(self._results[item])
            if copied := next(
                (
                    reducer_.part
                    for reducer_ in self._spared()
                    if item.startswith(f"copy.{reducer_.part.index}.")
                ),
                None,
            ):
                if item not in self._copies(copied):
                    raise Busy("nobody has signed that result yet")
                return self._plan.result_size(copied)
        raise Refused("that item has no place in this round")

    def _spared(self) -> list[PartReducer]:
        return [reducer_ for reducer_ in self._reducers.values() if reducer_.rank]

    def _copies(self, part: Part) -> dict[str, bytes]:
        """The names that copies of the signed results of ``part`` have, and the hashes of these."""
        return {f"copy.{part.index}.{hash_.hex()}": hash_ for hash_ in self._tally.receipts_of(part.index)}

    def take(self, sender: PeerId, item: str, payload: Raw) -> Iterator[Command]:
        """A part for us waits for its sender's commit, a result for its receipt; a copy has one."""
        if item in self._names and self._names[item][0].index in self._reducers:
            self._reducers[self._names[item][0].index].take(sender, payload)
        elif item in self._results and sender in self._chains[self._results[item].index]:
            self._early.setdefault((self._results[item].index, sender), payload)
        for reducer_ in self._spared():
            if hash_ := self._copies(reducer_.part).get(item):
                yield from self._examine(reducer_.part.index, hash_, payload, sender)

    def learn(self, job: Job, result: object) -> Iterator[Command]:
        """The answers of `CheckPart` and `ReducePart`."""
        match job, result:
            case CheckPart(), Checked():
                yield from self._reducers[job.part.index].learn(job, result)
            case ReducePart(), Reduced():
                yield from self._reducers[job.part.index].publish(result)

    # --- doing what has become possible ---------------------------------------------------------------------------

    def advance(self, now: float) -> Iterator[Command]:
        """Ship, check, reduce, publish; take over where we must."""
        for index, sender in sorted(self._early.keys() & self._tally.receipts.keys()):
            receipt = self._tally.receipts[index, sender]
            yield from self._examine(index, receipt.hash, self._early.pop((index, sender)), sender)
        there = self._tally.awaited(frozenset(), now)
        reducers = [self._reducer(part, there, now) for part in self._plan.parts]
        for part, reducer in zip(self._plan.parts, reducers, strict=True):
            if (
                part.index,
                reducer,
            ) not in self._shipped or part.index in self._tally.calls:  # most events change nothing here
                yield from self._ship(part, reducer)
        for index, reducer_ in self._reducers.items():
            yield from reducer_.check()
            if index in self._state.held:
                if reducer_.rank:
                    yield from reducer_.hand_on(self.named(index))
            elif reducers[index] == self._me and not self._state.pending[index]:
                yield from reducer_.reduce(now)

    def awaited(self, now: float) -> set[PeerId]:
        """Whose part we are to reduce, and who reduces the parts whose results are not here."""
        there = self._tally.awaited(frozenset(), now)
        lacking = [part for part in self._plan.parts if part.index not in self._state.held]
        reducers = {part.index: self._reducer(part, there, now) for part in lacking}
        ours = [
            self._reducers[index].awaited(now) for index, reducer in reducers.items() if reducer == self._me
        ]
        return {reducer for reducer in reducers.values() if reducer}.union(*ours) - {self._me}

    def _reducer(self, part: Part, there: Set[PeerId], now: float) -> PeerId | None:
        """Who reduces ``part`` as far as we can tell: the first of its chain that is ``there`` and not late."""
        is_late = now >= self._plan.schedule.takeover and (part.index, part.owner) not in self._tally.receipts
        for peer in self._chains[part.index]:
            if peer == self._me or (peer in there and not (is_late and peer == part.owner)):
                return peer
        return None

    def _ship(self, part: Part, reducer: PeerId | None) -> Iterator[Command]:
        """Our part to whoever reduces it, or has asked for it; to the latter a copy of the result where we hold it."""
        index, calls = part.index, self._tally.calls.get(part.index, set())
        hash_ = self.named(index)
        for peer in sorted(calls if hash_ else calls | {reducer} if reducer else calls):
            if peer != self._me and peer in self._tally.commits and (index, peer) not in self._shipped:
                self._shipped.add((index, peer))
                if hash_:
                    yield Ship(peer, f"copy.{index}.{hash_.hex()}", self._state.held[index][hash_])
                else:
                    yield Ship(peer, _part(part, self._state.codec), self._state.encoded[index].payload)

    def _examine(self, index: int, hash_: bytes, payload: Raw, source: PeerId) -> Iterator[Command]:
        if hash_ not in self._state.held.get(index, ()):
            yield self._state.checks(index, self.check(index, hash_, payload, source))

    # --- items ----------------------------------------------------------------------------------------------------

    def awaits(self, index: int, now: float) -> bool:
        """Results come from whoever reduces. From a spare only while the others' words leave open what will be applied: where they
        hold the owner's result, which we can then fetch, nobody needs another one."""
        part = self._plan.parts[index]
        reducer = self._reducer(part, self._tally.awaited(frozenset(), now), now)
        return reducer == part.owner or (reducer is not None and not self._tally.is_settled(index))

    def named(self, index: int) -> bytes:
        """Of the results that we hold the one whose maker stands first in the chain."""
        held = self._state.held.get(index)
        if not held:
            return b""
        receipts = (self._tally.receipts.get((index, peer)) for peer in self._chains[index])
        return next(
            (receipt.hash for receipt in receipts if receipt and receipt.hash in held), next(iter(held))
        )

    def check(self, index: int, hash_: bytes, payload: Raw, source: PeerId) -> Job:
        """Hash and form of a result."""
        part, codec = self._plan.parts[index], result_codec(self._plan.codec)
        is_first = index not in self._state.held and not self._state.pending[index]
        out_N = self._average_P[part.start : part.stop] if is_first else None
        return CheckResult(part, payload, hash_, codec, self._plan.head, source, out_N)

    def sizes(self, index: int) -> Sequence[int]:
        """All results of a part have the same length."""
        return (self._plan.result_size(self._plan.parts[index]),)

    def combine(self, decision: Decision) -> Job:
        """The numbers of the applied results, one after the other."""
        decided = zip(self._plan.parts, decision, strict=True)
        results = ((part, self._state.decoded[part.index, hash_]) for part, hash_ in decided if hash_)
        return DecodeResults(tuple(results), self._average_P)

    def outcome(self, decision: Decision, average_P: Tensor) -> Outcome:
        """What became of our own parts, and of the others'."""
        included = [
            self._included(part, hash_) for part, hash_ in zip(self._plan.parts, decision, strict=True)
        ]
        present: set[PeerId] = set().union(*included)
        return Outcome(
            average_P=average_P,
            applied=tuple(bool(hash_) for hash_ in decision),
            included=tuple(self._me in members for members in included),
            encoded=tuple(part.payload for part in self._state.encoded),
            decoded=tuple(part.vector_N for part in self._state.encoded),
            missing=tuple(member for member in self._plan.group.members if member not in present),
            tokens=self._tally.tokens(present),
            items=self._state.items(decision),
        )

    def _included(self, part: Part, hash_: bytes) -> set[PeerId]:
        """Whose updates are in the applied result: its head says so, and the decision was on the hash of both."""
        if not hash_:
            return set()
        members = self._plan.group.members
        flags = flags_of(bytes(self._state.held[part.index][hash_][: self._plan.head]), len(members))
        return {member for member, flag in zip(members, flags, strict=True) if flag}


def _part(part: Part, codec: Codec) -> str:
    return f"part.{part.index}.{codec.value}"
