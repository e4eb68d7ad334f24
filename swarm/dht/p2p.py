"""hivemind's ``P2P`` on our transport: each remote call of hivemind is one request on the route "dht".

    request   argument = ping | store | find | walk
              body     = [protobuf, contact of the caller, tags of the records that the caller has]
    reply     [protobuf, contacts of the callee and of the peers that the reply names]

A "walk" is a find that asks for neighbours only. A find carries the `tag` of each record that its search has
found so far, so that the peers asked later leave these records out.

hivemind trusts what it parses. So this module checks all messages from strangers first:

Rule 1: a node id must be the one that follows from the key that TLS has proven.
Rule 2: a stored value is a plain bundle, never one of hivemind's own nested dictionaries.
Rule 3: no message holds a time of day.
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

from ..bounded import LeastRecentlyUsed
from ..errors import Malformed, Refused, SwarmError, TheirFault
from ..identity import PeerId
from ..membership.contacts import Contacts, Teller
from ..transport import Allowance, Call, Payload, Request, Route, Transport
from ..wire import CONTROL_LIMIT, Message, Signed, pack
from .records import Topics, from_multihash, node_id, tag, to_multihash, without
from .storage import HELD_LIMIT
from .tasks import TaskOwner, disowned

PATIENCE = 4.0
"""Seconds that one call may take."""

MESSAGE_LIMIT = HELD_LIMIT + CONTROL_LIMIT
"""Bytes of the largest message: all records of a node, and what goes around them."""

CONTACTS_LIMIT = 40
"""Contacts in a reply; further ones are ignored."""

KEYS_LIMIT = 16
"""Keys in a request; a request with more is refused. A topic has 3."""

KEY_SIZE = 20
"""Bytes of a key in hivemind's messages."""

NEIGHBOURS = 10
"""Peers that a reply names per key, nearest first. A search keeps no more than that."""

ANSWERED_LIMIT = 32
"""Peers that have answered last and are remembered, to rejoin through them."""

_ARGUMENTS = ("ping", "store", "find", "walk")
_NO_SUBKEY = b"\xc0"
"""The sub-key field of a plain value in hivemind's messages."""

_REQUEST = msgspec.msgpack.Decoder(tuple[bytes, bytes, bytes])
_REPLY = msgspec.msgpack.Decoder(tuple[bytes, list[bytes]])


@dataclass(slots=True)
class Operation:
    """One put, get or join of ours. All calls that hivemind makes for it share this object.

    After ``deadline`` (``loop.time()``) no new call is sent: hivemind gets an empty reply instead. So its
    search ends by itself, and it does not drop a healthy peer only because we ran out of time.
    """

    deadline: float
    record: bytes = b""
    """The frame to publish; empty for a get or a join."""
    found: dict[bytes, Signed[Message]] = field(default_factory=dict)
    """Valid records that came in, by `tag`."""
    answered: set[PeerId] = field(default_factory=set)
    """Peers that have answered a call of this operation."""
    took: set[PeerId] = field(default_factory=set)
    """Peers that have stored ``record``."""

    @property
    def wants_records(self) -> bool:
        """Whether records are wanted, as by a get and a join; a put looks for neighbours only."""
        return not self.record


_operation: ContextVar[Operation | None] = ContextVar("swarm.dht.operation", default=None)


@contextmanager
def operating(operation: Operation | None) -> Iterator[None]:
    """Calls made in this block, and in tasks started in it, belong to ``operation``."""
    token = _operation.set(operation)
    try:
        yield
    finally:
        _operation.reset(token)


@dataclass(frozen=True, slots=True)
class _Servicer:
    """A method of hivemind that answers calls, and the protobuf type of its requests."""

    method: Callable[[Any, Any], Awaitable[Any]]
    form: Any


class P2P:
    """The part of hivemind's ``P2P`` class that its ``DHTNode`` uses.

    ``refused`` counts, by error code, what other peers sent against the rules. ``answered`` holds the peers
    that answered last.
    """

    def __init__(self, transport: Transport, contacts: Contacts, topics: Topics, owner: TaskOwner) -> None:
        from hivemind.p2p import PeerID

        self.me = transport.me
        self.peer_id = PeerID(to_multihash(transport.me))
        self.refused: Counter[str] = Counter()
        self.answered: LeastRecentlyUsed[PeerId, None] = LeastRecentlyUsed(ANSWERED_LIMIT)
        self._transport = transport
        self._contacts = contacts
        self._topics = topics
        self._owner = owner
        self._servicers: dict[str, _Servicer] = {}
        self._is_open = True

    # --- methods that hivemind calls ------------------------------------------------------------------

    async def add_protobuf_handler(
        self, name: str, handler: Any, input_protobuf_type: Any, **options: Any
    ) -> None:
        """Let ``handler`` answer calls of ``name``, such as ``DHTProtocol.rpc_find``."""
        self._servicers[_verb(name)] = _Servicer(handler, input_protobuf_type)

    async def remove_protobuf_handler(self, name: str, **options: Any) -> None:
        """Answer calls of ``name`` no longer."""
        self._servicers.pop(_verb(name), None)

    async def call_protobuf_handler(
        self, peer_id: Any, name: str, input: Any, output_protobuf_type: Any
    ) -> Any:
        """The reply of ``peer_id``. Raises hivemind's ``P2PHandlerError`` where no valid reply comes."""
        from hivemind.p2p import P2PHandlerError

        operation = _operation.get()
        verb = _verb(name)
        if operation and verb != "ping" and asyncio.get_running_loop().time() >= operation.deadline:
            return _empty_reply(verb, input, output_protobuf_type)
        try:
            to = from_multihash(peer_id.to_bytes())
            return await self._call(to, verb, input, output_protobuf_type, operation)
        except TheirFault as fault:
            self.refused[fault.code] += 1
            raise P2PHandlerError(f"{name} at {peer_id}: {fault}") from fault
        except SwarmError as error:
            raise P2PHandlerError(f"{name} at {peer_id}: {error}") from error

    # --- methods that our directory calls -------------------------------------------------------------

    def serve(self) -> None:
        """Answer other peers from now on."""
        self._transport.serve(Route("dht", self._serve, _admit))

    def close(self) -> None:
        """Send and answer no calls from now on."""
        self._is_open = False

    # --- calls to other peers -------------------------------------------------------------------------

    async def _call(self, to: PeerId, verb: str, request: Any, form: Any, operation: Operation | None) -> Any:
        if not self._is_open:
            raise Refused("this node is closed")
        argument = _argument(verb, operation)
        tags = b"".join(operation.found) if operation and argument == "find" else b""
        own_contact = self._contacts.record(self.me) or b""
        reply = await self._send(to, argument, pack((request.SerializeToString(), own_contact, tags)))
        response = self._open_reply(to, form, reply)
        if verb == "find":
            await self._read_find(request, response, operation)
        self.answered[to] = None
        if operation:
            operation.answered.add(to)
            if verb == "store" and _has_stored(operation.record, request, response):
                operation.took.add(to)
        return response

    async def _send(self, to: PeerId, argument: str, body: bytes) -> bytes:
        limit = MESSAGE_LIMIT if argument == "find" else CONTROL_LIMIT
        deadline = asyncio.get_running_loop().time() + PATIENCE
        with disowned():
            return await self._transport.request(
                to, Request("dht", body, argument=argument, limit=limit), deadline=deadline
            )

    def _open_reply(self, sender: PeerId, form: Any, reply: bytes) -> Any:
        """The protobuf message in ``reply``, after its form and the sender's node id have been checked."""
        raw, contacts = _decode(_REPLY, reply)
        response = _parse(form, raw)
        _check_node_id(response.peer, sender)
        wrong = self._contacts.learn_all(contacts[:CONTACTS_LIMIT], self._contacts.teller(sender))
        if wrong:
            self.refused["contact"] += wrong
        return response

    async def _read_find(self, request: Any, response: Any, operation: Operation | None) -> None:
        """Take the records out of the reply, for the operation, and the neighbours that we cannot dial."""
        if len(response.results) != len(request.keys):
            raise Malformed("a reply for other keys than were asked for")
        for key, result in zip(request.keys, response.results, strict=True):
            if result.value and operation and operation.wants_records:
                records, wrong = await self._open_bundle(key, result.value)
                operation.found.update((tag(record.raw), record) for record in records)
                self.refused += wrong
            _drop_value(result)
            self._drop_undialable(result)

    async def _open_bundle(self, key: bytes, bundle: bytes) -> tuple[list[Signed[Message]], Counter[str]]:
        """`Topics.read`, in a thread where the bundle is long: 1,000 signatures take about 0.1 s."""
        where = int.from_bytes(key, "big")
        if len(bundle) <= CONTROL_LIMIT:
            return self._topics.read(where, bundle)
        return await asyncio.to_thread(self._topics.read, where, bundle)

    def _drop_undialable(self, result: Any) -> None:
        """Leave hivemind only those of the nearest neighbours in ``result`` that we can dial."""
        named = zip(result.nearest_node_ids, result.nearest_peer_ids, strict=False)
        nearest = list(named)[:NEIGHBOURS]
        dialable = [(node, peer) for node, peer in nearest if self._is_dialable(node, peer)]
        result.ClearField("nearest_node_ids")
        result.ClearField("nearest_peer_ids")
        result.nearest_node_ids.extend(node for node, _ in dialable)
        result.nearest_peer_ids.extend(peer for _, peer in dialable)

    def _is_dialable(self, node: bytes, multihash: bytes) -> bool:
        try:
            peer = from_multihash(multihash)
        except Malformed as fault:
            self.refused[fault.code] += 1
            return False
        return node == node_id(peer) and peer != self.me and bool(self._contacts.addresses(peer))

    # --- calls from other peers -----------------------------------------------------------------------

    async def _serve(self, call: Call) -> Payload:
        from hivemind.p2p import P2PContext, PeerID

        verb = "find" if call.argument == "walk" else call.argument
        servicer = self._servicers.get(verb)
        if servicer is None or not self._is_open:
            raise Refused("this peer keeps no records")

        raw, contact, tags = _decode(_REQUEST, bytes(call.body))
        caller = Teller(call.sender, call.host)
        if contact and self._contacts.learn(contact, caller).signer != call.sender:
            raise Malformed("the contact of somebody else")
        request = _parse(servicer.form, raw)
        _check_request(verb, request, call.sender)
        if not self._contacts.addresses(call.sender):
            request.ClearField("peer")  # we cannot dial it, so hivemind must not add it to its routing table
        if len(raw) > CONTROL_LIMIT:
            await self._verify_ahead(request)

        context = P2PContext(call.argument, self.peer_id, PeerID(to_multihash(call.sender)))
        with self._owner.adopting(), operating(None):
            response = await servicer.method(request, context)
        return self._pack_reply(call.argument, response, tags)

    async def _verify_ahead(self, request: Any) -> None:
        """Verify the signatures of a long store in a thread.

        The storage, which verifies them again, cannot wait for a thread. It finds the results in a cache.
        """
        for key, bundle in zip(request.keys, request.values, strict=True):
            await self._open_bundle(key, bundle)

    def _pack_reply(self, argument: str, response: Any, tags: bytes) -> bytes:
        named = [self.me]
        if argument == "ping":
            response.ClearField("dht_time")
        if argument in ("find", "walk"):
            for result in response.results:
                del result.nearest_node_ids[NEIGHBOURS:]
                del result.nearest_peer_ids[NEIGHBOURS:]
                named += map(from_multihash, result.nearest_peer_ids)
                if argument == "walk":
                    _drop_value(result)
                elif result.value and tags:
                    result.value = without(result.value, tags)
        contacts = (self._contacts.record(peer) for peer in dict.fromkeys(named))
        known = [contact for contact in contacts if contact]
        return pack((response.SerializeToString(), known[:CONTACTS_LIMIT]))


def _admit(sender: PeerId, argument: str) -> Allowance:
    if argument not in _ARGUMENTS:
        raise Malformed("no verb of the DHT")
    return Allowance(at_most=MESSAGE_LIMIT if argument == "store" else CONTROL_LIMIT, seconds=PATIENCE)


def _verb(name: str) -> str:
    """The last part of hivemind's name of a call: "find" in ``DHTProtocol.rpc_find``."""
    return name.rpartition("rpc_")[2]


def _argument(verb: str, operation: Operation | None) -> str:
    """The argument of a request: a find becomes a walk where no records are wanted."""
    if verb == "find" and (operation is None or not operation.wants_records):
        return "walk"
    return verb


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


def _check_request(verb: str, request: Any, sender: PeerId) -> None:
    """Refuse requests that no honest peer sends. After this check no assertion of hivemind's can fail."""
    _check_node_id(request.peer, sender)
    if verb == "ping":
        request.validate = False  # otherwise hivemind pings back, and a ping could be used as an amplifier
        return
    keys = list(request.keys)
    if len(set(keys)) < len(keys) or len(keys) > KEYS_LIMIT or any(len(key) != KEY_SIZE for key in keys):
        raise Malformed("keys are 20 bytes each, different, and few")
    if verb == "store":
        _check_store(request)


def _check_node_id(peer: Any, sender: PeerId) -> None:
    if peer.node_id not in (b"", node_id(sender)):
        raise Malformed("a node id that does not belong to the key")


def _check_store(request: Any) -> None:
    columns = (request.subkeys, request.values, request.expiration_time, request.in_cache)
    if any(len(column) != len(request.keys) for column in columns):
        raise Malformed("columns of different lengths")
    has_subkeys = any(subkey != _NO_SUBKEY for subkey in request.subkeys)
    if has_subkeys or any(request.in_cache) or any(request.expiration_time):
        raise Malformed("only plain bundles, and no time of day")


def _has_stored(record: bytes, request: Any, response: Any) -> bool:
    """Whether ``response`` says that a value with ``record`` in it is stored now."""
    pairs = zip(request.values, response.store_ok, strict=False)
    return any(record in value for value, is_stored in pairs if is_stored)


def _drop_value(result: Any) -> None:
    result.ClearField("value")
    result.ClearField("type")


def _empty_reply(verb: str, request: Any, form: Any) -> Any:
    """The reply that hivemind gets after an operation's deadline."""
    if verb == "store":
        return form(store_ok=[False] * len(request.keys))
    return form(results=[{}] * len(request.keys))
