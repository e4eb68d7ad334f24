"""The directory of a real run: hivemind's ``DHTNode`` (Kademlia: routing table, search, replication) in our own event loop.

hivemind brings the search; the transport, the ids, the records, their freshness, the clock and the end of every task are ours
(`p2p`, `records`, `storage`, `tasks`). It is imported when a directory is opened and not before: that takes seconds.
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
"""A get that comes so long after the last refresh also looks for our own neighbourhood."""

GRACE = 1.0
"""Seconds that a search which has answers waits for the entries it has not met on its way."""

ENTRIES_LIMIT = 16
"""Entries remembered, the ones met last first."""

M = TypeVar("M", bound=Message)
_importing = threading.Lock()


class HivemindDirectory:
    """`swarm.dht.directory.Directory` on real peers. Make it with `open`, end it with `close` (or ``async with``)."""

    def __init__(self, node: Any, p2p: P2P, topics: Topics, storage: RecordStorage, owner: TaskOwner) -> None:
        self._node, self._p2p, self._topics, self._storage, self._owner = node, p2p, topics, storage, owner
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
        """Start a node and join through whichever of ``entries`` answers; our own contact should be in ``contacts`` by now.

        ``forms`` says which topics the run has and which message each holds. Raises `NobodyThere` where there are entries and none
        answers (a founder has none), `TooLate` where hivemind could not be loaded before ``deadline``.
        """
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.to_thread(load_hivemind)
        except TimeoutError as error:
            raise TooLate("the DHT is still being loaded") from error
        owner, topics = TaskOwner(), Topics(run, forms)
        p2p, storage = P2P(transport, contacts, topics, owner), RecordStorage(topics)
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
        """Leave without a word; every task of the node has ended when this returns. Later puts and gets do nothing."""
        if self._is_open:
            self._is_open = False
            self._p2p.close()
            await self._node.shutdown()
            await self._owner.close()

    @property
    def refused(self) -> Counter[str]:
        """What others sent against the rules, counted by error code."""
        return self._p2p.refused + self._storage.refused

    @property
    def neighbours(self) -> int:
        """Peers in the routing table."""
        return len(self._node.protocol.routing_table.uid_to_peer_id)

    async def put(self, topic: str, record: bytes, *, seconds: float, deadline: float) -> bool:
        """Publish a sealed ``record`` of ours under the keys of ``topic``, at the nearest peers and at the entries.

        ``seconds`` are bounded to 600. False where no other peer took it. Raises the faults of `open_frame` where the record is not
        one that this run keeps under ``topic``, `KeyError` where the run has no such topic.
        """
        keys = self._topics.keys(topic)
        if self._topics.open(key_id(keys[0]), record).signer != self._me:
            raise Malformed("a record is published by its signer only")
        operation = Operation(deadline, record)
        await self._run(operation, self._publish(operation, keys, seconds))
        return bool(operation.took)

    async def get(self, topic: str, form: type[M], *, deadline: float) -> list[Signed[M]]:
        """The newest valid record of every signer under ``topic``, in the order of peer ids: what came in before ``deadline``."""
        keys = self._topics.keys(topic)
        operation = Operation(deadline)
        await self._run(operation, self._search(operation, keys))
        ours = [signed for key in keys for signed in self._storage.records(key_id(key))]
        found = [signed for signed in (*operation.found.values(), *ours) if isinstance(signed.message, form)]
        return newest(cast("list[Signed[M]]", found))

    async def meet(self, peer: PeerId, deadline: float) -> bool:
        """Take ``peer``, which `Contacts` can dial, as one more entry. Whether it answered."""
        return peer != self._me and await self._join([peer], deadline)

    # --- operations: each runs in a task of its own, so that a caller who leaves early breaks nothing ------------------

    async def _run(self, operation: Operation, work: Coroutine[Any, Any, None]) -> None:
        """Wait for ``work`` until its deadline. It is not cancelled then (half of hivemind's search would hang): it runs dry."""
        if not self._is_open:
            return work.close()
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
        fresh = [peer for peer in peers if peer not in self._entries]
        self._entries = [*fresh, *self._entries][:ENTRIES_LIMIT]
        operation = Operation(deadline)
        await self._run(operation, self._ping(operation, peers))
        return not operation.answered.isdisjoint(peers)

    async def _ping(self, operation: Operation, peers: Iterable[PeerId]) -> None:
        """Greet ``peers`` and, as soon as one answers, look for our own neighbourhood through it: the dead keep nobody waiting."""
        greetings = {asyncio.create_task(self._node.protocol.call_ping(_hivemind_id(peer))) for peer in peers}
        while greetings and not operation.answered:
            _, greetings = await asyncio.wait(greetings, return_when=asyncio.FIRST_COMPLETED)
        if operation.answered:
            await self._visit([node_id(self._me)])

    async def _visit(self, places: Sequence[bytes]) -> None:
        """Ask the peers nearest to each of ``places`` (20 bytes); what they hold ends up in the operation."""
        from hivemind.dht.routing import DHTID

        await self._node.find_nearest_nodes(
            [DHTID.from_bytes(place) for place in places], k_nearest=NEIGHBOURS, beam_size=NEIGHBOURS
        )

    async def _wake(self, operation: Operation) -> None:
        """Where everybody was lost (the network was away), greet the entries and whoever answered last."""
        if not self.neighbours:
            await self._ping(operation, dict.fromkeys((*self._entries, *self._p2p.answered)))

    async def _search(self, operation: Operation, keys: Sequence[bytes]) -> None:
        await self._wake(operation)
        places = [key_id(key).to_bytes(20, "big") for key in keys]
        now = asyncio.get_running_loop().time()
        if now >= self._refresh_at:
            self._refresh_at = now + REFRESH_SECONDS
            self._node.blacklist.clear()  # it counts the failures of all peers that ever were, for a backoff that we do not use
            await self._visit([*places, node_id(self._me)])
        else:
            await self._visit(places)
        ids = self._ids(keys)
        rest = [_hivemind_id(peer) for peer in self._entries if peer not in operation.answered]
        await _briefly(operation, [self._node._call_find_with_blacklist(entry, ids) for entry in rest])

    async def _publish(self, operation: Operation, keys: Sequence[bytes], seconds: float) -> None:
        await self._wake(operation)
        bundle = [[operation.record, seconds_to_live(seconds)]]
        await self._node.store_many(list(keys), [bundle] * len(keys), 0.0, beam_size=NEIGHBOURS)
        ids, value, blacklist = (
            self._ids(keys),
            self._node.protocol.serializer.dumps(bundle),
            self._node.blacklist,
        )
        rest = [_hivemind_id(peer) for peer in self._entries if peer not in operation.took]
        stores = [
            self._node.protocol.call_store(entry, ids, [value] * len(ids), 0.0)
            for entry in rest
            if entry not in blacklist
        ]
        await _briefly(operation, stores)

    def _ids(self, keys: Sequence[bytes]) -> list[Any]:
        from hivemind.dht.routing import DHTID

        return [DHTID(key_id(key)) for key in keys]


async def _briefly(operation: Operation, calls: Sequence[Coroutine[Any, Any, Any]]) -> None:
    """Wait for all of ``calls``, but where others have answered not long: an entry that went to sleep must not slow every get."""
    if tasks := [asyncio.create_task(call) for call in calls]:
        await asyncio.wait(tasks, timeout=GRACE if operation.answered else PATIENCE)


def load_hivemind() -> None:
    """Import hivemind's DHT and undo what that import changes for the whole process. Takes 2 to 4 s: call it in a thread."""
    with _importing, warnings.catch_warnings():
        if "hivemind.dht.node" in sys.modules:
            return
        level, mp = logging.getLevelName(logging.WARNING), sys.modules.get("torch.multiprocessing")
        strategy = mp.get_sharing_strategy() if mp else None
        from hivemind.utils.logging import (
            use_hivemind_log_handler,  # whatever is imported of hivemind, all of it is
        )

        use_hivemind_log_handler("nowhere")
        logging.addLevelName(logging.WARNING, level)
        if mp:
            mp.set_sharing_strategy(strategy)


def _hivemind_id(peer: PeerId) -> Any:
    from hivemind.p2p import PeerID

    return PeerID(to_multihash(peer))


async def _create_node(p2p: P2P, me: PeerId, storage: RecordStorage) -> Any:
    """A node that has met nobody yet. Caches, refreshes and joining are ours, so hivemind's are off; a dead peer rests for 10 s."""
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
