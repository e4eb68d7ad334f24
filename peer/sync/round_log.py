"""The round log: records of the last rounds, kept and served, so that a peer can replay missed rounds instead
of fetching the model.

    record / ROOT  ──►  what was decided in the round that began with that state root (`averaging.record`)
    our state      ──►  the next, and the next …  until the state root that the others have, to the last bit

No donor is believed. A record of the round under way must have a certificate that holds; of replayed rounds
only the end counts: the state that has the root on which the run agrees, else the model itself is fetched.
Records are kept as long as they are smaller than half the model: then several of them are still cheaper than
the model.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from averaging.record import Judge, Record, ReplayRecord, UpdateShape, VerifiedRecord, opened, packed
from swarm.errors import Busy, Malformed, Refused, SwarmError, TheirFault, Weather
from swarm.identity import PeerId
from swarm.machine import Arithmetic, Report
from swarm.transport import Call, Payload, Request, Route, Transport

from ..chunks.exchange import ChunkExchange
from ..training.learner import Learner
from ..training.state import SharedState, state_root
from .head import ChosenHead

KEPT = 16
"""Records, at most."""
WAIT_SECONDS = 2.0
"""How long a peer that asks for the round under way is kept waiting before it has to ask again."""
PAUSE_SECONDS = 0.25
"""Between two rounds of questions."""
DONORS = 3
"""So many peers are asked for one record before the model itself is fetched."""


class RoundLog:
    """The records of one peer."""

    def __init__(
        self,
        learner: Learner,
        shape: UpdateShape,
        chunks: ChunkExchange,
        transport: Transport,
        arithmetic: Arithmetic,
    ) -> None:
        self._learner = learner
        self.shape = shape
        """What every peer of the run knows of its updates."""
        self._chunk_exchange = chunks
        self._transport = transport
        self._arithmetic = arithmetic
        self._kept: OrderedDict[bytes, Record] = OrderedDict()
        self._wanted: bytes | None = None
        """The root whose record we are asking others for: peers that ask us for it must not wait, as we may
        be waiting for them."""
        self._news = asyncio.Event()
        transport.serve(Route("record", self._on_record, on_unsent=chunks.turns.give_back))

    def keep(self, root: bytes, record: Record) -> None:
        """``record`` leads on from the state of ``root``.

        The newest is always kept, older ones while they are small.
        """
        self._kept[root] = record
        self._kept.move_to_end(root)
        sizes = [sum(map(len, each.items)) for each in self._kept.values()]
        while len(sizes) > 1 and (len(sizes) > KEPT or 2 * sum(sizes) > 4 * self.shape.numbers):
            self._kept.popitem(last=False)
            sizes.pop(0)
        self._tell_news()

    def _tell_news(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # --- serving --------------------------------------------------------------------------------------------

    async def _on_record(self, call: Call) -> Payload:
        """The record; for the round under way as soon as it is over."""
        try:
            root = bytes.fromhex(call.argument)
        except ValueError as error:
            raise Malformed("that is no state root") from error
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while self._is_under_way(root):
                    await self._news.wait()
        except TimeoutError:
            raise Busy("that round is not over yet") from None
        if root not in self._kept:
            raise Refused("that round is not known here (any more)")
        record = self._kept[root]
        await self._chunk_exchange.turns.take(call, sum(map(len, record.items)))
        return packed(record)

    def _is_under_way(self, root: bytes) -> bool:
        return root not in self._kept and root == state_root(self._learner.state) and root != self._wanted

    # --- asking ---------------------------------------------------------------------------------------------

    async def record(
        self, root: bytes, donors: Sequence[PeerId], deadline: float
    ) -> tuple[Record, PeerId] | None:
        """The record of the round that began with ``root``, and the peer that sent it; None if no donor has
        it by ``deadline``.

        Each of ``donors`` is asked in turn, again and again while one of them says that the round is not
        over.
        """
        self._wanted = root
        self._tell_news()
        try:
            return await self._record(root, donors, deadline)
        finally:
            self._wanted = None

    async def decided(
        self, root: bytes, donors: Sequence[PeerId], judge: Judge, deadline: float
    ) -> VerifiedRecord | None:
        """The record of the round that began with ``root``, which ``judge`` believes; None if no donor has
        one by ``deadline``."""
        left = list(donors)
        while left:
            found = await self.record(root, left, deadline)
            if found is None:
                return None
            record, donor = found
            left.remove(donor)
            if record.is_void:
                continue
            try:
                return judge(record)
            except TheirFault as error:
                self._report(error, donor)
        return None

    async def _record(
        self, root: bytes, donors: Sequence[PeerId], deadline: float
    ) -> tuple[Record, PeerId] | None:
        loop = asyncio.get_running_loop()
        asked = self._chunk_exchange.honest(list(dict.fromkeys(donors)))
        while asked and loop.time() < deadline:
            for donor in list(asked):
                now = loop.time()
                is_only_one = len(asked) == 1
                # The rest is for the next donors.
                give_up_at = deadline if is_only_one else now + (deadline - now) / 2
                answer = await self._ask(donor, root, give_up_at)
                if isinstance(answer, Record):
                    return answer, donor
                if not isinstance(answer, Busy):
                    asked.remove(donor)
            if asked:
                await asyncio.sleep(PAUSE_SECONDS)
        return None

    async def _ask(self, donor: PeerId, root: bytes, deadline: float) -> Record | SwarmError:
        """The answer of one donor."""
        request = Request("record", argument=root.hex(), limit=self.shape.limit)
        try:
            return opened(await self._transport.request(donor, request, deadline=deadline))
        except (TheirFault, Weather) as error:
            if isinstance(error, Malformed):
                self._report(error, donor)
            return error

    def _report(self, error: SwarmError, donor: PeerId) -> None:
        self._chunk_exchange.report(Report(error.code, error.fact, donor))

    # --- replaying ------------------------------------------------------------------------------------------

    async def state(self, head: ChosenHead, deadline: float) -> SharedState | None:
        """The state of ``head``, replayed from ours; None if it is not to be had in this way."""
        state = self._learner.state
        now = asyncio.get_running_loop().time()
        deadline = now + (deadline - now) / 2  # the rest is for the model itself
        if not 0 < head.round - state.round <= KEPT:
            return None
        liars: set[PeerId] = set()
        while state.round < head.round:
            donors = [donor for donor in head.donors if donor not in liars][:DONORS]
            found = await self.record(state_root(state), donors, deadline)
            if found is None:
                return None
            record, donor = found
            try:
                state = await self.next_state(state, record)
            except Malformed as error:
                liars.add(donor)
                self._report(error, donor)
        return state if state_root(state) == head.state_root else None

    async def next_state(self, state: SharedState, record: Record) -> SharedState:
        """The state after ``state`` by ``record``.

        Raises `Malformed` if no group of the run can have decided it.
        """
        if record.round != state.round:
            raise Malformed("the record is of another round")
        average_P = None
        if not record.is_void:
            average_P = await self._arithmetic.run(ReplayRecord(record, self.shape).run)
        return await self._arithmetic.run(lambda: self._learner.state_after(state, average_P))
