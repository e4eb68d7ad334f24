"""Start a peer on real sockets: home, key, transport, DHT, status page.

`swarm new` and `swarm join` call `found_run` and `join`.

One attempt, from the ticket to the end of the run; `supervisor` makes another one where it fails:

    listen ─► fetch manifest ─► greet entries ─► open DHT ─► compose the peer ─► can it be dialled? ─► run
                                                                        beside it: status page, ticket ─┘
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

import swarm
from swarm.dht.node import HivemindDirectory
from swarm.errors import DiskTrouble, Impostor, Malformed, NobodyThere, PortTaken, SwarmError
from swarm.identity import KeyPair, PeerId, petname
from swarm.manifest import Admission, RunManifest, open_manifest
from swarm.membership.contacts import Contacts, pack_records, seal_contact, unpack_records
from swarm.membership.progress import Progress
from swarm.ticket import Address, Ticket
from swarm.transport import Call, Payload, Route
from swarm.transport.http import HttpTransport

from ..config.memory import check_memory
from ..config.run import RunSettings, manifest_of
from ..data import corpus as corpora
from ..data.corpus import Corpus
from ..network.membership import TOPIC, NetworkPorts, Welcome, fetch_manifest, greet
from ..observe.reporter import Reporter
from ..observe.status_page import StatusPage
from ..observe.text import duration
from ..peer import Peer
from ..ports import LocalPeer, Ports
from ..storage.files import replacing
from ..storage.home import Home, open_home
from ..storage.signed_file import SignedFile
from ..training.compute import Compute
from ..training.jobs import Budget
from . import malloc
from .invitation import Invitation
from .supervisor import run_with_restarts

DEFAULT_PORT = 7420
CONNECT_SECONDS = 20.0
"""Seconds for each step of joining: the manifest, the greetings, the DHT, the check whether this peer can be
dialled."""
REMEMBERED = 16
"""Contacts kept in the home for the next start."""
TICKET_SECONDS = 2.0
"""Seconds between two looks whether the ticket can name more entries."""
CLOCK_TOLERANCE = 120.0
"""Seconds by which this computer's clock may differ from the others' before a person is warned. The run
itself does not use it."""
UNLIMITED_STEPS = 1 << 30
"""Local steps of a round, at most: on a real computer only the clock ends local training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a volunteer decides about one peer."""

    home: Path | None
    listen: Address | None
    name: str
    reporter: Reporter
    ticket_file: Path | None = None
    """A file that a founder also writes the ticket to."""


async def found_run(settings: RunSettings, data: Path | None, options: Options) -> None:
    """Make a run and its ticket, and be its first peer to the end.

    Raises the `OurFault` that a person must do something about, or the error of an attempt that no restart
    can help.
    """
    async with _arithmetic() as arithmetic:  # a large folder takes a while, in which Ctrl-C must work
        corpus = await arithmetic.run(lambda: corpora.build(data))
    key = KeyPair.generate()
    home = open_home(options.home, manifest_of(settings, corpus.spec, key).run_id)
    with home:
        key = home.organiser_key(key)
        manifest = manifest_of(settings, corpus.spec, key)
        corpora.save(corpus, home.path / "data")
        secret = secrets.token_bytes(16) if manifest.admission is Admission.INVITE else b""
        ticket = Ticket(manifest.run_id, (), secret)
        await _run(_Setup(ticket, key, home, options, manifest.seal(key), corpus))


async def join(ticket: Ticket, options: Options) -> None:
    """Be a peer of the run that ``ticket`` names, to the end of the run. Raises as `found_run` does."""
    with open_home(options.home, ticket.run_id) as home:
        await _run(_Setup(ticket, KeyPair.load_or_create(home.identity_file), home, options))


@dataclass(frozen=True, slots=True)
class _Setup:
    """What all attempts of one peer share.

    The founder has the ``sealed`` manifest and the ``corpus``; other peers fetch them.
    """

    ticket: Ticket
    key: KeyPair
    home: Home
    options: Options
    sealed: bytes = b""
    corpus: Corpus | None = None

    @property
    def run_id(self) -> bytes:
        """The run that the ticket names."""
        return self.ticket.run_id

    def warn(self, code: str, fact: str, advice: str = "") -> None:
        """Report something that a person may want to know."""
        fields = {"advice": advice} if advice else {}
        self.options.reporter.event("warning", code=code, fact=fact, **fields)

    def keep(self, name: str, content: bytes) -> None:
        """Write a file of the home for the next start. A full disk is reported, and the peer goes on."""
        try:
            with replacing(self.home.path / name) as draft:
                draft.write_bytes(content)
        except DiskTrouble as error:
            self.warn(error.code, error.fact, error.advice)


async def _run(setup: _Setup) -> None:
    """Make attempts until one reaches the end of the run."""

    def report_restart(error: SwarmError, seconds: float) -> None:
        setup.warn("restart", f"{error.fact}; starting again in {duration(seconds)}", error.advice)

    await run_with_restarts(lambda reason: _Attempt(setup, reason), report_restart)


class _KnownContacts:
    """The contacts of an attempt, and their file in the home.

    The file is a way back into the run when all entries of the ticket are gone.
    """

    def __init__(self, setup: _Setup) -> None:
        self._setup = setup
        self._saved = b""
        self.contacts = Contacts(setup.run_id, setup.ticket.entries, setup.key.peer_id)
        self._load()

    def _load(self) -> None:
        file = self._setup.home.path / "contacts"
        if not file.exists():
            return
        try:
            self.contacts.learn_all(unpack_records(file.read_bytes()))
        except (OSError, Malformed) as error:
            self._setup.warn(
                "contacts", f"the contacts of the last time cannot be read: {error}", f"delete {file}"
            )

    def save(self) -> None:
        """Write the contacts that were heard of last, where they have changed."""
        packed = pack_records(sorted(self.contacts.records(REMEMBERED)))
        if packed != self._saved:
            self._saved = packed
            self._setup.keep("contacts", packed)

    def to_ask(self) -> list[PeerId]:
        """The peers to ask first: the ticket's entries, then those known from before; without this peer."""
        known = [entry.peer for entry in self._setup.ticket.entries] + self.contacts.peers()[:REMEMBERED]
        return [peer for peer in dict.fromkeys(known) if peer != self._setup.key.peer_id]


class _Attempt:
    """One attempt at being a peer, from the ticket to the end of the run.

    ``reason``: why the last attempt ended, if there was one.
    """

    def __init__(self, setup: _Setup, reason: str = "") -> None:
        self._setup = setup
        self._reason = reason
        self._peer: Peer | None = None
        self._known = _KnownContacts(setup)
        self._contacts = self._known.contacts
        self._first_asked = self._known.to_ask()
        """The ticket's entries and the contacts kept from before, without this peer."""
        self._seq = setup.home.life(time.time())
        self._invitation = Invitation(
            setup.ticket,
            setup.key.peer_id,
            self._contacts,
            setup.options.reporter,
            is_founder=setup.corpus is not None,
            file=setup.options.ticket_file,
        )

    @property
    def has_joined(self) -> bool:
        """Whether the peer has reached the state of the run."""
        return self._peer is not None and self._peer.has_had_state

    async def run(self) -> None:
        """Open everything, run the peer to the end of the run, close everything."""
        setup = self._setup
        malloc.keep_freed_memory()
        if self._reason:
            malloc.return_freed_memory()  # the last attempt's, before this one needs as much
        async with HttpTransport(setup.key, setup.run_id, setup.ticket.secret, self._contacts) as transport:
            bound = await _listen(transport, setup.options.listen)
            sealed = setup.sealed or await self._fetch_manifest(transport)
            manifest = open_manifest(sealed, setup.run_id)
            check_memory(manifest, psutil.virtual_memory().total)
            setup.keep("manifest", sealed)
            contact, welcomes = await self._introduce(transport, bound)
            async with self._directory(transport) as directory, _arithmetic() as arithmetic:
                network = NetworkPorts(
                    transport=transport, directory=directory, contacts=self._contacts, wall=time.time
                )
                ports = Ports(
                    network=network, arithmetic=arithmetic, budget=_budget, event_sink=setup.options.reporter
                )
                peer = Peer(manifest, sealed, self._local_peer(contact), ports)
                self._peer = peer
                malloc.hide_from_collector()
                if self._reason:
                    peer.metrics.note(f"started again: {self._reason}", "warning")
                if setup.corpus is not None:  # not before: newcomers who use the ticket now get an answer
                    self._invite()
                self._report_joined(manifest, bound)
                peer.membership.learn(welcomes)
                await self._check_dialable(peer, bound)
                await self._run_with_status(peer, transport)

    def _invite(self) -> None:
        """Give out the first ticket. Only at the first start a file that cannot be written ends the peer: a
        person has just named it. Later a full disk is no reason to leave the run."""
        if self._reason:
            self._invitation.renew_or_warn()
        else:
            self._invitation.renew()

    def _local_peer(self, contact: bytes) -> LocalPeer:
        setup = self._setup
        return LocalPeer(
            key=setup.key,
            name=setup.options.name,
            version=swarm.__version__,
            contact=contact,
            home=setup.home.path,
            corpus=setup.corpus,
            founder=setup.corpus is not None,
            signed=SignedFile(setup.home.path / "signed"),
            first_seq=self._seq,
        )

    async def _fetch_manifest(self, transport: HttpTransport) -> bytes:
        """Ask the first peers for the manifest; if none answers, use the one that an earlier start has kept.

        Raises `NobodyThere` where there is neither.
        """
        setup = self._setup
        deadline = asyncio.get_running_loop().time() + CONNECT_SECONDS
        sealed, failures = await fetch_manifest(transport, self._first_asked, deadline, run=setup.run_id)
        kept = setup.home.path / "manifest"
        if sealed or kept.exists():
            return sealed or kept.read_bytes()
        tried = "; ".join(error.fact for error in failures)
        if any(isinstance(error, Impostor) for error in failures):
            raise NobodyThere(
                f"a peer with another key than the ticket's answers ({tried})",
                "ask the organiser for a fresh ticket",
            )
        raise NobodyThere(
            f"none of the {len(self._first_asked)} peers that could be asked answers ({tried})",
            "ask the organiser whether the run is still alive, and for a fresh ticket; "
            "check your own connection",
        )

    async def _introduce(
        self, transport: HttpTransport, bound: Address
    ) -> tuple[bytes, dict[PeerId, Welcome]]:
        """Greet the first peers with our contact record; return the record and their welcomes.

        Where we listen on all addresses, the record names the address that most of them see us at.
        """
        loop = asyncio.get_running_loop()
        host = outward_host() if _is_wildcard(bound.host) else bound.host
        contact = self._contact(Address(host, bound.port))
        welcomes = await greet(transport, self._first_asked, contact, loop.time() + CONNECT_SECONDS)
        seen = Counter(welcome.host for welcome in welcomes.values() if welcome.host).most_common(1)
        if seen and _is_wildcard(bound.host) and seen[0][0] != host:
            contact = self._contact(Address(seen[0][0], bound.port))
            welcomes = await greet(transport, self._first_asked, contact, loop.time() + CONNECT_SECONDS)
        self._check_clock(list(welcomes.values()))
        return contact, welcomes

    def _contact(self, address: Address) -> bytes:
        """Seal a contact record with the next sequence number: it replaces the last one everywhere."""
        self._seq += 1
        contact = seal_contact(self._setup.key, self._setup.run_id, (address,), self._seq)
        self._contacts.learn(contact)
        return contact

    @contextlib.asynccontextmanager
    async def _directory(self, transport: HttpTransport) -> AsyncIterator[HivemindDirectory]:
        """The run's DHT, open inside the block."""
        deadline = asyncio.get_running_loop().time() + CONNECT_SECONDS
        directory = await HivemindDirectory.open(
            transport,
            self._contacts,
            run=self._setup.run_id,
            forms={TOPIC: Progress},
            entries=self._first_asked,
            deadline=deadline,
        )
        try:
            yield directory
        finally:
            await directory.close()

    async def _run_with_status(self, peer: Peer, transport: HttpTransport) -> None:
        """Run the peer, and beside it its status page and the ticket that names more and more entries."""
        async with StatusPage(peer.snapshot) as page, asyncio.TaskGroup() as tasks:

            async def status(call: Call) -> Payload:
                return page.status()

            transport.serve(Route("status", status))
            try:
                self._setup.home.announce(page.address, self._setup.run_id)
            except DiskTrouble as error:
                self._setup.warn(
                    error.code, error.fact, "only `swarm top` needs that file: give it the ticket instead"
                )
            inviting = tasks.create_task(self._keep_inviting(peer))
            try:
                await peer.run()
            finally:
                inviting.cancel()

    async def _keep_inviting(self, peer: Peer) -> None:
        """Save contacts and renew the ticket every `TICKET_SECONDS`, until cancelled."""
        while True:
            self._known.save()
            self._invitation.renew_or_warn()
            peer.metrics.shown.ticket = self._invitation.ticket
            await asyncio.sleep(TICKET_SECONDS)

    # --- reports --------------------------------------------------------------------------------------------

    def _report_joined(self, manifest: RunManifest, bound: Address) -> None:
        me = self._setup.key.peer_id
        self._setup.options.reporter.event(
            "joined",
            peer=me,
            name=self._setup.options.name or petname(me),
            run=self._setup.run_id.hex(),
            run_name=manifest.name,
            listen=str(bound),
        )

    def _check_clock(self, welcomes: Sequence[Welcome]) -> None:
        """Warn where this computer's clock is more than `CLOCK_TOLERANCE` off the others' median."""
        if not welcomes:
            return
        theirs = sorted(welcome.wall for welcome in welcomes)[len(welcomes) // 2]
        off = time.time() - theirs
        if abs(off) > CLOCK_TOLERANCE:
            direction = "ahead of" if off > 0 else "behind"
            self._setup.warn(
                "clock",
                f"this computer's clock is {abs(off) / 60:.0f} minutes {direction} the others'",
                "the run works all the same; for other programs, switch on automatic time "
                "(timedatectl set-ntp true)",
            )

    async def _check_dialable(self, peer: Peer, bound: Address) -> None:
        """Find out whether others can dial this peer.

        A peer that nobody can dial owns no part, and receives nothing but replies to its own requests: it
        cannot take part in an average.
        """
        if not self._first_asked:
            return
        reached = await peer.membership.is_dialable(
            self._first_asked, asyncio.get_running_loop().time() + CONNECT_SECONDS
        )
        # None: no peer could tell. We go on as if others could dial us
        peer.uplink.is_dialable = reached is not False
        if not peer.uplink.is_dialable:
            address = self._contacts.addresses(self._setup.key.peer_id)[0]
            self._setup.warn(
                "reach",
                f"nobody can reach this peer at {address}, so it cannot take part in an average",
                f"let TCP port {bound.port} through your firewall and router to this computer, "
                "or choose another with --listen",
            )


async def _listen(transport: HttpTransport, wanted: Address | None) -> Address:
    """Listen where the volunteer wants; else on the default port, or any free one. Returns the address."""
    if wanted:
        return await transport.listen(wanted)
    try:
        return await transport.listen(Address("0.0.0.0", DEFAULT_PORT))
    except PortTaken:
        return await transport.listen(Address("0.0.0.0", 0))


@contextlib.asynccontextmanager
async def _arithmetic() -> AsyncIterator[Compute]:
    """The thread for arithmetic, running inside the block."""
    compute = Compute()
    try:
        yield compute
    finally:
        compute.close()


def _budget(seconds: float) -> Budget:
    """Allow local training until ``seconds`` of real time are over. Any thread may ask."""
    end = time.monotonic() + seconds
    return Budget(UNLIMITED_STEPS, lambda: time.monotonic() >= end)


def _is_wildcard(host: str) -> bool:
    """Whether ``host`` means all addresses of this computer."""
    return host in ("", "0.0.0.0", "::")


def outward_host() -> str:
    """Return this computer's address on its way to the internet; the loopback one where there is no way.

    Sends nothing.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket only picks a route. The address is for documentation (RFC 5737).
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        host: str = probe.getsockname()[0]
        return host
