"""The butterfly exchange: every member sends part j to its owner, and the owner sends its average of it to
all.

    part.j.c    our part j, encoded with codec c, to its owner, once the owner's commit is here
    result.j    the owner reduces in member order, and sends receipt and result to all members
                result = which members are included, by which commits (`result_header`) ‖ numbers
    takeover    a spare that has lost the owner asks all members for part j; those with the result send a copy
    copy.j.h    a result that we hold, to a spare that has asked

An item is the result of a part. A peer sends and receives about twice the bytes of its update, whatever the
size of the group.

Rule 1: coefficients come from commits alone; an owner only multiplies and adds. So a spare with the same
        inputs makes the same bits.
Rule 2: an owner is replaced when it cannot be reached, has not committed in time, has not signed a result by
        ``takeover``, or has sent one that does not hold. Then the first of its spares that is not out gets
        our part: we still have the encoded bytes.
Rule 3: an owner that we took for gone and a spare may both come to a result. These are two items, of which
        the round applies at most one. Of those that we hold we name the one whose maker comes first in the
        chain, as all other members do.
Rule 4: a member holds a result only if it is not longer than the commits allow (`result_header`). So an owner
        cannot end a model with one result. A result that more than two thirds hold, and that we fetch, is
        not judged again.
Rule 5: what an average loses in its own encoding is lost: every way of handing it back costs more than it
        brings (decision 12).
"""

# Axes: P parameters of the whole model, N numbers of one part

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from swarm.errors import Busy, Malformed, Refused
from swarm.identity import PeerId
from swarm.machine import Command, Compute, Job, Report, Ship
from swarm.manifest import Codec

from .codec_choice import allowed
from .codecs import Raw, codec_of, result_codec
from .exchange import Decision, ExchangeState
from .messages import flags_of
from .part_reducer import PartReducer
from .partition import Part
from .reduce import Checked, CheckPart, CheckResult, DecodeResults, EncodeParts, Reduced, ReducePart
from .result_header import ResultHeaders
from .round_plan import Applied

ACCUSERS = 2
"""Owners in whose results a part must be missing before we believe that it did not come in time."""


class Butterfly:
    """The `Exchange` of parts, as one member sees it."""

    def __init__(self, state: ExchangeState) -> None:
        self._state = state
        self._plan = state.plan
        self._tally = state.tally
        self._headers = ResultHeaders(state.tally)
        self._reducers = {
            index: PartReducer(state, self._headers, state.plan.parts[index], chain.index(state.me))
            for index, chain in enumerate(state.tally.chains)
            if state.me in chain
        }
        """By part: our work on it, as its owner or one of its spares."""
        self._part_names = {
            _part_name(part, codec): (part, codec)
            for part in self._plan.parts
            for codec in allowed(self._plan.codec)
        }
        self._result_names = {f"result.{part.index}": part for part in self._plan.parts}
        self._unsigned: dict[tuple[int, PeerId], Raw] = {}
        """Results whose hash we do not know yet, or that we cannot judge yet, by part and sender."""
        self._checked: set[tuple[int, PeerId]] = set()
        """Results that we have checked or are checking, by part and sender."""
        self._shipped: set[tuple[int, PeerId]] = set()

    @cached_property
    def _average_P(self) -> Tensor:
        """The buffer into which results are decoded as they come."""
        scratch_P = self._state.scratch.average_P
        return torch.empty_like(self._state.update.vector_P) if scratch_P is None else scratch_P

    def encode(self) -> Compute:
        """Encode our update, part by part."""
        vector_P = self._state.update.vector_P
        scratch_P = self._state.scratch.decoded_P
        job = EncodeParts(vector_P, self._plan.parts, self._state.codec, scratch_P)
        return Compute(job)

    def begin(self) -> None:
        """Add our own parts to those that we reduce."""
        for reducer in self._reducers.values():
            reducer.begin()

    # --- what comes in --------------------------------------------------------------------------------------

    def expect(self, sender: PeerId, item: str) -> int:
        """The exact bytes of a part for us, of a result, or of a copy.

        Raises `Busy` for a copy whose receipt is not here yet.
        """
        if sender in self._plan.group.members:
            if self._is_part_for_us(item):
                part, codec = self._part_names[item]
                return codec_of(codec, part.shape).size(part.numbers)
            if self._is_result(item, sender):
                return self._plan.result_size(self._result_names[item])
            for part in self._spared():
                if item.startswith(f"copy.{part.index}."):
                    if item not in self._copies(part):
                        raise Busy("nobody has signed that result yet")
                    return self._plan.result_size(part)
        raise Refused("that item has no place in this round")

    def _is_part_for_us(self, item: str) -> bool:
        return item in self._part_names and self._part_names[item][0].index in self._reducers

    def _is_result(self, item: str, sender: PeerId) -> bool:
        return item in self._result_names and sender in self._tally.chains[self._result_names[item].index]

    def _spared(self) -> list[Part]:
        """The parts for which we are a spare."""
        return [reducer.part for reducer in self._reducers.values() if reducer.rank]

    def _copies(self, part: Part) -> dict[str, bytes]:
        """The names that copies of the signed results of ``part`` have, and the hashes of these results."""
        hashes = self._tally.receipts_of(part.index)
        return {f"copy.{part.index}.{hash_.hex()}": hash_ for hash_ in hashes}

    def receive(self, sender: PeerId, item: str, payload: Raw) -> Iterator[Command]:
        """A part for us waits for its sender's commit, a result for its receipt; a copy has a receipt
        already."""
        if self._is_part_for_us(item):
            part, _ = self._part_names[item]
            self._reducers[part.index].receive(sender, payload)
        elif self._is_result(item, sender):
            self._unsigned.setdefault((self._result_names[item].index, sender), payload)
        for part in self._spared():
            hash_ = self._copies(part).get(item)
            if hash_:
                yield from self._check_result(part.index, hash_, payload, sender)

    def computed(self, job: Job, result: object) -> Iterator[Command]:
        """The answers of `CheckPart` and `ReducePart`."""
        match job, result:
            case CheckPart(), Checked():
                yield from self._reducers[job.part.index].checked(job, result)
            case ReducePart(), Reduced():
                yield from self._reducers[job.part.index].publish(result)

    # --- doing what has become possible ---------------------------------------------------------------------

    def advance(self, now: float) -> Iterator[Command]:
        """Ship, check, reduce, publish; take over where we must."""
        yield from self._check_signed()
        # An owner for which we do not wait gets our part all the same: the others may wait for it.
        present = self._tally.present(now)
        receivers = [self._current_reducer(part, present, now) for part in self._plan.parts]
        awaited = present - self._plan.unawaited
        current = receivers
        if awaited != present:
            current = [self._current_reducer(part, awaited, now) for part in self._plan.parts]
        for part, peer in zip(self._plan.parts, receivers, strict=True):
            # Most events change nothing here.
            if (part.index, peer) not in self._shipped or part.index in self._tally.takeovers:
                yield from self._ship(part, peer)
        for index, reducer in self._reducers.items():
            yield from reducer.check()
            if index in self._state.held:
                if reducer.rank:
                    yield from reducer.pass_on(self.held_hash(index))
            elif current[index] == self._state.me and not self._state.pending[index]:
                yield from reducer.reduce(now)

    def _check_signed(self) -> Iterator[Command]:
        """Check the results whose hashes are here."""
        if not self._headers.can_judge:
            return
        for index, sender in sorted(self._unsigned):
            hash_ = self._signed_hash(index, sender)
            if hash_:
                payload = self._unsigned.pop((index, sender))
                self._checked.add((index, sender))
                yield from self._check_result(index, hash_, payload, sender)

    def _signed_hash(self, index: int, sender: PeerId) -> bytes:
        """The hash that ``sender`` has signed for its result of part ``index``; empty if we do not know it.

        If it crashes between the result and the receipt, members that have the receipt name the hash in their
        holdings.
        """
        receipt = self._tally.receipts.get((index, sender))
        if receipt:
            return receipt.hash
        named = self._tally.most_held(index) if sender in self._tally.gone else b""
        return b"" if named in self._tally.receipts_of(index) else named

    def awaited(self, now: float) -> set[PeerId]:
        """The members whose part we are to reduce, and those that reduce the parts whose results are not
        here."""
        present = self._tally.awaited(frozenset(), now)
        lacking = [part for part in self._plan.parts if part.index not in self._state.held]
        current = {part.index: self._current_reducer(part, present, now) for part in lacking}
        ours = [
            self._reducers[index].awaited(now) for index, peer in current.items() if peer == self._state.me
        ]
        return {peer for peer in current.values() if peer}.union(*ours) - {self._state.me}

    def overdue(self, now: float) -> set[PeerId]:
        """The members whose part has not come until its time had passed, and the owners that have signed no
        result in theirs.

        That others lack a part we see in their results. One of them may lie, two are believed.
        """
        schedule = self._plan.schedule
        overdue: set[PeerId] = set()
        if now >= schedule.parts:
            ours = (reducer for reducer in self._reducers.values() if not reducer.rank)
            overdue = set().union(*(reducer.lacking(now) for reducer in ours))
            overdue |= self._lacking_elsewhere()
        if now >= schedule.takeover:
            signed = self._tally.receipts.keys()
            overdue |= {part.owner for part in self._plan.parts if (part.index, part.owner) not in signed}
        return overdue

    def _lacking_elsewhere(self) -> set[PeerId]:
        """The members whose part is in none of the results that we hold of two owners."""
        included: dict[PeerId, set[PeerId]] = {}
        for part in self._plan.parts:
            if part.owner != self._state.me:
                for result in self._state.held.get(part.index, {}).values():
                    included.setdefault(part.owner, set()).update(self._members_in(result))
        lacking: Counter[PeerId] = Counter()
        for members in included.values():
            lacking.update(self._tally.commits.keys() - members)
        return {member for member, owners in lacking.items() if owners >= ACCUSERS}

    def _current_reducer(self, part: Part, present: Set[PeerId], now: float) -> PeerId | None:
        """The member that reduces ``part`` as far as we can tell: the first of its chain that is ``present``,
        not late, and has not sent a result that does not hold."""
        takeover = self._plan.schedule.takeover
        is_late = now >= takeover and (part.index, part.owner) not in self._tally.receipts
        is_open = part.index not in self._state.held
        for peer in self._tally.chains[part.index]:
            is_out = (is_late and peer == part.owner) or (is_open and self._has_failed(part.index, peer))
            if peer == self._state.me or (peer in present and not is_out):
                return peer
        return None

    def _has_failed(self, index: int, peer: PeerId) -> bool:
        """Whether the result of part ``index`` that ``peer`` has signed does not hold."""
        if (index, peer) not in self._checked or self._state.pending[index]:
            return False
        receipt = self._tally.receipts.get((index, peer))
        return receipt is not None and receipt.hash not in self._state.held.get(index, ())

    def _ship(self, part: Part, current: PeerId | None) -> Iterator[Command]:
        """Send our part to the current reducer and to spares that have asked for it; the spares get the
        result if we hold it."""
        index = part.index
        hash_ = self.held_hash(index)
        receivers = set(self._tally.takeovers.get(index, ()))
        if current and not hash_:
            receivers.add(current)
        for peer in sorted(receivers):
            if peer == self._state.me or peer not in self._tally.commits or (index, peer) in self._shipped:
                continue
            self._shipped.add((index, peer))
            if hash_:
                yield Ship(peer, f"copy.{index}.{hash_.hex()}", self._state.held[index][hash_])
            else:
                yield Ship(peer, _part_name(part, self._state.codec), self._state.encoded[index].payload)

    def _check_result(self, index: int, hash_: bytes, payload: Raw, source: PeerId) -> Iterator[Command]:
        """Check a result that is not decided yet: also whether it is not longer than the commits allow."""
        if hash_ in self._state.held.get(index, ()) or not self._headers.can_judge:
            return
        try:
            most = self._headers.most(index, bytes(payload[: self._plan.header_bytes]))
        except Malformed as error:
            self._tally.gone.add(source)
            yield Report("bad-result", f"not taken as the result of part {index}: {error.fact}", source)
            return
        job = replace(self.check(index, hash_, payload, source), most=most)
        yield self._state.begin_check(index, job)

    # --- items ----------------------------------------------------------------------------------------------

    def may_still_come(self, index: int, now: float) -> bool:
        """Results come from the current reducer.

        A spare's result matters only while the holdings leave open what is applied: once two thirds hold the
        owner's result, which we can fetch, nobody needs another one.
        """
        part = self._plan.parts[index]
        current = self._current_reducer(part, self._tally.awaited(frozenset(), now), now)
        return current == part.owner or (current is not None and not self._tally.is_settled(index))

    def held_hash(self, index: int) -> bytes:
        """Of the results that we hold the one whose maker comes first in the chain."""
        held = self._state.held.get(index)
        if not held:
            return b""
        receipts = (self._tally.receipts.get((index, peer)) for peer in self._tally.chains[index])
        signed = (receipt.hash for receipt in receipts if receipt and receipt.hash in held)
        return next(signed, next(iter(held)))

    def check(self, index: int, hash_: bytes, payload: Raw, source: PeerId) -> CheckResult:
        """Check hash and form of a result. The first one is decoded into its place in the average."""
        part = self._plan.parts[index]
        is_first = index not in self._state.held and not self._state.pending[index]
        out_N = self._average_P[part.start : part.stop] if is_first else None
        codec = result_codec(self._plan.codec)
        return CheckResult(part, payload, hash_, codec, self._plan.header_bytes, source, out_N=out_N)

    def possible_sizes(self, index: int) -> Sequence[int]:
        """All results of a part have the same length."""
        return (self._plan.result_size(self._plan.parts[index]),)

    def combine(self, decision: Decision) -> Job:
        """Put the numbers of the applied results one after the other."""
        decided = zip(self._plan.parts, decision, strict=True)
        results = ((part, self._state.decoded[part.index, hash_]) for part, hash_ in decided if hash_)
        return DecodeResults(tuple(results), self._average_P)

    def applied(self, decision: Decision, average_P: Tensor) -> Applied:
        """What became of our own parts, and of the others'."""
        decided = zip(self._plan.parts, decision, strict=True)
        included = [self._included(part, hash_) for part, hash_ in decided]
        present: set[PeerId] = set().union(*included)
        return Applied(
            average_P=average_P,
            included=tuple(self._state.me in members for members in included),
            encoded=tuple(part.payload for part in self._state.encoded),
            decoded=tuple(part.vector_N for part in self._state.encoded),
            missing=tuple(member for member in self._plan.group.members if member not in present),
            tokens=self._plan.group.tokens_of(present),
            items=self._state.items(decision),
        )

    def _included(self, part: Part, hash_: bytes) -> set[PeerId]:
        """The members included in the applied result.

        Its header says so, and the decision was on the hash of both.
        """
        if not hash_:
            return set()
        return self._members_in(self._state.held[part.index][hash_])

    def _members_in(self, result: Raw) -> set[PeerId]:
        """The members whose part is in a ``result``, by its header."""
        members = self._plan.group.members
        flags = flags_of(bytes(result[: self._plan.header_bytes]), len(members))
        return {member for member, flag in zip(members, flags, strict=True) if flag}


def _part_name(part: Part, codec: Codec) -> str:
    return f"part.{part.index}.{codec.value}"
