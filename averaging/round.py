"""One averaging round: from every member's update to the same average, bit for bit, on all of them.

    1 commit    hash and norm of every part, weight, state root            to all members
    2 exchange  part j to its owner, once the owner's commit is here       (so it is known to be in the round)
    3 receipts  the owner reduces in member order; receipt and result      to all members
                result = who is in it (one bit per member) ‖ numbers       so whoever applies it, from wherever, knows that too
    4 decide    holdings: which results I hold and have verified           to all members
                ballot: the items that 2/3 of the members hold             to all members, one per member
    5 apply     the ballot that 2/3 cast; a missing item is fetched by its hash from any holder

Rule 1: every wait has a deadline from the `Schedule`; nobody waits for who cannot be reached, or has not committed in time.
Rule 2: an item is (part, hash). A decision needs 2/3 of the ballots and everybody casts one, so there is at most one decision.
Rule 3: what is not applied counts as zero for everybody and stays in the sender's residual.
Rule 4: coefficients come from commits alone; an owner only multiplies and adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

from torch import Tensor

from swarm.identity import PeerId
from swarm.machine import (
    Command,
    Compute,
    Computed,
    Delivered,
    Event,
    Fetch,
    Finish,
    Received,
    Report,
    Send,
    Ship,
    Unreached,
    WakeAt,
)
from swarm.manifest import Codec
from swarm.wire import Message

from .codecs import codec_of
from .groups import Group
from .messages import Ballot, Commit, Holdings, Receipt, bits, flags_of
from .partition import Part
from .reduce import Checked, CheckPart, CheckResult, DecodeResults, EncodedPart, EncodeParts, Reduced, ReducePart
from .robust import coefficients
from .voices import Voices


@dataclass(frozen=True, slots=True)
class Schedule:
    """Absolute deadlines of the phases, in the clock of ``now``."""

    commits: float
    parts: float
    results: float
    holdings: float
    fetched: float
    """For the ballots, which may come at any time before, and for what is missing after the decision."""

    @classmethod
    def within(cls, now: float, seconds: float) -> Schedule:
        """The phases of a round that may take ``seconds``; most of it is for those that carry bytes."""
        shares = (0.15, 0.5, 0.72, 0.8, 1.0)
        return cls(*(now + seconds * share for share in shares))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What all members of the round know before it begins."""

    group: Group
    parts: tuple[Part, ...]
    codec: Codec
    schedule: Schedule

    @property
    def head(self) -> int:
        """Bytes before the numbers of a result: one bit per member, set for those who are in it."""
        return -(-len(self.group.members) // 8)

    def result_size(self, part: Part) -> int:
        """The exact bytes of the result of ``part``."""
        return self.head + codec_of(self.codec, part.shape).size(part.numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offering:
    """What we bring: ``vector_P`` is our update with the residual on top, float32; ``weight`` in tokens, ``seed`` of its data."""

    vector_P: Tensor
    weight: int
    seed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the round came to. ``average_P`` is zero where ``applied`` says no; None where no decision was reached."""

    average_P: Tensor | None
    applied: tuple[bool, ...]
    included: tuple[bool, ...]
    """Parts whose applied result contains our own update."""
    encoded: tuple[bytes, ...]
    """Our own parts as they were sent."""
    missing: tuple[PeerId, ...]
    """Members of whose update nothing was applied: the same for all who have the average."""
    tokens: int
    """Behind the updates that were applied, by their senders' word."""
    reason: str = ""


class Round:
    """The machine of one member, for a group of two or more. Ends with an `Outcome`, at the latest at ``schedule.fetched``."""

    def __init__(self, plan: Plan, me: PeerId, offering: Offering) -> None:
        self._plan, self._me, self._offering = plan, me, offering
        self._members = plan.group.members
        self._others = tuple(member for member in self._members if member != me)
        self._mine = next((part for part in plan.parts if part.owner == me), None)
        self._voices = Voices(plan.group, plan.parts)
        self._encoded: tuple[EncodedPart, ...] = ()
        self._inputs: dict[PeerId, bytes] = {}
        self._unchecked: dict[PeerId, bytes] = {}
        self._checked: set[PeerId] = {me}
        self._early: dict[int, bytes] = {}
        self._held: dict[int, tuple[bytes, bytes]] = {}
        self._shipped: set[PeerId] = set()
        self._fetches: dict[int, list[PeerId]] = {}
        self._fetching: set[int] = set()
        self._reducing = self._decoding = False
        self._decision: tuple[bytes, ...] = ()

    def start(self, now: float) -> Iterable[Command]:
        """Encode first; everything else follows from what comes."""
        yield WakeAt(self._plan.schedule.commits)
        yield Compute(EncodeParts(self._offering.vector_P, self._plan.parts, self._plan.codec))

    def handle(self, event: Event, now: float) -> Iterable[Command]:
        """Take note of what came, then do everything that has become possible."""
        match event:
            case Received(signed) if signed.signer in self._members:
                self._voices.gone.discard(signed.signer)
                self._voices.hear(signed.signer, signed.message)
            case Delivered(sender, item, payload):
                yield from self._take(sender, item, payload)
            case Computed(job, result):
                yield from self._learn(job, result)
            case Unreached(peer, item):
                self._miss(peer, item)
        if self._encoded and not self._decoding:
            yield from self._advance(now)

    # --- taking note ----------------------------------------------------------------------------------------------

    def _take(self, sender: PeerId, item: str, payload: bytes) -> Iterator[Command]:
        """Bulk bytes of the right length from the right peer; whether they are what was promised is arithmetic."""
        name, number = item.split(".")[:2]
        part = self._plan.parts[int(number)]
        if name == "part" and part is self._mine:
            if not self._reducing and sender not in self._checked:
                self._unchecked.setdefault(sender, payload)
        elif name == "result" and part.owner == sender:
            self._early.setdefault(part.index, payload)
        elif name == "item" and self._decision:
            yield self._check(part, payload, self._decision[part.index], sender)

    def _learn(self, job: object, result: object) -> Iterator[Command]:
        """The answer of a job."""
        match job, result:
            case CheckPart(), Checked(sender, _, ok, reason):
                if ok:
                    self._inputs[sender] = job.payload
                else:
                    self._voices.gone.add(sender)
                    yield Report("bad-part", f"left out of our part: {reason}", sender)
            case CheckResult(), Checked(source, index, ok, reason):
                self._fetching.discard(index)
                if ok:
                    self._held[index] = (job.hash, job.payload)
                else:
                    self._voices.gone.add(source)
                    yield Report("bad-result", f"not taken as the result of part {index}: {reason}", source)
            case ReducePart(), Reduced(payload, hash_):
                yield from self._publish(job.part, payload, hash_)
            case DecodeResults(), Tensor():
                yield Finish(self._outcome(result))
            case EncodeParts(), tuple():
                self._encoded = result
                if self._mine:
                    self._inputs[self._me] = self._encoded[self._mine.index].payload
                self._voices.hear(self._me, commit := self._commit())
                yield self._send(commit)

    def _miss(self, peer: PeerId, item: str) -> None:
        """Nobody is waited for who cannot be reached; what it has already said still counts."""
        name, *index = item.split(".")
        if name == "item":
            self._fetching.discard(int(index[0]))
        else:
            self._voices.gone.add(peer)

    # --- doing what has become possible ---------------------------------------------------------------------------

    def _advance(self, now: float) -> Iterator[Command]:
        yield from self._ship_parts()
        yield from self._check_parts()
        yield from self._reduce(now)
        yield from self._check_results()
        yield from self._hold(now)
        yield from self._vote(now)
        yield from self._decide(now)

    def _ship_parts(self) -> Iterator[Command]:
        for part in self._plan.parts:
            if part.owner != self._me and part.owner not in self._shipped and part.owner in self._voices.commits:
                self._shipped.add(part.owner)
                yield Ship(part.owner, f"part.{part.index}", self._encoded[part.index].payload)

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
        awaited = self._awaited(self._inputs.keys(), now)
        awaited |= self._checked - self._inputs.keys() - self._voices.gone  # arithmetic under way: its answer is certain to come
        if awaited and now < self._plan.schedule.parts:
            return
        self._reducing = True
        included = [member for member in self._members if member in self._inputs]  # canonical order: same bits everywhere
        claims = [self._voices.claim(member, self._mine.index) for member in included]
        payloads = tuple(self._inputs[member] for member in included)
        head = bits([member in self._inputs for member in self._members])
        yield Compute(ReducePart(self._mine, payloads, tuple(coefficients(claims)), self._plan.codec, head))

    def _publish(self, part: Part, payload: bytes, hash_: bytes) -> Iterator[Command]:
        receipt = Receipt(part.index, hash_)
        self._voices.hear(self._me, receipt)
        self._held[part.index] = (hash_, payload)
        yield self._send(receipt)
        for member in self._others:
            yield Ship(member, f"result.{part.index}", payload)

    def _check_results(self) -> Iterator[Command]:
        for index in sorted(self._early.keys() & self._voices.receipts.keys()):
            self._fetching.add(index)
            part = self._plan.parts[index]
            yield self._check(part, self._early.pop(index), self._voices.receipts[index].hash, part.owner)

    def _hold(self, now: float) -> Iterator[Command]:
        """Say what we hold, once: when it is everything that can still come, or when the time for results has passed."""
        if self._me in self._voices.holdings:
            return
        lacking = [part for part in self._plan.parts if part.index not in self._held]
        owners = self._awaited(frozenset(), now)
        awaited = [part for part in lacking if part.owner in owners or part.index in self._fetching]
        if not awaited or now >= self._plan.schedule.results:
            holdings = Holdings(tuple(self._held.get(part.index, (b"", b""))[0] for part in self._plan.parts))
            self._voices.hear(self._me, holdings)
            yield self._send(holdings)

    def _vote(self, now: float) -> Iterator[Command]:
        """Cast our ballot, once: when nothing that may still come could change it, or when the time for holdings has passed."""
        voices = self._voices
        if self._me in voices.ballots or self._me not in voices.holdings:
            return
        if all(voices.is_settled(part.index) for part in self._plan.parts) or now >= self._plan.schedule.holdings:
            ballot = Ballot(tuple(voices.supported(part.index) for part in self._plan.parts))
            voices.hear(self._me, ballot)
            yield self._send(ballot)

    def _decide(self, now: float) -> Iterator[Command]:
        """Apply what 2/3 have voted for; give up when that cannot come about any more, or the time has passed."""
        schedule, quorum = self._plan.schedule, self._plan.group.quorum
        hashes, votes = self._voices.leading()
        if votes >= quorum:
            self._decision = hashes
            if self._me not in self._voices.ballots:  # whoever has missed a ballot may be one short of the decision
                self._voices.hear(self._me, ballot := Ballot(hashes))
                yield self._send(ballot)
            yield from self._complete(now)
        elif now >= schedule.fetched or self._voices.is_split():
            yield self._give_up(f"{votes} of {len(self._members)} members agree on the round, {quorum} are needed")
        else:
            phases = (schedule.commits, schedule.parts, schedule.results, schedule.holdings, schedule.fetched)
            yield WakeAt(min(phase for phase in phases if phase > now))

    def _complete(self, now: float) -> Iterator[Command]:
        """With a decision: all its items here means decode; each missing one is asked of its holders, one after the other."""
        parts = [part for part in self._plan.parts if self._decision[part.index]]
        wanted = [part for part in parts if self._held.get(part.index, (b"",))[0] != self._decision[part.index]]
        if not wanted:
            self._decoding = True
            head, hashes = self._plan.head, self._decision
            results = tuple((part, self._held[part.index][1][head:] if hashes[part.index] else None) for part in self._plan.parts)
            yield Compute(DecodeResults(results, self._offering.vector_P.numel(), self._plan.codec))
        elif now >= self._plan.schedule.fetched:
            yield self._give_up("an item that the others have applied could not be fetched in time")
        elif self._me not in self._voices.holdings:
            yield WakeAt(self._plan.schedule.results)  # the owners' own copies are still on their way
        else:
            yield WakeAt(self._plan.schedule.fetched)
            for part in wanted:
                yield from self._fetch(part)

    def _fetch(self, part: Part) -> Iterator[Command]:
        hash_, asked = self._decision[part.index], self._fetches.setdefault(part.index, [])
        holders = [peer for peer in self._voices.holders(part.index, hash_) if peer not in asked and peer != self._me]
        if part.index not in self._fetching and holders:
            asked.append(holders[0])
            self._fetching.add(part.index)
            yield Fetch(holders[0], f"item.{part.index}.{hash_.hex()}", self._plan.result_size(part))

    def _check(self, part: Part, payload: bytes, hash_: bytes, source: PeerId) -> Compute:
        return Compute(CheckResult(part, payload, hash_, self._plan.codec, self._plan.head, source))

    # --- the end --------------------------------------------------------------------------------------------------

    def _awaited(self, heard: Set[PeerId], now: float) -> set[PeerId]:
        return self._voices.awaited(heard, commits_are_due=now >= self._plan.schedule.commits)

    def _send(self, message: Message) -> Send:
        return Send(self._others, message, self._plan.group.id)

    def _commit(self) -> Commit:
        hashes, norms = tuple(part.hash for part in self._encoded), tuple(part.norm for part in self._encoded)
        return Commit(hashes, norms, self._offering.weight, self._offering.seed, self._plan.group.state_root)

    def _included(self, part: Part) -> set[PeerId]:
        """Whose updates are in the applied result: its head says so, and the decision was on the hash of both."""
        if not self._decision[part.index]:
            return set()
        flags = flags_of(self._held[part.index][1][: self._plan.head], len(self._members))
        return {member for member, flag in zip(self._members, flags, strict=True) if flag}

    def _outcome(self, average_P: Tensor) -> Outcome:
        included = [self._included(part) for part in self._plan.parts]
        present: set[PeerId] = set().union(*included)
        return Outcome(
            average_P=average_P,
            applied=tuple(bool(hash_) for hash_ in self._decision),
            included=tuple(self._me in members for members in included),
            encoded=tuple(part.payload for part in self._encoded),
            missing=tuple(member for member in self._members if member not in present),
            tokens=self._voices.tokens(present),
        )

    def _give_up(self, reason: str) -> Finish[Outcome]:
        nothing = (False,) * len(self._plan.parts)
        missing = tuple(member for member in self._members if member not in self._voices.commits)
        return Finish(
            Outcome(average_P=None, applied=nothing, included=nothing, encoded=(), missing=missing, tokens=0, reason=reason)
        )
