"""The DHT of a rehearsal: one board that everybody reads late, and sometimes with holes, as a real one is read.

hivemind's wall clock and random numbers have no place on virtual time. What its users rely on is kept: one record per topic and
signer, the newest by (round, seq), gone after its life, refused where its seal does not hold.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from ..dht.directory import RECORD_LIMIT, newest
from ..dht.records import seconds_to_live, version
from ..errors import TheirFault
from ..identity import PeerId
from ..wire import Message, Signed, open_frame
from .clock import running_loop
from .network import SimulatedNetwork

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How good the directory is. Times in virtual seconds."""

    lookup: float = 0.3
    """What a put or a get takes: drawn between half and twice of it."""
    spread: float = 1.0
    """How long a new record may stay unseen by the others: drawn between 0 and this."""
    loss: float = 0.0
    """The chance that a put finds nobody who keeps it, and that a get misses a record."""


@dataclass(frozen=True, slots=True)
class _Posted:
    signed: Signed[Any]
    seen_from: float
    seen_until: float


class Copied(NamedTuple):
    """A record for the boards of other processes."""

    topic: str
    record: bytes
    seen_from: float
    seen_until: float


class SharedRecords:
    """What the directories of one network share. ``forms``: the topics of the run, and what is stored under each."""

    def __init__(
        self,
        network: SimulatedNetwork,
        run: bytes,
        forms: Mapping[str, type[Message]],
        *,
        seed: int,
        quality: Quality | None = None,
    ) -> None:
        self.network = network
        self.quality = quality or Quality()
        self.chance = random.Random(seed)
        self.looked: Counter[PeerId] = Counter()
        """Bytes of the records that each reader found: the part of a look at the DHT that grows with the run."""
        self.copy: Callable[[Copied], object] = bool
        """Told of every record that is posted here."""
        self._run = run
        self._forms = dict(forms)
        self._topics: dict[str, dict[PeerId, list[_Posted]]] = {topic: {} for topic in forms}

    def post(self, topic: str, record: bytes, seconds: float, now: float) -> None:
        """Keep ``record`` for ``seconds``. Raises what `open_frame` raises; `KeyError` for a topic that the run has not."""
        copied = Copied(
            topic, record, now + self.chance.uniform(0, self.quality.spread), now + seconds_to_live(seconds)
        )
        self.keep(copied)
        self.copy(copied)

    def keep(self, copied: Copied) -> None:
        """What was posted, here or elsewhere."""
        topic = copied.topic
        signed = open_frame(copied.record, self._forms[topic], run=self._run, limit=RECORD_LIMIT)
        records = self._topics[topic].setdefault(signed.signer, [])
        records.append(_Posted(signed, copied.seen_from, copied.seen_until))
        records.sort(key=lambda posted: version(posted.signed))
        del records[:-2]  # the newest, and the one that those read whom it has not reached yet

    def read(self, topic: str, reader: PeerId, now: float) -> list[Signed[Any]]:
        """What ``reader`` finds under ``topic``: what has spread and has not expired; its own words it sees at once."""
        found = newest(
            posted.signed
            for signer, records in self._topics[topic].items()
            for posted in records
            if (posted.seen_from <= now or signer == reader)
            and now < posted.seen_until
            and not self.has_bad_luck()
        )
        self.looked[reader] += sum(len(signed.raw) for signed in found)
        return found

    def has_bad_luck(self) -> bool:
        """Whether something is lost this time, drawn anew at every call."""
        return self.quality.loss > 0 and self.chance.random() < self.quality.loss


class SimulatedDirectory:
    """The `swarm.dht.directory.Directory` of one peer: its view of the `SharedRecords`."""

    def __init__(self, board: SharedRecords, me: PeerId) -> None:
        self._board = board
        self._me = me

    async def put(self, topic: str, record: bytes, *, seconds: float, deadline: float) -> bool:
        """Publish a sealed ``record`` for ``seconds``. False where it came to nothing: bad luck, no network, a seal that breaks."""
        if not await self._look_up(deadline) or self._board.has_bad_luck():
            return False
        try:
            self._board.post(topic, record, seconds, running_loop().time())
        except TheirFault:
            return False
        return True

    async def get(self, topic: str, form: type[M], *, deadline: float) -> list[Signed[M]]:
        """The newest visible record of every signer under ``topic``, in the order of peer ids. Empty where nobody answers."""
        if not await self._look_up(deadline):
            return []
        found = self._board.read(topic, self._me, running_loop().time())
        return [signed for signed in found if isinstance(signed.message, form)]

    async def _look_up(self, deadline: float) -> bool:
        """Take the time it takes; whether somebody answered before ``deadline``. A peer that is down is answered by nobody."""
        loop, board = running_loop(), self._board
        answered_at = loop.time() + board.quality.lookup * board.chance.uniform(0.5, 2)
        await loop.reach(min(answered_at, deadline))
        return answered_at <= deadline and board.network.is_up(self._me)
