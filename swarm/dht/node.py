"""The directory of a real run: hivemind's ``DHTNode`` (Kademlia) in our event loop.

    from hivemind    routing table, search, replication
    ours             transport (`p2p`), ids and records (`records`), which record is newer (`storage`),
                     the end of every task (`tasks`)

hivemind is imported when a directory is opened, because the import takes seconds.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar, cast

from ..errors import Malformed, NobodyThere, TooLate
from ..identity import PeerId
from ..membership.contacts import Contacts
from ..transport import Transport
from ..wire import Message, Signed
from .directory import newest
from .p2p import NEIGHBOURS, P2P, PATIENCE, Operation, operating
from .records import Topics, key_id, node_id, seconds_to_live, to_multihash
from .storage import RecordStorage
from .tasks import TaskOwner

REPLICAS = 5
"""Peers that keep a record, per key."""

REFRESH_SECONDS = 120.0
"""Time from one refresh to the next. A refresh is a get that also searches for the peers nearest to us."""

GRACE = 1.0
"""Seconds that an operation with answers waits for entries that have not answered."""

ENTRIES_LIMIT = 16
"""Most entries remembered, the latest first."""

M = TypeVar("M", bound=Message)
_import_lock = threading.Lock()


class HivemindDirectory:
    """The `Directory` of real peers. Make one with `open`; end it with `close` or ``async with``."""

    def __init__(self, node: Any, p2p: P2P, topics: Topics, storage: RecordStorage, owner: TaskOwner) -> None:
        self._node = node
        self._p2p = p2p
        self._topics = topics
        self._storage = storage
        self._owner = owner
        self._me = p2p.me
        self._entries: list[PeerId] = []
        self._refresh_at = 0.0
        self._is_open = True

    @classmethod
    async def open(
        cls,
        transport: Transport,
        contacts: Contacts,
        *,
        run: bytes,
        forms: Mapping[str, type[Message]],
        entries: Sequence[PeerId],
        deadline: float,
    ) -> HivemindDirectory:
        """Start a node and join the run through those of ``entries`` that answer.

        Our own contact should be in ``contacts`` by now. ``forms`` maps the topics of the run to their
        messages. Raises `NobodyThere` where there are entries and none answers (the founder of a run has
        none), `TooLate` where hivemind could not be imported before ``deadline``.
        """
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.to_thread(load_hivemind)
        except TimeoutError as error:
            raise TooLate("the DHT is still being loaded") from error
        owner = TaskOwner()
        topics = Topics(run, forms)
        p2p = P2P(transport, contacts, topics, owner)
        storage = RecordStorage(topics)
        others = [peer for peer in entries if peer != transport.me]
        try:
            with owner.adopting():
                node = await _create_node(p2p, transport.me, storage)
            directory = cls(node, p2p, topics, storage, owner)
            p2p.serve()
            if not await directory._join(others, deadline) and others:
                raise NobodyThere(
                    "no entry of the ticket answers",
                    "ask the organiser for a fresh ticket, or try again later",
                )
        except BaseException:
            p2p.close()
            await owner.close()
            raise
        return directory

    async def __aenter__(self) -> HivemindDirectory:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave, without telling other peers. All tasks of the node have ended when this returns.

        Later puts and gets do nothing.
        """
        if self._is_open:
            self._is_open = False
            self._p2p.close()
            await self._node.shutdown()
            await self._owner.close()

    @property
    def refused(self) -> Counter[str]:
        """What other peers sent against the rules, counted by error code."""
        return self._p2p.refused + self._storage.refused

    @property
    def neighbours(self) -> int:
        """Peers in the routing table."""
        return len(self._node.protocol.routing_table.uid_to_peer_id)

    async def put(self, topic: str, record: bytes, *, seconds: float, deadline: float) -> bool:
        """Publish our sealed ``record`` under the keys of ``topic``, at the nearest peers and at the entries.

        It lives for ``seconds``, at most 600. False where no other peer stored it. Raises the errors of
        `open_frame` where the record does not belong to ``topic``, `KeyError` where the run has no such
        topic.
        """
        keys = self._topics.keys(topic)
        if self._topics.open(key_id(keys[0]), record).signer != self._me:
            raise Malformed("a record is published by its signer only")
        operation = Operation(deadline, record)
        await self._run(operation, self._publish(operation, keys, seconds))
        return bool(operation.took)

    async def get(self, topic: str, form: type[M], *, deadline: float) -> list[Signed[M]]:
        """The newest valid record of every signer under ``topic``, as far as it came before ``deadline``.

        In the order of peer ids. Raises `KeyError` where the run has no such topic.
        """
        keys = self._topics.keys(topic)
        operation = Operation(deadline)
        await self._run(operation, self._search(operation, keys))
        ours = [signed for key in keys for signed in self._storage.records(key_id(key))]
        found = [signed for signed in (*operation.found.values(), *ours) if isinstance(signed.message, form)]
        return newest(cast("list[Signed[M]]", found))

    async def meet(self, peer: PeerId, deadline: float) -> bool:
        """Add ``peer``, which needs an address in `Contacts`, as an entry and join through it.

        Whether it answered.
        """
        return peer != self._me and await self._join([peer], deadline)

    # --- operations: each runs in its own task, so that cancelling the caller does not cancel it ------

    async def _run(self, operation: Operation, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` and wait for it until the operation's deadline.

        After the deadline the task goes on by itself, but sends no more calls (see `Operation`). Cancelling
        it would leave half of hivemind's search waiting for ever.
        """
        if not self._is_open:
            work.close()
            return
        loop = asyncio.get_running_loop()
        with self._owner.adopting(), operating(operation):
            task = asyncio.create_task(work)
        try:
            await asyncio.wait({task}, timeout=max(0.0, operation.deadline - loop.time()))
        finally:
            operation.deadline = min(operation.deadline, loop.time())
        if task.done() and not task.cancelled() and self._is_open:
            task.result()

    async def _join(self, peers: Iterable[PeerId], deadline: float) -> bool:
        """Add ``peers`` to the entries and join through them. Whether one of them answered."""
        fresh = [peer for peer in peers if peer not in self._entries]
        self._entries = [*fresh, *self._entries][:ENTRIES_LIMIT]
        operation = Operation(deadline)
        await self._run(operation, self._ping(operation, peers))
        return not operation.answered.isdisjoint(peers)

    async def _ping(self, operation: Operation, peers: Iterable[PeerId]) -> None:
        """Ping ``peers`` and, as soon as one answers, search for the peers nearest to us through it.

        Peers that do not answer delay nothing.
        """
        pings = {asyncio.create_task(self._node.protocol.call_ping(_hivemind_id(peer))) for peer in peers}
        while pings and not operation.answered:
            _, pings = await asyncio.wait(pings, return_when=asyncio.FIRST_COMPLETED)
        if operation.answered:
            await self._find_nearest([node_id(self._me)])

    async def _find_nearest(self, places: Sequence[bytes]) -> None:
        """Ask the peers nearest to ``places`` (20 bytes each). `P2P` adds their records to the operation."""
        from hivemind.dht.routing import DHTID

        await self._node.find_nearest_nodes(
            [DHTID.from_bytes(place) for place in places], k_nearest=NEIGHBOURS, beam_size=NEIGHBOURS
        )

    async def _rejoin_if_alone(self, operation: Operation) -> None:
        """Join again through entries and known peers where the routing table is empty (no network)."""
        if not self.neighbours:
            await self._ping(operation, dict.fromkeys((*self._entries, *self._p2p.answered)))

    async def _search(self, operation: Operation, keys: Sequence[bytes]) -> None:
        await self._rejoin_if_alone(operation)
        places = [key_id(key).to_bytes(20, "big") for key in keys]
        now = asyncio.get_running_loop().time()
        if now >= self._refresh_at:
            self._refresh_at = now + REFRESH_SECONDS
            # The blacklist keeps a counter per peer that ever failed, for a backoff that we do not use.
            self._node.blacklist.clear()
            await self._find_nearest([*places, node_id(self._me)])
        else:
            await self._find_nearest(places)

        ids = _dht_ids(keys)
        others = [_hivemind_id(peer) for peer in self._entries if peer not in operation.answered]
        await _wait(operation, [self._node._call_find_with_blacklist(entry, ids) for entry in others])

    async def _publish(self, operation: Operation, keys: Sequence[bytes], seconds: float) -> None:
        await self._rejoin_if_alone(operation)
        bundle = [[operation.record, seconds_to_live(seconds)]]
        await self._node.store_many(list(keys), [bundle] * len(keys), 0.0, beam_size=NEIGHBOURS)

        ids = _dht_ids(keys)
        value = self._node.protocol.serializer.dumps(bundle)
        others = [_hivemind_id(peer) for peer in self._entries if peer not in operation.took]
        stores = [
            self._node.protocol.call_store(entry, ids, [value] * len(ids), 0.0)
            for entry in others
            if entry not in self._node.blacklist
        ]
        await _wait(operation, stores)


async def _wait(operation: Operation, calls: Sequence[Coroutine[Any, Any, Any]]) -> None:
    """Wait for ``calls`` to entries; only for `GRACE` where other peers have answered already.

    An entry that has gone for good would otherwise slow down every operation.
    """
    tasks = [asyncio.create_task(call) for call in calls]
    if tasks:
        await asyncio.wait(tasks, timeout=GRACE if operation.answered else PATIENCE)


def load_hivemind() -> None:
    """Import hivemind's DHT, and undo what the import changes in the process. Takes 2 to 4 s: use a thread.

    The import renames the log level WARNING, installs a log handler, and changes the filters of warnings and
    the way in which torch shares memory.
    """
    with _import_lock, warnings.catch_warnings():
        if "hivemind.dht.node" in sys.modules:
            return
        level_name = logging.getLevelName(logging.WARNING)
        multiprocessing = sys.modules.get("torch.multiprocessing")
        sharing = multiprocessing.get_sharing_strategy() if multiprocessing else None
        # Importing any module of hivemind imports all of it, also `hivemind.dht.node`.
        from hivemind.utils.logging import use_hivemind_log_handler

        use_hivemind_log_handler("nowhere")
        logging.addLevelName(logging.WARNING, level_name)
        if multiprocessing:
            multiprocessing.set_sharing_strategy(sharing)


def _hivemind_id(peer: PeerId) -> Any:
    from hivemind.p2p import PeerID

    return PeerID(to_multihash(peer))


def _dht_ids(keys: Sequence[bytes]) -> list[Any]:
    from hivemind.dht.routing import DHTID

    return [DHTID(key_id(key)) for key in keys]


async def _create_node(p2p: P2P, me: PeerId, storage: RecordStorage) -> Any:
    """A node that knows no peers. hivemind's own caches are off; it retries a dead peer after 10 s."""
    from hivemind.dht.node import DHTNode
    from hivemind.dht.routing import DHTID

    node = await DHTNode.create(
        p2p=p2p,
        node_id=DHTID.from_bytes(node_id(me)),
        num_replicas=REPLICAS,
        parallel_rpc=32,
        wait_timeout=None,  # `P2P` gives every call its own deadline
        cache_locally=False,
        cache_nearest=0,
        cache_refresh_before_expiry=0,
        cache_on_store=False,
        reuse_get_requests=False,
        blacklist_time=10.0,
        backoff_rate=1.0,
    )
    node.protocol.storage = storage
    return node
