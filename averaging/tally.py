"""What one member has heard from the others in a round. First word counts: whoever says two things is heard once."""

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
from .round_plan import Plan


@dataclass(slots=True)
class Tally:
    """Messages by member (receipts by part and member), and the members that cannot be reached."""

    plan: Plan
    commits: dict[PeerId, Commit] = field(default_factory=dict)
    receipts: dict[tuple[int, PeerId], Receipt] = field(default_factory=dict)
    calls: dict[int, set[PeerId]] = field(default_factory=dict)
    """By part: the spares that have asked for it."""
    holdings: dict[PeerId, Holdings] = field(default_factory=dict)
    ballots: dict[PeerId, Ballot] = field(default_factory=dict)
    gone: set[PeerId] = field(default_factory=set)
    written_off: set[PeerId] = field(default_factory=set)
    """Those of the gone that have not been heard for long."""
    dead: set[PeerId] = field(default_factory=set)
    """Those of the gone that could not be reached later either."""
    chains: tuple[tuple[PeerId, ...], ...] = field(init=False)
    """By part: its owner and its spares. Empty in a gather."""

    def __post_init__(self) -> None:
        is_butterfly = self.plan.exchange is Exchange.BUTTERFLY
        self.chains = tuple(self.plan.chain(part) for part in self.plan.parts) if is_butterfly else ()

    @property
    def group(self) -> Group:
        """Whose voices count."""
        return self.plan.group

    def hear(self, sender: PeerId, message: Message) -> None:
        """Keep ``message`` if it fits the plan and is the first of its kind from ``sender``; who speaks is here."""
        self.gone.discard(sender)
        self.written_off.discard(sender)
        self.dead.discard(sender)
        match message:
            case Commit() if len(message.hashes) == len(self.plan.parts) and self._fits(message):
                self.commits.setdefault(sender, message)
            case Receipt(part) if sender in self._chain(part):
                self.receipts.setdefault((part, sender), message)
            case Takeover(part) if sender in self._chain(part)[1:]:
                self.calls.setdefault(part, set()).add(sender)
            case Holdings() if len(message.hashes) == self.plan.items:
                self.holdings.setdefault(sender, message)
            case Ballot() if len(message.hashes) == self.plan.items:
                self.ballots.setdefault(sender, message)

    def _fits(self, commit: Commit) -> bool:
        return commit.state_root == self.group.state_root and commit.codec in allowed(self.plan.codec)

    def _chain(self, index: int) -> tuple[PeerId, ...]:
        """Who may reduce part ``index``; nobody where there is no such part, or nothing to reduce."""
        return self.chains[index] if index < len(self.chains) else ()

    def receipts_of(self, index: int) -> set[bytes]:
        """The hashes of all results of part ``index`` that its owner and its spares have signed."""
        hashes = (self.receipts.get((index, peer)) for peer in self._chain(index))
        return {receipt.hash for receipt in hashes if receipt}

    def awaited(self, heard: Set[PeerId], now: float) -> set[PeerId]:
        """Members worth waiting for: neither in ``heard`` nor gone, nor without a commit when that is due."""
        waited = set(self.group.members) - heard - self.gone
        return waited & self.commits.keys() if now >= self.plan.schedule.commits else waited

    def claim(self, member: PeerId, index: int) -> Claim:
        """What ``member`` has committed to about part ``index``."""
        commit = self.commits[member]
        return Claim(float(commit.weight), whole_norm(commit.norms), commit.norms[index])

    def supported(self, index: int) -> bytes:
        """The hash of part ``index`` that two thirds of the members hold; empty where there is none."""
        hash_, count = self._most_held(index)
        return hash_ if count >= self.group.quorum else b""

    def is_settled(self, index: int) -> bool:
        """Whether no word that may still come can change what is `supported`: then it is the same for all who know that.

        Of those who are ``written_off`` none is expected. Should one of them speak up after all, ballots may differ: then the round
        may be lost, but it never comes to two decisions.
        """
        count, unheard = (
            self._most_held(index)[1],
            len(set(self.group.members) - self.holdings.keys() - self.written_off),
        )
        return count >= self.group.quorum or count + unheard < self.group.quorum

    def _most_held(self, index: int) -> tuple[bytes, int]:
        counts = Counter(held.hashes[index] for held in self.holdings.values() if held.hashes[index])
        return max(counts.items(), key=lambda item: (item[1], item[0]), default=(b"", 0))

    def leading(self) -> tuple[tuple[bytes, ...], int]:
        """The items that most ballots name, and how many ballots name exactly these."""
        counts = Counter(ballot.hashes for ballot in self.ballots.values())
        return max(counts.items(), key=lambda item: (item[1], item[0]), default=((), 0))

    def holders(self, index: int, hash_: bytes) -> list[PeerId]:
        """Who says that it holds this result, in the order of ids."""
        return sorted(member for member, held in self.holdings.items() if held.hashes[index] == hash_)

    def is_split(self) -> bool:
        """Whether no ballots that may still come can make a decision any more: one is expected of everybody but the ``dead``."""
        return not self.can_decide_without(self.dead)

    def can_decide_without(self, silent: Set[PeerId]) -> bool:
        """Whether there may be a decision though none of ``silent`` says another word."""
        still = set(self.group.members) - self.ballots.keys() - silent
        return self.leading()[1] + len(still) >= self.group.quorum

    def tokens(self, members: Set[PeerId]) -> int:
        """The sum of the weights that ``members`` have committed to, as far as we have heard."""
        return sum(commit.weight for member, commit in self.commits.items() if member in members)
