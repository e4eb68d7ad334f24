"""The values of a round: what its members know before it begins, and what was applied."""

# Axes: P parameters of the whole model

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from swarm.identity import PeerId
from swarm.manifest import Codec, Exchange
from swarm.wire import Signed

from .codecs import Raw, codec_of, result_codec
from .groups import Group
from .messages import Ballot, header_bytes
from .partition import Part

SPARES = 2
"""How many members stand by for the owner of a part."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The deadlines of a round's phases, in the clock of ``now``.

    Only ``patience`` is a number of seconds.
    """

    patience: float
    """Seconds after which a member that keeps us waiting is asked for a sign of life."""
    commits: float
    parts: float
    takeover: float
    """When a part whose owner has not signed a result passes to its spares."""
    spares: float
    """For the parts that go to spares."""
    results: float
    holdings: float
    fetched: float
    """For the ballots, which may come at any time before, and for what is missing after the decision."""

    @classmethod
    def within(cls, now: float, seconds: float) -> Schedule:
        """The phases of a round that may take ``seconds``.

        Most of that time is for the phases that carry bytes.
        """
        shares = (0.15, 0.45, 0.5, 0.62, 0.75, 0.82, 1.0)
        return cls(seconds / 15, *(now + seconds * share for share in shares))

    def next(self, now: float) -> float:
        """The first deadline after ``now``. Raises `ValueError` if the last one has passed."""
        phases = (
            self.commits,
            self.parts,
            self.takeover,
            self.spares,
            self.results,
            self.holdings,
            self.fetched,
        )
        return min(phase for phase in phases if phase > now)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """What all members of the round know before it begins."""

    group: Group
    parts: tuple[Part, ...]
    """In a gather exchange a single part: the whole update."""
    codec: Codec
    schedule: Schedule
    exchange: Exchange = Exchange.BUTTERFLY
    unawaited: frozenset[PeerId] = frozenset()
    """Members for which we do not wait (`reliability`). What they send in time counts as everybody's."""

    @property
    def items(self) -> int:
        """How many items the round decides about: one per part, or in a gather exchange one per member."""
        return len(self.group.members) if self.exchange is Exchange.GATHER else len(self.parts)

    @property
    def header_bytes(self) -> int:
        """Bytes before the numbers of a result, which say whose updates are in it, and by which commits."""
        return header_bytes(len(self.group.members))

    def result_size(self, part: Part) -> int:
        """The exact bytes of the result of ``part``."""
        return self.header_bytes + codec_of(result_codec(self.codec), part.shape).size(part.numbers)

    def chain(self, part: Part) -> tuple[PeerId, ...]:
        """The members that may reduce ``part``: its owner, then its spares.

        The spares are the owners of the next parts, and after those other members that all can dial.
        """
        following = (*self.parts[part.index :], *self.parts[: part.index])
        candidates = [*(other.owner for other in following), *self.group.dialable]
        return tuple(dict.fromkeys(candidates))[: 1 + SPARES]


@dataclass(frozen=True, slots=True)
class Scratch:
    """Buffers that a round may write over, because nobody reads them any more; None: allocate new ones."""

    average_P: Tensor | None = None
    """For the average."""
    decoded_P: Tensor | None = None
    """For what the others decode from our encoded update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a round has decided and applied."""

    average_P: Tensor
    """Zero where nothing was applied."""
    included: tuple[bool, ...]
    """By part: whether our own update is in what was applied of it."""
    encoded: tuple[Raw, ...]
    """Our own parts as they were sent."""
    decoded: tuple[Tensor | None, ...]
    """By part: what ``encoded`` decodes to, if it is known."""
    missing: tuple[PeerId, ...]
    """Members of whose update nothing was applied: the same for all who have the average."""
    tokens: int
    """Behind the updates that were applied, as their senders claim."""
    items: tuple[Raw, ...]
    """The applied items as they were hashed; an empty one for each that was not applied."""
    decision: tuple[bytes, ...] = ()
    """Their hashes: what the group's ballots name."""
    ballots: tuple[Signed[Ballot], ...] = ()
    """The other members' ballots that name exactly these."""
    is_our_vote: bool = True
    """Whether our own ballot names exactly these as well."""
