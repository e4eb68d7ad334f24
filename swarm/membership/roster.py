"""Who is in the run as far as we have heard: the newest progress record of every peer, and when it came.

Times are our own, in seconds of whatever clock the caller keeps to; a record says nothing about time. Everything here is a claim of
the peer itself, so it decides whom we ask and never what we believe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..identity import PeerId
from ..wire import Signed
from .progress import Phase, Progress

ROSTER_LIMIT = 1000
"""Peers remembered. Beyond it a newcomer takes the place of somebody who is gone, or is not noted."""

BEGUN = (Phase.TRAINING, Phase.AVERAGING)
"""Who is seen in these phases has begun."""

PATIENCE = 60.0
"""Seconds without a newer record after which a peer counts as gone."""


@dataclass(frozen=True, slots=True)
class Row:
    """What we know of one peer. ``heard`` is when its newest record came; ``is_lost`` says that it could not be reached since."""

    signed: Signed[Progress]
    heard: float
    is_lost: bool = False

    @property
    def peer(self) -> PeerId:
        """Who signed the record."""
        return self.signed.signer

    @property
    def progress(self) -> Progress:
        """What the peer says of itself."""
        return self.signed.message

    @property
    def round(self) -> int:
        """The round it says it is in."""
        return self.signed.stamp.round

    @property
    def version(self) -> tuple[int, int]:
        """(round, seq): a record with a higher one replaces this."""
        return self.signed.stamp.round, self.signed.stamp.seq


@dataclass(frozen=True, slots=True)
class _Here:
    """Who is present ``since`` a time and ``until`` another, if nobody comes or goes meanwhile: a population asks that all the time."""

    peers: list[PeerId]
    since: float
    until: float
    patience: float


class Roster:
    """The peers of a run. A plain value that changes in `hear`, `lost` and `forget_older_than` only; no I/O, no clock.

    A peer is *present* while its newest record is at most ``patience`` seconds old, does not say LEAVING, and no message to it has
    failed since. Hearing the same record again, however often, makes nobody present: it may be a replay.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.news = 0
        """Grows whenever something is heard that was not known: who has seen it all need not look again."""
        self.has_begun = False
        """Whether anybody heard of was in a round that had begun."""
        self._rows: dict[PeerId, Row] = {}
        self._here: _Here | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._rows

    def hear(self, signed: Signed[Progress], now: float) -> bool:
        """Note a record. False where it is not newer than the one we have, or where the roster is full of present peers."""
        if self.knows(signed):
            return False
        row, known = Row(signed, now), self._rows.get(signed.signer)
        if known is None and len(self._rows) >= ROSTER_LIMIT and not self._make_room(now):
            return False
        if known is None or not self._is_here(known, now) or not self._is_here(row, now):
            self._here = None
        self._rows[row.peer] = row
        self.has_begun = self.has_begun or row.round > 0 or row.progress.phase in BEGUN
        self.news += 1
        return True

    def knows(self, signed: Signed[Progress]) -> bool:
        """Whether we have this record already, or a newer one of the same peer."""
        known = self._rows.get(signed.signer)
        return known is not None and known.version >= (signed.stamp.round, signed.stamp.seq)

    def lost(self, peer: PeerId, now: float) -> None:
        """A message to ``peer`` could not be delivered at ``now``: it is absent until a record comes that is newer than ours.

        A record that came after ``now`` (the news of the failure may be late) still counts.
        """
        row = self._rows.get(peer)
        if row and row.heard <= now:
            self._rows[peer] = replace(row, is_lost=True)
            self._here = None

    def forget_older_than(self, time: float) -> None:
        """Drop the peers that were last heard before ``time``. Their old records would then be news again: leave them minutes."""
        self._rows = {peer: row for peer, row in self._rows.items() if row.heard >= time}
        self._here = None

    def is_present(self, peer: PeerId, now: float) -> bool:
        """Whether ``peer`` is here, as the class says."""
        row = self._rows.get(peer)
        return row is not None and self._is_here(row, now)

    def peers(self, now: float) -> list[PeerId]:
        """The present peers, sorted."""
        here = self._here
        if here is None or here.patience != self.patience or not here.since <= now < here.until:
            present = list(self._present(now))
            until = min((row.heard for row in present), default=now) + self.patience
            self._here = here = _Here(
                sorted([row.signed.signer for row in present]), now, until, self.patience
            )
        return list(here.peers)

    def at_round(self, round_: int, now: float) -> list[PeerId]:
        """The present peers that should take part in ``round_``, sorted: those in it that have its model, and those still busy with
        the average of the one before, in its group or without it."""
        nearly, not_yet = (Phase.AVERAGING, Phase.FOLLOWING), (Phase.FOLLOWING, Phase.STARTING, Phase.SYNCING)
        return sorted(
            row.peer
            for row in self._present(now)
            if (row.round == round_ and row.progress.phase not in not_yet)
            or (row.round == round_ - 1 and row.progress.phase in nearly)
        )

    def in_training(self, now: float) -> list[PeerId]:
        """The present peers that have a model, sorted: whoever of them is not in our group may be in another one."""
        busy = (Phase.TRAINING, Phase.AVERAGING, Phase.WAITING)
        return sorted(row.peer for row in self._present(now) if row.progress.phase in busy)

    def round_of(self, peer: PeerId) -> int:
        """The round that ``peer`` says it is in; -1 where it has said nothing."""
        return self._rows[peer].round if peer in self._rows else -1

    def snapshot(self) -> tuple[Row, ...]:
        """Every peer we know, present or not, in the order of peer ids."""
        return tuple(self._rows[peer] for peer in sorted(self._rows))

    def _present(self, now: float) -> Iterator[Row]:
        oldest, leaving = (
            now - self.patience,
            Phase.LEAVING,
        )  # written out: a population asks this of everybody all the time
        for row in self._rows.values():
            if not row.is_lost and row.heard >= oldest and row.signed.message.phase is not leaving:
                yield row

    def _is_here(self, row: Row, now: float) -> bool:
        return (
            not row.is_lost and row.signed.message.phase != Phase.LEAVING and now - row.heard <= self.patience
        )

    def _make_room(self, now: float) -> bool:
        """Forget the absent peer that was heard longest ago. False where all are present."""
        absent = [row for row in self._rows.values() if not self._is_here(row, now)]
        if absent:
            del self._rows[min(absent, key=lambda row: row.heard).peer]
            self._here = None
        return bool(absent)
