"""One averaging round: from every member's update to the same average, bit for bit, on all of them.

    1 commit    hash and norm of every part, weight, state root            to all members
    2 exchange  whatever the manifest has chosen (`exchange`): items come  `butterfly`, `gather`
    3 decide    holdings: which items I hold and have verified             to all members
                ballot: the items that 2/3 of the members hold             to all members, one per member
    4 apply     the ballot that 2/3 cast; a missing item is fetched by its hash from any holder

Rule 1: every wait has a deadline from the `Schedule`; nobody waits for who cannot be reached, or has not committed in time. Whoever
        is silent is asked for a sign of life, so a member that has died is known long before the deadlines. Where those who are
        left are too few for a decision, the round is given up; the others cannot decide it either, unless with words of the dead
        that we have missed: then they are further than we are, which is found out as after any round that was missed.
Rule 2: an item is (index, hash). A decision needs 2/3 of the ballots and everybody casts one, so there is at most one decision.
Rule 3: what is not applied counts as zero for everybody and stays in the sender's residual.
Rule 4: the average follows from the items alone, so equal decisions make equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

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

from .butterfly import Butterfly
from .codec_choice import allowed
from .codecs import Raw
from .exchange import Decision, Exchange, ExchangeState
from .gather import Gather
from .messages import Ballot, Commit, Holdings
from .reduce import Checked, CheckResult
from .round_plan import Contribution, Outcome, Plan
from .tally import Tally
from .whole_update import CheckUpdate


class Round:
    """The machine of one member, for a group of two or more. Ends with an `Outcome`, at the latest at ``schedule.fetched``."""

    def __init__(self, plan: Plan, me: PeerId, contribution: Contribution) -> None:
        self._plan, self._me = plan, me
        self._tally = Tally(plan)
        self._state = ExchangeState(plan, me, contribution, self._tally)
        if self._state.codec not in allowed(plan.codec):
            raise ValueError(
                f"an update in {self._state.codec.name.lower()} has no place in a round of {plan.codec.name.lower()}"
            )
        self._exchange: Exchange = (Gather if plan.exchange is ExchangeName.GATHER else Butterfly)(
            self._state
        )
        self._asked: dict[int, set[tuple[PeerId, int]]] = {}
        self._decision: Decision = ()
        self._combining = False
        self._patient_until = 0.0
        self._out_of_reach_at = math.inf
        """When to give up an item that was decided and that none of its holders has given us."""
        self._doubted: dict[PeerId, float] = {}
        """Who cannot be reached, and when to ask once more; `inf` where that has been done."""

    def start(self, now: float) -> Iterable[Command]:
        """Encode first; everything else follows from what comes."""
        self._patient_until = now + self._plan.schedule.patience
        yield WakeAt(self._plan.schedule.commits)
        yield self._exchange.encode()

    def expect(self, sender: PeerId, item: str) -> int:
        """The exact bytes that bulk ``item`` from ``sender`` must have. Raises `Refused` for what nobody waits for."""
        return self._exchange.expect(sender, item)

    def handle(self, event: Event, now: float) -> Iterable[Command]:
        """Take note of what came, then do everything that has become possible."""
        match event:
            case Received(signed) if signed.signer in self._plan.group.members:
                self._tally.hear(signed.signer, signed.message)
            case Delivered(sender, item, payload):
                yield from self._take(sender, item, payload)
            case Computed():
                yield from self._learn(event)
            case Unreached(peer, item):
                self._miss(peer, item)
        if self._state.encoded and not self._combining:
            yield from self._advance(now)

    # --- taking note ----------------------------------------------------------------------------------------------

    def _take(self, sender: PeerId, item: str, payload: Raw) -> Iterator[Command]:
        """What we have fetched is ours to check; all other bulk bytes are the exchange's."""
        name, *index = item.split(".")
        if name != "item":
            yield from self._exchange.take(sender, item, payload)
        elif self._decision:
            job = self._exchange.check(int(index[0]), self._decision[int(index[0])], payload, sender)
            yield Compute(job)

    def _learn(self, event: Computed) -> Iterator[Command]:
        """The answer of a job."""
        match event.job, event.result:
            case (CheckResult() | CheckUpdate()) as job, Checked(source, index, ok, reason):
                self._state.settles(index)
                if ok:
                    self._state.hold(index, job.hash, job.payload, event.result.vector_N)
                else:
                    self._tally.gone.add(source)
                    yield self._complaint(job, source, reason)
            case _, Tensor() as average_P:
                yield Finish(self._exchange.outcome(self._decision, average_P))
            case _, tuple() as encoded:
                self._state.encoded = encoded
                self._exchange.begin()
                yield self._state.tell(self._commit())
            case job, result:
                yield from self._exchange.learn(job, result)

    def _commit(self) -> Commit:
        hashes, norms = (
            tuple(each)
            for each in zip(*((part.hash, part.norm) for part in self._state.encoded), strict=True)
        )
        contribution = self._state.contribution
        return Commit(
            hashes,
            norms,
            contribution.weight,
            contribution.seed,
            self._plan.group.state_root,
            self._state.codec,
        )

    def _complaint(self, job: CheckResult | CheckUpdate, source: PeerId, reason: str) -> Report:
        if isinstance(job, CheckResult):
            return Report("bad-result", f"not taken as the result of part {job.part.index}: {reason}", source)
        whose = self._plan.group.members[job.seat]
        return Report(
            "bad-update",
            f"not taken as the update of {'its own' if whose == source else whose}: {reason}",
            source,
        )

    def _miss(self, peer: PeerId, item: str) -> None:
        """Nobody is waited for who cannot be reached; what it has already said still counts."""
        name, *index = item.split(".")
        if name == "item":
            self._state.settles(int(index[0]))
        else:
            self._tally.gone.add(peer)
            if not item and self._doubted.get(peer) == math.inf:
                self._tally.dead.add(peer)

    # --- doing what has become possible ---------------------------------------------------------------------------

    def _advance(self, now: float) -> Iterator[Command]:
        yield from self._exchange.advance(now)
        yield from self._ask(now)
        yield from self._doubt(now)
        yield from self._hold(now)
        yield from self._vote(now)
        yield from self._decide(now)

    def _ask(self, now: float) -> Iterator[Command]:
        """Ask whoever keeps us waiting for a sign of life: who is dead will not be reached. Our commit, once more, does no harm."""
        if now >= self._patient_until and self._me not in self._tally.ballots:
            self._patient_until = now + self._plan.schedule.patience
            exchanged = self._me in self._tally.holdings
            silent = (
                self._tally.awaited(self._tally.holdings.keys(), now)
                if exchanged
                else self._exchange.awaited(now)
            )
            self._tally.written_off = set(self._tally.gone) if exchanged else set()
            if silent:
                yield Send(tuple(sorted(silent)), self._tally.commits[self._me], self._plan.group.id)

    def _doubt(self, now: float) -> Iterator[Command]:
        """Ask those who cannot be reached once more, a little later, before we believe that too few are left."""
        gone = self._tally.gone
        if gone and self._tally.can_decide_without(gone):
            gone = set()
        later = now + self._plan.schedule.patience / 4
        self._doubted = {peer: self._doubted.get(peer, later) for peer in gone}
        if due := sorted(peer for peer, at in self._doubted.items() if at <= now):
            self._doubted.update(dict.fromkeys(due, math.inf))
            yield Send(tuple(due), self._tally.commits[self._me], self._plan.group.id)

    def _hold(self, now: float) -> Iterator[Command]:
        """Say what we hold, once: when it is everything that can still come, or when the time for results has passed."""
        if self._me in self._tally.holdings:
            return
        lacking = (index for index in range(self._plan.items) if index not in self._state.held)
        if now >= self._plan.schedule.results or not any(self._is_awaited(index, now) for index in lacking):
            self._patient_until = now + self._plan.schedule.patience
            yield self._state.tell(
                Holdings(tuple(self._exchange.named(index) for index in range(self._plan.items)))
            )

    def _is_awaited(self, index: int, now: float) -> bool:
        return self._state.pending[index] > 0 or self._exchange.awaits(index, now)

    def _vote(self, now: float) -> Iterator[Command]:
        """Cast our ballot, once: when nothing that may still come could change it, or when the time for holdings has passed."""
        tally, items = self._tally, range(self._plan.items)
        if self._me in tally.ballots or self._me not in tally.holdings:
            return
        if now >= self._plan.schedule.holdings or all(tally.is_settled(index) for index in items):
            yield self._state.tell(Ballot(tuple(tally.supported(index) for index in items)))

    def _decide(self, now: float) -> Iterator[Command]:
        """Apply what 2/3 have voted for; give up when that cannot come about any more, or the time has passed."""
        hashes, votes = self._tally.leading()
        quorum, members = self._plan.group.quorum, len(self._plan.group.members)
        if votes >= quorum:
            self._decision = hashes
            if (
                self._me not in self._tally.ballots
            ):  # whoever has missed a ballot may be one short of the decision
                yield self._state.tell(Ballot(hashes))
            yield from self._complete(now)
        elif (is_split := self._tally.is_split()) or now >= self._plan.schedule.fetched:
            dead = f", and {len(self._tally.dead)} cannot be reached" if self._tally.dead else ""
            reason = f"{votes} of {members} members agree on the round, {quorum} are needed{dead}"
            yield self._give_up(reason, is_void=is_split)
        else:
            times = [self._plan.schedule.next(now), *self._doubted.values()]
            yield WakeAt(min(times if self._me in self._tally.ballots else [*times, self._patient_until]))

    def _complete(self, now: float) -> Iterator[Command]:
        """With a decision: all its items here means combine; each missing one is asked of its holders, one after the other."""
        held = self._state.held
        wanted = [
            index for index, hash_ in enumerate(self._decision) if hash_ and hash_ not in held.get(index, ())
        ]
        if not wanted:
            self._combining = True
            yield Compute(self._exchange.combine(self._decision))
        elif now >= min(self._plan.schedule.fetched, self._out_of_reach_at):
            yield self._give_up("an item that the others have applied could not be fetched in time")
        elif self._me not in self._tally.holdings:
            yield WakeAt(self._plan.schedule.results)  # the makers' own copies are still on their way
        else:
            for index in wanted:
                yield from self._fetch(index)
            if all(self._state.pending[index] for index in wanted):
                self._out_of_reach_at = math.inf
            elif (
                self._out_of_reach_at == math.inf
            ):  # nobody is left to be asked for it; the others' state will soon have it
                self._out_of_reach_at = now + self._plan.schedule.patience
            yield WakeAt(min(self._plan.schedule.fetched, self._out_of_reach_at))

    def _fetch(self, index: int) -> Iterator[Command]:
        hash_, asked = self._decision[index], self._asked.setdefault(index, set())
        holders = [holder for holder in self._tally.holders(index, hash_) if holder != self._me]
        ways = [(holder, size) for size in self._exchange.sizes(index) for holder in holders]
        way = next((way for way in ways if way not in asked), None)
        if way and not self._state.pending[index]:
            asked.add(way)
            self._state.pending[index] += 1
            yield Fetch(way[0], f"item.{index}.{hash_.hex()}", way[1])

    def _give_up(self, reason: str, *, is_void: bool = False) -> Finish[Outcome]:
        nothing = (False,) * self._plan.items
        return Finish(
            Outcome(
                average_P=None,
                applied=nothing,
                included=nothing,
                encoded=(),
                missing=tuple(
                    member for member in self._plan.group.members if member not in self._tally.commits
                ),
                tokens=0,
                reason=reason,
                is_void=is_void,
            )
        )
