"""Who else is here: greets entries, answers newcomers, tells the DHT how far we are, and keeps the roster from what comes back."""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from averaging.groups import leaders
from averaging.hierarchy import Hierarchy
from swarm.dht.directory import Directory
from swarm.errors import (
    Impostor,
    Malformed,
    Refused,
    SwarmError,
    TheirFault,
    Unreachable,
    Weather,
    WrongVersion,
)
from swarm.identity import KeyPair, PeerId
from swarm.manifest import RunManifest, open_manifest
from swarm.membership.contacts import Contacts, open_contact
from swarm.membership.progress import Progress
from swarm.membership.roster import PATIENCE, Roster
from swarm.seeds import derive
from swarm.transport import Call, Payload, Request, Route, Transport
from swarm.wire import CONTROL_LIMIT, Signed, Stamp, finite, open_frame, pack, seal, unpack

from ..sync.head import Head

TOPIC = "progress"
ASKED = 8
"""Peers asked at a time where one answer is enough, and donors of one download."""
TOLD, LEADERS_TOLD = 32, 8
"""Peers told at once where we are, and how many of them because they may lead: the same few however large the run is."""
MANY, TOLD_BY_MANY = 64, 16
"""From more peers on we look at the DHT less often, and tell fewer: there are enough who say the same."""
WELCOME_PEERS = 40
WELCOME_BYTES = CONTROL_LIMIT - 4096
"""Room for the records in a welcome: whoever makes theirs as large as they may be must not make everybody's welcome too large."""
DIAL_BACK_SECONDS = 4.0
GREETING_SECONDS = 2.0
"""Patience with the other entries once one has answered."""

T = TypeVar("T")


class Welcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """The answer to a greeting: where we see you, what time it is here, and who is here (sealed contacts and progress records).

    ``host`` is an IP address, or empty where the way that the greeting came has none.
    """

    host: str
    wall: float
    contacts: tuple[bytes, ...]
    progress: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if self.host:
            ipaddress.ip_address(self.host)
        finite("wall", self.wall, 0, 1e12)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPorts:
    """How this peer reaches the others."""

    transport: Transport
    directory: Directory
    contacts: Contacts
    wall: Callable[[], float]
    """Seconds since 1970, by this computer: shown to people and compared with others', never relied on."""


class Membership:
    """The membership edge of one peer. ``describe`` gives our own progress; ``offer`` our state, None while we have none."""

    def __init__(
        self,
        manifest: RunManifest,
        sealed_manifest: bytes,
        key: KeyPair,
        network: NetworkPorts,
        describe: Callable[[], tuple[int, Progress]],
        offer: Callable[[], tuple[int, Head] | None],
        first_seq: int = 0,
    ) -> None:
        """``first_seq`` must grow from one life of this identity to the next: older records never replace newer ones."""
        self._manifest, self._sealed, self._key, self._network = manifest, sealed_manifest, key, network
        self._describe, self._offer = describe, offer
        self._run = manifest.run_id
        self._seq = self._draw = first_seq
        self._sealed_offer: tuple[tuple[int, Head], bytes] | None = None
        self.roster = Roster()
        for name, handler in {
            "hello": self._on_hello, "manifest": self._on_manifest, "ping": self._on_ping, "dial-back": self._on_dial_back,
            "offer": self._on_offer, "progress": self._on_progress, "contact": self._on_contact,
        }.items():  # fmt: skip
            network.transport.serve(Route(name, handler))

    @property
    def me(self) -> PeerId:
        """Our own id."""
        return self._key.peer_id

    # --- answering ------------------------------------------------------------------------------------------------

    async def _on_manifest(self, call: Call) -> Payload:
        return self._sealed

    async def _on_ping(self, call: Call) -> Payload:
        return b""

    async def _on_hello(self, call: Call) -> Payload:
        """Learn the caller's contact, tell it where we see it and who is here."""
        if self._network.contacts.learn(bytes(call.body)).signer != call.sender:
            raise Malformed("a greeting carries the caller's own contact")
        here = set(self.some(WELCOME_PEERS))
        known = [row.signed.raw for row in self.roster.snapshot() if row.peer in here]
        progress = _that_fit([self.sealed_progress(), *known], WELCOME_BYTES)
        room = WELCOME_BYTES - sum(map(len, progress))
        contacts = _that_fit(reversed(self._network.contacts.records(WELCOME_PEERS)), room)
        return pack(Welcome(call.host, self._network.wall(), contacts, progress))

    async def _on_dial_back(self, call: Call) -> Payload:
        """Dial the caller, so that it learns whether others can."""
        deadline = asyncio.get_running_loop().time() + DIAL_BACK_SECONDS
        await self._network.transport.request(call.sender, Request("ping"), deadline=deadline)
        return b""

    async def _on_offer(self, call: Call) -> Payload:
        offer = self._offer()
        if offer is None:
            raise Refused("this peer has no state yet")
        if self._sealed_offer is None or self._sealed_offer[0] != offer:  # many ask for the same
            self._sealed_offer = offer, seal(self._key, offer[1], Stamp(self._run, round=offer[0]))
        return self._sealed_offer[1]

    async def _on_progress(self, call: Call) -> Payload:
        self._hear(open_frame(bytes(call.body), Progress, run=self._run))
        return b""

    async def _on_contact(self, call: Call) -> Payload:
        """Hand on the contact of somebody whom the caller has to reach."""
        record = self._network.contacts.record(PeerId(call.argument))
        if record is None:
            raise Refused("that peer is not known here")
        return record

    # --- asking ---------------------------------------------------------------------------------------------------

    def some(self, at_most: int = ASKED, among: Sequence[PeerId] | None = None) -> tuple[PeerId, ...]:
        """Up to ``at_most`` of ``among``, or of all that are here, others at every call: no id is always asked."""
        self._draw += 1
        here, me = (
            list(self.roster.peers(asyncio.get_running_loop().time()) if among is None else among),
            self._key.peer_id,
        )
        turns = range(min(at_most, len(here)))
        return tuple(here.pop(derive(self._run, "some", me, self._draw, turn) % len(here)) for turn in turns)

    def learn(self, welcomes: Sequence[Welcome]) -> int:
        """Take over whom the entries know; the number of records that do not hold (the entries' fault, not ours)."""
        wrong = sum(self._network.contacts.learn_all(list(welcome.contacts)) for welcome in welcomes)
        for record in [record for welcome in welcomes for record in welcome.progress]:
            try:
                self._hear(open_frame(record, Progress, run=self._run))
            except TheirFault:
                wrong += 1
        return wrong

    async def find(self, peer: PeerId, deadline: float) -> None:
        """Ask some of those who are here for the contact of ``peer``; a broken or a wrong one counts as none."""

        async def ask(asked: PeerId) -> bool:
            signed = open_contact(
                await self._network.transport.request(
                    asked, Request("contact", argument=peer), deadline=deadline
                ),
                self._run,
            )
            if signed.signer != peer:
                raise Impostor("a contact counts for its signer only")
            self._network.contacts.keep(signed)
            return True

        await self._ask(self.some(), ask, 0.0)

    async def is_dialable(self, peers: Sequence[PeerId], deadline: float) -> bool | None:
        """Whether one of ``peers`` could dial us back; None where nobody could be asked."""
        transport = self._network.transport
        verdicts: list[bool] = []

        async def ask(peer: PeerId) -> bytes:
            try:
                await transport.request(peer, Request("dial-back"), deadline=deadline)
            except Refused:
                verdicts.append(False)
                raise
            verdicts.append(True)
            return b""

        await self._ask(peers, ask)
        return any(verdicts) if verdicts else None

    async def offers(self, deadline: float, peers: Sequence[PeerId] = ()) -> list[Signed[Head]]:
        """What ``peers`` say about where the run stands, or without them up to `ASKED` of those who are here."""

        async def ask(peer: PeerId) -> Signed[Head]:
            offer = open_frame(
                await self._network.transport.request(peer, Request("offer"), deadline=deadline),
                Head,
                run=self._run,
            )
            if offer.signer != peer:
                raise Impostor("an offer counts for its signer only")
            return offer

        return await self._ask(peers or self.some(), ask, GREETING_SECONDS)

    async def _ask(
        self, peers: Sequence[PeerId], call: Callable[[PeerId], Awaitable[T]], hurry: float = math.inf
    ) -> list[T]:
        """Ask all at once; the answers that came and hold, in the order of ``peers``. Who cannot be reached is noted in the roster.

        Whatever else a peer answers costs its own answer and nothing more. Once one has answered, the others have ``hurry``
        seconds: answers grow old while somebody is waited for whom the network has swallowed.
        """

        async def one(peer: PeerId) -> T | None:
            try:
                return await call(peer)
            except Unreachable:
                self.roster.lost(peer, asyncio.get_running_loop().time())
            except (Weather, TheirFault):
                return None
            return None

        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(one(peer)) for peer in peers if peer != self._key.peer_id]
            await first_and_soon(asked, math.inf, hurry)
        return [answer for task in asked if not task.cancelled() and (answer := task.result()) is not None]

    # --- telling --------------------------------------------------------------------------------------------------

    def sealed_progress(self) -> bytes:
        """What we say of ourselves just now."""
        round_, progress = self._describe()
        self._seq += 1
        return seal(self._key, progress, Stamp(self._run, round=round_, seq=self._seq))

    async def announce(self, deadline: float, hierarchy: Hierarchy) -> None:
        """Tell up to `TOLD` peers directly, for the moments that cannot wait for the DHT (joining, leaving): in a small run
        everybody; in a large one who may lead our round, because those wait for whom they expect, and others drawn; in a population
        those of our cell."""
        here = self.roster.peers(asyncio.get_running_loop().time())
        near = here if hierarchy.count == 1 else hierarchy.group_mates(self.me, here)
        leading = self._leading(self._describe()[0], near)
        told = TOLD if len(here) <= MANY else TOLD_BY_MANY
        await self._tell(
            near if len(near) <= TOLD else dict.fromkeys([*leading, *self.some(told - LEADERS_TOLD, near)]),
            deadline,
        )

    async def announce_to_next(self, deadline: float) -> None:
        """Tell those who may lead the round after ours."""
        here = self.roster.peers(asyncio.get_running_loop().time())
        await self._tell(self._leading(self._describe()[0] + 1, here), deadline)

    def _leading(self, round_: int, here: Iterable[PeerId]) -> list[PeerId]:
        return leaders(self._run, round_, here)[:LEADERS_TOLD]

    async def _tell(self, peers: Iterable[PeerId], deadline: float) -> None:
        record = self.sealed_progress()
        await self._ask(
            tuple(peers),
            lambda peer: self._network.transport.request(
                peer, Request("progress", record), deadline=deadline
            ),
        )

    async def publish_and_discover(self, often: float, seldom: float) -> None:
        """For ever: put our record, get everybody's. A failing DHT is weather: the next time, again.

        Every ``often`` seconds while peers come and go or one we know is missing; twice as long each time, up to ``seldom``, while
        nothing of the kind happens. Absent peers are remembered for minutes, so a swarm that has come apart keeps looking.
        A look brings a record of everybody: beyond `MANY` peers all of this is slower in proportion, so that it costs the same.
        """
        loop, interval, known = asyncio.get_running_loop(), often, -1
        while True:
            deadline = loop.time() + max(interval, 5.0)
            await self._network.directory.put(
                TOPIC, self.sealed_progress(), seconds=6 * interval, deadline=deadline
            )
            self._hear_all(await self._network.directory.get(TOPIC, Progress, deadline=deadline))
            slower = max(1.0, len(self.roster) / MANY)
            self.roster.patience = max(PATIENCE, 3 * slower * often)
            self.roster.forget_older_than(loop.time() - 20 * slower * often)
            here = len(self.roster.peers(loop.time()))
            interval = (
                min(2 * interval, slower * seldom) if here == known == len(self.roster) else slower * often
            )
            known = here
            await asyncio.sleep(interval)

    def _hear(self, signed: Signed[Progress]) -> None:
        """Note a record. Raises the faults of a contact in it that is broken or somebody else's: nobody could dial its peer."""
        if signed.signer == self._key.peer_id or self.roster.knows(signed):
            return  # a look at the DHT brings everybody's record, most of them again
        contact, contacts = signed.message.contact, self._network.contacts
        if contact and contact != contacts.record(signed.signer):
            opened = open_contact(contact, self._run)
            if opened.signer != signed.signer:
                raise Malformed("a record carries its own peer's contact")
            contacts.keep(opened)
        self.roster.hear(signed, asyncio.get_running_loop().time())

    def _hear_all(self, records: Iterable[Signed[Progress]]) -> int:
        """Note those that hold; the number of those that do not."""
        wrong = 0
        for signed in records:
            try:
                self._hear(signed)
            except TheirFault:
                wrong += 1
        return wrong


async def greet(
    transport: Transport, peers: Sequence[PeerId], contact: bytes, deadline: float
) -> list[Welcome]:
    """Say hello to ``peers`` at once with our sealed contact; the answers that came. Dead ones are a non-event.

    Once one has answered, the others have `GREETING_SECONDS`: an entry that is behind a silent firewall delays nobody.
    """

    async def one(peer: PeerId) -> Welcome | None:
        try:
            return unpack(
                await transport.request(peer, Request("hello", contact), deadline=deadline), Welcome
            )
        except (Weather, TheirFault):
            return None

    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(one(peer)) for peer in peers]
        await first_and_soon(asked, deadline, GREETING_SECONDS)
    return [welcome for task in asked if not task.cancelled() and (welcome := task.result())]


async def first_and_soon(tasks: Sequence[asyncio.Task[T | None]], deadline: float, hurry: float) -> None:
    """Wait for all ``tasks`` until ``deadline``, and not longer than ``hurry`` seconds once one has a result; cancel the others."""
    loop, waiting = asyncio.get_running_loop(), set(tasks)
    while waiting and (now := loop.time()) < deadline:
        patience = None if math.isinf(deadline) else deadline - now
        done, waiting = await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if any(task.result() is not None for task in done if not task.cancelled()):
            deadline = min(deadline, loop.time() + hurry)
    for task in waiting:
        task.cancel()


async def fetch_manifest(
    transport: Transport, entries: Sequence[PeerId], deadline: float, run: bytes = b""
) -> tuple[bytes, list[SwarmError]]:
    """The sealed manifest of ``run`` from the first entry that has it, all being asked at once; empty where none has.

    With it everybody's reason who did not. Raises `WrongVersion` where the run speaks another protocol.
    """

    async def one(entry: PeerId) -> bytes | SwarmError:
        try:
            sealed = await transport.request(entry, Request("manifest"), deadline=deadline)
            if run:  # else the caller looks for itself
                open_manifest(sealed, run)
        except (Weather, TheirFault, WrongVersion) as error:
            return error
        return sealed

    failures: list[SwarmError] = []
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(one(entry)) for entry in entries]
        for answer in asyncio.as_completed(asked):
            said = await answer
            if isinstance(said, (bytes, WrongVersion)):
                break
            failures.append(said)
        else:
            return b"", failures
        for task in asked:
            task.cancel()
    if isinstance(said, WrongVersion):
        raise said
    return said, failures


def _that_fit(records: Iterable[bytes], room: int) -> tuple[bytes, ...]:
    """The first of ``records`` that have ``room`` together."""
    fitting: list[bytes] = []
    for record in records:
        room -= len(record) + 8
        if room < 0:
            break
        fitting.append(record)
    return tuple(fitting)
