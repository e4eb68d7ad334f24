"""Who else is in the run: greets the ticket's entries, answers newcomers, tells the DHT how far we are, and
keeps the roster."""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from averaging.groups import leaders
from averaging.hierarchy import Hierarchy
from swarm.asking import ask_all
from swarm.dht.directory import Directory
from swarm.errors import Busy, Impostor, Malformed, OurFault, Refused, SwarmError, TheirFault, Unreachable
from swarm.identity import KeyPair, PeerId
from swarm.manifest import RunManifest, open_manifest
from swarm.membership.contacts import Contacts, Teller, open_contact
from swarm.membership.progress import Progress
from swarm.membership.roster import PATIENCE, Roster, Row
from swarm.seeds import derive
from swarm.transport import Call, Payload, Request, Route, Transport
from swarm.wire import CONTROL_LIMIT, Signed, Stamp, finite, open_frame, pack, seal, unpack

TOPIC = "progress"
"""Where the DHT keeps the progress records of a run."""
ASKED = 8
"""Peers asked at a time if one answer is enough, and donors of one download."""
TOLD = 32
"""Peers told at once where we are ..."""
LEADERS_TOLD = 8
"""... and how many of them because they may lead: the same few however large the run is."""
MANY = 64
"""With more peers than this we look at the DHT less often ..."""
TOLD_BY_MANY = 16
"""... and tell fewer: enough others say the same."""
WELCOME_PEERS = 40
"""Peers named in a welcome, at most."""
WELCOME_BYTES = CONTROL_LIMIT - 4096
"""Bytes of the records in a welcome: peers with records of the largest size must not make a welcome too
large."""
DIAL_BACK_SECONDS = 4.0
"""Patience with a caller that we dial back."""
GREETING_SECONDS = 2.0
"""Patience with the other peers once one has answered."""
SHORTEST_LOOK = 5.0
"""Seconds that one look at the DHT may take, at least."""

T = TypeVar("T")


class Welcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """The answer to a greeting: the caller's address, the time here, and who is here (sealed contacts and
    progress records).

    ``host`` is the IP address at which we see the caller, or empty if its transport has none.
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
    """Seconds since 1970 by this computer's clock: shown to people and compared with others', never relied
    on."""


class Membership:
    """The membership edge of one peer."""

    def __init__(
        self,
        manifest: RunManifest,
        sealed_manifest: bytes,
        key: KeyPair,
        network: NetworkPorts,
        describe: Callable[[], tuple[int, Progress]],
        first_seq: int = 0,
    ) -> None:
        """``describe`` gives our round and our own progress.

        ``first_seq`` must grow from one start of this identity to the next: older records never replace newer
        ones.
        """
        self._sealed_manifest = sealed_manifest
        self._key = key
        self._network = network
        self._describe = describe
        self._run = manifest.run_id
        self._seq = first_seq
        self._draw = first_seq
        """Counts the draws of `some`."""
        self.roster = Roster()
        routes = {
            "hello": self._on_hello,
            "manifest": self._on_manifest,
            "ping": self._on_ping,
            "dial-back": self._on_dial_back,
            "progress": self._on_progress,
            "contact": self._on_contact,
        }
        for name, handler in routes.items():
            network.transport.serve(Route(name, handler))

    @property
    def me(self) -> PeerId:
        """Our own id."""
        return self._key.peer_id

    # --- answering ------------------------------------------------------------------------------------------

    async def _on_manifest(self, call: Call) -> Payload:
        return self._sealed_manifest

    async def _on_ping(self, call: Call) -> Payload:
        return b""

    async def _on_hello(self, call: Call) -> Payload:
        """Learn the caller's contact; tell it at which address we see it, and who is here."""
        if self._network.contacts.learn(bytes(call.body), _caller(call)).signer != call.sender:
            raise Malformed("a greeting carries the caller's own contact")
        here = set(self.some(WELCOME_PEERS))
        known = [row.signed.raw for row in self.roster.snapshot() if row.peer in here and self._may_tell(row)]
        progress = _that_fit([self.sealed_progress(), *known], WELCOME_BYTES)
        bytes_left = WELCOME_BYTES - sum(map(len, progress))
        contacts = _that_fit(reversed(self._network.contacts.records(WELCOME_PEERS)), bytes_left)
        return pack(Welcome(call.host, self._network.wall(), contacts, progress))

    def _may_tell(self, row: Row) -> bool:
        """Whether we would pass on the contact in the record of ``row``."""
        return not row.signed.message.contact or self._network.contacts.record(row.peer) is not None

    async def _on_dial_back(self, call: Call) -> Payload:
        """Dial the caller, so that it learns whether others can.

        It learns nothing about other computers: they are not dialled, and a refusal does not say why.
        """
        if call.host and not self._network.contacts.is_at(call.sender, call.host):
            raise Busy(
                "only the computer that calls is dialled back"
            )  # no verdict, and none against the caller
        deadline = asyncio.get_running_loop().time() + DIAL_BACK_SECONDS
        try:
            await self._network.transport.request(call.sender, Request("ping"), deadline=deadline)
        except SwarmError as error:
            raise Refused("the caller does not answer at its addresses") from error
        return b""

    async def _on_progress(self, call: Call) -> Payload:
        self._hear(open_frame(bytes(call.body), Progress, run=self._run), _caller(call))
        return b""

    async def _on_contact(self, call: Call) -> Payload:
        """Pass on the contact of a peer that the caller has to reach."""
        record = self._network.contacts.record(PeerId(call.argument))
        if record is None:
            raise Refused("that peer is not known here")
        return record

    # --- asking ---------------------------------------------------------------------------------------------

    def some(self, at_most: int = ASKED, among: Sequence[PeerId] | None = None) -> tuple[PeerId, ...]:
        """Up to ``at_most`` of ``among``, or of all present peers.

        Other ones at every call, so that no peer is always asked.
        """
        self._draw += 1
        now = asyncio.get_running_loop().time()
        candidates = list(self.roster.peers(now) if among is None else among)
        turns = range(min(at_most, len(candidates)))
        return tuple(
            candidates.pop(derive(self._run, "some", self.me, self._draw, turn) % len(candidates))
            for turn in turns
        )

    def learn(self, welcomes: Mapping[PeerId, Welcome]) -> int:
        """Take over the records of ``welcomes``, by the peer that sent them.

        Returns how many do not hold, which is the fault of the senders, not ours.
        """
        wrong = 0
        for sender, welcome in welcomes.items():
            teller = self._network.contacts.teller(sender)
            wrong += self._network.contacts.learn_all(list(welcome.contacts), teller)
            for record in welcome.progress:
                try:
                    self._hear(open_frame(record, Progress, run=self._run), teller)
                except TheirFault:
                    wrong += 1
        return wrong

    async def find(self, peer: PeerId, deadline: float) -> None:
        """Ask some of the present peers for the contact of ``peer``; a broken one, or that of another peer,
        counts as none."""

        async def ask(asked: PeerId) -> bool:
            request = Request("contact", argument=peer)
            raw = await self._network.transport.request(asked, request, deadline=deadline)
            signed = open_contact(raw, self._run)
            if signed.signer != peer:
                raise Impostor("a contact counts for its signer only")
            self._network.contacts.keep(signed, self._network.contacts.teller(asked))
            return True

        await self.ask(self.some(), ask, 0.0)

    async def is_dialable(self, peers: Sequence[PeerId], deadline: float) -> bool | None:
        """Whether one of ``peers`` could dial us back; None if none could be asked."""
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

        await self.ask(peers, ask)
        return any(verdicts) if verdicts else None

    async def ask(
        self, peers: Iterable[PeerId], call: Callable[[PeerId], Awaitable[T]], hurry: float = math.inf
    ) -> list[T]:
        """Ask all of ``peers`` at once; the answers that came and hold, in the order of ``peers``.

        Peers that cannot be reached are noted in the roster. Anything else that goes wrong costs only that
        peer's answer. Once one has answered, the others have ``hurry`` seconds.
        """

        async def ask(peer: PeerId) -> T:
            try:
                return await call(peer)
            except Unreachable:
                self.roster.mark_lost(peer, asyncio.get_running_loop().time())
                raise

        answers = await ask_all([peer for peer in peers if peer != self.me], ask, hurry=hurry)
        return list(answers.given.values())

    # --- telling --------------------------------------------------------------------------------------------

    def sealed_progress(self) -> bytes:
        """Our own progress just now, as a signed frame."""
        round_, progress = self._describe()
        self._seq += 1
        return seal(self._key, progress, Stamp(self._run, round=round_, seq=self._seq))

    async def announce(self, deadline: float, hierarchy: Hierarchy) -> None:
        """Tell up to `TOLD` peers directly where we are, at moments that cannot wait for the DHT (joining,
        leaving).

        In a small run that is everybody. In a larger one it is the peers that may lead our round, because
        they wait for those they expect, and others by chance; with two levels of groups, those of our level-1
        group.
        """
        here = self.roster.peers(asyncio.get_running_loop().time())
        near = here if hierarchy.count == 1 else hierarchy.group_mates(self.me, here)
        if len(near) > TOLD:
            round_, progress = self._describe()
            leading = leaders(self._run, round_, progress.state_root, near)[:LEADERS_TOLD]
            near = list(dict.fromkeys([*leading, *self.some(self._told - LEADERS_TOLD, near)]))
        await self._tell(near, deadline)

    async def announce_to_next(self, deadline: float) -> None:
        """Tell peers of which one may lead the round after ours.

        Who leads it follows from a state that is not decided yet. So in a small run we tell everybody, and in
        a larger one peers by chance.
        """
        await self._tell(self.some(self._told), deadline)

    @property
    def _told(self) -> int:
        """How many peers to tell at once."""
        here = self.roster.peers(asyncio.get_running_loop().time())
        return TOLD if len(here) <= MANY else TOLD_BY_MANY

    async def _tell(self, peers: Iterable[PeerId], deadline: float) -> None:
        request = Request("progress", self.sealed_progress())
        await self.ask(peers, lambda peer: self._network.transport.request(peer, request, deadline=deadline))

    async def publish_and_discover(self, often: float, seldom: float) -> None:
        """For ever: put our record into the DHT, and get all others.

        A failing DHT is no fault: try again the next time.

        Every ``often`` seconds while peers come and go, or while one that we know is missing. Twice as long
        each time, up to ``seldom``, while nothing of the kind happens. Absent peers are remembered for
        minutes, so a partitioned swarm keeps looking. A look brings the record of every peer: beyond `MANY`
        peers all of this is slower in proportion, so that it costs the same.
        """
        loop = asyncio.get_running_loop()
        directory = self._network.directory
        interval = often
        known = -1
        while True:
            deadline = loop.time() + max(interval, SHORTEST_LOOK)
            await directory.put(TOPIC, self.sealed_progress(), seconds=6 * interval, deadline=deadline)
            self._hear_all(await directory.get(TOPIC, Progress, deadline=deadline))
            slower = max(1.0, len(self.roster) / MANY)
            self.roster.patience = max(PATIENCE, 3 * slower * often)
            self.roster.forget_older_than(loop.time() - 20 * slower * often)
            here = len(self.roster.peers(loop.time()))
            is_quiet = here == known == len(self.roster)
            interval = min(2 * interval, slower * seldom) if is_quiet else slower * often
            known = here
            await asyncio.sleep(interval)

    def _hear(self, signed: Signed[Progress], teller: Teller | None = None) -> None:
        """Note a record, which ``teller`` has sent us; None where it comes out of the DHT.

        Raises the faults of a contact in it that is broken or another peer's: nobody could dial the sender.
        """
        if signed.signer == self.me or self.roster.knows(signed):
            return  # a look at the DHT brings the records of all peers, most of them again
        contact = signed.message.contact
        contacts = self._network.contacts
        if contact and contact != contacts.record(signed.signer):
            opened = open_contact(contact, self._run)
            if opened.signer != signed.signer:
                raise Malformed("a record carries its own peer's contact")
            contacts.keep(opened, teller)
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
) -> dict[PeerId, Welcome]:
    """Say hello to ``peers`` at once with our sealed contact; the answers that came, by peer.

    Dead peers do not matter.

    Once one has answered, the others have `GREETING_SECONDS`: an entry behind a silent firewall delays
    nobody.
    """

    async def ask(peer: PeerId) -> Welcome:
        return unpack(await transport.request(peer, Request("hello", contact), deadline=deadline), Welcome)

    answers = await ask_all(peers, ask, deadline=deadline, hurry=GREETING_SECONDS)
    return answers.given


async def fetch_manifest(
    transport: Transport, entries: Sequence[PeerId], deadline: float, run: bytes = b""
) -> tuple[bytes, list[SwarmError]]:
    """The sealed manifest of ``run`` from the first of the ``entries`` that has it; empty if none has.

    All are asked at once; with the manifest come the reasons of those that failed. Raises `WrongVersion` if
    the run uses another version of the protocol, `ConfigError` if no run can be like this one. Without
    ``run`` the caller checks the manifest itself.
    """

    async def ask(entry: PeerId) -> tuple[bytes, OurFault | None]:
        """The manifest, and why this peer cannot use it: an answer all the same, as no entry of the run has
        another one."""
        sealed = await transport.request(entry, Request("manifest"), deadline=deadline)
        try:
            if run:
                open_manifest(sealed, run)
        except OurFault as error:
            return sealed, error
        return sealed, None

    answers = await ask_all(entries, ask, enough=1)
    failures = list(answers.failed.values())
    for sealed, trouble in answers.given.values():
        if trouble:
            raise trouble
        return sealed, failures
    return b"", failures


def _that_fit(records: Iterable[bytes], bytes_left: int) -> tuple[bytes, ...]:
    """The first of ``records`` that fit into ``bytes_left`` together."""
    fitting: list[bytes] = []
    for record in records:
        bytes_left -= len(record) + 8
        if bytes_left < 0:
            break
        fitting.append(record)
    return tuple(fitting)


def _caller(call: Call) -> Teller:
    """The peer that calls, as the teller of what it sends."""
    return Teller(call.sender, call.host)
