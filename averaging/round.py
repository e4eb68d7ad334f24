"""One averaging round: from every member's update to the same average, bit for bit, on all of them.

    1 commit    hash and norm of every part, weight, state root            to all members
    2 exchange  as the manifest has chosen (`exchange`): items come        `butterfly`, `gather`
    3 decide    holdings: which items the sender holds and has verified    to all members
                ballot: the items that 2/3 of the members hold             to all members, one per member
    4 apply     the ballot that 2/3 cast; a missing item is fetched by its hash from any member that holds it

    state       event                                     leads to
    ----------  ----------------------------------------  ---------------------------------------------------
    encoding    Computed (our encoded update)             Commit to all: exchanging
    exchanging  Received, Delivered, Unreached, Computed  noted; the exchange ships, checks, reduces
                every item is here, or will not come      Holdings to all: holding
                ``schedule.results`` has passed           the same
    holding     no message can change what 2/3 hold       Ballot to all: voting
                ``schedule.holdings`` has passed          the same
    voting      2/3 of the ballots are equal              applying (a member without a ballot casts this one)
                no 2/3 of equal ballots can come          finished, `Void`
                ``schedule.fetched`` has passed           finished, `Undecided`
    applying    an applied item is missing                Fetch from its holders, one after the other
                all applied items are here                Compute the average; then finished, `Applied`
                no holder is left, or time has passed     finished, `Undecided`
    any         silence for ``schedule.patience``         the silent members are asked for a sign of life

Rule 1: every wait has a deadline from the `Schedule`; nobody waits for a member that cannot be reached, or
        that has not committed in time. A silent member is asked for a sign of life, so its death is known
        long before the deadlines. If too few members are left for a decision, the round is given up. The
        others cannot decide it either, unless they have heard messages of the dead that we missed: then they
        are further than we are, which we find out as after any missed round.
Rule 2: an item is (index, hash). A decision needs 2/3 of the ballots and each member casts one, so there is
        at most one decision.
Rule 3: what is not applied counts as zero for all members and stays in the sender's residual.
Rule 4: the average follows from the items alone, so equal decisions make equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import cast

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
    Unreached,
    WakeAt,
)
from swarm.manifest import Exchange as ExchangeName
from swarm.wire import Signed

from .butterfly import Butterfly
from .codec_choice import allowed
from .codecs import Raw
from .exchange import Decision, Exchange, ExchangeState
from .gather import Gather
from .messages import Ballot, Commit, Holdings
from .outcome import Undecided, Void
from .reduce import Checked, CheckResult
from .round_plan import Applied, RoundPlan, Scratch
from .tally import Tally
from .update import Update
from .whole_update import CheckUpdate

NO_SCRATCH = Scratch()


class Round:
    """The machine of one member, for a group of two or more.

    Ends with `Applied`, `Undecided` or `Void`, at the latest at ``schedule.fetched``.
    """

    def __init__(self, plan: RoundPlan, me: PeerId, update: Update, scratch: Scratch = NO_SCRATCH) -> None:
        """``update`` is our own, with the residual on top."""
        self._plan = plan
        self._me = me
        self._tally = Tally(plan)
        self._state = ExchangeState(plan, me, update, scratch, self._tally)
        codec = self._state.codec
        if codec not in allowed(plan.codec):
            raise ValueError(
                f"an update in {codec.name.lower()} has no place in a round of {plan.codec.name.lower()}"
            )
        is_gather = plan.exchange is ExchangeName.GATHER
        self._exchange: Exchange = Gather(self._state) if is_gather else Butterfly(self._state)
        self._asked: dict[int, set[tuple[PeerId, int]]] = {}
        """By item: the (holder, size) pairs that have been tried."""
        self._ballots: dict[PeerId, Signed[Ballot]] = {}
        """The other members' ballots that count, as they signed them."""
        self._decision: Decision = ()
        self._is_combining = False
        self._patient_until = 0.0
        """When to ask the silent members for the next sign of life."""
        self._unobtainable_at = math.inf
        """When to give up an item that was decided and that none of its holders has given us."""
        self._doubted: dict[PeerId, float] = {}
        """Members that cannot be reached, and when to try once more; infinite once that has been done."""

    def start(self, now: float) -> Iterable[Command]:
        """Encode first; everything else follows from what comes."""
        self._patient_until = now + self._plan.schedule.patience
        yield WakeAt(self._plan.schedule.commits)
        yield self._exchange.encode()

    def expect(self, sender: PeerId, item: str) -> int:
        """The exact bytes that bulk ``item`` from ``sender`` must have.

        Raises `Refused` for an item that has no place here.
        """
        return self._exchange.expect(sender, item)

    def handle(self, event: Event, now: float) -> Iterable[Command]:
        """Take note of what came, then do everything that has become possible."""
        match event:
            case Received(signed) if signed.signer in self._plan.group.members:
                self._tally.hear(signed.signer, signed.message)
                if self._tally.ballots.get(signed.signer) is signed.message:
                    self._ballots[signed.signer] = cast("Signed[Ballot]", signed)
            case Delivered(sender, item, payload):
                yield from self._receive(sender, item, payload)
            case Computed():
                yield from self._note_result(event)
            case Unreached(peer, item):
                self._note_unreached(peer, item)
        if self._state.encoded and not self._is_combining:
            yield from self._advance(now)

    # --- taking note ----------------------------------------------------------------------------------------

    def _receive(self, sender: PeerId, item: str, payload: Raw) -> Iterator[Command]:
        """Check what we have fetched by its hash; all other bulk bytes belong to the exchange."""
        name, *index = item.split(".")
        if name != "item":
            yield from self._exchange.receive(sender, item, payload)
        elif self._decision:
            job = self._exchange.check(int(index[0]), self._decision[int(index[0])], payload, sender)
            yield Compute(job)

    def _note_result(self, event: Computed) -> Iterator[Command]:
        match event.job, event.result:
            case (CheckResult() | CheckUpdate()) as job, Checked(source, index, ok, reason):
                self._state.end_check(index)
                if ok:
                    self._state.hold(index, job.hash, job.payload, event.result.vector_N)
                else:
                    self._tally.gone.add(source)
                    yield self._complaint(job, source, reason)
            case _, Tensor() as average_P:
                yield Finish(self._applied(average_P))
            case _, tuple() as encoded:
                self._state.encoded = encoded
                self._exchange.begin()
                yield self._state.tell(self._commit())
                if self._me not in self._tally.commits:
                    yield self._give_up("our own commit does not fit the group")
            case job, result:
                yield from self._exchange.computed(job, result)

    def _applied(self, average_P: Tensor) -> Applied:
        """The result, with the ballots that prove it to others."""
        applied = self._exchange.applied(self._decision, average_P)
        ballots = (signed for signed in self._ballots.values() if signed.message.hashes == self._decision)
        is_our_vote = self._tally.ballots[self._me].hashes == self._decision
        return replace(applied, decision=self._decision, ballots=tuple(ballots), is_our_vote=is_our_vote)

    def _commit(self) -> Commit:
        update = self._state.update
        return Commit(
            hashes=tuple(part.hash for part in self._state.encoded),
            norms=tuple(part.norm for part in self._state.encoded),
            weight=update.tokens,
            seed=update.seed,
            state_root=self._plan.group.state_root,
            codec=self._state.codec,
        )

    def _complaint(self, job: CheckResult | CheckUpdate, source: PeerId, reason: str) -> Report:
        if isinstance(job, CheckResult):
            return Report("bad-result", f"not taken as the result of part {job.part.index}: {reason}", source)
        member = self._plan.group.members[job.seat]
        whose = "its own" if member == source else member
        return Report("bad-update", f"not taken as the update of {whose}: {reason}", source)

    def _note_unreached(self, peer: PeerId, item: str) -> None:
        """Do not wait for a member that cannot be reached. What it has already said still counts."""
        name, *index = item.split(".")
        if name == "item":
            self._state.end_check(int(index[0]))
            return
        self._tally.gone.add(peer)
        if not item and self._doubted.get(peer) == math.inf:
            self._tally.dead.add(peer)

    # --- doing what has become possible ---------------------------------------------------------------------

    def _advance(self, now: float) -> Iterator[Command]:
        self._note_let_down(now)
        yield from self._exchange.advance(now)
        yield from self._ask_the_silent(now)
        yield from self._ask_the_gone(now)
        yield from self._tell_holdings(now)
        yield from self._vote(now)
        yield from self._decide(now)

    def _note_let_down(self, now: float) -> None:
        """A deadline has passed: who has not sent what was due by then?"""
        schedule = self._plan.schedule
        if now < schedule.commits or self._me in self._tally.ballots:
            return
        members = set(self._plan.group.members)
        overdue = self._exchange.overdue(now) | (members - self._tally.commits.keys())
        if now >= schedule.holdings:
            overdue |= members - self._tally.holdings.keys()
        self._state.let_down |= overdue - self._tally.gone - {self._me}

    @property
    def let_down(self) -> set[PeerId]:
        """The members that have kept us waiting until a deadline."""
        return self._state.let_down

    @property
    def delivered(self) -> set[PeerId]:
        """The members that have done all that was due."""
        return (self._tally.holdings.keys() & self._tally.ballots.keys()) - self.let_down

    def _ask_the_silent(self, now: float) -> Iterator[Command]:
        """Ask the members that keep us waiting for a sign of life: a dead one will not be reached.

        Sending our commit again is harmless.
        """
        if now < self._patient_until or self._me in self._tally.ballots:
            return
        self._patient_until = now + self._plan.schedule.patience
        if self._me in self._tally.holdings:
            silent = self._tally.awaited(self._tally.holdings.keys(), now)
            self._tally.written_off = set(self._tally.gone)
        else:
            silent = self._exchange.awaited(now)
            self._tally.written_off = set()
        if silent:
            yield Send(tuple(sorted(silent)), self._tally.commits[self._me], self._plan.group.id)

    def _ask_the_gone(self, now: float) -> Iterator[Command]:
        """Try the members that cannot be reached once more, a little later, before we believe that too few
        are left."""
        gone = self._tally.gone
        if gone and self._tally.can_decide_without(gone):
            gone = set()
        later = now + self._plan.schedule.patience / 4
        self._doubted = {peer: self._doubted.get(peer, later) for peer in gone}
        due = sorted(peer for peer, at in self._doubted.items() if at <= now)
        if due:
            self._doubted.update(dict.fromkeys(due, math.inf))
            yield Send(tuple(due), self._tally.commits[self._me], self._plan.group.id)

    def _tell_holdings(self, now: float) -> Iterator[Command]:
        """Say once what we hold: when no other item can come any more, or when the time for results has
        passed."""
        if self._me in self._tally.holdings:
            return
        lacking = (index for index in range(self._plan.items) if index not in self._state.held)
        if now >= self._plan.schedule.results or not any(self._may_come(index, now) for index in lacking):
            self._patient_until = now + self._plan.schedule.patience
            hashes = tuple(self._exchange.held_hash(index) for index in range(self._plan.items))
            yield self._state.tell(Holdings(hashes))

    def _may_come(self, index: int, now: float) -> bool:
        return self._state.pending[index] > 0 or self._exchange.may_still_come(index, now)

    def _vote(self, now: float) -> Iterator[Command]:
        """Cast our ballot once: when no message can change it any more, or when the time for holdings has
        passed."""
        tally = self._tally
        items = range(self._plan.items)
        if self._me in tally.ballots or self._me not in tally.holdings:
            return
        if now >= self._plan.schedule.holdings or all(tally.is_settled(index) for index in items):
            yield self._state.tell(Ballot(tuple(tally.supported(index) for index in items)))

    def _decide(self, now: float) -> Iterator[Command]:
        """Apply what 2/3 have voted for; give up if that has become impossible, or if the time has passed."""
        hashes, votes = self._tally.leading()
        if votes >= self._plan.group.quorum:
            self._decision = hashes
            # A member that has missed a ballot may be one short of the decision.
            if self._me not in self._tally.ballots:
                yield self._state.tell(Ballot(hashes))
            yield from self._complete(now)
            return
        is_split = self._tally.is_split()
        if is_split or now >= self._plan.schedule.fetched:
            yield self._give_up(self._why_undecided(votes), is_void=is_split)
            return
        times = [self._plan.schedule.next(now), *self._doubted.values()]
        if self._me not in self._tally.ballots:
            times.append(self._patient_until)
        yield WakeAt(min(times))

    def _why_undecided(self, votes: int) -> str:
        group = self._plan.group
        dead = f", and {len(self._tally.dead)} cannot be reached" if self._tally.dead else ""
        return f"{votes} of {len(group.members)} members agree on the round, {group.quorum} are needed{dead}"

    def _complete(self, now: float) -> Iterator[Command]:
        """With a decision: combine its items if all are here; ask for each missing one at its holders, one
        after the other."""
        held = self._state.held
        decided = [(index, hash_) for index, hash_ in enumerate(self._decision) if hash_]
        wanted = [index for index, hash_ in decided if hash_ not in held.get(index, ())]
        if not wanted:
            self._is_combining = True
            yield Compute(self._exchange.combine(self._decision))
        elif now >= min(self._plan.schedule.fetched, self._unobtainable_at):
            yield self._give_up("an item that the others have applied could not be fetched in time")
        elif self._me not in self._tally.holdings and now < self._patient_until:
            # The items may still be on their way by themselves; but whoever should send them may be a liar.
            yield WakeAt(min(self._plan.schedule.results, self._patient_until))
        else:
            yield from self._fetch_all(wanted, now)

    def _fetch_all(self, wanted: list[int], now: float) -> Iterator[Command]:
        for index in wanted:
            yield from self._fetch(index)
        if all(self._state.pending[index] for index in wanted):
            self._unobtainable_at = math.inf
        elif self._unobtainable_at == math.inf:
            # No holder is left to ask for it, but the state of the others will contain it soon.
            self._unobtainable_at = now + self._plan.schedule.patience
        yield WakeAt(min(self._plan.schedule.fetched, self._unobtainable_at))

    def _fetch(self, index: int) -> Iterator[Command]:
        hash_ = self._decision[index]
        asked = self._asked.setdefault(index, set())
        holders = [holder for holder in self._tally.holders(index, hash_) if holder != self._me]
        attempts = [(holder, size) for size in self._exchange.possible_sizes(index) for holder in holders]
        attempt = next((attempt for attempt in attempts if attempt not in asked), None)
        if attempt and not self._state.pending[index]:
            asked.add(attempt)
            self._state.pending[index] += 1
            holder, size = attempt
            yield Fetch(holder, f"item.{index}.{hash_.hex()}", size)

    def _give_up(self, reason: str, *, is_void: bool = False) -> Finish[Undecided | Void]:
        group = self._plan.group
        missing = tuple(member for member in group.members if member not in self._tally.commits)
        if is_void:
            return Finish(Void(reason, group, missing))
        return Finish(Undecided(reason, group, missing))
