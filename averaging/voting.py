"""The votes of an assembly: the group that has ours, other groups that list us, and the others' votes."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from swarm.identity import PeerId
from swarm.wire import Signed

from .assembly_plan import AssemblyPlan
from .certificate import Seated
from .groups import Group
from .messages import Vote

RIVALS = 4
"""Proposals kept besides the one that has our vote: a peer that leads twice cannot fill our memory."""
OFFERS = 8
"""Peers of which one proposal is kept until their turn has come."""
ASKED = 2
"""Voters for a group that nobody has proposed to us, of whom we ask for its list."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A proposal that we may sign, and when it came."""

    seated: Seated
    came_at: float


class Voting:
    """The group that has our vote, other groups that list us, and the votes that came."""

    def __init__(self, plan: AssemblyPlan) -> None:
        self._plan = plan
        self.seated: Seated | None = None
        """The group that has our vote."""
        self.votes: dict[PeerId, Signed[Vote]] = {}
        """The first vote of every peer, our own among them."""
        self.withdrawn: set[PeerId] = set()
        """Peers that have declined since we voted: their votes will not come."""
        self.offers: dict[PeerId, Offer] = {}
        """By proposer: the first group that it has proposed, while we have not voted."""
        self._rivals: list[Seated] = []

    def offer(self, proposer: PeerId, seated: Seated, now: float) -> None:
        """Keep a group that lists us: as an offer, or, once we have voted, as a rival of our group."""
        if self.seated is None:
            if proposer in self.offers or len(self.offers) < OFFERS:
                self.offers.setdefault(proposer, Offer(seated, now))
        elif len(self._rivals) < RIVALS and seated.group.id != self.seated.group.id:
            self._rivals.append(seated)

    def vote(self, seated: Seated) -> bool:
        """We are for ``seated``; the other offers are its rivals.

        Whether it gets our vote: if we have voted in this round before, it must stand by those of the others.
        """
        self.seated = seated
        vote = self._plan.sign_vote(seated.group.id)
        if vote:
            self.votes[self._plan.me] = vote
        for proposer, offer in self.offers.items():
            self.offer(proposer, offer.seated, offer.came_at)
        return vote is not None

    def possible(self, gone: Set[PeerId]) -> Seated | None:
        """The group that we may be in: the one that has our vote, or, where that cannot stand any more,
        another that lists us."""
        candidates = [self.seated, *self._rivals] if self.seated else []
        return next((seated for seated in candidates if self._can_stand(seated, gone)), None)

    def votes_for(self, group: Group) -> tuple[Signed[Vote], ...]:
        """The votes of its members that we have."""
        votes = (self.votes[peer] for peer in group.members if peer in self.votes)
        return tuple(vote for vote in votes if vote.stamp.group == group.id)

    def has_quorum(self, seated: Seated) -> bool:
        """Whether enough of its members have voted for a group."""
        return self._plan.stands(seated.group, self._voters(seated))

    def is_supported(self, proposer: PeerId, group: Group) -> bool:
        """Whether more than a third of its members, the ``proposer`` apart, have voted for ``group``: then
        not only liars have."""
        voters = {vote.signer for vote in self.votes_for(group)} - {proposer}
        return 3 * len(voters) > len(group.members)

    def is_worth_asking(self, vote: Signed[Vote]) -> bool:
        """Whether to ask the sender of ``vote`` for the list of its group: nobody has proposed it to us, and
        we have asked few others. Most often the list is on its way, and in a large group it is long."""
        group = vote.stamp.group
        known = {offer.seated.group.id for offer in self.offers.values()}
        earlier = sum(other.stamp.group == group for other in self.votes.values())
        return self.seated is None and group not in known and earlier < ASKED

    def _voters(self, seated: Seated) -> set[PeerId]:
        return {vote.signer for vote in self.votes_for(seated.group)}

    def _can_stand(self, seated: Seated, gone: Set[PeerId]) -> bool:
        """Whether enough of its members have neither voted for another group nor gone without a vote."""
        lost = self.votes.keys() | self.withdrawn | gone
        possible = set(seated.group.members) - (lost - self._voters(seated))
        return self._plan.stands(seated.group, possible)
