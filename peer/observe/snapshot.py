"""One immutable picture of this peer and its run.

The dashboard and the status page show it, as JSON where programs read it.

`Snapshot` is a chain of structs, one per topic: msgspec writes the fields of a base class first, so the order
of the JSON is the order in which they stand here.
"""

from __future__ import annotations

import math

import msgspec

from swarm.errors import TicketError
from swarm.identity import PeerId, petname
from swarm.ticket import Ticket

from .text import percent, quoted, rate

HISTORY = 2000
"""Points kept per series. Beyond that every second one is dropped, so a long run still fits into one
answer."""
EVENTS = 60
"""Events kept for the screens."""
LISTED = 256
"""Most peers that a snapshot lists, this one included: what strangers can make of it stays small."""
BY_INVITATION = "invite: ask the organiser"
"""What every screen shows in place of the ticket of a run by invitation: that ticket holds the secret."""
HEALTHS = frozenset({"HEALTHY", "WAITING", "DEGRADED", "SYNCING", "FINISHED"})
"""How a peer can be."""


class PeerIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Which peer a row is about, and what it does."""

    peer: str
    name: str
    state: str
    """starting, syncing, training, averaging, following, waiting, slow, unreachable, left or banned."""
    device: str = ""


class PeerRow(PeerIdentity, frozen=True, kw_only=True):
    """One line of the table of peers. Most of it is what the peer says of itself."""

    round: int = 0
    tokens_per_second: float = 0.0
    up: float = 0.0
    """Bytes per second that it sends."""
    down: float = 0.0
    """Bytes per second that it receives."""
    share: float = 0.0
    """Of the tokens per second of all peers, 0 to 1."""
    seen_seconds: float = 0.0
    """Seconds since it was heard of."""
    loss: float = 0.0
    is_me: bool = False


class LoggedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the event list. Time in seconds since 1970; severity is info, warning or error."""

    time: float
    severity: str
    text: str


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One value of a series, at the end of a round."""

    round: int
    value: float


class Fetching(msgspec.Struct, frozen=True, kw_only=True):
    """A download of text or model: ``here`` of ``whole`` chunks, at the mean rate since it began.

    ``what`` is empty without one.
    """

    what: str = ""
    here: int = 0
    whole: int = 0
    bytes_per_second: float = 0.0
    donors: int = 0

    @property
    def words(self) -> str:
        """One line for people."""
        donors = f"{self.donors} peer{'s' * (self.donors != 1)}"
        done = percent(self.here / max(1, self.whole))
        return f"fetching the {self.what} from {donors}: {done} at {rate(self.bytes_per_second)}"


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """First part of a `Snapshot`: which run this is, and which peer of it."""

    run: str
    """Hexadecimal run id."""
    run_name: str
    model: str
    parameters: int
    version: str
    peer: str


class ProgressFacts(RunFacts, frozen=True, kw_only=True):
    """Second part: whether this peer is well, and how far the run is."""

    health: str
    """HEALTHY, WAITING, DEGRADED, SYNCING or FINISHED."""
    reason: str = ""
    """Why, where the health is not HEALTHY."""
    uptime: float = 0.0
    round: int = 0
    rounds: int = 0
    """0: the run has no limit of rounds."""
    tokens: int = 0
    tokens_goal: int = 0
    seconds_left: float = 0.0
    """Estimate to the end of the run; 0 where unknown."""


class PhaseFacts(ProgressFacts, frozen=True, kw_only=True):
    """Third part: what this peer is doing now."""

    phase: str = "starting"
    fetching: Fetching = Fetching()
    step: int = 0
    max_steps: int = 0
    phase_left: float = 0.0
    """Seconds until the deadline of the phase."""


class AveragingFacts(PhaseFacts, frozen=True, kw_only=True):
    """Fourth part: how the run averages, and what came of it so far."""

    codec: str = ""
    relaxation: str = ""
    """How the run averages: the preset's name, or "own", and what is in it."""
    losses: tuple[Point, ...] = ()
    """Mean training loss of this peer's own local steps, nats per token."""
    evaluations: tuple[Point, ...] = ()
    """Bits per byte of the shared model on held-out text."""
    members: int = 0
    """Peers whose updates are in the last average."""
    missing: int = 0
    """Members of the last group whose updates are not in the average."""
    average_seconds: float = 0.0
    round_seconds: float = 0.0


class ComputerFacts(AveragingFacts, frozen=True, kw_only=True):
    """Fifth part: what this computer has and how much of it is in use. Memory in bytes."""

    bytes_up: int = 0
    """Sent by this peer, whole run."""
    bytes_down: int = 0
    up: tuple[float, ...] = ()
    """Recent bytes per second that this peer sent, oldest first."""
    down: tuple[float, ...] = ()
    cpu: float = 0.0
    """Cores in use by this peer."""
    cores: int = 1
    memory: int = 0
    memory_total: int = 0


class Snapshot(ComputerFacts, frozen=True, kw_only=True):
    """Everything that a screen needs.

    The names and the order of all fields are a contract with scripts: see docs/contract.md.

    Texts that came from other peers are unchanged here: clean them before they are shown.
    """

    given_seconds: float = 0.0
    """What this peer has given to the run."""
    given_tokens: int = 0
    given_rounds: int = 0
    state_root: str = ""
    peers: tuple[PeerRow, ...] = ()
    events: tuple[LoggedEvent, ...] = ()
    sample: str = ""
    """Text generated by the shared model."""
    ticket: str = ""
    """That of an open run; `BY_INVITATION` where the run has a secret."""
    checkpoint: str = ""
    more_peers: int = 0
    """Peers that this one knows besides those in ``peers``."""


def is_well(snapshot: Snapshot) -> bool:
    """Whether this peer does its part.

    Waiting for other peers and fetching the state count as healthy, a missed round does not.
    """
    return snapshot.health in ("HEALTHY", "WAITING", "SYNCING", "FINISHED")


def encode(snapshot: Snapshot) -> bytes:
    """Return the JSON of the status page.

    JSON has no NaN: a point that is not finite is left out, any other such number is 0. `BY_INVITATION` is in
    place of a ticket with a secret: every user of the computer can read the page.
    """
    snapshot = msgspec.structs.replace(snapshot, ticket=open_ticket(snapshot.ticket, snapshot.run))
    raw = msgspec.json.encode(snapshot)
    # no field may be null, so outside a text it stands for a number that is not finite
    if b"null" not in raw:
        return raw
    finite = msgspec.structs.replace(
        snapshot, losses=_finite(snapshot.losses), evaluations=_finite(snapshot.evaluations)
    )
    return msgspec.json.encode(_zero_for_null(msgspec.json.decode(msgspec.json.encode(finite))))


def open_ticket(text: str, run: str) -> str:
    """The ticket of ``run`` (in hexadecimal) in ``text``, written anew, if anybody may have it.

    Otherwise `BY_INVITATION`, or nothing where ``text`` is no ticket of that run. A ticket that comes from
    another computer is a stranger's text, and a person is asked to copy it into a command line.
    """
    if text == BY_INVITATION:
        return text
    try:
        ticket = Ticket.unpack(text)
    except TicketError:
        return ""
    if ticket.run_id.hex() != run:
        return ""
    return BY_INVITATION if ticket.secret else ticket.pack()


def as_told_by(peer: PeerId, ticket: Ticket, told: Snapshot) -> Snapshot:
    """What ``peer``, on another computer, says of itself, for somebody who has asked it by ``ticket``.

    Its words stand in quotation marks after its name. The run is the one that was asked for, and a ticket to
    copy is the one that the person had, never one that the peer gives.
    """
    run = ticket.run_id.hex()
    who = petname(peer)

    def said(words: str, at_most: int = 160) -> str:
        return f"{who} says: {quoted(words, at_most)}" if words else ""

    return msgspec.structs.replace(
        told,
        run=run,
        run_name=f"{run[:8]} {quoted(told.run_name, 40)}",
        peer=peer,
        health=told.health if told.health in HEALTHS else "UNKNOWN",
        reason=said(told.reason),
        peers=told.peers[:LISTED],
        events=tuple(
            msgspec.structs.replace(event, text=said(event.text)) for event in told.events[-EVENTS:]
        ),
        sample=said(told.sample, 2000),
        ticket=open_ticket(ticket.pack(), run),
        checkpoint="",
    )


def _finite(series: tuple[Point, ...]) -> tuple[Point, ...]:
    return tuple(point for point in series if math.isfinite(point.value))


def _zero_for_null(value: object) -> object:
    """Return decoded JSON with 0 in the place of every null."""
    if isinstance(value, dict):
        return {key: _zero_for_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_zero_for_null(item) for item in value]
    return 0.0 if value is None else value


def decode(raw: bytes) -> Snapshot:
    """Read the JSON of a status page.

    A ticket that is not of the page's own run is left out. Raises `msgspec.DecodeError` where it is none,
    such as `msgspec.ValidationError`.
    """
    snapshot = msgspec.json.decode(raw, type=Snapshot)
    return msgspec.structs.replace(snapshot, ticket=open_ticket(snapshot.ticket, snapshot.run))


def thinned(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Return ``points``; where there are more than `HISTORY`, every second one and the last."""
    if len(points) <= HISTORY:
        return points
    return (*points[:-1:2], points[-1])
