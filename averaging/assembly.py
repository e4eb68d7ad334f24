"""Peers form the group of a round: each says that it is ready, a leader lists them, and all co-sign the list.

    every peer --- Ready -------> the leader and its deputies   (drawn by hash from the roster)
    leader     --- Proposal ----> all peers on it               (their own Ready frames, nobody else's)
    every peer --- Vote --------> all peers on it               (one vote per round)
    more than 2/3 of the votes, and of those in the last average: the group stands

    state      event                       leads to
    ---------  --------------------------  -------------------------------------------------------------------
    listening  anything                    noted; nothing is decided before the first `Woken` (rule 5)
    gathering  Ready                       the peer has come; if it may lead, it hears that we are ready, too
               Unreached                   the peer is gone; the peer that leads in its place hears of us
               Proposal                    kept until its sender's turn has come (rule 7): voted
               Vote                        of a group that we have not heard of: its sender is asked about it
               Decline with a certificate  finished: the group stands without us
               Decline (too few)           from the leader in time, or from two that may lead: no group
               Decline (absent, no proof)  as Unreached: it may be a lie, and costs no more than a dead peer
               all are here, or close_at   if it is our turn: proposing; else we wait for a proposal
    proposing  (at once)                   Proposal to the members: voted
    voted      Vote                        noted; with enough votes: finished with the group
               Proposal                    kept as a rival, in case our group cannot stand any more
               Ready of a member           it has not heard of our group: it gets the list
               Unreached, Decline          that vote will not come; if too many are out of reach: `Unanswered`
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
Rule 4: a peer that comes late or with another model gets a certificate of the group that stands without it,
        keeps its update, and comes again in the next round.
Rule 5: messages that came before we began are heard before anything is decided.
Rule 6: fewer than ``least`` peers are no group, and neither are peers among whom too few were in the last
        average (`certificate.Electorate`), whichever peer proposes them: a few peers that do not see the
        others must not go on without them. A level-2 group has at most one representative of each level-1
        group (`hierarchy`).
Rule 7: no peer alone decides who is left out, or when. A list that lacks a peer of the last average which we
        expect gets our vote only at ``close_at``, or once that peer is gone. A list out of turn gets it a
        quarter of ``patience`` later, or with the votes of more than a third of its members. After an attempt
        that failed, when fewer votes are enough, a list must have everybody of the last average that has come
        to us.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from typing import cast

from swarm.identity import PeerId
from swarm.machine import Command, Event, Finish, Received, Send, Unreached, WakeAt, Woken
from swarm.wire import Message, Signed

from . import groups
from .assembly_plan import AssemblyPlan
from .certificate import CertifiedGroup, GroupCertificate, Seated, packed
from .groups import Group
from .messages import Decline, DeclineReason, Proposal, Ready, Vote
from .outcome import Declined, NoGroup, TooFew, Unanswered
from .presence import DEPUTIES, Presence, SignsOfLife
from .voting import Offer, Voting

WITNESSES = 2
"""If so many of the peers that may lead say that too few have come, we believe it."""
LATEST_TURN = 7
"""Deputies beyond this place do not wait longer than this one."""
LISTED = 192
"""Frames in a proposal, at most: with the votes they must fit into one control message."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """A group that stands, with us in it."""

    group: Group
    certificate: GroupCertificate


class Assembly:
    """The machine. Ends with `Assembled`, or with a `NoGroup`."""

    def __init__(self, plan: AssemblyPlan) -> None:
        self._plan = plan
        self._peers = Presence(plan)
        self._voting = Voting(plan)
        self._signs = SignsOfLife(plan.first_look)
        self._witnesses: set[PeerId] = set()
        """Peers that may lead and have said that too few have come."""
        self._forwarded: set[PeerId] = set()
        """Members of our group that have got its list from us."""
        self.let_down: set[PeerId] = set()
        """Peers that have kept us waiting until their time had passed."""
        self._has_proposed = False
        self._complete_since: float | None = None
        self._is_listening = True
        self._ended: Assembled | NoGroup | None = None

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
                yield from self._hear(signed, now)
            case Unreached(peer):
                yield from self._lose(peer)
            case Woken():
                self._is_listening = False
        if self._ended or not self._is_listening:
            yield from self._decide(now)

    # --- what comes in --------------------------------------------------------------------------------------

    def _hear(self, signed: Signed[Message], now: float) -> Iterator[Command]:
        match signed.message:
            case Ready() if signed.stamp.group == self._plan.ready.stamp.group:
                yield from self._hear_ready(cast("Signed[Ready]", signed))
            case Proposal():
                yield from self._hear_proposal(signed.signer, signed.message, now)
            case Vote():
                yield from self._hear_vote(cast("Signed[Vote]", signed))
            case Decline():
                yield from self._hear_decline(signed.signer, signed.message, now)

    def _hear_ready(self, signed: Signed[Ready]) -> Iterator[Command]:
        peer = signed.signer
        peers = self._peers
        if peer in peers.gone:
            peers.gone.discard(peer)
            yield from self._tell_again(peer)
        peers.ready.setdefault(peer, signed)
        yield from self._forward(peer)
        if (
            peer not in peers.order
            and self._plan.has_our_model(signed.message)
            and peers.add_if_leading(peer)
        ):
            yield from self._tell_leaders()

    def _forward(self, peer: PeerId) -> Iterator[Command]:
        """Give a member of our group its list, once: whoever proposed it may not have told everybody."""
        seated = self._voting.seated
        is_waiting = seated and peer in seated.group.members and peer not in self._voting.votes
        if seated and is_waiting and peer not in self._forwarded and not self._has_proposed:
            self._forwarded.add(peer)
            yield Send((peer,), self._proposal(seated))

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

    def _hear_vote(self, vote: Signed[Vote]) -> Iterator[Command]:
        """Note it; ask its sender for the list if that is worth it."""
        if vote.signer not in self._voting.votes and self._voting.is_worth_asking(vote):
            yield from self._ask({vote.signer})
        self._voting.votes.setdefault(vote.signer, vote)

    def _hear_decline(self, peer: PeerId, decline: Decline, now: float) -> Iterator[Command]:
        """A group stands without us, if the certificate says so; or too few have come, if the leader says so
        in time, or two that may lead, or if nobody is left that could still come."""
        formed = self._plan.certified(decline.certificate) if decline.certificate else None
        if formed:
            self._ended = self._without_us(formed, peer, decline.round)
            return
        if self._voting.seated:
            self._voting.withdrawn.add(peer)
            return
        peers = self._peers
        if decline.because is not DeclineReason.TOO_FEW:
            # The two messages may overtake each other.
            has_come_since = peer in peers.ready and peer in peers.told
            yield from self._tell_again(peer) if has_come_since else self._lose(peer)
            return
        is_leader = peer == peers.reachable[0] and now >= self._plan.terms.close_at
        peers.gone.add(peer)
        if peer in peers.order[:DEPUTIES]:
            self._witnesses.add(peer)
        is_nobody_left = not set(peers.order) - peers.gone - {self._plan.me}
        if is_leader or len(self._witnesses) >= WITNESSES or is_nobody_left:
            self._ended = TooFew("too few peers came", self._plan.round)

    def _without_us(self, formed: CertifiedGroup, by: PeerId, round_: int) -> Assembled | Declined:
        """What it means for us that a group stands. We may be in it and not have heard of it."""
        if not self._plan.has_our_model(formed.seated.ready[0].message):
            return Declined("our model differs from the majority's", self._plan.round, by)
        if self._plan.has_us(formed.seated):
            return Assembled(formed.group, formed.certificate)
        round_ = min(round_, self._plan.round + 1)
        return Declined("the group of this round is formed without us", round_, by)

    def _hear_proposal(self, proposer: PeerId, proposal: Proposal, now: float) -> Iterator[Command]:
        """Keep it if we may vote for it.

        If our vote is given already, say for which group, so that nobody waits for it here.
        """
        voted = self._voting.votes.get(self._plan.me)
        if voted:
            yield Send((proposer,), Vote(), voted.stamp.group)
        seated = self._plan.seated_by(proposal)
        if seated is None:
            return  # the list does not hold, or is without us: we cannot vote on it
        if self._plan.fits(seated):
            self._voting.offer(proposer, seated, now)
        elif not voted and now >= self._plan.terms.close_at:
            # The others try again, with fewer votes, what has failed for us as well by now.
            self._ended = TooFew("too few peers came", self._plan.round)

    def _vote(self, seated: Seated) -> Iterator[Command]:
        has_vote = self._voting.vote(seated)
        # A listed peer has come after all; our vote shows whether it can be reached.
        self._peers.gone -= set(seated.group.members)
        others = tuple(peer for peer in seated.group.members if peer != self._plan.me)
        if others and has_vote:
            yield Send(others, Vote(), seated.group.id)

    # --- deciding, after every event ------------------------------------------------------------------------

    def _decide(self, now: float) -> Iterator[Command]:
        """Finish if the group stands or cannot stand any more; else lead if it is our turn, or wait."""
        if self._ended:
            yield Finish(self._ended)
            return
        if not self._voting.seated:
            yield from self._take_offer(now)
        seated = self._voting.possible(self._peers.gone)
        if seated and self._voting.has_quorum(seated):
            certificate = seated.certificate(self._voting.votes_for(seated.group))
            yield from self._turn_away_latecomers(seated.group, certificate)
            yield Finish(Assembled(seated.group, certificate))
            return
        has_failed = self._voting.seated is not None and seated is None
        if has_failed or now >= self._plan.give_up_at:
            yield Finish(self._no_group())
            return
        yield from self._lead_or_wait(now)

    def _turn_away_latecomers(self, group: Group, certificate: GroupCertificate) -> Iterator[Command]:
        """Prove to the peers that came and are not in the group that it stands."""
        raw = packed(certificate)
        for peer in sorted(self._peers.ready.keys() - set(group.members) - self._peers.gone):
            yield Send((peer,), self._plan.too_late(self._peers.ready[peer].message, raw))

    def _no_group(self) -> NoGroup:
        if self._voting.seated:
            return Unanswered("too few of the group answered", self._plan.round)
        return TooFew("no leader proposed a group", self._plan.round)

    def _lead_or_wait(self, now: float) -> Iterator[Command]:
        peers = self._peers
        rank = peers.reachable.index(self._plan.me)
        may_lead = not self._voting.seated and not self._has_proposed and rank < peers.deputies
        if may_lead and self._witnesses and self._confirms_too_few(now):
            yield from self._give_up(len(peers.here))
            yield from self._decide(now)
            return
        turn = self._wait_until(rank, now)
        if may_lead and now >= turn:
            yield from self._join_or_propose(now)
            yield from self._decide(now)
            return
        wake_at = [turn if turn > now else self._plan.give_up_at, *self._offers_due(now)]
        if may_lead:
            yield from self._ask_for_signs(peers.before_us if rank else peers.missing, now)
            wake_at.append(self._signs.due_at)
        yield WakeAt(min(wake_at))

    def _offers_due(self, now: float) -> list[float]:
        """When we may vote for the offers that we have, if not now."""
        if self._voting.seated:
            return []
        times = [self._acceptable_at(proposer, offer) for proposer, offer in self._voting.offers.items()]
        return [time for time in times if time > now]

    def _confirms_too_few(self, now: float) -> bool:
        """Whether we, to whom everybody has come as well, see that too few have: one peer's word is not
        enough, and that of a second one should come soon."""
        is_time = now >= self._plan.terms.close_at
        return is_time and not self._plan.suffices([signed.signer for signed in self._peers.here])

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
        is_enough = self._plan.suffices([signed.signer for signed in self._peers.here])
        if not is_enough:
            turn = max(turn, close_at)  # a peer may still come that we do not expect
        return turn

    def _ask_for_signs(self, peers: set[PeerId], now: float) -> Iterator[Command]:
        """Ask ``peers`` for a sign of life, if it is time."""
        if self._signs.is_due(now) and peers:
            yield Send(tuple(sorted(peers)), self._plan.ready.message)

    # --- voting on what others propose (rule 7) -------------------------------------------------------------

    def _take_offer(self, now: float) -> Iterator[Command]:
        """Vote for the first offer, in the order of leaders, for which it is time.

        Ask the peers that stand in the way of the others for a sign of life: a dead one refuses.
        """
        offers = self._voting.offers
        for proposer in self._plan.ordered(offers):
            offer = offers[proposer]
            if now >= self._acceptable_at(proposer, offer):
                yield from self._vote(offer.seated)
                return
            yield from self._ask(self._peers.before(proposer) | self._lacking(offer.seated))

    def _ask(self, peers: Set[PeerId]) -> Iterator[Command]:
        asked = self._peers.to_ask(peers)
        if asked:
            yield Send(asked, self._plan.ready.message)

    def _acceptable_at(self, proposer: PeerId, offer: Offer) -> float:
        """When an offer gets our vote, as far as we know now."""
        seated = offer.seated
        if not self._lists_all_that_it_must(seated):
            return math.inf
        if self._voting.is_supported(proposer, seated.group):
            return offer.came_at
        at = offer.came_at
        if self._lacking(seated):
            at = max(at, self._plan.terms.close_at)
        if self._peers.before(proposer) - {self._plan.me}:
            at += self._plan.patience / 4
        return at

    def _lists_all_that_it_must(self, seated: Seated) -> bool:
        return not self._plan.must_list(self._peers.here) - set(seated.group.members)

    def _lacking(self, seated: Seated) -> set[PeerId]:
        """The peers of the last average that we expect, that are not gone, and that a list lacks although it
        has room for them."""
        electorate = self._plan.terms.electorate.members
        if seated.unseated or self._plan.hierarchy or electorate is None:
            return set()
        return set(electorate & {*self._plan.terms.expected}) - set(seated.group.members) - self._peers.gone

    # --- leading --------------------------------------------------------------------------------------------

    def _join_or_propose(self, now: float) -> Iterator[Command]:
        """It is our turn: vote for what another peer has proposed, rather than propose something else beside
        it."""
        offers = self._voting.offers
        for proposer in self._plan.ordered(offers):
            seated = offers[proposer].seated
            is_due = now >= self._plan.terms.close_at or not self._lacking(seated)
            if is_due and self._lists_all_that_it_must(seated):
                yield from self._vote(seated)
                return
        yield from self._propose(now)

    def _propose(self, now: float) -> Iterator[Command]:
        """List the peers with the model of the majority."""
        self._has_proposed = True
        plan = self._plan
        if now >= plan.terms.close_at:  # before that, a leader may well wait for a peer that is missing
            self.let_down |= self._peers.missing | self._peers.before_us
        seated = self._list()
        members = set(seated.group.members)
        if not plan.fits(seated):
            yield from self._give_up(len(members))
            return
        others = tuple(sorted(members - {plan.me}))
        if others:
            yield Send(others, self._proposal(seated))
        if plan.me in members:
            yield from self._vote(seated)
        else:
            self._ended = Declined("our model differs from the majority's", plan.round)

    def _list(self) -> Seated:
        """The group that we propose."""
        plan = self._plan
        here = [signed for signed in self._peers.here if plan.is_plausible(signed.message)]
        majority = groups.majority_lineage(here, plan.ready.message)
        candidates = [
            signed for signed in here if (signed.message.state_root, signed.message.parent) == majority
        ]
        if plan.hierarchy:
            candidates = groups.one_per_level1_group(plan.hierarchy, candidates)
        ready = groups.seats(plan.run, candidates, plan.group_size, plan.me)
        members = {signed.signer for signed in ready}
        others = sorted(
            (signed for signed in candidates if signed.signer not in members),
            key=lambda signed: signed.signer,
        )
        unseated = tuple(others[: max(0, LISTED - len(ready))]) if not plan.hierarchy else ()
        group = groups.formed(plan.run, ready, len(unseated), plan.level1_groups)
        return Seated(group, tuple(ready), unseated, plan.level1_groups)

    def _proposal(self, seated: Seated) -> Proposal:
        ready = tuple(signed.raw for signed in seated.ready)
        return Proposal(ready, tuple(signed.raw for signed in seated.unseated))

    def _give_up(self, came: int) -> Iterator[Command]:
        """Tell the peers that came that they are too few."""
        plan = self._plan
        electorate = plan.terms.electorate
        reason = f"only {came} came, {max(plan.terms.least, electorate.needed)} are needed"
        if electorate.members is not None and came >= electorate.needed:
            voters = electorate.members.intersection(signed.signer for signed in self._peers.here)
            reason = (
                f"only {len(voters)} came of those who were in the last average, "
                f"{electorate.needed} are needed"
            )
        self._ended = TooFew(reason, plan.round)
        others = self._peers.others()
        if others:
            yield Send(others, Decline(plan.round, reason, DeclineReason.TOO_FEW))
