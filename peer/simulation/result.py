"""What a rehearsal reports: rounds, states and events of every peer, a hash of it all, and the traffic.

Where some of the peers are liars, everything that is counted here is about the honest ones:

    decided     an honest peer stepped to this state by an average, and reported the round: its own group
                decided it (`averaging.outcome.Decided`)
    void        the state has the content that the peer had before: a round without an average
    fork        two honest peers stand, at the start of the same round, on different states that are not void
    uncertified an honest peer stands on a state that is neither the founder's first one, nor decided by an
                honest peer, nor the step by a record for which honest peers have cast ballots, nor one of
                these after void rounds: so a liar made it

A state root covers the round's number, so void states are found by the hash of the content alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from averaging.certificate import DecisionCertificate
from swarm.identity import PeerId
from swarm.wire import unpack

from ..chunks.hashes import root_of
from ..observe.reporter import RoundReport
from ..sync.position import Position
from ..training.state import SharedState, chunk_hashes

FOUNDER = "p0"
"""The name of the founder, who is also the organiser and never a liar."""
CONTENT = b"rehearsed content"
"""Keeps the hash of a state's content apart from its root."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message that was received and answered."""

    time: float
    """Virtual seconds."""
    sender: str
    receiver: str
    what: str
    """The kind of a control message (``commit``), else the first word of a bulk item (``part``), else the
    route."""


@dataclass(frozen=True, slots=True)
class Stand:
    """A state on which a peer stood at the start of ``round``."""

    time: float
    """Virtual seconds at which it came to this state."""
    round: int
    state_root: str
    content: bytes
    """Hash of the model alone, without the number of the round."""
    is_decided: bool = False
    """Whether the peer's own group has decided it."""
    ballots: frozenset[PeerId] = frozenset()
    """Whose ballots are in the certificate of the group that led to it."""


def _ballots_of(position: Position) -> frozenset[PeerId]:
    """Whose ballots have decided the state, as its certificate says."""
    if position.origin is None:
        return frozenset()
    decision = unpack(position.origin.certificate, DecisionCertificate)
    return frozenset(position.origin.members[ballot.seat] for ballot in decision.ballots)


def silent(report: RoundReport) -> None:
    """Ignore ``report``."""


@dataclass(slots=True)
class Notebook:
    """Everything that one simulated peer has reported: its `EventSink`; and the states on which it stood."""

    tell: Callable[[RoundReport], None]
    """Called with every report."""
    rounds: list[RoundReport] = field(default_factory=list)
    on_round: Callable[[], object] = bool
    """Called at the end of every round, also of one without an average."""
    told_at: list[float] = field(default_factory=list)
    """Virtual seconds at which each of ``rounds`` was over."""
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    stands: list[Stand] = field(default_factory=list)
    """In the order in which the peer came to them, over all its restarts."""
    lies: list[str] = field(default_factory=list)
    """The strategies of a liar, in the order in which it took them up; empty for an honest peer."""

    @property
    def missed(self) -> set[int]:
        """The rounds of which this peer had no average, by its own account."""
        return {
            fields["round"]
            for name, fields in self.events
            if name == "warning" and fields["code"] == "round-missed"
        }

    def stood(self, position: Position, state: SharedState) -> None:
        """Note a new position of the peer, and its state."""
        content = root_of(chunk_hashes(state), state.length, CONTENT)
        now = asyncio.get_running_loop().time()
        root = position.state_root.hex()
        self.stands.append(Stand(now, position.round, root, content, ballots=_ballots_of(position)))

    def round_finished(self, report: RoundReport) -> None:
        """Keep ``report``, and pass it on.

        The report of a round comes right after the step: by an average if the content has changed.
        """
        if len(self.stands) > 1 and self.stands[-1].content != self.stands[-2].content:
            self.stands[-1] = replace(self.stands[-1], is_decided=True)
        self.rounds.append(report)
        self.told_at.append(asyncio.get_running_loop().time())
        self.on_round()
        self.tell(report)

    def event(self, name: str, /, **fields: object) -> None:
        """Keep the event."""
        self.events.append((name, fields))
        if fields.get("code") == "round-missed":
            self.on_round()


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsedTraffic:
    """What crossed the simulated network."""

    messages: int
    sent: dict[str, int]
    """Bytes that crossed the network, by the name of the sender, over all its restarts."""
    looked: dict[str, int]
    """Bytes of the records that each peer read in the directory, by its name."""
    heard: tuple[Heard, ...] = ()
    """All messages in order; empty without ``listen``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalResult(RehearsedTraffic):
    """The outcome of a rehearsal, or of one of its processes.

    Peers are called ``p0``, ``p1``, …; ``p0`` is the founder.
    """

    notebooks: dict[str, Notebook]
    """By peer name, liars among them."""
    transcript: str
    """Hash of every message and of every reported state root: the same for the same scenario."""
    parameters: int
    crashes: int
    virtual_seconds: float
    """Until the last honest peer was done."""
    leftovers: tuple[str, ...] = ()
    """Names of the tasks that were still there at the end; should be empty."""
    ids: dict[str, PeerId] = field(default_factory=dict)
    """The ids of the peers, by name."""
    most_tasks: int = 0
    """The most tasks that one honest peer had at a time; 0 where nobody lies."""

    @property
    def honest(self) -> dict[str, Notebook]:
        """The notebooks of the peers that do not lie."""
        return {name: notebook for name, notebook in self.notebooks.items() if not notebook.lies}

    def roots(self, round_: int) -> set[str]:
        """The different state roots that were reported by honest peers that had an average in ``round_``."""
        notebooks = [notebook for notebook in self.honest.values() if round_ not in notebook.missed]
        return {
            report.state_root
            for notebook in notebooks
            for report in notebook.rounds
            if report.round == round_
        }

    @property
    def state_roots_equal(self) -> bool:
        """Whether all honest peers that had an average agreed on its result, for every round."""
        rounds = {report.round for notebook in self.honest.values() for report in notebook.rounds}
        return bool(rounds) and all(len(self.roots(round_)) <= 1 for round_ in rounds)

    @property
    def decided_rounds(self) -> set[int]:
        """The rounds that at least one honest peer has decided with its group."""
        return {stand.round - 1 for _, stand in self._stands() if stand.is_decided}

    @property
    def rounds_decided_per_minute(self) -> float:
        """`decided_rounds` in a virtual minute: how much liars slow the others down."""
        return 60 * len(self.decided_rounds) / self.virtual_seconds if self.virtual_seconds else 0.0

    @property
    def forks(self) -> int:
        """The number of (round, pair of different state roots) on which honest peers stood after that round.

        States after a void round do not count: a peer that has no average of the round stands on one.
        """
        sides = (len(roots) for roots in self._sides().values())
        return sum(count * (count - 1) // 2 for count in sides)

    @property
    def forked(self) -> list[tuple[str, Stand]]:
        """The states that make the `forks`, with the names of the peers that stood on them."""
        sides = self._sides()
        return [(name, stand) for name, stand in self._not_void() if len(sides[stand.round]) > 1]

    @property
    def uncertified(self) -> list[tuple[str, Stand]]:
        """The states that a liar made and on which an honest peer stood: for each the first such peer."""
        certified = {stand.content for _, stand in self._stands() if stand.is_decided}
        honest_ids = {self.ids[name] for name in self.honest if name in self.ids}
        for notebook in self.honest.values():
            downloaded = {fields.get("state_root") for name, fields in notebook.events if name == "synced"}
            certified |= {
                stand.content
                for stand in notebook.stands
                if stand.state_root not in downloaded and stand.ballots & honest_ids
            }
        if FOUNDER in self.notebooks:
            certified |= {stand.content for stand in self.notebooks[FOUNDER].stands[:1]}
        first: dict[bytes, tuple[str, Stand]] = {}
        for name, stand in sorted(self._stands(), key=lambda stood: stood[1].time):
            if stand.content not in certified:
                first.setdefault(stand.content, (name, stand))
        return list(first.values())

    def _stands(self) -> Iterator[tuple[str, Stand]]:
        """All states on which honest peers stood, with the name of the peer."""
        for name, notebook in self.honest.items():
            for stand in notebook.stands:
                yield name, stand

    def _sides(self) -> dict[int, set[str]]:
        """By round: the different state roots on which honest peers stood at its start; no void states."""
        roots: dict[int, set[str]] = {}
        for _, stand in self._not_void():
            roots.setdefault(stand.round, set()).add(stand.state_root)
        return roots

    def _not_void(self) -> list[tuple[str, Stand]]:
        """The states of which no honest peer had the content at the start of an earlier round."""
        first_round: dict[bytes, int] = {}
        for _, stand in self._stands():
            first_round[stand.content] = min(stand.round, first_round.get(stand.content, stand.round))
        return [(name, stand) for name, stand in self._stands() if stand.round == first_round[stand.content]]
