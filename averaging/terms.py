"""The values of a round: what its members know before it begins, what each of them brings, and what it comes to."""

# Axes: P parameters of the whole model

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from swarm.identity import PeerId
from swarm.manifest import Codec
from swarm.manifest import Exchange as ExchangeName

from .codecs import codec_of
from .groups import Group
from .partition import Part


@dataclass(frozen=True, slots=True)
class Schedule:
    """Absolute deadlines of the phases, in the clock of ``now``."""

    commits: float
    parts: float
    results: float
    holdings: float
    fetched: float
    """For the ballots, which may come at any time before, and for what is missing after the decision."""

    @classmethod
    def within(cls, now: float, seconds: float) -> Schedule:
        """The phases of a round that may take ``seconds``; most of it is for those that carry bytes."""
        shares = (0.15, 0.5, 0.72, 0.8, 1.0)
        return cls(*(now + seconds * share for share in shares))

    def next(self, now: float) -> float:
        """The first deadline after ``now``. Raises `ValueError` where the last one has passed."""
        return min(phase for phase in (self.commits, self.parts, self.results, self.holdings, self.fetched) if phase > now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What all members of the round know before it begins."""

    group: Group
    parts: tuple[Part, ...]
    codec: Codec
    schedule: Schedule
    exchange: ExchangeName = ExchangeName.BUTTERFLY

    @property
    def items(self) -> int:
        """How many things the round decides about."""
        return len(self.parts)

    @property
    def head(self) -> int:
        """Bytes before the numbers of a result: one bit per member, set for those who are in it."""
        return -(-len(self.group.members) // 8)

    def result_size(self, part: Part) -> int:
        """The exact bytes of the result of ``part``."""
        return self.head + codec_of(self.codec, part.shape).size(part.numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offering:
    """What we bring: ``vector_P`` is our update with the residual on top, float32; ``weight`` in tokens, ``seed`` of its data."""

    vector_P: Tensor
    weight: int
    seed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the round came to. ``average_P`` is zero where ``applied`` says no; None where no decision was reached."""

    average_P: Tensor | None
    applied: tuple[bool, ...]
    """By item."""
    included: tuple[bool, ...]
    """Parts whose applied result contains our own update."""
    encoded: tuple[bytes, ...]
    """Our own parts as they were sent."""
    missing: tuple[PeerId, ...]
    """Members of whose update nothing was applied: the same for all who have the average."""
    tokens: int
    """Behind the updates that were applied, by their senders' word."""
    reason: str = ""
