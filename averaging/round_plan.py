"""The values of a round: what its members know before it begins, what each of them brings, and what it comes to."""

# Axes: P parameters of the whole model

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from swarm.identity import PeerId
from swarm.manifest import Codec
from swarm.manifest import Exchange as ExchangeName

from .codecs import Raw, codec_of, result_codec
from .groups import Group
from .messages import flag_bytes
from .partition import Part

SPARES = 2
"""How many members stand by for the owner of a part."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Absolute deadlines of the phases, in the clock of ``now``."""

    patience: float
    """Seconds, not a moment: whoever has kept us waiting so long is asked for a sign of life."""
    commits: float
    parts: float
    takeover: float
    """When a part whose owner has not signed a result is its spares'."""
    spares: float
    """For the parts that go to spares."""
    results: float
    holdings: float
    fetched: float
    """For the ballots, which may come at any time before, and for what is missing after the decision."""

    @classmethod
    def within(cls, now: float, seconds: float) -> Schedule:
        """The phases of a round that may take ``seconds``; most of it is for those that carry bytes."""
        shares = (0.15, 0.45, 0.5, 0.62, 0.75, 0.82, 1.0)
        return cls(seconds / 15, *(now + seconds * share for share in shares))

    def next(self, now: float) -> float:
        """The first deadline after ``now``. Raises `ValueError` where the last one has passed."""
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
class Plan:
    """What all members of the round know before it begins."""

    group: Group
    parts: tuple[Part, ...]
    """In a gather one part: the whole update."""
    codec: Codec
    schedule: Schedule
    exchange: ExchangeName = ExchangeName.BUTTERFLY

    @property
    def items(self) -> int:
        """How many things the round decides about: one per part, in a gather one per member."""
        return len(self.group.members) if self.exchange is ExchangeName.GATHER else len(self.parts)

    @property
    def head(self) -> int:
        """Bytes before the numbers of a result: one bit per member, set for those who are in it."""
        return flag_bytes(len(self.group.members))

    def result_size(self, part: Part) -> int:
        """The exact bytes of the result of ``part``."""
        return self.head + codec_of(result_codec(self.codec), part.shape).size(part.numbers)

    def chain(self, part: Part) -> tuple[PeerId, ...]:
        """Who may reduce ``part``: its owner, then its spares. They are the owners of the next parts, then other members that all
        can reach."""
        following = (*self.parts[part.index :], *self.parts[: part.index])
        return tuple(dict.fromkeys([*(other.owner for other in following), *self.group.dialable]))[
            : 1 + SPARES
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What we bring: ``vector_P`` is our update with the residual on top, float32; ``weight`` in tokens, ``seed`` of its data."""

    vector_P: Tensor
    weight: int
    seed: bytes
    codec: Codec | None = None
    """How we encode it, if not as the plan says (`strength.allowed`)."""
    room_P: Tensor | None = None
    """Where the average may be put: a vector that nobody reads any more. None: into a new one."""
    read_P: Tensor | None = None
    """The same for what the others will read in our update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the round came to. ``average_P`` is zero where ``applied`` says no; None where no decision was reached."""

    average_P: Tensor | None
    applied: tuple[bool, ...]
    """By item."""
    included: tuple[bool, ...]
    """By part: whether our own update is in what was applied of it."""
    encoded: tuple[Raw, ...]
    """Our own parts as they were sent."""
    decoded: tuple[Tensor | None, ...] = ()
    """What they decode to, where it is known."""
    missing: tuple[PeerId, ...]
    """Members of whose update nothing was applied: the same for all who have the average."""
    tokens: int
    """Behind the updates that were applied, by their senders' word."""
    items: tuple[Raw, ...] = ()
    """The applied items as they were hashed; an empty one for each that was not."""
    reason: str = ""
    is_void: bool = False
    """Where there is no average: whether the others cannot have one either, as far as we can tell."""
