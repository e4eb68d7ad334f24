"""hivemind's ``P2P``, on our transport: one unary RPC = one request on the route "dht".

    request   argument = ping | store | find | walk     body = [protobuf, contact of the caller, tags of records it has]
    reply     [protobuf, contacts of the callee and of the peers that the reply names]

This is also the border. hivemind trusts what it parses, so nothing gets to it before its form has been checked: a node id follows
from the key that TLS has proven, values are plain bundles (never its own nested dictionaries), no message holds a time of day.
``walk`` is a find that asks for neighbours only; a find says which records its search has brought already, so that each travels
a few times and not from all of its keepers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..errors import Malformed, Refused, SwarmError, TheirFault
from ..identity import PeerId
from ..membership.contacts import Contacts
from ..transport import Allowance, Call, Payload, Request, Route, Transport
from ..wire import CONTROL_LIMIT, Message, Signed, pack
from .records import Topics, from_multihash, node_id, tag, to_multihash, without
from .storage import HELD_LIMIT
from .tasks import TaskOwner, disowned

PATIENCE = 4.0
"""Seconds for one RPC."""

MESSAGE_LIMIT = HELD_LIMIT + CONTROL_LIMIT
"""Bytes of the largest message: everything that a node holds, and its wrapping."""

CONTACTS_LIMIT = 40
KEYS_LIMIT = 16
NEIGHBOURS = 10
"""Peers that a reply names per key, nearest first: no search keeps more."""

ANSWERED_LIMIT = 32

_VERBS = ("ping", "store", "find", "walk")
_PLAIN = b"\xc0"
"""hivemind's tag of a value without sub-keys."""

_REQUEST = msgspec.msgpack.Decoder(tuple[bytes, bytes, bytes])
_REPLY = msgspec.msgpack.Decoder(tuple[bytes, list[bytes]])


@dataclass(slots=True)
class Operation:
    """One put, get or join of ours, shared by all RPCs made for it.

    After ``deadline`` (``loop.time()``) it begins no new RPC: it is told "nothing" instead, so that hivemind's search comes to its
    end by itself and no healthy peer is forgotten for our impatience.
    """

    deadline: float
    record: bytes = b""
    """The frame to publish; empty for a get."""
    found: dict[bytes, Signed[Message]] = field(default_factory=dict)
    """Valid records that came in, by `tag`."""
    answered: set[PeerId] = field(default_factory=set)
    took: set[PeerId] = field(default_factory=set)
    """Peers that keep ``record`` now."""


_operation: ContextVar[Operation | None] = ContextVar("swarm.dht.operation", default=None)


@contextmanager
def operating(operation: Operation | None) -> Iterator[None]:
    """RPCs started in this block, and in tasks started in it, belong to ``operation``."""
    token = _operation.set(operation)
    try:
        yield
    finally:
        _operation.reset(token)


@dataclass(frozen=True, slots=True)
class _Servicer:
    """One of hivemind's RPC methods and the protobuf type that it reads."""

    method: Callable[[Any, Any], Awaitable[Any]]
    form: Any


class P2P:
    """What hivemind's ``DHTNode`` needs of a ``P2P`` object, and nothing more.

    ``refused`` counts, by error code, what others sent against the rules; ``answered`` holds the peers that answered last.
    """

    def __init__(self, transport: Transport, contacts: Contacts, topics: Topics, owner: TaskOwner) -> None:
        from hivemind.p2p import PeerID

        self.me = transport.me
        self.peer_id = PeerID(to_multihash(transport.me))
        self.refused: Counter[str] = Counter()
        self.answered: dict[PeerId, None] = {}
        self._transport, self._contacts, self._topics, self._owner = transport, contacts, topics, owner
        self._servicers: dict[str, _Servicer] = {}
        self._is_open = True

    # --- what hivemind calls ------------------------------------------------------------------------------------

    async def add_protobuf_handler(
        self, name: str, handler: Any, input_protobuf_type: Any, **options: Any
    ) -> None:
        """Let ``handler`` answer the RPC ``name``, such as ``DHTProtocol.rpc_find``."""
        self._servicers[_verb(name)] = _Servicer(handler, input_protobuf_type)

    async def remove_protobuf_handler(self, name: str, **options: Any) -> None:
        """Answer the RPC ``name`` no longer."""
        self._servicers.pop(_verb(name), None)

    async def call_protobuf_handler(
        self, peer_id: Any, name: str, input: Any, output_protobuf_type: Any
    ) -> Any:
        """The reply of ``peer_id``. Raises hivemind's ``P2PHandlerError`` where there is none, or none that keeps the rules."""
        from hivemind.p2p import P2PHandlerError

        operation, verb = _operation.get(), _verb(name)
        if operation and verb != "ping" and asyncio.get_running_loop().time() >= operation.deadline:
            return _nothing(verb, input, output_protobuf_type)
        try:
            to = from_multihash(peer_id.to_bytes())
            return await self._call(to, verb, input, output_protobuf_type, operation)
        except TheirFault as fault:
            self.refused[fault.code] += 1
            raise P2PHandlerError(f"{name} at {peer_id}: {fault}") from fault
        except SwarmError as error:
            raise P2PHandlerError(f"{name} at {peer_id}: {error}") from error

    # --- what our node calls ------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer other peers from now on."""
        self._transport.serve(Route("dht", self._serve, _admit))

    def close(self) -> None:
        """Answer and ask nobody from now on."""
        self._is_open = False

    # --- calls --------------------------------------------------------------------------------------------------

    async def _call(self, to: PeerId, verb: str, request: Any, form: Any, operation: Operation | None) -> Any:
        if not self._is_open:
            raise Refused("this node is closed")
        argument = "walk" if verb == "find" and not (operation and not operation.record) else verb
        tags = b"".join(operation.found) if operation and argument == "find" else b""
        body = pack((request.SerializeToString(), self._contacts.record(self.me) or b"", tags))
        deadline = asyncio.get_running_loop().time() + PATIENCE
        with disowned():
            reply = await self._transport.request(
                to,
                Request(
                    "dht",
                    body,
                    argument=argument,
                    limit=MESSAGE_LIMIT if argument == "find" else CONTROL_LIMIT,
                ),
                deadline=deadline,
            )
        raw, contacts = _decode(_REPLY, reply)
        response = _parse(form, raw)
        if response.peer.node_id not in (b"", node_id(to)):
            raise Malformed("a node id that does not belong to the key")
        if wrong := self._contacts.learn_all(contacts[:CONTACTS_LIMIT]):
            self.refused["contact"] += wrong
        if verb == "find":
            await self._read_find(request, response, operation)
        self._remember(to, operation)
        if verb == "store" and operation:
            kept = (value for value, ok in zip(request.values, response.store_ok, strict=False) if ok)
            if any(operation.record in value for value in kept):
                operation.took.add(to)
        return response

    async def _read_find(self, request: Any, response: Any, operation: Operation | None) -> None:
        """Take the records out, for the operation that asked; leave hivemind the neighbours that can be dialled."""
        if len(response.results) != len(request.keys):
            raise Malformed("a reply for other keys than were asked for")
        for key, result in zip(request.keys, response.results, strict=True):
            if result.value and operation and not operation.record:
                signed, wrong = await self._read(key, result.value)
                operation.found.update((tag(one.raw), one) for one in signed)
                self.refused += wrong
            result.ClearField("value")
            result.ClearField("type")
            pairs = list(zip(result.nearest_node_ids, result.nearest_peer_ids, strict=False))[:NEIGHBOURS]
            pairs = [(node, peer) for node, peer in pairs if self._is_dialable(node, peer)]
            result.ClearField("nearest_node_ids")
            result.ClearField("nearest_peer_ids")
            result.nearest_node_ids.extend(node for node, _ in pairs)
            result.nearest_peer_ids.extend(peer for _, peer in pairs)

    async def _read(self, key: bytes, bundle: bytes) -> tuple[list[Signed[Message]], Counter[str]]:
        """Open a bundle. A thousand signatures take a tenth of a second, which a thread spends."""
        where = int.from_bytes(key, "big")
        if len(bundle) <= CONTROL_LIMIT:
            return self._topics.read(where, bundle)
        return await asyncio.to_thread(self._topics.read, where, bundle)

    def _is_dialable(self, node: bytes, multihash: bytes) -> bool:
        try:
            peer = from_multihash(multihash)
        except Malformed as fault:
            self.refused[fault.code] += 1
            return False
        return node == node_id(peer) and peer != self.me and bool(self._contacts.addresses(peer))

    def _remember(self, peer: PeerId, operation: Operation | None) -> None:
        self.answered.pop(peer, None)
        self.answered[peer] = None
        while len(self.answered) > ANSWERED_LIMIT:
            self.answered.pop(next(iter(self.answered)))
        if operation:
            operation.answered.add(peer)

    # --- answers ------------------------------------------------------------------------------------------------

    async def _serve(self, call: Call) -> Payload:
        from hivemind.p2p import P2PContext, PeerID

        verb = "find" if call.argument == "walk" else call.argument
        servicer = self._servicers.get(verb)
        if servicer is None or not self._is_open:
            raise Refused("this peer keeps no records")
        raw, contact, tags = _decode(_REQUEST, bytes(call.body))
        if contact and self._contacts.learn(contact).signer != call.sender:
            raise Malformed("the contact of somebody else")
        request = _parse(servicer.form, raw)
        _check(verb, request, call.sender)
        if not self._contacts.addresses(call.sender):
            request.ClearField("peer")  # nobody could dial it, so it has no place in a routing table
        if (
            len(raw) > CONTROL_LIMIT
        ):  # only a store may be; `verify` remembers, so the storage, which cannot wait, need not compute
            for key, bundle in zip(request.keys, request.values, strict=True):
                await self._read(key, bundle)
        context = P2PContext(call.argument, self.peer_id, PeerID(to_multihash(call.sender)))
        with self._owner.adopting(), operating(None):
            response = await servicer.method(request, context)
        return self._pack_reply(call.argument, response, tags)

    def _pack_reply(self, argument: str, response: Any, tags: bytes) -> bytes:
        if argument == "ping":
            response.ClearField("dht_time")
        named = [self.me]
        for result in response.results if argument in ("find", "walk") else ():
            del result.nearest_node_ids[NEIGHBOURS:], result.nearest_peer_ids[NEIGHBOURS:]
            named += map(from_multihash, result.nearest_peer_ids)
            if argument == "walk":
                result.ClearField("value")
                result.ClearField("type")
            elif result.value and tags:
                result.value = without(result.value, tags)
        records = [record for peer in dict.fromkeys(named) if (record := self._contacts.record(peer))]
        return pack((response.SerializeToString(), records[:CONTACTS_LIMIT]))


def _admit(sender: PeerId, argument: str) -> Allowance:
    if argument not in _VERBS:
        raise Malformed("no verb of the DHT")
    return Allowance(at_most=MESSAGE_LIMIT if argument == "store" else CONTROL_LIMIT, seconds=PATIENCE)


def _verb(name: str) -> str:
    return name.rpartition("rpc_")[2]


def _decode(decoder: msgspec.msgpack.Decoder[Any], raw: bytes) -> Any:
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"not a message of the DHT: {error}") from error


def _parse(form: Any, raw: bytes) -> Any:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return form.FromString(raw)
    except DecodeError as error:
        raise Malformed(f"not a {form.DESCRIPTOR.name}") from error


def _check(verb: str, request: Any, sender: PeerId) -> None:
    """Refuse what no honest hivemind of ours sends. Afterwards no assertion of hivemind's can be met from outside."""
    if request.peer.node_id not in (b"", node_id(sender)):
        raise Malformed("a node id that does not belong to the key")
    if verb == "ping":
        request.validate = False  # a ping that made us ping back would be an amplifier
        return
    keys = list(request.keys)
    if len(set(keys)) < len(keys) or len(keys) > KEYS_LIMIT or any(len(key) != 20 for key in keys):
        raise Malformed("keys are 20 bytes each, different, and few")
    if verb == "store":
        columns = (request.subkeys, request.values, request.expiration_time, request.in_cache)
        if any(len(column) != len(keys) for column in columns):
            raise Malformed("columns of different lengths")
        if (
            any(request.in_cache)
            or any(request.expiration_time)
            or any(tag != _PLAIN for tag in request.subkeys)
        ):
            raise Malformed("only plain bundles, and no time of day")


def _nothing(verb: str, request: Any, form: Any) -> Any:
    """What a search that is out of time is told in place of a reply."""
    if verb == "store":
        return form(store_ok=[False] * len(request.keys))
    return form(results=[{}] * len(request.keys))
