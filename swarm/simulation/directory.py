"""The DHT of a rehearsal: one store that all peers read late, and with records missing, as a real one.

hivemind's wall clock and random numbers cannot run on virtual time. What its users rely on is kept: one
record per topic and signer, the newest by (round, seq), gone when its time is up, refused where its signature
does not hold.
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
    """Time of a put or a get, drawn between half and twice of this."""
    spread: float = 1.0
    """Time until the others see a new record, drawn between 0 and this."""
    loss: float = 0.0
    """Probability that a put is lost, and that a get misses a record."""


@dataclass(frozen=True, slots=True)
class _Posted:
    signed: Signed[Any]
    seen_from: float
    seen_until: float


class Copied(NamedTuple):
    """A record for the stores of other processes."""

    topic: str
    record: bytes
    seen_from: float
    seen_until: float


class SharedRecords:
    """The store behind the directories of one network.

    ``forms`` has the topics of the run and the message of each.
    """

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
        """Bytes of the records that each reader found: the traffic of the DHT that grows with the run."""
        self.copy: Callable[[Copied], object] = bool
        """Called with every record that is posted in this process."""
        self._run = run
        self._forms = dict(forms)
        self._topics: dict[str, dict[PeerId, list[_Posted]]] = {topic: {} for topic in forms}

    def post(self, topic: str, record: bytes, seconds: float, now: float) -> None:
        """Keep ``record`` for ``seconds``.

        Raises what `open_frame` raises, and `KeyError` for a topic that the run does not have.
        """
        seen_from = now + self.chance.uniform(0, self.quality.spread)
        copied = Copied(topic, record, seen_from, now + seconds_to_live(seconds))
        self.keep(copied)
        self.copy(copied)

    def keep(self, copied: Copied) -> None:
        """Keep a record that was posted here or in another process."""
        topic = copied.topic
        signed = open_frame(copied.record, self._forms[topic], run=self._run, limit=RECORD_LIMIT)
        records = self._topics[topic].setdefault(signed.signer, [])
        records.append(_Posted(signed, copied.seen_from, copied.seen_until))
        records.sort(key=lambda posted: version(posted.signed))
        del records[:-2]  # the newest, and the one before it, for readers that do not see the newest yet

    def read(self, topic: str, reader: PeerId, now: float) -> list[Signed[Any]]:
        """The records under ``topic`` that ``reader`` sees already (its own at once) and that still live."""
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
        """Whether something is lost this time. Drawn anew at every call."""
        return self.quality.loss > 0 and self.chance.random() < self.quality.loss


class SimulatedDirectory:
    """The `swarm.dht.directory.Directory` of one peer: its view of the `SharedRecords`."""

    def __init__(self, records: SharedRecords, me: PeerId) -> None:
        self._records = records
        self._me = me

    async def put(self, topic: str, record: bytes, *, seconds: float, deadline: float) -> bool:
        """Publish a signed ``record`` for ``seconds``.

        False where that failed: no answer in time, a loss, or a signature that does not hold.
        """
        if not await self._look_up(deadline) or self._records.has_bad_luck():
            return False
        try:
            self._records.post(topic, record, seconds, running_loop().time())
        except TheirFault:
            return False
        return True

    async def get(self, topic: str, form: type[M], *, deadline: float) -> list[Signed[M]]:
        """The newest visible record of every signer under ``topic``, by peer id; none without an answer."""
        if not await self._look_up(deadline):
            return []
        found = self._records.read(topic, self._me, running_loop().time())
        return [signed for signed in found if isinstance(signed.message, form)]

    async def _look_up(self, deadline: float) -> bool:
        """Take the time of a look-up.

        Whether an answer came before ``deadline``; a peer that is down gets none.
        """
        loop = running_loop()
        records = self._records
        answered_at = loop.time() + records.quality.lookup * records.chance.uniform(0.5, 2)
        await loop.reach(min(answered_at, deadline))
        return answered_at <= deadline and records.network.is_up(self._me)
