"""Start a peer for real: home, key, sockets, DHT, status page. What `swarm new` and `swarm join` call."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import swarm
from swarm.dht.node import HivemindDirectory
from swarm.errors import DiskTrouble, Impostor, Malformed, NobodyThere, PortTaken, SwarmError
from swarm.identity import KeyPair, petname
from swarm.manifest import Admission, RunManifest, open_manifest
from swarm.membership.contacts import Contacts, pack_records, seal_contact, unpack_records
from swarm.membership.progress import Progress
from swarm.ticket import Address, Entry, Ticket
from swarm.transport import Call, Payload, Route
from swarm.transport.http import HttpTransport

from ..config.run import RunSettings, manifest_of
from ..data import corpus as corpora
from ..data.corpus import Corpus
from ..network.membership import TOPIC, NetworkPorts, Welcome, fetch_manifest, greet
from ..observe.reporter import Reporter
from ..observe.snapshot import encode
from ..observe.status_page import StatusPage
from ..observe.text import duration
from ..peer import Peer
from ..ports import LocalPeer, Ports
from ..storage import ticket_file as invitation
from ..storage.files import replacing
from ..storage.home import Home, open_home
from ..training.compute import Compute
from ..training.jobs import Budget
from . import malloc as memory
from .supervisor import keep_alive

DEFAULT_PORT = 7420
CONNECT_SECONDS = 20.0
TICKET_ENTRIES = 4
REMEMBERED = 16
"""Contacts kept for the next life."""
TICKET_SECONDS = 2.0
CLOCK_TOLERANCE = 120.0
"""Seconds by which two clocks may differ before a person is told; the run itself does not mind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one volunteer decides about one peer."""

    home: Path | None
    listen: Address | None
    name: str
    reporter: Reporter
    ticket_file: Path | None = None
    """Where a founder leaves the ticket, too."""


async def found(settings: RunSettings, data: Path | None, options: Options) -> None:
    """Make a run and its ticket, and be its first peer to the end."""
    corpus = corpora.build(data)
    key = KeyPair.generate()
    home = open_home(options.home, manifest_of(settings, corpus.spec, key).run_id)
    with home:
        key = home.organiser_key(key)
        manifest = manifest_of(settings, corpus.spec, key)
        corpora.save(corpus, home.path / "data")
        secret = secrets.token_bytes(16) if manifest.admission is Admission.INVITE else b""
        cast = _Cast(Ticket(manifest.run_id, (), secret), key, home, options, manifest.seal(key), corpus)
        await keep_alive(lambda reason: _Life(cast, reason), cast.tell_restart)


async def join(ticket: Ticket, options: Options) -> None:
    """Be a peer of the run that ``ticket`` names, to the end of the run."""
    with open_home(options.home, ticket.run_id) as home:
        cast = _Cast(ticket, KeyPair.load_or_create(home.identity_file), home, options)
        await keep_alive(lambda reason: _Life(cast, reason), cast.tell_restart)


@dataclass(frozen=True, slots=True)
class _Cast:
    """What all lives of a peer share. The founder brings the ``sealed`` manifest and the ``corpus``; others ask for them."""

    ticket: Ticket
    key: KeyPair
    home: Home
    options: Options
    sealed: bytes = b""
    corpus: Corpus | None = None

    def tell_restart(self, error: SwarmError, seconds: float) -> None:
        """Say why the last life ended, and when the next one begins."""
        advice = {"advice": error.advice} if error.advice else {}
        fact = f"{error.fact}; starting again in {duration(seconds)}"
        self.options.reporter.event("warning", code="restart", fact=fact, **advice)


class _Life:
    """One peer between its ticket and the end of the run. ``reason``: why an earlier life ended, if there was one."""

    def __init__(self, cast: _Cast, reason: str = "") -> None:
        self._ticket, self._key, self._home, self._options = cast.ticket, cast.key, cast.home, cast.options
        self._sealed, self._corpus, self._reason = cast.sealed, cast.corpus, reason
        self._run = cast.ticket.run_id
        self._peer: Peer | None = None
        self._contacts = Contacts(self._run, self._ticket.entries)
        self._kept_contacts = b""
        self._recall()
        asked = [entry.peer for entry in self._ticket.entries] + self._contacts.peers()[:REMEMBERED]
        self._entries = [peer for peer in dict.fromkeys(asked) if peer != self._key.peer_id]
        self._seq = self._home.life(time.time())
        self._invited: tuple[Entry, ...] = ()

    @property
    def has_begun(self) -> bool:
        """Whether the peer has stood where the run does."""
        return self._peer is not None and self._peer.has_had_state

    async def live(self) -> None:
        """Open everything, run the peer, close everything. Without a sealed manifest the ticket's entries are asked for it."""
        corpus = self._corpus
        memory.keep()
        if self._reason:
            memory.give_back()  # the former life's, before this one needs as much
        async with HttpTransport(self._key, self._run, self._ticket.secret, self._contacts) as transport:
            bound = await self._listen(transport)
            sealed = self._sealed or await self._fetch_manifest(transport)
            manifest = open_manifest(sealed, self._run)
            self._keep("manifest", sealed)
            contact, welcomes = await self._introduce(transport, bound)
            async with self._directory(transport) as directory, _arithmetic() as arithmetic:
                me = LocalPeer(
                    key=self._key,
                    name=self._options.name,
                    version=swarm.__version__,
                    contact=contact,
                    home=self._home.path,
                    corpus=corpus,
                    founder=corpus is not None,
                    first_seq=self._seq,
                )
                network = NetworkPorts(
                    transport=transport, directory=directory, contacts=self._contacts, wall=time.time
                )
                ports = Ports(
                    network=network, arithmetic=arithmetic, budget=_budget, event_sink=self._options.reporter
                )
                self._peer = peer = Peer(manifest, sealed, me, ports)
                memory.settle()
                if self._reason:
                    peer.metrics.note(f"started again: {self._reason}", "warning")
                if corpus is not None:
                    self._invite()  # only now: from here on somebody answers who takes the ticket at its word
                self._tell_joined(manifest, bound)
                peer.membership.learn(welcomes)
                await self._check_dialable(peer, bound)
                await self._run_with_screens(peer, transport)

    async def _listen(self, transport: HttpTransport) -> Address:
        """Where the volunteer said; else on the usual port, or any other that is free."""
        if self._options.listen:
            return await transport.listen(self._options.listen)
        try:
            return await transport.listen(Address("0.0.0.0", DEFAULT_PORT))
        except PortTaken:
            return await transport.listen(Address("0.0.0.0", 0))

    async def _fetch_manifest(self, transport: HttpTransport) -> bytes:
        """From the first entry that answers; a peer that comes back to a run that has moved on knows it already."""
        deadline = asyncio.get_running_loop().time() + CONNECT_SECONDS
        sealed, failures = await fetch_manifest(transport, self._entries, deadline, run=self._run)
        kept = self._home.path / "manifest"
        if sealed or kept.exists():
            return sealed or kept.read_bytes()
        tried = "; ".join(error.fact for error in failures)
        if any(isinstance(error, Impostor) for error in failures):
            raise NobodyThere(
                f"another peer than the ticket's answers ({tried})", "ask the organiser for a fresh ticket"
            )
        raise NobodyThere(
            f"none of the ticket's {len(self._ticket.entries)} entries answers ({tried})",
            "ask the organiser whether the run is still alive, and for a fresh ticket; check your own connection",
        )

    async def _introduce(self, transport: HttpTransport, bound: Address) -> tuple[bytes, list[Welcome]]:
        """Our contact record, with the address that the entries see us at where we listen on all of ours."""
        loop = asyncio.get_running_loop()
        host = bound.host if not _is_wildcard(bound.host) else outward_host()
        contact = self._contact(Address(host, bound.port))
        welcomes = await greet(transport, self._entries, contact, loop.time() + CONNECT_SECONDS)
        seen = Counter(welcome.host for welcome in welcomes if welcome.host).most_common(1)
        if seen and _is_wildcard(bound.host) and seen[0][0] != host:
            contact = self._contact(Address(seen[0][0], bound.port))
            welcomes = await greet(transport, self._entries, contact, loop.time() + CONNECT_SECONDS)
        self._check_clock(welcomes)
        return contact, welcomes

    def _contact(self, address: Address) -> bytes:
        self._seq += 1
        contact = seal_contact(self._key, self._run, (address,), self._seq)
        self._contacts.learn(contact)
        return contact

    @contextlib.asynccontextmanager
    async def _directory(self, transport: HttpTransport) -> AsyncIterator[HivemindDirectory]:
        deadline = asyncio.get_running_loop().time() + CONNECT_SECONDS
        directory = await HivemindDirectory.open(
            transport,
            self._contacts,
            run=self._run,
            forms={TOPIC: Progress},
            entries=self._entries,
            deadline=deadline,
        )
        try:
            yield directory
        finally:
            await directory.close()

    async def _run_with_screens(self, peer: Peer, transport: HttpTransport) -> None:
        """The peer, its status page, and the invitation that names more and more entries."""

        async def status(call: Call) -> Payload:
            return encode(peer.snapshot())

        transport.serve(Route("status", status))
        async with StatusPage(peer.snapshot) as page, asyncio.TaskGroup() as tasks:
            try:
                self._home.announce(page.address, self._run)
            except DiskTrouble as error:
                self._warn(
                    error.code, error.fact, "only `swarm top` needs that file: give it the ticket instead"
                )
            inviting = tasks.create_task(self._keep_inviting(peer))
            try:
                await peer.run()
            finally:
                inviting.cancel()

    def _recall(self) -> None:
        """Whom an earlier life knew: the way back where all of the ticket's entries have gone."""
        file = self._home.path / "contacts"
        if file.exists():
            try:
                self._contacts.learn_all(unpack_records(file.read_bytes()))
            except (OSError, Malformed) as error:
                self._warn(
                    "contacts", f"the contacts of the last time cannot be read: {error}", f"delete {file}"
                )

    def _remember(self) -> None:
        """Keep the contacts that were heard of last, where they have changed."""
        packed = pack_records(sorted(self._contacts.records(REMEMBERED)))
        if packed != self._kept_contacts:
            self._kept_contacts = packed
            self._keep("contacts", packed)

    def _keep(self, name: str, content: bytes) -> None:
        """A file for the next life; a full disk is told, and this one goes on."""
        try:
            with replacing(self._home.path / name) as draft:
                draft.write_bytes(content)
        except DiskTrouble as error:
            self._warn(error.code, error.fact, error.advice)

    async def _keep_inviting(self, peer: Peer) -> None:
        while True:
            try:
                self._remember()
                self._invite()
            except DiskTrouble as error:  # the ticket that lies there still lets newcomers in
                self._warn(error.code, error.fact, error.advice)
            peer.metrics.shown.ticket = Ticket(self._run, self._invited, self._ticket.secret).pack()
            await asyncio.sleep(TICKET_SECONDS)

    def _invite(self) -> None:
        """Tell the ticket, again whenever it names more entries than before: any of them lets a newcomer in."""
        entries = self._contacts.entries(self._key.peer_id, TICKET_ENTRIES)
        if len(entries) > len(self._invited):
            self._invited = entries
            ticket = Ticket(self._run, entries, self._ticket.secret).pack()
            self._options.reporter.event("ticket", ticket=ticket, run=self._run.hex())
            if self._options.ticket_file:
                invitation.leave(self._options.ticket_file, ticket)

    # --- telling --------------------------------------------------------------------------------------------

    def _tell_joined(self, manifest: RunManifest, bound: Address) -> None:
        me = self._key.peer_id
        self._options.reporter.event(
            "joined",
            peer=me,
            name=self._options.name or petname(me),
            run=self._run.hex(),
            run_name=manifest.name,
            listen=str(bound),
        )

    def _check_clock(self, welcomes: list[Welcome]) -> None:
        if not welcomes:
            return
        theirs = sorted(welcome.wall for welcome in welcomes)[len(welcomes) // 2]
        off = time.time() - theirs
        if abs(off) > CLOCK_TOLERANCE:
            self._warn(
                "clock",
                f"this computer's clock is {abs(off) / 60:.0f} minutes {'ahead of' if off > 0 else 'behind'} the others'",
                "the run does not mind, other programs do: switch on automatic time (timedatectl set-ntp true)",
            )

    async def _check_dialable(self, peer: Peer, bound: Address) -> None:
        """Find out whether others can dial us: without that we own no part, and hear only what answers us."""
        if not self._entries:
            return
        reached = await peer.membership.is_dialable(
            self._entries, asyncio.get_running_loop().time() + CONNECT_SECONDS
        )
        peer.uplink.is_dialable = reached is not False
        if not peer.uplink.is_dialable:
            address = self._contacts.addresses(self._key.peer_id)[0]
            self._warn(
                "reach",
                f"nobody can reach this peer at {address}",
                f"let TCP port {bound.port} through your firewall and router to this computer, or choose another with --listen",
            )

    def _warn(self, code: str, fact: str, advice: str) -> None:
        self._options.reporter.event("warning", code=code, fact=fact, advice=advice)


@contextlib.asynccontextmanager
async def _arithmetic() -> AsyncIterator[Compute]:
    compute = Compute()
    try:
        yield compute
    finally:
        compute.close()


def _budget(seconds: float) -> Budget:
    """Local training on the real clock, which may be read from any thread."""
    end = time.monotonic() + seconds
    return Budget(1 << 30, lambda: time.monotonic() >= end)


def _is_wildcard(host: str) -> bool:
    return host in ("", "0.0.0.0", "::")


def outward_host() -> str:
    """The address of this computer on its way to the internet; the loopback one where there is no way. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(
                ("192.0.2.1", 9)
            )  # a documentation address (RFC 5737): connecting a datagram socket only picks a route
        except OSError:
            return "127.0.0.1"
        host: str = probe.getsockname()[0]
        return host
