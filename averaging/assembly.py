"""Who averages together in this round: everybody says it is ready, a leader lists them, and they co-sign the list.

    every peer --- Ready ------------> the leader and its deputies      (drawn by hash from the roster)
    leader     --- Proposal ---------> everybody on it                  (their own Ready frames: nobody is listed who did not come)
    every peer --- Vote -------------> everybody on it                  (one vote per round)
    2/3 of the votes: the group stands

Rule 1: a peer signs one vote per round, so it is never in two groups and no cycle of waiting can form. Where the group that has its
        vote cannot stand any more, it joins another that lists it and stands by the votes of the others.
Rule 2: the leader waits for those it expects until ``close_at``; the unreachable are not waited for. It asks for a sign of life
        now and then, first soon and then ever more seldom: whoever has died since it was told refuses the connection.
Rule 3: a silent leader is replaced: deputy k proposes k/4 of ``patience`` after the leader should have; at once, where it knows
        that all before it are gone, and it asks for signs of theirs. (Not earlier where only some are: the one before it may not
        know, and votes would split.) Whoever comes unexpected may lead, too: it hears then who else has come.
Rule 4: who comes late or with another model gets a reason, keeps its update, and comes again in the next round.
        It ends by that only where a leader says so, or where nobody is left who could still come.
Rule 5: what came before we began is heard before anything is decided.
Rule 6: fewer than ``least`` are no group, whoever proposes them: a few who do not see the others must not go on without them.
        In a council nobody sits beside another delegate of its own cell (`hierarchy`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from swarm.errors import TheirFault
from swarm.identity import PeerId
from swarm.machine import Command, Event, Finish, Received, Send, Unreached, WakeAt, Woken
from swarm.wire import Signed, open_frame

from . import groups
from .groups import Group
from .hierarchy import Hierarchy
from .messages import Decline, DeclineReason, Proposal, Ready, Vote

DEPUTIES = 3
"""How many of the first in the order of leaders get every `Ready`."""
RIVALS = 4
"""Proposals besides the one that has our vote that we keep: whoever leads twice makes no more of them."""
WITNESSES = 2
"""So many of them that say that there is a group without us are believed, whoever leads."""
GROWTH, YOUNG = 2, 512
"""Nobody is believed who claims a population of more than `GROWTH` times those that we know, or than `YOUNG` where we know few."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """No group for us in this round: ``reason`` for people; ``round`` where the run stands, as far as somebody told us."""

    reason: str
    round: int
    declined: bool = False
    """Whether a leader turned us away: then there is a group without us."""
    by: PeerId | None = None
    """Who told us so."""
    signed: bool = False
    """Whether we have voted for a group that came to nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What an assembly starts from. Times are in the clock of ``now``."""

    run: bytes
    me: Signed[Ready]
    """Our own sealed `Ready`."""
    expected: tuple[PeerId, ...]
    """Who should come, by our roster."""
    close_at: float
    """When the leader stops waiting for those who have not come."""
    patience: float
    """Seconds: how long the others wait for a leader beyond that."""
    first_look: float
    """Seconds until the leader asks the missing for a sign of life. Each further pause is twice as long."""
    group_size: int
    least: int = 1
    """Members without whom there is no group."""
    elders: int = 0
    """So many of them must have been in the last average: newcomers are no group beside those who go on."""
    population: int = 1
    """Peers of the last round, as all know who have its model."""
    around: int = 1
    """Peers that are here, as far as we know."""
    level2: Hierarchy | None = None
    """In a council: the cells whose delegates come."""
    leads: PeerId | None = None
    """Who leads if it is there; else a hash decides."""

    def fits(self, seated: Sequence[Signed[Ready]], unseated: int) -> bool:
        """Whether those who are ``seated`` may be a group: neither too few nor too many, and who speaks for others may."""
        words, known = [signed.message for signed in seated], max(YOUNG, self.population, self.around)
        if self.level2:
            speaks = len({self.level2.group_index(signed.signer) for signed in seated}) == len(seated)
        else:
            speaks = all(word.peers == 1 for word in words)
        is_sane = unseated + sum(word.peers for word in words) <= GROWTH * known
        return speaks and is_sane and self.suffices(words) and len(seated) <= self.group_size

    def claimed(self, seated: Sequence[Signed[Ready]], unseated: int) -> int:
        """How many to name beside those who are ``seated``: the ``unseated``, and in a council as many for each cell that nobody
        speaks for as for the others: they are most likely late. No more than everybody believes, however few it knows."""
        spoken_for = sum(signed.message.peers for signed in seated)
        if self.level2:
            unseated += spoken_for * (self.level2.count - len(seated)) // len(seated)
        return max(0, min(unseated, GROWTH * max(YOUNG, self.population) - spoken_for))

    def suffices(self, words: Sequence[Ready]) -> bool:
        """Whether those who say ``words`` are enough."""
        return len(words) >= self.least and sum(word.is_participant for word in words) >= self.elders

    def seated_by(self, proposal: Proposal) -> list[Signed[Ready]] | None:
        """The members of a proposal that we may sign: genuine, of this round, of one model (ours), and with us on it."""
        seated: list[Signed[Ready]] = []
        for raw in proposal.ready:
            try:
                signed = open_frame(raw, Ready, run=self.run, limit=4096)
            except TheirFault:
                return None
            here = (signed.stamp.round, signed.stamp.group)
            if (
                here != (self.me.stamp.round, self.me.stamp.group)
                or signed.message.state_root != self.me.message.state_root
            ):
                return None
            seated.append(signed)
        members = {signed.signer for signed in seated}
        is_ours = self.me.signer in members and len(members) == len(seated)
        return seated if is_ours and self.fits(seated, proposal.unseated) else None

    def ordered(self, candidates: Iterable[PeerId]) -> list[PeerId]:
        """In which order they lead."""
        drawn, first = groups.leaders(self.run, self.me.stamp.round, candidates), self.leads
        return [first, *(peer for peer in drawn if peer != first)] if first in drawn else drawn

    def too_late(self, word: Ready) -> Decline:
        """The answer to ``word`` when our list is made; to who comes with another model it is only that we are none of its own."""
        if word.state_root != self.me.message.state_root:
            return Decline(self.me.stamp.round, "we train from another model", DeclineReason.ABSENT)
        return Decline(self.me.stamp.round, "the group of this round is formed; come with the next")


class Assembly:
    """The machine. Ends with a `Group`, or with `LeftOut`."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._me = call.me.signer
        self._round = call.me.stamp.round
        self._ready: dict[PeerId, Signed[Ready]] = {self._me: call.me}
        self._gone: set[PeerId] = set()
        self._witnesses: set[PeerId] = set()
        self._is_over: LeftOut | None = None
        self._rivals: list[Group] = []
        self._votes: dict[PeerId, Signed[Vote]] = {}
        self._elsewhere: set[PeerId] = set()
        self._group: Group | None = None
        self._proposed = False
        self._complete_since: float | None = None
        self._look_at, self._pause = math.inf, call.first_look
        self._listening = True
        self._left: LeftOut | None = None
        self._told: set[PeerId] = set()
        self._order = call.ordered({self._me, *call.expected})

    def start(self, now: float) -> Iterable[Command]:
        """Say that we are ready, to the leaders; a leader says it to everybody, which also shows who is gone."""
        self._look_at = now + self._pause
        audience = [peer for peer in self._order if peer != self._me]
        if self._me not in self._order[: self._deputies]:
            audience = self._order[: self._deputies]
        self._told.update(audience)
        if audience:
            yield Send(tuple(audience), self._call.me.message)
        yield WakeAt(now)

    def handle(self, event: Event, now: float) -> Iterable[Command]:
        """Take note of what came, then see whether it is our turn to propose, or whether the group stands."""
        match event:
            case Received(signed) if isinstance(signed.message, Ready):
                yield from self._hear_ready(cast("Signed[Ready]", signed))
            case Received(signed) if isinstance(signed.message, Proposal):
                yield from self._hear_proposal(signed.signer, signed.message)
            case Received(signed) if isinstance(signed.message, Vote):
                self._votes.setdefault(signed.signer, cast("Signed[Vote]", signed))
            case Received(signed) if isinstance(signed.message, Decline) and not self._group:
                yield from self._hear_decline(signed.signer, signed.message)
            case Received(signed) if isinstance(signed.message, Decline):
                self._elsewhere.add(signed.signer)
            case Unreached(peer):
                yield from self._lose(peer)
            case Woken():
                self._listening = False
        if self._left or not self._listening:
            yield from self._think(now)

    @property
    def _deputies(self) -> int:
        """How many hear everybody. In a council all: it is small, and who of its cell comes is known to nobody before."""
        return len(self._order) if self._call.level2 else DEPUTIES

    def _hear_ready(self, signed: Signed[Ready]) -> Iterator[Command]:
        peer = signed.signer
        if self._proposed and peer not in self._ready:
            yield Send((peer,), self._call.too_late(signed.message))
            return
        if peer in self._gone:
            self._gone.discard(peer)
            yield from self._tell_again(peer)
        self._ready.setdefault(peer, signed)
        if peer not in self._order and signed.message.state_root == self._call.me.message.state_root:
            yield from self._make_room(peer)

    def _make_room(self, peer: PeerId) -> Iterator[Command]:
        """One of our model whom we did not expect: if it is among the first, it may lead. Who is not costs us nothing more."""
        if peer in self._call.ordered([*self._leading, peer])[:DEPUTIES]:
            self._order = self._call.ordered([*self._order, peer])
            yield from self._tell_leaders()

    def _tell_again(self, peer: PeerId) -> Iterator[Command]:
        """What we told ``peer`` before it was here is lost, and it may lead. Once: who comes and goes is not courted."""
        if peer in self._told:
            self._told.discard(peer)
            yield Send((peer,), self._call.me.message)

    def _lose(self, peer: PeerId) -> Iterator[Command]:
        """A peer that cannot be reached is not waited for; where it led, the deputies already have our `Ready`."""
        self._gone.add(peer)
        yield from self._tell_leaders()

    @property
    def _leading(self) -> list[PeerId]:
        """The first of those who are not gone."""
        return [peer for peer in self._order if peer not in self._gone][:DEPUTIES]

    def _tell_leaders(self) -> Iterator[Command]:
        """Whoever leads now and has not heard of us."""
        fresh = tuple(p for p in self._leading if p not in self._told and p != self._me)
        self._told.update(fresh)
        if fresh:
            yield Send(fresh, self._call.me.message)

    def _hear_decline(self, peer: PeerId, decline: Decline) -> Iterator[Command]:
        """One that we would follow has turned us away, or several that may lead; or nobody is left who could still come."""
        leading = [p for p in self._order if p not in self._gone or p == peer][:DEPUTIES]
        follows = peer in leading and (
            self._me not in leading or leading.index(peer) < leading.index(self._me)
        )
        if decline.because is DeclineReason.ABSENT:
            has_come = (
                peer in self._ready and peer in self._told
            )  # since it said so: the two may overtake each other
            yield from self._tell_again(peer) if has_come else self._lose(peer)
            return
        self._gone.add(peer)
        left = LeftOut(decline.reason, decline.round, decline.because is DeclineReason.FORMED, peer)
        if left.declined:
            self._is_over = left
        if peer in self._order[:DEPUTIES]:
            self._witnesses.add(peer)
        if follows or len(self._witnesses) >= WITNESSES or not set(self._order) - self._gone - {self._me}:
            self._left = left

    def _hear_proposal(self, proposer: PeerId, proposal: Proposal) -> Iterator[Command]:
        """Vote for it; where our vote is given, say to whom: nobody shall wait for it, but it may stand all the same."""
        if self._group:
            yield Send((proposer,), Vote(), self._group.id)
        seated = self._call.seated_by(proposal)
        if seated is None:
            return  # a list that does not hold, or without us: not ours to vote on
        group = groups.formed(self._call.run, seated, proposal.unseated)
        if not self._group:
            yield from self._vote(group)
        elif len(self._rivals) < RIVALS and group.id != self._group.id:
            self._rivals.append(group)

    def _vote(self, group: Group) -> Iterator[Command]:
        self._group = group
        self._gone -= set(
            group.members
        )  # who is listed has come after all: our vote will show whether it can be reached
        others = tuple(peer for peer in group.members if peer != self._me)
        if others:
            yield Send(others, Vote(), group.id)

    def _think(self, now: float) -> Iterator[Command]:
        """The whole decision, after every event: done? our turn to propose? when to look again?"""
        call = self._call
        if self._left:
            yield Finish(self._left)
            return
        group = self._hope
        signed = self._votes_for(group) if group else ()
        if group and len(signed) + (group is self._group) >= group.quorum:
            yield from self._turn_away(group)
            yield Finish(replace(group, votes=signed))
            return
        if now >= call.close_at + 2 * call.patience or (self._group and not group):
            unanswered = LeftOut("too few of the group answered", self._round, signed=True)
            yield Finish(
                unanswered
                if self._group
                else self._is_over or LeftOut("no leader proposed a group", self._round)
            )
            return
        missing = {self._me, *call.expected} - self._ready.keys() - self._gone
        rank = [peer for peer in self._order if peer not in self._gone].index(self._me)
        if missing and now < call.close_at:
            self._complete_since = None
            wake = call.close_at
        else:
            if self._complete_since is None:
                self._complete_since = now
            turn = (
                self._complete_since
                + (min(self._order.index(self._me), 7) if rank else 0) * call.patience / 4
            )
            if not (self._is_over or call.suffices([signed.message for signed in self._here])):
                turn = max(turn, call.close_at)  # somebody may come whom we do not expect
            if not self._group and not self._proposed and rank < self._deputies and now >= turn:
                yield from self._propose()
                yield from self._think(now)
                return
            wake = turn if now < turn else call.close_at + 2 * call.patience
        if not self._group and not self._proposed and rank < self._deputies:
            yield from self._look_for(self._before if rank else missing, now)
            wake = min(wake, self._look_at)
        yield WakeAt(wake)

    @property
    def _before(self) -> set[PeerId]:
        """Those who lead before us, as far as we know: they may have come, and died before they could propose."""
        return set(self._order[: self._order.index(self._me)]) - self._gone

    @property
    def _hope(self) -> Group | None:
        """The group that we may be in: the one that has our vote, or, where that cannot stand, another that lists us."""
        candidates = [self._group, *self._rivals] if self._group else []
        return next((group for group in candidates if self._can_stand(group)), None)

    def _votes_for(self, group: Group) -> tuple[Signed[Vote], ...]:
        """The votes of its other members that we have seen."""
        votes = (self._votes[peer] for peer in group.members if peer in self._votes)
        return tuple(vote for vote in votes if vote.stamp.group == group.id)

    def _can_stand(self, group: Group) -> bool:
        """Whether enough of its members have neither voted for another one nor gone without a vote."""
        ours = {self._me} if group is self._group else set()
        sure = {vote.signer for vote in self._votes_for(group)} | ours
        lost = self._votes.keys() | self._elsewhere | self._gone | {self._me}
        return len(set(group.members) - (lost - sure)) >= group.quorum

    def _turn_away(self, group: Group) -> Iterator[Command]:
        """Who has come to us after the list was made hears that it is; a proposer has told its own."""
        late = () if self._proposed else sorted(self._ready.keys() - set(group.members) - self._gone)
        for peer in late:
            yield Send((peer,), self._call.too_late(self._ready[peer].message))

    def _look_for(self, whom: set[PeerId], now: float) -> Iterator[Command]:
        """Ask ``whom`` for a sign of life, if it is time. `start` has just asked everybody."""
        if now >= self._look_at:
            self._pause *= 2
            self._look_at = now + self._pause
            if whom:
                yield Send(tuple(sorted(whom)), self._call.me.message)

    @property
    def _here(self) -> list[Signed[Ready]]:
        """Who has come and has not gone."""
        return [signed for peer, signed in self._ready.items() if peer not in self._gone]

    def _propose(self) -> Iterator[Command]:
        self._proposed = True
        root = groups.majority_root(self._here, self._call.me.message.state_root)
        same = [signed for signed in self._here if signed.message.state_root == root]
        if self._call.level2:
            same = groups.speakers(self._call.level2, same)
        seated = groups.seats(self._call.run, same, self._call.group_size, self._me)
        members, unseated = (
            {signed.signer for signed in seated},
            self._call.claimed(seated, len(same) - len(seated)),
        )
        others = tuple(sorted(members - {self._me}))
        if not self._call.fits(seated, unseated):
            yield from self._give_up([signed.message for signed in seated])
            return
        if others:
            yield Send(others, Proposal(tuple(signed.raw for signed in seated), unseated))
        for peer in sorted(self._ready.keys() - members - self._gone - {self._me}):
            same_root = self._ready[peer].message.state_root == root
            why = (
                "all seats of this round are taken"
                if same_root
                else "your model differs from the majority's; fetch theirs"
            )
            yield Send((peer,), Decline(self._round, why))
        if self._me in members:
            yield from self._vote(groups.formed(self._call.run, seated, unseated))
        else:
            self._left = LeftOut("our model differs from the majority's", self._round, declined=True)

    def _give_up(self, words: Sequence[Ready]) -> Iterator[Command]:
        """Those who have come hear that they are too few; or, where one of the others has said so, that the round is over."""
        reason, elders = (
            f"only {len(words)} came, {self._call.least} are needed",
            sum(word.is_participant for word in words),
        )
        if elders < self._call.elders:
            reason = (
                f"only {elders} came of those who were in the last average, {self._call.elders} are needed"
            )
        self._left = self._is_over or LeftOut(reason, self._round)
        others = tuple(sorted(self._ready.keys() - self._gone - {self._me}))
        if others:
            because = DeclineReason.FORMED if self._is_over else DeclineReason.TOO_FEW
            yield Send(others, Decline(self._left.round, self._left.reason, because))
