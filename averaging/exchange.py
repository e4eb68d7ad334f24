"""The port between the round, which decides about items, and the two ways of exchanging updates that produce
them.

    Round          commits, holdings, ballots, decision, fetching by hash, deadlines: the same for both
    Exchange       encode, ship, check, combine: `Butterfly` (an item is the result of a part)
                                                 or `Gather` (an item is a member's update)
    ExchangeState  what both of them share: the plan, our update, the messages heard, the items held

An item is (index, hash). An exchange holds only items that it has checked. The round tells the others which
items it holds, counts what they hold, and decides which items are applied. The exchange guarantees that equal
items make equal bits; so members that make the same decision have the same average.
"""

# Axes: P parameters of the whole model, N numbers of one part

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
from .round_plan import Applied, RoundPlan, Scratch
from .tally import Tally
from .update import Update

Decision = tuple[bytes, ...]
"""One entry per item: the hash of what is applied, empty if nothing is."""


@dataclass(slots=True, eq=False)
class ExchangeState:
    """What one member knows, contributes, has heard, and holds."""

    plan: RoundPlan
    me: PeerId
    update: Update
    """Our own, with the residual on top."""
    scratch: Scratch
    tally: Tally
    encoded: tuple[EncodedPart, ...] = ()
    """Our own update as it travels; empty until it is encoded."""
    held: dict[int, dict[bytes, Raw]] = field(default_factory=dict)
    """By item: hash and checked bytes.

    Two reducers may have come to two results of one part; then we may hold both.
    """
    decoded: dict[tuple[int, bytes], Tensor] = field(default_factory=dict)
    """By item and hash: the numbers, if a check or a reduction has decoded them."""
    let_down: set[PeerId] = field(default_factory=set)
    """Members that have kept us waiting until a deadline."""
    pending: Counter[int] = field(default_factory=Counter)
    """By item: how many copies of it are being fetched or checked just now."""

    @property
    def codec(self) -> Codec:
        """How our own update is encoded."""
        return self.plan.codec if self.update.codec is None else self.update.codec

    @property
    def others(self) -> tuple[PeerId, ...]:
        """All members but us."""
        return tuple(member for member in self.plan.group.members if member != self.me)

    def tell(self, message: Message) -> Send:
        """Send ``message`` to all members; count it as heard from ourselves at once."""
        self.tally.hear(self.me, message)
        return Send(self.others, message, self.plan.group.id)

    def hold(self, index: int, hash_: bytes, payload: Raw, vector_N: Tensor | None = None) -> None:
        """From now on we hold this item; ``vector_N`` is what it decodes to, if that is known."""
        self.held.setdefault(index, {})[hash_] = payload
        if vector_N is not None:
            self.decoded[index, hash_] = vector_N

    def items(self, decision: Decision) -> tuple[Raw, ...]:
        """The applied items, all of which we hold; an empty one for each that was not applied."""
        return tuple(self.held[index][hash_] if hash_ else b"" for index, hash_ in enumerate(decision))

    def begin_check(self, index: int, job: Job) -> Compute:
        """Have the bytes of an item checked; call `end_check` when the answer is here."""
        self.pending[index] += 1
        return Compute(job)

    def end_check(self, index: int) -> None:
        """A check has been answered, or a fetch has failed."""
        self.pending[index] = max(0, self.pending[index] - 1)


class Exchange(Protocol):
    """One way to exchange updates, as one member sees it. Changes only while the round handles an event."""

    def encode(self) -> Compute:
        """Encode our update: the answer is a tuple of `EncodedPart`, which the round keeps in the state and
        commits to."""

    def begin(self) -> None:
        """Our update is encoded."""

    def expect(self, sender: PeerId, item: str) -> int:
        """The exact bytes of ``item`` from ``sender``.

        Raises `Refused` for an item that has no place in this exchange.
        """

    def receive(self, sender: PeerId, item: str, payload: Raw) -> Iterator[Command]:
        """Bulk bytes came, of the right length and from the right peer.

        Whether they are what was promised is arithmetic.
        """

    def computed(self, job: Job, result: object) -> Iterator[Command]:
        """The answer of a job of this exchange."""

    def advance(self, now: float) -> Iterator[Command]:
        """Do everything that has become possible."""

    def awaited(self, now: float) -> set[PeerId]:
        """The members whose bytes we are waiting for."""

    def overdue(self, now: float) -> set[PeerId]:
        """The members whose bytes should have come by now."""

    def may_still_come(self, index: int, now: float) -> bool:
        """Whether an item that we do not hold may still come without our asking."""

    def held_hash(self, index: int) -> bytes:
        """The hash of the item that we hold; of several the one that most others will name as well.

        Empty if we hold none.
        """

    def check(self, index: int, hash_: bytes, payload: Raw, source: PeerId) -> Job:
        """The job that checks the bytes that ``source`` gave us for an item by its hash.

        Its answer is a `Checked`.
        """

    def possible_sizes(self, index: int) -> Sequence[int]:
        """The lengths that an item may have: several if we have not heard how its maker encoded it."""

    def combine(self, decision: Decision) -> Job:
        """The job that makes the average from the items of ``decision``, all of which we hold: ``[P]``, equal
        bits on all members."""

    def applied(self, decision: Decision, average_P: Tensor) -> Applied:
        """What the round has come to."""
