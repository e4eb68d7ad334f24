"""How items come to be held: the port between the round, which decides about items, and the ways to exchange them.

    Round     commits, holdings, ballots, decision, fetching by hash, deadlines         the same for every exchange
    Exchange  encode, ship, check, combine: `Butterfly` (an item is a part's result), `Gather` (an item is a member's update)
    ExchangeState     what both have before them

An item is (index, hash). Whatever an exchange holds has been checked; the round tells the others, counts what they hold, and says
which items are applied. Whether two members come to the same average is the round's business; that equal items make equal bits,
the exchange's.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from swarm.identity import PeerId
from swarm.machine import Command, Compute, Job, Send
from swarm.manifest import Codec
from swarm.wire import Message

from .codecs import Raw
from .reduce import EncodedPart
from .round_plan import Contribution, Outcome, Plan
from .tally import Tally

Decision = tuple[bytes, ...]
"""One entry per item: the hash of what is applied, empty for nothing."""


@dataclass(slots=True, eq=False)
class ExchangeState:
    """What one member has before it: what it knows and brings, what it has heard, and which items it holds."""

    plan: Plan
    me: PeerId
    contribution: Contribution
    tally: Tally
    encoded: tuple[EncodedPart, ...] = ()
    """Our own update as it travels; empty until it is encoded."""
    held: dict[int, dict[bytes, Raw]] = field(default_factory=dict)
    """By item: hash and checked bytes. Two owners may have come to two results of one part; then we may hold both."""
    decoded: dict[tuple[int, bytes], Tensor] = field(default_factory=dict)
    """By item and hash: the numbers, where a check or a reduction has left them."""
    pending: Counter[int] = field(default_factory=Counter)
    """By item: how many of its bytes are being fetched or checked just now."""

    @property
    def codec(self) -> Codec:
        """How our own update is encoded."""
        return self.plan.codec if self.contribution.codec is None else self.contribution.codec

    @property
    def others(self) -> tuple[PeerId, ...]:
        """All members but us."""
        return tuple(member for member in self.plan.group.members if member != self.me)

    def tell(self, message: Message) -> Send:
        """Say ``message`` to all: to ourselves at once."""
        self.tally.hear(self.me, message)
        return Send(self.others, message, self.plan.group.id)

    def hold(self, index: int, hash_: bytes, payload: Raw, vector_N: Tensor | None = None) -> None:
        """From now on we have this item; ``vector_N`` is what it decodes to, where that is known."""
        self.held.setdefault(index, {})[hash_] = payload
        if vector_N is not None:
            self.decoded[index, hash_] = vector_N

    def items(self, decision: Decision) -> tuple[Raw, ...]:
        """The applied items, all of which we hold; an empty one for each that was not applied."""
        return tuple(self.held[index][hash_] if hash_ else b"" for index, hash_ in enumerate(decision))

    def checks(self, index: int, job: Job) -> Compute:
        """Have the bytes of an item checked; `settles` when the answer is here."""
        self.pending[index] += 1
        return Compute(job)

    def settles(self, index: int) -> None:
        """A fetch that failed, or the answer of a check."""
        self.pending[index] = max(0, self.pending[index] - 1)


class Exchange(Protocol):
    """One way to exchange updates, from the seat of one member. Changes only while the round handles an event."""

    def encode(self) -> Compute:
        """Our update as bytes: the answer is a tuple of `EncodedPart`, which the round puts on the table and commits to."""

    def begin(self) -> None:
        """Our encoded update is on the table."""

    def expect(self, sender: PeerId, item: str) -> int:
        """The exact bytes of ``item`` from ``sender``. Raises `Refused` for what has no place in this exchange."""

    def take(self, sender: PeerId, item: str, payload: Raw) -> Iterator[Command]:
        """Bulk bytes of the right length from the right peer; whether they are what was promised is arithmetic."""

    def learn(self, job: Job, result: object) -> Iterator[Command]:
        """The answer of a job that is not the round's own."""

    def advance(self, now: float) -> Iterator[Command]:
        """Everything that has become possible."""

    def awaited(self, now: float) -> set[PeerId]:
        """The members whose bytes we are waiting for."""

    def awaits(self, index: int, now: float) -> bool:
        """Whether an item that we do not hold may still come by itself."""

    def named(self, index: int) -> bytes:
        """The hash under which we hold an item: of several the one that most others will name, too. Empty for none."""

    def check(self, index: int, hash_: bytes, payload: Raw, source: PeerId) -> Job:
        """The check of bytes that ``source`` gave us for an item by its hash. Its answer is a `Checked`."""

    def sizes(self, index: int) -> Sequence[int]:
        """The lengths that an item may have: more than one where we have not heard how its maker encoded it."""

    def combine(self, decision: Decision) -> Job:
        """The average from the items of ``decision``, all of which we hold: a tensor ``[P]``, the same bits on all members."""

    def outcome(self, decision: Decision, average_P: Tensor) -> Outcome:
        """What the round came to."""
