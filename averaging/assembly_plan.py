"""What an assembly starts from, and which groups it may sign.

The same questions for a leader that lists peers, for a member that votes, and for a peer that is shown a
certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

from swarm.errors import TheirFault
from swarm.identity import PeerId
from swarm.wire import Signed

from . import groups
from .certificate import CertifiedGroup, Seated, seated_by, unpacked_group
from .groups import Group
from .hierarchy import Hierarchy
from .messages import Decline, DeclineReason, Proposal, Ready, Vote
from .terms import GroupTerms


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
    most_tokens: int
    """The most tokens that one peer can have trained on in a round."""
    sign_vote: Callable[[bytes], Signed[Vote] | None]
    """Our signed vote for the group of this id; None if we have voted in this round before."""
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
    def level1_groups(self) -> int:
        """How many representatives could come; 0 if this is no level-2 group."""
        return self.hierarchy.count if self.hierarchy else 0

    @property
    def give_up_at(self) -> float:
        """When an assembly ends without a group."""
        return self.terms.close_at + 2 * self.patience

    def fits(self, seated: Seated) -> bool:
        """Whether these peers may be a group: neither too few nor too many, and none represents, or claims to
        have trained on, more than it can."""
        members = seated.group.members
        is_plausible = all(self.is_plausible(signed.message) for signed in seated.ready)
        is_of_a_size = self.suffices(members) and len(members) <= self.group_size
        return is_plausible and is_of_a_size and self._may_represent(members)

    def is_plausible(self, ready: Ready) -> bool:
        """Whether a peer can stand for so many peers, and have trained on so many tokens."""
        return (ready.peers == 1 or self.hierarchy is not None) and (
            ready.tokens <= self.most_tokens * ready.peers
        )

    def _may_represent(self, members: Sequence[PeerId]) -> bool:
        """Whether no level-1 group has two representatives."""
        if self.hierarchy is None:
            return True
        return len({self.hierarchy.group_index(member) for member in members}) == len(members)

    def suffices(self, members: Sequence[PeerId]) -> bool:
        """Whether these peers are enough for a group."""
        return len(members) >= self.terms.least and self.terms.electorate.elects(members)

    def stands(self, group: Group, voters: Set[PeerId]) -> bool:
        """Whether the votes of ``voters`` are enough for ``group``."""
        return len(voters) >= group.quorum and self.terms.electorate.elects(voters)

    def seated_by(self, proposal: Proposal) -> Seated | None:
        """The group of a proposal that concerns us: genuine, of this round and level, with our model, and
        with us among its members. Whether we may sign it, `fits` says."""
        try:
            seated = seated_by(proposal.ready, proposal.unseated, self.run, self.level1_groups)
        except TheirFault:
            return None
        first = seated.ready[0]
        is_here = (first.stamp.round, first.stamp.group) == (self.round, self.ready.stamp.group)
        is_ours = is_here and self.has_us(seated) and self.has_our_model(first.message)
        return seated if is_ours else None

    def has_us(self, seated: Seated) -> bool:
        """Whether a list has us, by what we say now.

        An earlier `Ready` of ours, from an attempt that failed, claims other tokens than we then commit to.
        """
        return any(
            signed.message == self.ready.message for signed in seated.ready if signed.signer == self.me
        )

    def certified(self, certificate: bytes) -> CertifiedGroup | None:
        """The group of this round and level that ``certificate`` proves to stand; None if it proves none."""
        try:
            formed = unpacked_group(certificate, self.run)
        except TheirFault:
            return None
        first = formed.seated.ready[0]
        is_here = (first.stamp.round, first.stamp.group) == (self.round, self.ready.stamp.group)
        members = formed.group.members
        is_of_a_size = len(members) >= self.terms.least and self._may_represent(members)
        is_level = formed.seated.level1_groups == self.level1_groups and self._is_near(formed.voters)
        holds = is_here and is_level and is_of_a_size and self.terms.electorate.believes(formed.voters)
        return formed if holds else None

    def _is_near(self, voters: Set[PeerId]) -> bool:
        """Whether most of ``voters`` belong to our level-1 group: anybody can show us the certificate of
        another one."""
        hierarchy = self.terms.level1
        if hierarchy is None:
            return True
        ours = [voter for voter in voters if hierarchy.group_index(voter) == hierarchy.group_index(self.me)]
        return 2 * len(ours) > len(voters)

    def has_our_model(self, ready: Ready) -> bool:
        """Whether the sender of ``ready`` trains from the same model as we do."""
        ours = self.ready.message
        return (ready.state_root, ready.parent) == (ours.state_root, ours.parent)

    def ordered(self, candidates: Iterable[PeerId]) -> list[PeerId]:
        """The order in which ``candidates`` lead."""
        drawn = groups.leaders(self.run, self.round, self.ready.message.state_root, candidates)
        first = self.terms.leader
        return [first, *(peer for peer in drawn if peer != first)] if first in drawn else drawn

    def must_list(self, came: Iterable[Signed[Ready]]) -> set[PeerId]:
        """The peers, of those that ``came``, without whom no list gets our vote."""
        if not self.terms.is_lowered or self.terms.electorate.members is None:
            return set()
        with_our_model = {signed.signer for signed in came if self.has_our_model(signed.message)}
        return (with_our_model & self.terms.electorate.members) - self.terms.unawaited

    def too_late(self, ready: Ready, certificate: bytes) -> Decline:
        """The answer to ``ready`` of a peer without which the group of ``certificate`` stands."""
        reason = "the group of this round is formed; come with the next"
        if not self.has_our_model(ready):
            reason = "your model differs from the majority's; fetch theirs"
        return Decline(self.round, reason, DeclineReason.FORMED, certificate)
