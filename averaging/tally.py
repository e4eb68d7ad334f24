"""What one member has heard from the others in a round.

The first message of a kind counts: a member cannot say two things.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field

from swarm.identity import PeerId
from swarm.manifest import Exchange
from swarm.wire import Message

from .codec_choice import allowed
from .groups import Group
from .messages import Ballot, Commit, Holdings, Receipt, Takeover
from .robust import Claim, whole_norm
from .round_plan import RoundPlan


@dataclass(slots=True)
class Tally:
    """The messages by member (receipts by part and member), and the members that cannot be reached."""

    plan: RoundPlan
    commits: dict[PeerId, Commit] = field(default_factory=dict)
    receipts: dict[tuple[int, PeerId], Receipt] = field(default_factory=dict)
    takeovers: dict[int, set[PeerId]] = field(default_factory=dict)
    """By part: the spares that have asked for it."""
    holdings: dict[PeerId, Holdings] = field(default_factory=dict)
    ballots: dict[PeerId, Ballot] = field(default_factory=dict)
    gone: set[PeerId] = field(default_factory=set)
    """Members that could not be reached, or that sent what does not hold, and have not been heard since."""
    written_off: set[PeerId] = field(default_factory=set)
    """Those of the gone members that have been silent for long."""
    dead: set[PeerId] = field(default_factory=set)
    """Those of the gone members that could not be reached a second time either."""
    chains: tuple[tuple[PeerId, ...], ...] = field(init=False)
    """By part: its owner and its spares. Empty in a gather exchange."""

    def __post_init__(self) -> None:
        is_butterfly = self.plan.exchange is Exchange.BUTTERFLY
        self.chains = tuple(self.plan.chain(part) for part in self.plan.parts) if is_butterfly else ()

    @property
    def group(self) -> Group:
        """The group whose members' messages count."""
        return self.plan.group

    def hear(self, sender: PeerId, message: Message) -> None:
        """Keep ``message`` if it fits the plan and is the first of its kind from ``sender``, which is
        evidently alive."""
        self.gone.discard(sender)
        self.written_off.discard(sender)
        self.dead.discard(sender)
        match message:
            case Commit() if len(message.hashes) == len(self.plan.parts) and self._fits(sender, message):
                self.commits.setdefault(sender, message)
            case Receipt(part) if sender in self._chain(part):
                self.receipts.setdefault((part, sender), message)
            case Takeover(part) if sender in self._chain(part)[1:]:
                self.takeovers.setdefault(part, set()).add(sender)
            case Holdings() if len(message.hashes) == self.plan.items:
                self.holdings.setdefault(sender, message)
            case Ballot() if len(message.hashes) == self.plan.items:
                self.ballots.setdefault(sender, message)

    def _fits(self, sender: PeerId, commit: Commit) -> bool:
        """Whether a commit is for our model, and says the same tokens as its sender's `Ready`, which all
        members have."""
        group = self.group
        is_weighed = commit.weight == dict(zip(group.members, group.tokens, strict=True)).get(sender)
        is_ours = commit.state_root == group.state_root
        return is_weighed and is_ours and commit.codec in allowed(self.plan.codec)

    def _chain(self, index: int) -> tuple[PeerId, ...]:
        """The members that may reduce part ``index``; none if there is no such part, or nothing to reduce."""
        return self.chains[index] if index < len(self.chains) else ()

    def receipts_of(self, index: int) -> set[bytes]:
        """The hashes of all results of part ``index`` that its owner and its spares have signed."""
        receipts = (self.receipts.get((index, peer)) for peer in self._chain(index))
        return {receipt.hash for receipt in receipts if receipt}

    def awaited(self, heard: Set[PeerId], now: float) -> set[PeerId]:
        """The members worth waiting for: not in ``heard``, not gone, and, once commits are due, with a
        commit."""
        return self.present(now) - heard - self.plan.unawaited

    def present(self, now: float) -> set[PeerId]:
        """The members that are not gone, and, once commits are due, have committed."""
        here = set(self.group.members) - self.gone
        return here & self.commits.keys() if now >= self.plan.schedule.commits else here

    def claim(self, member: PeerId, index: int) -> Claim:
        """The weight and the norms that ``member`` has committed to for part ``index``."""
        commit = self.commits[member]
        return Claim(float(commit.weight), whole_norm(commit.norms), commit.norms[index])

    def supported(self, index: int) -> bytes:
        """The hash of item ``index`` that two thirds of the members hold; empty if there is none."""
        hash_, count = self._most_held(index)
        return hash_ if count >= self.group.quorum else b""

    def most_held(self, index: int) -> bytes:
        """The hash that most members say they hold as item ``index``; empty if nobody holds any."""
        return self._most_held(index)[0]

    def is_settled(self, index: int) -> bool:
        """Whether no message that may still come can change what is `supported`.

        Then all members that know this agree on it.

        Nothing is expected of members that are ``written_off``. If one of them answers after all, ballots may
        differ: the round may then end without a decision, but never with two.
        """
        count = self._most_held(index)[1]
        unheard = len(set(self.group.members) - self.holdings.keys() - self.written_off)
        return count >= self.group.quorum or count + unheard < self.group.quorum

    def _most_held(self, index: int) -> tuple[bytes, int]:
        counts = Counter(held.hashes[index] for held in self.holdings.values() if held.hashes[index])
        return max(counts.items(), key=lambda item: (item[1], item[0]), default=(b"", 0))

    def leading(self) -> tuple[tuple[bytes, ...], int]:
        """The items that most ballots name, and how many ballots name exactly these."""
        counts = Counter(ballot.hashes for ballot in self.ballots.values())
        return max(counts.items(), key=lambda item: (item[1], item[0]), default=((), 0))

    def holders(self, index: int, hash_: bytes) -> list[PeerId]:
        """The members that say they hold this item, in the order of their ids."""
        return sorted(member for member, held in self.holdings.items() if held.hashes[index] == hash_)

    def is_split(self) -> bool:
        """Whether the ballots that may still come, one of every member that is not ``dead``, cannot make a
        decision any more."""
        return not self.can_decide_without(self.dead)

    def can_decide_without(self, silent: Set[PeerId]) -> bool:
        """Whether a decision is possible even if none of the ``silent`` members sends anything more."""
        still = set(self.group.members) - self.ballots.keys() - silent
        return self.leading()[1] + len(still) >= self.group.quorum
