"""With whom a peer averages in a round: what it knows of the others, and what follows from that for the
groups to form.

Attendance   what this peer knows of the others when the averaging begins (its caller fills it)
GroupTerms   for one group: who should come, how long to wait, and how few are too few
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from swarm.identity import PeerId

from .certificate import EVERYBODY, Electorate
from .hierarchy import LEVEL1_SIZE, Hierarchy, least, majority

LOST_AFTER = 3
"""After so many missed rounds a peer tries one group of all peers: its level-1 group may have no other member
left."""

DESPERATE_AFTER = 6
"""After so many missed rounds any number of peers may go on, whoever else seems to be present: perhaps they
cannot reach each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTerms:
    """For one group: who should come, how long to wait, and how few are too few."""

    expected: Sequence[PeerId]
    """The peers that should come, as far as this peer knows."""
    close_at: float
    """When the leader stops waiting for peers that have not come, in the loop's clock."""
    alone_is_fine: bool = True
    """Whether the peer's own update may be the average if nobody else comes; else it is carried over."""
    least: int = 1
    """The fewest members of a group."""
    electorate: Electorate = EVERYBODY
    """Whose votes decide: newcomers form no group beside the peers that go on."""
    is_lowered: bool = False
    """Whether fewer of them are enough than usual, after attempts that failed. Then a group must list all of
    them that have come."""
    level1: Hierarchy | None = None
    """For a level-1 group: all of them. The others' certificates say nothing about this one."""
    leader: PeerId | None = None
    """The peer that leads if it is there; else a hash decides."""
    unawaited: frozenset[PeerId] = frozenset()
    """Peers for which nobody waits, as they have let us down lately (`reliability`): they do not lead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attendance:
    """What a peer knows of the others when the averaging of a round begins."""

    near: Collection[PeerId]
    """Peers that should come whatever their last message said: members of the last average, and peers with
    the same head."""
    close_at: float
    """When to stop waiting for peers that have not come, in the loop's clock."""
    at_round: Collection[PeerId] = ()
    """Present peers that say they will take part in this round."""
    present: Sequence[PeerId] = ()
    """All present peers, without us."""
    patience: float = 0.0
    """Seconds that forming a group may take beyond ``close_at`` (`RoundSpec.assemble_seconds`)."""
    population: int = 1
    """Peers of the last round."""
    participants: Collection[PeerId] = ()
    """Members of the group that led to our state, without those that have said that they leave; before the
    first average the organiser. Empty where nobody knows them."""
    others: Collection[PeerId] = ()
    """Present peers that train without us: beside them an average of our own would split the run."""
    missed: int = 0
    """How many attempts in a row have brought this peer neither an average nor news of a group."""
    first_leader: PeerId | None = None
    """The organiser: it leads while the run has no population yet."""

    def without(self, me: PeerId, unawaited: frozenset[PeerId]) -> Attendance:
        """The same, but nobody waits for the ``unawaited`` peers.

        A peer that is all that is left of the last average goes on alone beside them. Any other would split
        the run by that.
        """
        is_last_one_left = set(self.participants) <= {me}
        return replace(
            self,
            near=sorted(set(self.near) - unawaited),
            at_round=sorted(set(self.at_round) - unawaited),
            others=[peer for peer in self.others if not (is_last_one_left and peer in unawaited)],
        )

    def hierarchy(self, run: bytes, round_: int, group_size: int) -> Hierarchy:
        """The groups of this round. A peer that has missed `LOST_AFTER` rounds looks for one group of all."""
        hierarchy = Hierarchy.of(run, round_, self.population, group_size)
        return hierarchy if self.missed < LOST_AFTER else replace(hierarchy, count=1)

    def one_group(self, me: PeerId) -> GroupTerms:
        """For a population that averages in one group, as ``me`` sees it.

        Many newcomers arrive at once at a run that has no population yet. Then the organiser leads, which has
        waited longest, and the group takes more time.
        """
        is_first = self.population == 1
        return GroupTerms(
            expected=sorted((set(self.near) | set(self.at_round)) - {me}),
            close_at=self.close_at + (self.patience if is_first else 0.0),
            alone_is_fine=not self.others,
            electorate=self._electorate(me),
            is_lowered=self.missed > 0,
            leader=self.first_leader if is_first else None,
        )

    def _electorate(self, me: PeerId) -> Electorate:
        """The votes that a group of all needs.

        After attempts that failed it needs fewer, but for some time still more than half of the participants
        that are present, or half of them with the organiser: else a liar could make attempts fail until two
        small groups form side by side.
        """
        if not self.participants:
            return EVERYBODY
        count = len(self.participants)
        terms = Electorate(
            members=frozenset(self.participants), needed=least(count, self.missed), floor=majority(count)
        )
        if not 0 < self.missed < DESPERATE_AFTER:
            return terms
        here = terms.members & {me, *self.present} if terms.members else set()
        is_even = len(here) % 2 == 0
        casting = self.first_leader if is_even and self.first_leader in here else None
        return replace(terms, needed=max(terms.needed, majority(len(here))), casting=casting)

    def level1(self, me: PeerId, hierarchy: Hierarchy) -> GroupTerms:
        """For the level-1 group of ``me``: half of its usual members are enough, as the level-2 group
        decides."""
        usual_size = min(LEVEL1_SIZE, self.population // hierarchy.count)
        return GroupTerms(
            expected=hierarchy.group_mates(me, self._known(me)),
            close_at=self.close_at,
            alone_is_fine=False,
            least=max(1, (usual_size // 2) >> self.missed),
            level1=hierarchy,
        )

    def level2(self, me: PeerId, hierarchy: Hierarchy, average_seconds: float) -> GroupTerms:
        """For the level-2 group, if ``me`` is the representative of its level-1 group.

        Level-1 groups are not done at the same moment, so this waits as long as another one may take. One
        missed attempt does not lower the minimum yet (there could be two level-2 groups); the second one
        does.
        """
        needed = max(2, least(hierarchy.count, max(0, self.missed - 1)))
        return replace(
            self.level1(me, hierarchy),
            expected=self.other_representatives(me, hierarchy),
            close_at=self.close_at + self.patience + average_seconds,
            least=needed,
            level1=None,
            electorate=Electorate(needed=needed, floor=majority(hierarchy.count), hierarchy=hierarchy),
        )

    def deciding(self, me: PeerId, hierarchy: Hierarchy, average_seconds: float) -> Electorate:
        """Whose votes decide about the run's next state: those of the only group, or of the level-2 group."""
        if hierarchy.count == 1:
            return self._electorate(me)
        return self.level2(me, hierarchy, average_seconds).electorate

    def other_representatives(self, me: PeerId, hierarchy: Hierarchy) -> list[PeerId]:
        """The peers that should be in the level-2 group for the groups other than that of ``me``."""
        ours = hierarchy.group_index(me)
        expected = hierarchy.representatives(self._known(me))
        return [peer for peer in expected if hierarchy.group_index(peer) != ours]

    def _known(self, me: PeerId) -> set[PeerId]:
        return {me, *self.near, *self.present}
