"""The roster: the newest progress record of every peer that we have heard of, and when it came.

Times are seconds of the caller's clock; records carry no time. All that the roster knows are claims of the
peers about themselves. So it decides which peers we ask, but never what we take for true.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..identity import PeerId
from ..wire import Signed
from .progress import Phase, Progress

ROSTER_LIMIT = 1000
"""Most peers in the roster. A further peer replaces an absent one; it is not added where all are present."""

PATIENCE = 60.0
"""Seconds without a newer record after which a peer counts as absent."""

_BEGUN = (Phase.TRAINING, Phase.AVERAGING)
"""A run in which a peer is in one of these phases has begun."""
_HAS_MODEL = (Phase.TRAINING, Phase.AVERAGING, Phase.WAITING)
"""A peer in one of these phases has the model."""
_NOT_IN_ROUND = (Phase.FOLLOWING, Phase.STARTING, Phase.SYNCING)
"""A peer in one of these phases takes no part in the round of its record."""
_ALMOST_IN_NEXT_ROUND = (Phase.AVERAGING, Phase.FOLLOWING)
"""A peer in one of these phases will be in the next round soon."""


@dataclass(frozen=True, slots=True)
class Row:
    """What we know of one peer.

    ``heard`` is when its newest record came. ``is_lost`` says that a message to it has failed since then.
    """

    signed: Signed[Progress]
    heard: float
    is_lost: bool = False

    @property
    def peer(self) -> PeerId:
        """The peer that signed the record."""
        return self.signed.signer

    @property
    def progress(self) -> Progress:
        """What the peer says about itself."""
        return self.signed.message

    @property
    def round(self) -> int:
        """The round that it says it is in."""
        return self.signed.stamp.round

    @property
    def version(self) -> tuple[int, int]:
        """(round, seq): a record with a higher version replaces this one."""
        return self.signed.stamp.round, self.signed.stamp.seq


@dataclass(frozen=True, slots=True)
class _Present:
    """The present peers at any time in [since, until), unless the roster changes: for `Roster.peers`."""

    peers: list[PeerId]
    since: float
    until: float
    patience: float


class Roster:
    """The peers of a run. It changes only in `hear`, `lost` and `forget_older_than`; no I/O, no clock.

    A peer is *present* while its newest record came at most ``patience`` seconds ago and does not say
    LEAVING, and no message to the peer has failed since. A record that comes again changes nothing: it may be
    a replay.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.changes = 0
        """Number of records that were new; where it has not grown, there is nothing new to read."""
        self.has_begun = False
        """Whether any record has shown that the run has begun."""
        self._rows: dict[PeerId, Row] = {}
        self._banned: set[PeerId] = set()
        """Peers that have been shown to lie: they are never present."""
        self._cache: _Present | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._rows

    def hear(self, signed: Signed[Progress], now: float) -> bool:
        """Note a record that came at ``now``. False where ours is as new, or the roster is full."""
        if self.knows(signed) or signed.signer in self._banned:
            return False
        row = Row(signed, now)
        known = self._rows.get(signed.signer)
        if known is None and len(self._rows) >= ROSTER_LIMIT and not self._drop_absent(now):
            return False

        was_present = known is not None and self._is_present(known, now)
        if not (was_present and self._is_present(row, now)):
            self._cache = None
        self._rows[row.peer] = row
        if row.round > 0 or row.progress.phase in _BEGUN:
            self.has_begun = True
        self.changes += 1
        return True

    def knows(self, signed: Signed[Progress]) -> bool:
        """Whether we have this record, or a newer one of the same peer."""
        known = self._rows.get(signed.signer)
        return known is not None and known.version >= (signed.stamp.round, signed.stamp.seq)

    def mark_lost(self, peer: PeerId, now: float) -> None:
        """A message to ``peer`` failed at ``now``: the peer is absent until a newer record comes.

        Where its record came after ``now``, nothing changes: the failure was reported late.
        """
        row = self._rows.get(peer)
        if row and row.heard <= now:
            self._rows[peer] = replace(row, is_lost=True)
            self._cache = None

    def forget_older_than(self, time: float) -> None:
        """Drop the peers that were last heard before ``time``.

        Choose ``time`` minutes ago: an old record of a dropped peer that still circulates would count as new.
        """
        self._rows = {peer: row for peer, row in self._rows.items() if row.heard >= time}
        self._cache = None

    def is_present(self, peer: PeerId, now: float) -> bool:
        """Whether ``peer`` is present, as the class defines it."""
        row = self._rows.get(peer)
        return row is not None and self._is_present(row, now)

    def ban(self, peer: PeerId) -> None:
        """``peer`` has been shown to lie: from here on it is not present, whatever it says."""
        self._banned.add(peer)
        self._rows.pop(peer, None)
        self._cache = None

    def is_banned(self, peer: PeerId) -> bool:
        """Whether ``peer`` has been shown to lie."""
        return peer in self._banned

    def peers(self, now: float) -> list[PeerId]:
        """The present peers, sorted."""
        cache = self._cache
        if cache is None or cache.patience != self.patience or not cache.since <= now < cache.until:
            rows = list(self._present(now))
            first_to_go = min((row.heard for row in rows), default=now)
            cache = _Present(
                peers=sorted(row.peer for row in rows),
                since=now,
                until=first_to_go + self.patience,
                patience=self.patience,
            )
            self._cache = cache
        return list(cache.peers)

    def at_round(self, round_: int, now: float) -> list[PeerId]:
        """The present peers that should take part in ``round_``, sorted.

        They are in this round and have its model, or they are finishing the round before.
        """
        return sorted(row.peer for row in self._present(now) if _is_expected(row, round_))

    def in_training(self, now: float) -> list[PeerId]:
        """The present peers that have a model, sorted. Those outside our group may be in another one."""
        return sorted(row.peer for row in self._present(now) if row.progress.phase in _HAS_MODEL)

    def round_of(self, peer: PeerId) -> int:
        """The round that ``peer`` says it is in; -1 where we have no record of it."""
        return self._rows[peer].round if peer in self._rows else -1

    def snapshot(self) -> tuple[Row, ...]:
        """All peers that we know, present or not, in the order of their ids."""
        return tuple(self._rows[peer] for peer in sorted(self._rows))

    def _present(self, now: float) -> Iterator[Row]:
        """The rows of the present peers. Same test as `_is_present`, but written out: it runs very often."""
        oldest = now - self.patience
        leaving = Phase.LEAVING
        for row in self._rows.values():
            if not row.is_lost and row.heard >= oldest and row.signed.message.phase is not leaving:
                yield row

    def _is_present(self, row: Row, now: float) -> bool:
        is_leaving = row.signed.message.phase == Phase.LEAVING
        return not row.is_lost and not is_leaving and now - row.heard <= self.patience

    def _drop_absent(self, now: float) -> bool:
        """Drop the absent peer that was heard longest ago. False where all peers are present."""
        absent = [row for row in self._rows.values() if not self._is_present(row, now)]
        if not absent:
            return False
        oldest = min(absent, key=lambda row: row.heard)
        del self._rows[oldest.peer]
        self._cache = None
        return True


def _is_expected(row: Row, round_: int) -> bool:
    """Whether the peer of ``row`` should take part in ``round_``."""
    phase = row.progress.phase
    if row.round == round_:
        return phase not in _NOT_IN_ROUND
    return row.round == round_ - 1 and phase in _ALMOST_IN_NEXT_ROUND
