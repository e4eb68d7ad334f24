"""Messages from strangers to a directory, and their answers to it, are checked before hivemind sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from swarm.dht.node import HivemindDirectory, load_hivemind
from swarm.dht.p2p import CONTACTS_LIMIT, KEYS_LIMIT, MESSAGE_LIMIT
from swarm.dht.records import Topics, key_id, node_id, pack_bundle, tag, to_multihash, unpack_bundle
from swarm.errors import Refused
from swarm.membership.contacts import seal_contact
from swarm.membership.progress import Progress
from swarm.ticket import Address
from swarm.transport import Call, Request, Route
from swarm.wire import CONTROL_LIMIT, pack
from tests.swarm.memory import RUN, MemoryTransport, Network, key, record, soon

ANNA = key(1)
MALLORY = key(66)
NOBODY = key(77)
PLACES = [key_id(where).to_bytes(20, "big") for where in Topics(RUN, {"progress": Progress}).keys("progress")]


class Border:
    """Anna has a directory; Mallory sends any bytes that he likes."""

    def __init__(self, network: Network, anna: HivemindDirectory) -> None:
        self.network = network
        self.anna = anna
        self.mallory = network.join(MALLORY, ANNA)
        self.contact = self.mallory.contacts.record(MALLORY.peer_id) or b""

    @property
    def book(self) -> Any:
        return self.network.peers[ANNA.peer_id].contacts

    async def ask(
        self, argument: str, request: Any, contact: bytes | None = None, tags: bytes = b""
    ) -> bytes:
        """Anna's answer to Mallory. ``request`` is a protobuf message or bytes."""
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        body = pack((raw, self.contact if contact is None else contact, tags))
        return await self.mallory.request(
            ANNA.peer_id, Request("dht", body, argument=argument, limit=MESSAGE_LIMIT), deadline=soon()
        )

    def answers(self, reply: Callable[[Call], Any], contacts: list[bytes] | None = None) -> None:
        """From now on Mallory answers any call with the protobuf message ``reply(call)``."""

        async def handler(call: Call) -> bytes:
            return pack((reply(call).SerializeToString(), [self.contact, *(contacts or [])]))

        self.mallory.serve(Route("dht", handler))

    async def met(self) -> bool:
        """Whether Anna has Mallory in her routing table after she has learnt his contact and met him."""
        self.book.learn(self.contact)
        await self.anna.meet(MALLORY.peer_id, soon())
        return self.anna.neighbours == 1


@pytest_asyncio.fixture
async def border() -> AsyncIterator[Border]:
    await asyncio.to_thread(load_hivemind)
    network = Network()
    transport = network.join(ANNA)
    directory = HivemindDirectory.open(
        transport, transport.contacts, run=RUN, forms={"progress": Progress}, entries=[], deadline=soon()
    )
    async with await directory as anna:
        yield Border(network, anna)


def pb() -> Any:
    from hivemind.proto import dht_pb2

    return dht_pb2


def me() -> Any:
    return pb().NodeInfo(node_id=node_id(MALLORY.peer_id))


def store(**changes: Any) -> Any:
    """A store request as an honest peer would send it, but for ``changes``."""
    bundle = pack_bundle([(record(MALLORY), 60.0)])
    fields = {
        "keys": PLACES[:1],
        "subkeys": [b"\xc0"],
        "values": [bundle],
        "expiration_time": [0.0],
        "in_cache": [False],
        "peer": me(),
    }
    return pb().StoreRequest(**fields | changes)


@pytest.mark.asyncio
async def test_a_peer_that_calls_us_becomes_a_neighbour_that_we_can_dial(border: Border) -> None:
    for argument, request in (
        ("ping", pb().PingRequest(peer=me())),
        ("store", store()),
        ("find", pb().FindRequest(keys=PLACES)),
    ):
        assert await border.ask(argument, request)
    assert border.anna.neighbours == 1
    assert border.book.addresses(MALLORY.peer_id)
    assert [signed.signer for signed in await border.anna.get("progress", Progress, deadline=soon(0.0))] == [
        MALLORY.peer_id
    ]


BAD = {
    "an unknown verb": lambda: ("forget", pb().PingRequest()),
    "no protobuf": lambda: ("ping", b"\xff\xff"),
    "a node id that is not his": lambda: (
        "ping",
        pb().PingRequest(peer=pb().NodeInfo(node_id=node_id(ANNA.peer_id))),
    ),
    "a node id of a wrong length": lambda: ("find", pb().FindRequest(peer=pb().NodeInfo(node_id=bytes(21)))),
    "too many keys": lambda: (
        "find",
        pb().FindRequest(keys=[bytes([i]) * 20 for i in range(KEYS_LIMIT + 1)]),
    ),
    "one key twice": lambda: ("find", pb().FindRequest(keys=[bytes(20)] * 2)),
    "a key of a wrong length": lambda: ("find", pb().FindRequest(keys=[bytes(21)])),
    "columns of different lengths": lambda: ("store", store(values=[b"", b""])),
    "a value for the cache": lambda: ("store", store(in_cache=[True])),
    "a time of day": lambda: ("store", store(expiration_time=[1.7e9])),
    "a time that is no number": lambda: ("store", store(expiration_time=[float("nan")])),
    "a sub-key": lambda: ("store", store(subkeys=[b"\xa4anna"])),
    "a dictionary of hivemind's": lambda: ("store", store(subkeys=[b""])),
    "too many bytes": lambda: ("find", bytes(CONTROL_LIMIT)),
    "far too many bytes": lambda: ("store", bytes(MESSAGE_LIMIT)),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("request_", BAD.values(), ids=BAD)
async def test_a_request_is_refused_for(request_: Callable[[], tuple[str, Any]], border: Border) -> None:
    argument, request = request_()
    with pytest.raises(Refused):
        await border.ask(argument, request)
    assert border.anna.neighbours == 0
    assert border.anna._owner.failures == 0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "body", [b"", b"\xc0", pack((b"",)), pack((b"", b"")), pack(("text", b"", b"")), b"\x91" * 5000]
)
async def test_a_body_of_another_form_is_refused(body: bytes, border: Border) -> None:
    with pytest.raises(Refused):
        await border.mallory.request(ANNA.peer_id, Request("dht", body, argument="ping"), deadline=soon())


@pytest.mark.asyncio
async def test_the_contact_in_a_request_must_be_the_callers_own(border: Border) -> None:
    for contact in (
        seal_contact(NOBODY, RUN, (Address("h", 1),), 1),
        seal_contact(MALLORY, bytes(32), (), 1),
        b"no frame",
    ):
        with pytest.raises(Refused):
            await border.ask("ping", pb().PingRequest(peer=me()), contact)


@pytest.mark.asyncio
async def test_a_peer_that_nobody_can_dial_is_answered_but_is_no_neighbour(border: Border) -> None:
    for contact in (b"", seal_contact(MALLORY, RUN, (), 9)):
        assert await border.ask("ping", pb().PingRequest(peer=me()), contact)
        assert await border.ask("store", store(), contact)
        assert border.anna.neighbours == 0


INSIDE = Address("127.0.0.1", 5432)


@pytest.mark.asyncio
async def test_the_contact_in_a_request_from_the_internet_leads_nobody_to_this_computer(
    border: Border,
) -> None:
    contact = seal_contact(MALLORY, RUN, (INSIDE,), 9)
    for host, is_dialled in (("9.9.9.9", False), ("127.0.0.1", True)):
        border.mallory.host = host
        assert await border.ask("ping", pb().PingRequest(peer=me()), contact)
        assert bool(border.book.addresses(MALLORY.peer_id)) is is_dialled


@pytest.mark.asyncio
async def test_a_contact_in_a_reply_from_the_internet_leads_nobody_to_this_computer(
    border: Border, monkeypatch: pytest.MonkeyPatch
) -> None:
    border.answers(lambda call: found(call, *NEIGHBOUR), [seal_contact(NOBODY, RUN, (INSIDE,), 1)])
    border.book.note_answer(MALLORY.peer_id, "9.9.9.9")
    calls = dialled(border, monkeypatch)
    assert await border.met()
    assert set(calls) == {MALLORY.peer_id}


@pytest.mark.asyncio
async def test_a_ping_does_not_make_us_call_anybody(border: Border) -> None:
    calls = border.network.calls
    await border.ask("ping", pb().PingRequest(peer=me(), validate=True))
    assert border.network.calls == calls + 1


@pytest.mark.asyncio
async def test_a_forged_record_is_not_kept_and_the_sender_is_told_so(border: Border) -> None:
    forged = bytearray(record(NOBODY))
    forged[-1] ^= 1
    request = store(keys=PLACES, subkeys=[b"\xc0"] * 3, in_cache=[False] * 3, expiration_time=[0.0] * 3)
    del request.values[:]
    request.values.extend(
        [pack_bundle([(bytes(forged), 60.0)]), b"no bundle", pack_bundle([(record(MALLORY), 60.0)])]
    )
    raw, _ = _reply(await border.ask("store", request))
    assert list(pb().StoreResponse.FromString(raw).store_ok) == [False, False, True]
    assert border.anna.refused == {"signature": 1, "malformed": 1}


@pytest.mark.asyncio
async def test_a_walk_brings_neighbours_and_no_records(border: Border) -> None:
    await border.ask("store", store())
    await border.ask("ping", pb().PingRequest(peer=me()))
    for argument, holds in (("find", True), ("walk", False)):
        raw, _ = _reply(await border.ask(argument, pb().FindRequest(keys=PLACES[:1])))
        (result,) = pb().FindResponse.FromString(raw).results
        assert (bool(result.value), bool(result.type)) == (holds, holds)
        assert list(result.nearest_peer_ids) == [to_multihash(MALLORY.peer_id)]


@pytest.mark.asyncio
async def test_a_find_brings_what_the_search_has_not_got_yet(border: Border) -> None:
    frames = [record(MALLORY), record(NOBODY)]
    await border.ask("store", store(values=[pack_bundle((frame, 60.0) for frame in frames)]))
    for tags, expected in (
        (b"", frames),
        (tag(frames[0]), frames[1:]),
        (bytes(8) + tag(frames[1]), frames[:1]),
        (b"odd", frames),
    ):
        raw, _ = _reply(await border.ask("find", pb().FindRequest(keys=PLACES[:1]), tags=tags))
        (result,) = pb().FindResponse.FromString(raw).results
        assert [frame for frame, _ in unpack_bundle(result.value)] == expected


@pytest.mark.asyncio
async def test_a_long_bundle_is_kept_like_a_short_one(border: Border) -> None:
    many = pack_bundle([(record(key(number), name="x" * 40), 60.0) for number in range(300)])
    assert len(many) > CONTROL_LIMIT
    await border.ask("store", store(values=[many]))
    assert len(await border.anna.get("progress", Progress, deadline=soon(0.0))) == 300


# --- what a stranger answers ---------------------------------------------------------------------------


def found(call: Call, node: bytes, peer: bytes, value: bytes = b"") -> Any:
    """An answer to any call. To a find it names one neighbour and holds ``value``."""
    if call.argument == "ping":
        return pb().PingResponse(peer=me(), dht_time=1.7e9)
    if call.argument == "store":
        return pb().StoreResponse(store_ok=[True] * 3, peer=me())
    raw = _request(call.body)[0]
    result = pb().FindResult(
        type=1 if value else 0, value=value, nearest_node_ids=[node], nearest_peer_ids=[peer]
    )
    return pb().FindResponse(results=[result] * len(pb().FindRequest.FromString(raw).keys), peer=me())


def _request(body: bytes) -> tuple[bytes, bytes, bytes]:
    from swarm.dht.p2p import _REQUEST

    return _REQUEST.decode(body)


def _reply(reply: bytes) -> tuple[bytes, list[bytes]]:
    from swarm.dht.p2p import _REPLY

    return _REPLY.decode(reply)


def dialled(border: Border, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The peers that are called from now on."""
    calls: list[str] = []
    request = MemoryTransport.request

    async def noted(self: MemoryTransport, to: Any, *args: Any, **options: Any) -> bytes:
        calls.append(to)
        return await request(self, to, *args, **options)

    monkeypatch.setattr(MemoryTransport, "request", noted)
    return calls


NEIGHBOUR = node_id(NOBODY.peer_id), to_multihash(NOBODY.peer_id)
ADDRESS = [seal_contact(NOBODY, RUN, (Address("nobody.example.org", 1),), 1)]


@pytest.mark.asyncio
async def test_a_named_neighbour_is_dialled_at_the_signed_contact_that_comes_with_it(
    border: Border, monkeypatch: pytest.MonkeyPatch
) -> None:
    border.answers(lambda call: found(call, *NEIGHBOUR), ADDRESS)
    calls = dialled(border, monkeypatch)
    assert await border.met()
    assert NOBODY.peer_id in calls
    assert border.book.record(NOBODY.peer_id) == ADDRESS[0]


NOT_DIALLED = {
    "whose contact is unknown": (*NEIGHBOUR, []),
    "whose contact is forged": (*NEIGHBOUR, [ADDRESS[0][:-1] + b"\x02"]),
    "whose contact lies beyond the limit": (*NEIGHBOUR, [ADDRESS[0][:-1]] * CONTACTS_LIMIT + ADDRESS),
    "that claims another node id": (node_id(MALLORY.peer_id), NEIGHBOUR[1], ADDRESS),
    "with an id of another kind": (NEIGHBOUR[0], b"\x12\x20" + bytes(32), ADDRESS),
    "that is ourselves": (node_id(ANNA.peer_id), to_multihash(ANNA.peer_id), ADDRESS),
}


@pytest.mark.asyncio
@pytest.mark.parametrize(("node", "peer", "contacts"), NOT_DIALLED.values(), ids=NOT_DIALLED)
async def test_nobody_dials_a_neighbour(
    node: bytes, peer: bytes, contacts: list[bytes], border: Border, monkeypatch: pytest.MonkeyPatch
) -> None:
    border.answers(lambda call: found(call, node, peer), contacts)
    calls = dialled(border, monkeypatch)
    assert await border.met()
    await border.anna.get("progress", Progress, deadline=soon())
    assert set(calls) == {MALLORY.peer_id}


@pytest.mark.asyncio
async def test_a_peer_that_answers_with_the_node_id_of_another_is_no_neighbour(border: Border) -> None:
    border.answers(lambda call: pb().PingResponse(peer=pb().NodeInfo(node_id=node_id(NOBODY.peer_id))))
    assert not await border.met()
    assert border.anna.refused == {"malformed": 1}


BAD_REPLIES = {
    "results for other keys": lambda call: pb().FindResponse(peer=me()),
    "a value that is no bundle": lambda call: found(call, *NEIGHBOUR, value=b"\xc1"),
    "a dictionary of hivemind's": lambda call: found(call, *NEIGHBOUR, value=b"\xc7\x03\x50\x93\x01\x02"),
    "a record under a foreign key": lambda call: found(
        call, *NEIGHBOUR, value=pack_bundle([(bytes(200), 60.0)])
    ),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("reply", BAD_REPLIES.values(), ids=BAD_REPLIES)
async def test_a_get_survives_and_counts(reply: Callable[[Call], Any], border: Border) -> None:
    border.answers(lambda call: found(call, *NEIGHBOUR))
    assert await border.met()
    border.answers(lambda call: reply(call) if call.argument in ("find", "walk") else found(call, *NEIGHBOUR))
    assert await border.anna.get("progress", Progress, deadline=soon()) == []
    assert border.anna.refused["malformed"] > 0
    assert border.anna._owner.failures == 0


@pytest.mark.asyncio
async def test_calling_a_peer_without_an_address_raises_an_error_that_hivemind_handles(
    border: Border,
) -> None:
    from hivemind.p2p import P2PHandlerError, PeerID

    for raw in (to_multihash(NOBODY.peer_id), b"\x12\x20" + bytes(32)):
        with pytest.raises(P2PHandlerError):
            await border.anna._p2p.call_protobuf_handler(
                PeerID(raw), "DHTProtocol.rpc_ping", pb().PingRequest(), pb().PingResponse
            )


@pytest.mark.asyncio
async def test_a_closed_directory_answers_no_calls(border: Border) -> None:
    await border.anna.close()
    with pytest.raises(Refused):
        await border.ask("ping", pb().PingRequest())
