"""Peers form the group of a round: each says that it is ready, a leader lists them, and all co-sign the list.

    every peer --- Ready -------> the leader and its deputies   (drawn by hash from the roster)
    leader     --- Proposal ----> all peers on it               (their own Ready frames, nobody else's)
    every peer --- Vote --------> all peers on it               (one vote per round)
    2/3 of the votes: the group stands

    state      event                       leads to
    ---------  --------------------------  -------------------------------------------------------------------
    listening  anything                    noted; nothing is decided before the first `Woken` (rule 5)
    gathering  Ready                       the peer has come; if it may lead, it hears that we are ready, too
               Unreached                   the peer is gone; the peer that leads in its place hears of us
               Decline (formed, too few)   from a peer we would follow, or from two that may lead: no group
               Decline (absent)            as Unreached
               all are here, or close_at   if it is our turn: proposing; else we wait for a proposal
    proposing  (at once)                   Proposal to the members, Decline to the others: voted
    voted      Vote                        noted; with 2/3 of the votes: finished with the group
               Proposal                    kept as a rival, in case our group cannot stand any more
               Unreached, Decline          that vote will not come; if 2/3 are out of reach: `Unanswered`
    any        close_at + 2 patience       finished without a group

Rule 1: a peer signs one vote per round, so it is never in two groups and no cycle of waiting can form. Where
        the group that has its vote cannot stand any more, it joins another that lists it and stands by the
        votes of the others.
Rule 2: the leader waits for the peers it expects until ``close_at``; it does not wait for those it cannot
        reach. It asks for a sign of life now and then, first soon and then ever more seldom: a peer that has
        died since refuses the connection.
Rule 3: a silent leader is replaced: deputy k proposes k/4 of ``patience`` after the leader should have. It
        proposes at once if it knows that all before it are gone, and it asks them for signs of life. (Not
        earlier if only some of them are gone: the one before it may not know that, and votes would split.) A
        peer that nobody expected may lead as well: it then hears who else has come.
Rule 4: a peer that comes late or with another model gets a reason, keeps its update, and comes again in the
        next round. It gives up only if a leader says so, or if nobody is left that could still come.
Rule 5: messages that came before we began are heard before anything is decided.
Rule 6: fewer than ``least`` peers are no group, whichever peer proposes them: a few peers that do not see
        the others must not go on without them. A level-2 group has at most one representative of each
        level-1 group (`hierarchy`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from swarm.errors import TheirFault
from swarm.identity import PeerId
from swarm.machine import Command, Event, Finish, Received, Send, Unreached, WakeAt, Woken
from swarm.wire import Message, Signed, open_frame

from . import groups
from .groups import Group
from .hierarchy import Hierarchy
from .messages import Decline, DeclineReason, Proposal, Ready, Vote
from .outcome import Declined, NoGroup, TooFew, Unanswered
from .terms import GroupTerms

DEPUTIES = 3
"""How many of the first in the order of leaders get every `Ready`."""
RIVALS = 4
"""Proposals kept besides the one that has our vote: a peer that leads twice cannot fill our memory."""
WITNESSES = 2
"""If so many of the peers that may lead turn us away, we believe that there is no group for us."""
GROWTH = 2
"""A claimed population is believed up to so many times the peers that we know of."""
YOUNG = 512
"""We reckon with at least so many peers, even if we know of fewer: a run may grow fast."""
LATEST_TURN = 7
"""Deputies beyond this place do not wait longer than this one."""
FRAME_LIMIT = 4096
"""Bytes of the largest `Ready` frame in a proposal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssemblyPlan:
    """What an assembly starts from. Times are in the clock of ``now``."""

    run: bytes
    ready: Signed[Ready]
    """Our own sealed `Ready`."""
    terms: GroupTerms
    patience: float
    """Seconds: a deputy leads a quarter of this after the one before it, and it ends after twice this."""
    first_look: float
    """Seconds until the leader first asks the missing peers for a sign of life.

    Each further pause is twice as long.
    """
    group_size: int
    """The most members of a group."""
    hierarchy: Hierarchy | None = None
    """For a level-2 group: the level-1 groups whose representatives come."""

    @property
    def me(self) -> PeerId:
        """Our own id."""
        return self.ready.signer

    @property
    def round(self) -> int:
        """The round to average."""
        return self.ready.stamp.round

    @property
    def give_up_at(self) -> float:
        """When an assembly ends without a group."""
        return self.terms.close_at + 2 * self.patience

    def fits(self, seated: Sequence[Signed[Ready]], unseated: int) -> bool:
        """Whether the ``seated`` peers may be a group: neither too few nor too many, and none represents
        peers it must not."""
        claims = [signed.message for signed in seated]
        known = max(YOUNG, self.terms.population, self.terms.present)
        if self.hierarchy:
            indices = {self.hierarchy.group_index(signed.signer) for signed in seated}
            may_represent = len(indices) == len(seated)
        else:
            may_represent = all(claim.peers == 1 for claim in claims)
        is_plausible = unseated + sum(claim.peers for claim in claims) <= GROWTH * known
        return may_represent and is_plausible and self.suffices(claims) and len(seated) <= self.group_size

    def claimed(self, seated: Sequence[Signed[Ready]], unseated: int) -> int:
        """How many peers to name beside the ``seated``: those without a seat, and in a level-2 group those of
        absent groups.

        Assume that absent groups have the mean size of those present: most likely they are only late. Never
        name more than the other members will believe, however few peers they know.
        """
        represented = sum(signed.message.peers for signed in seated)
        if self.hierarchy:
            absent_groups = self.hierarchy.count - len(seated)
            unseated += represented * absent_groups // len(seated)
        return max(0, min(unseated, GROWTH * max(YOUNG, self.terms.population) - represented))

    def suffices(self, claims: Sequence[Ready]) -> bool:
        """Whether the peers that make these ``claims`` are enough for a group."""
        participants = sum(claim.is_participant for claim in claims)
        return len(claims) >= self.terms.least and participants >= self.terms.least_participants

    def seated_by(self, proposal: Proposal) -> list[Signed[Ready]] | None:
        """The members of a proposal that we may sign: genuine, of this round and level, with our model, and
        with us among them."""
        seated: list[Signed[Ready]] = []
        for raw in proposal.ready:
            try:
                signed = open_frame(raw, Ready, run=self.run, limit=FRAME_LIMIT)
            except TheirFault:
                return None
            is_here = (signed.stamp.round, signed.stamp.group) == (self.round, self.ready.stamp.group)
            if not is_here or not self.has_our_model(signed.message):
                return None
            seated.append(signed)
        members = {signed.signer for signed in seated}
        is_ours = self.me in members and len(members) == len(seated)
        return seated if is_ours and self.fits(seated, proposal.unseated) else None

    def has_our_model(self, ready: Ready) -> bool:
        """Whether the sender of ``ready`` trains from the same model as we do."""
        return ready.state_root == self.ready.message.state_root

    def ordered(self, candidates: Iterable[PeerId]) -> list[PeerId]:
        """The order in which ``candidates`` lead."""
        drawn = groups.leaders(self.run, self.round, candidates)
        first = self.terms.leader
        return [first, *(peer for peer in drawn if peer != first)] if first in drawn else drawn

    def too_late(self, ready: Ready) -> Decline:
        """The answer to ``ready`` once our list is made.

        To a peer with another model it only says that we are not in its round.
        """
        if not self.has_our_model(ready):
            return Decline(self.round, "we train from another model", DeclineReason.ABSENT)
        return Decline(self.round, "the group of this round is formed; come with the next")


class Presence:
    """Which peers have come, which are out of reach, and whom we have told that we are ready."""

    def __init__(self, plan: AssemblyPlan) -> None:
        self._plan = plan
        self.order = plan.ordered({plan.me, *plan.terms.expected})
        """All peers that may come, in the order in which they lead."""
        self.ready: dict[PeerId, Signed[Ready]] = {plan.me: plan.ready}
        self.gone: set[PeerId] = set()
        self.told: set[PeerId] = set()

    @property
    def deputies(self) -> int:
        """How many of the first hear of everybody.

        In a level-2 group all do: it is small, and nobody knows beforehand who of the other groups comes.
        """
        return len(self.order) if self._plan.hierarchy else DEPUTIES

    @property
    def reachable(self) -> list[PeerId]:
        """The peers that are not gone, in the order in which they lead."""
        return [peer for peer in self.order if peer not in self.gone]

    @property
    def leading(self) -> list[PeerId]:
        """The first peers that may lead now. (In a level-2 group all may, see `deputies`.)"""
        return self.reachable[:DEPUTIES]

    @property
    def here(self) -> list[Signed[Ready]]:
        """The peers that have come and are not gone."""
        return [signed for peer, signed in self.ready.items() if peer not in self.gone]

    @property
    def missing(self) -> set[PeerId]:
        """The peers that should come, have not, and are not gone."""
        return {self._plan.me, *self._plan.terms.expected} - self.ready.keys() - self.gone

    @property
    def before_us(self) -> set[PeerId]:
        """The peers that lead before us, as far as we know: they may have come, and died before they could
        propose."""
        return set(self.order[: self.order.index(self._plan.me)]) - self.gone

    def audience(self) -> list[PeerId]:
        """The peers that first hear that we are ready: the leaders, or, if we may lead, everybody (which
        shows who is gone)."""
        audience = [peer for peer in self.order if peer != self._plan.me]
        if self._plan.me not in self.order[: self.deputies]:
            audience = self.order[: self.deputies]
        self.told.update(audience)
        return audience

    def add_if_leading(self, peer: PeerId) -> bool:
        """A peer with our model that we did not expect: note it if it may lead.

        Others cost us nothing more.
        """
        may_lead = peer in self._plan.ordered([*self.leading, peer])[:DEPUTIES]
        if may_lead:
            self.order = self._plan.ordered([*self.order, peer])
        return may_lead

    def untold_leaders(self) -> tuple[PeerId, ...]:
        """The peers that may lead now and have not heard of us. From here on they count as told."""
        untold = tuple(peer for peer in self.leading if peer not in self.told and peer != self._plan.me)
        self.told.update(untold)
        return untold

    def others(self) -> tuple[PeerId, ...]:
        """The others that have come and are not gone, sorted."""
        return tuple(sorted(self.ready.keys() - self.gone - {self._plan.me}))


class Voting:
    """The group that has our vote, other groups that list us, and the votes that came."""

    def __init__(self, me: PeerId) -> None:
        self._me = me
        self.group: Group | None = None
        """The group that has our vote."""
        self.votes: dict[PeerId, Signed[Vote]] = {}
        self.withdrawn: set[PeerId] = set()
        """Peers that have declined since we voted: their votes will not come."""
        self._rivals: list[Group] = []

    def add_rival(self, group: Group) -> None:
        """Keep another group that lists us."""
        if self.group and len(self._rivals) < RIVALS and group.id != self.group.id:
            self._rivals.append(group)

    def possible(self, gone: set[PeerId]) -> Group | None:
        """The group that we may be in: the one that has our vote, or, where that cannot stand any more,
        another that lists us."""
        candidates = [self.group, *self._rivals] if self.group else []
        return next((group for group in candidates if self._can_stand(group, gone)), None)

    def votes_for(self, group: Group) -> tuple[Signed[Vote], ...]:
        """The votes of its other members that have come."""
        votes = (self.votes[peer] for peer in group.members if peer in self.votes)
        return tuple(vote for vote in votes if vote.stamp.group == group.id)

    def has_quorum(self, group: Group) -> bool:
        """Whether two thirds of its members have voted for ``group``, our own vote included if it was for
        this one."""
        return len(self.votes_for(group)) + (group is self.group) >= group.quorum

    def _can_stand(self, group: Group, gone: set[PeerId]) -> bool:
        """Whether enough of its members have neither voted for another group nor gone without a vote."""
        ours = {self._me} if group is self.group else set()
        certain = {vote.signer for vote in self.votes_for(group)} | ours
        lost = self.votes.keys() | self.withdrawn | gone | {self._me}
        return len(set(group.members) - (lost - certain)) >= group.quorum


@dataclass(slots=True)
class SignsOfLife:
    """When to ask the missing peers for the next sign of life, in the clock of ``now``."""

    pause: float
    due_at: float = math.inf

    def start(self, now: float) -> None:
        """Everybody has just been asked."""
        self.due_at = now + self.pause

    def is_due(self, now: float) -> bool:
        """Whether to ask now; the next pause is twice as long."""
        if now < self.due_at:
            return False
        self.pause *= 2
        self.due_at = now + self.pause
        return True


class Assembly:
    """The machine. Ends with a `Group`, or with a `NoGroup`."""

    def __init__(self, plan: AssemblyPlan) -> None:
        self._plan = plan
        self._peers = Presence(plan)
        self._voting = Voting(plan.me)
        self._signs = SignsOfLife(plan.first_look)
        self._witnesses: set[PeerId] = set()
        """Peers that may lead and have said that there is no place for us."""
        self._formed: Declined | None = None
        """The refusal of a peer that knows of a group without us."""
        self._has_proposed = False
        self._complete_since: float | None = None
        self._is_listening = True
        self._ended: NoGroup | None = None

    def start(self, now: float) -> Iterable[Command]:
        """Say that we are ready."""
        self._signs.start(now)
        audience = self._peers.audience()
        if audience:
            yield Send(tuple(audience), self._plan.ready.message)
        yield WakeAt(now)

    def handle(self, event: Event, now: float) -> Iterable[Command]:
        """Take note of what came, then see whether it is our turn to propose, or whether the group stands."""
        match event:
            case Received(signed):
                yield from self._hear(signed)
            case Unreached(peer):
                yield from self._lose(peer)
            case Woken():
                self._is_listening = False
        if self._ended or not self._is_listening:
            yield from self._decide(now)

    # --- what comes in --------------------------------------------------------------------------------------

    def _hear(self, signed: Signed[Message]) -> Iterator[Command]:
        match signed.message:
            case Ready():
                yield from self._hear_ready(cast("Signed[Ready]", signed))
            case Proposal():
                yield from self._hear_proposal(signed.signer, signed.message)
            case Vote():
                self._voting.votes.setdefault(signed.signer, cast("Signed[Vote]", signed))
            case Decline():
                if self._voting.group:
                    self._voting.withdrawn.add(signed.signer)
                else:
                    yield from self._hear_decline(signed.signer, signed.message)

    def _hear_ready(self, signed: Signed[Ready]) -> Iterator[Command]:
        peer = signed.signer
        peers = self._peers
        if self._has_proposed and peer not in peers.ready:
            yield Send((peer,), self._plan.too_late(signed.message))
            return
        if peer in peers.gone:
            peers.gone.discard(peer)
            yield from self._tell_again(peer)
        peers.ready.setdefault(peer, signed)
        if (
            peer not in peers.order
            and self._plan.has_our_model(signed.message)
            and peers.add_if_leading(peer)
        ):
            yield from self._tell_leaders()

    def _tell_again(self, peer: PeerId) -> Iterator[Command]:
        """Tell ``peer``, which may lead, again that we are ready: it was not here when we told it first.

        Only once: peers may come and go often.
        """
        if peer in self._peers.told:
            self._peers.told.discard(peer)
            yield Send((peer,), self._plan.ready.message)

    def _lose(self, peer: PeerId) -> Iterator[Command]:
        """Do not wait for a peer that cannot be reached. If it led, tell the peer that takes its place."""
        self._peers.gone.add(peer)
        yield from self._tell_leaders()

    def _tell_leaders(self) -> Iterator[Command]:
        """Tell the peers that may lead now and have not heard of us."""
        untold = self._peers.untold_leaders()
        if untold:
            yield Send(untold, self._plan.ready.message)

    def _hear_decline(self, peer: PeerId, decline: Decline) -> Iterator[Command]:
        """A peer that we would follow has turned us away, or several that may lead; or nobody is left that
        could still come."""
        peers = self._peers
        if decline.because is DeclineReason.ABSENT:
            # The two messages may overtake each other.
            has_come_since = peer in peers.ready and peer in peers.told
            yield from self._tell_again(peer) if has_come_since else self._lose(peer)
            return
        is_followed = self._is_led_by(peer)
        peers.gone.add(peer)
        ended: NoGroup = TooFew(decline.reason, decline.round)
        if decline.because is DeclineReason.FORMED:
            ended = self._formed = Declined(decline.reason, decline.round, peer)
        if peer in peers.order[:DEPUTIES]:
            self._witnesses.add(peer)
        is_nobody_left = not set(peers.order) - peers.gone - {self._plan.me}
        if is_followed or len(self._witnesses) >= WITNESSES or is_nobody_left:
            self._ended = ended

    def _is_led_by(self, peer: PeerId) -> bool:
        """Whether ``peer`` may lead, and comes before us."""
        candidates = [each for each in self._peers.order if each not in self._peers.gone or each == peer]
        leading = candidates[:DEPUTIES]
        if peer not in leading:
            return False
        me = self._plan.me
        return me not in leading or leading.index(peer) < leading.index(me)

    def _hear_proposal(self, proposer: PeerId, proposal: Proposal) -> Iterator[Command]:
        """Vote for it.

        If our vote is given already, say for which group, so that nobody waits for it here.
        """
        voted = self._voting.group
        if voted:
            yield Send((proposer,), Vote(), voted.id)
        seated = self._plan.seated_by(proposal)
        if seated is None:
            return  # the list does not hold, or is without us: we cannot vote on it
        group = groups.formed(self._plan.run, seated, proposal.unseated)
        if voted:
            self._voting.add_rival(group)
        else:
            yield from self._vote(group)

    def _vote(self, group: Group) -> Iterator[Command]:
        self._voting.group = group
        # A listed peer has come after all; our vote shows whether it can be reached.
        self._peers.gone -= set(group.members)
        others = tuple(peer for peer in group.members if peer != self._plan.me)
        if others:
            yield Send(others, Vote(), group.id)

    # --- deciding, after every event ------------------------------------------------------------------------

    def _decide(self, now: float) -> Iterator[Command]:
        """Finish if the group stands or cannot stand any more; else lead if it is our turn, or wait."""
        if self._ended:
            yield Finish(self._ended)
            return
        group = self._voting.possible(self._peers.gone)
        if group and self._voting.has_quorum(group):
            yield from self._turn_away_latecomers(group)
            yield Finish(replace(group, votes=self._voting.votes_for(group)))
            return
        has_failed = self._voting.group is not None and group is None
        if has_failed or now >= self._plan.give_up_at:
            yield Finish(self._no_group())
            return
        yield from self._lead_or_wait(now)

    def _no_group(self) -> NoGroup:
        if self._voting.group:
            return Unanswered("too few of the group answered", self._plan.round)
        return self._formed or TooFew("no leader proposed a group", self._plan.round)

    def _lead_or_wait(self, now: float) -> Iterator[Command]:
        peers = self._peers
        rank = peers.reachable.index(self._plan.me)
        may_lead = not self._voting.group and not self._has_proposed and rank < peers.deputies
        wake_at = self._wait_until(rank, now)
        if may_lead and now >= wake_at:
            yield from self._propose()
            yield from self._decide(now)
            return
        if now >= wake_at:
            wake_at = self._plan.give_up_at
        if may_lead:
            yield from self._ask_for_signs(peers.before_us if rank else peers.missing, now)
            wake_at = min(wake_at, self._signs.due_at)
        yield WakeAt(wake_at)

    def _wait_until(self, rank: int, now: float) -> float:
        """When it is our turn to propose: once all are here, or at ``close_at``; a deputy gives those before
        it some time."""
        close_at = self._plan.terms.close_at
        if self._peers.missing and now < close_at:
            self._complete_since = None
            return close_at
        if self._complete_since is None:
            self._complete_since = now
        place = min(self._peers.order.index(self._plan.me), LATEST_TURN) if rank else 0
        turn = self._complete_since + place * self._plan.patience / 4
        is_enough = self._plan.suffices([signed.message for signed in self._peers.here])
        if not (self._formed or is_enough):
            turn = max(turn, close_at)  # a peer may still come that we do not expect
        return turn

    def _ask_for_signs(self, peers: set[PeerId], now: float) -> Iterator[Command]:
        """Ask ``peers`` for a sign of life, if it is time."""
        if self._signs.is_due(now) and peers:
            yield Send(tuple(sorted(peers)), self._plan.ready.message)

    def _turn_away_latecomers(self, group: Group) -> Iterator[Command]:
        """Tell the peers that came to us after the list was made. (A proposer has told them when it
        proposed.)"""
        if self._has_proposed:
            return
        for peer in sorted(self._peers.ready.keys() - set(group.members) - self._peers.gone):
            yield Send((peer,), self._plan.too_late(self._peers.ready[peer].message))

    # --- leading --------------------------------------------------------------------------------------------

    def _propose(self) -> Iterator[Command]:
        """List the peers with the model of the majority, and tell the others why they are not listed."""
        self._has_proposed = True
        plan = self._plan
        peers = self._peers
        root = groups.majority_root(peers.here, plan.ready.message.state_root)
        candidates = [signed for signed in peers.here if signed.message.state_root == root]
        if plan.hierarchy:
            candidates = groups.one_per_level1_group(plan.hierarchy, candidates)
        seated = groups.seats(plan.run, candidates, plan.group_size, plan.me)
        unseated = plan.claimed(seated, len(candidates) - len(seated))
        members = {signed.signer for signed in seated}
        if not plan.fits(seated, unseated):
            yield from self._give_up([signed.message for signed in seated])
            return
        others = tuple(sorted(members - {plan.me}))
        if others:
            yield Send(others, Proposal(tuple(signed.raw for signed in seated), unseated))
        for peer in sorted(peers.ready.keys() - members - peers.gone - {plan.me}):
            yield Send((peer,), Decline(plan.round, self._why_unlisted(peer, root)))
        if plan.me in members:
            yield from self._vote(groups.formed(plan.run, seated, unseated))
        else:
            self._ended = Declined("our model differs from the majority's", plan.round)

    def _why_unlisted(self, peer: PeerId, root: bytes) -> str:
        if self._peers.ready[peer].message.state_root == root:
            return "all seats of this round are taken"
        return "your model differs from the majority's; fetch theirs"

    def _give_up(self, claims: Sequence[Ready]) -> Iterator[Command]:
        """Tell the peers that came that they are too few; or, if one of them knows of a group, that the round
        is over."""
        plan = self._plan
        participants = sum(claim.is_participant for claim in claims)
        reason = f"only {len(claims)} came, {plan.terms.least} are needed"
        if participants < plan.terms.least_participants:
            needed = plan.terms.least_participants
            reason = f"only {participants} came of those who were in the last average, {needed} are needed"
        self._ended = self._formed or TooFew(reason, plan.round)
        others = self._peers.others()
        if others:
            because = DeclineReason.FORMED if self._formed else DeclineReason.TOO_FEW
            yield Send(others, Decline(self._ended.round, self._ended.reason, because))
