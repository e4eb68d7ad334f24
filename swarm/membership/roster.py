"""Who is here, how far, and since when: the newest word of every peer, and what we noticed ourselves. Pure; time comes from outside.

A record makes a peer present. A failed connection makes it absent, until it speaks again with a newer record. Nothing here is
believed where it matters: a roster only says whom to expect and whom to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..identity import PeerId
from ..wire import Signed
from .progress import Phase, Progress

MOST = 1000
"""Peers kept; beyond it the one that was heard longest ago is forgotten."""
PATIENCE = 60.0
"""Seconds after its last word in which a peer still counts as present."""


@dataclass(frozen=True, slots=True)
class Row:
    """One peer: its newest record, when it was heard (in the clock of ``now``), and whether it can be reached."""

    signed: Signed[Progress]
    heard: float
    lost: bool = False


class Roster:
    """The table of one peer; it never lists itself."""

    def __init__(self, me: PeerId, patience: float = PATIENCE) -> None:
        self._me = me
        self._patience = patience
        self._rows: dict[PeerId, Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def hear(self, signed: Signed[Progress], now: float) -> bool:
        """Take note of a record; whether it was newer, by (round, seq) and never by a clock, than what was known."""
        peer = signed.signer
        known = self._rows.get(peer)
        if peer == self._me or (known and _version(signed) <= _version(known.signed)):
            return False
        self._rows[peer] = Row(signed, now)
        if len(self._rows) > MOST:
            del self._rows[min(self._rows, key=lambda p: (self._rows[p].heard, p))]
        return True

    def lost(self, peer: PeerId, now: float) -> None:
        """Nobody answers at the peer's address: absent until it speaks again."""
        if row := self._rows.get(peer):
            self._rows[peer] = Row(row.signed, row.heard, lost=True)

    def forget_older_than(self, seconds: float, now: float) -> None:
        """Drop whoever has said nothing for ``seconds``."""
        self._rows = {peer: row for peer, row in self._rows.items() if now - row.heard <= seconds}

    def peers(self, now: float) -> list[PeerId]:
        """Who is present, in the order of ids."""
        return sorted(peer for peer, row in self._rows.items() if self._is_present(row, now))

    def absent(self, now: float) -> set[PeerId]:
        """Who was here and is not: lost, silent for too long, or gone with a goodbye."""
        return {peer for peer, row in self._rows.items() if not self._is_present(row, now)}

    def at_round(self, round_: int, now: float) -> list[PeerId]:
        """Who should take part in ``round_``: present, with a model, and in that round or finishing the one before it."""
        return [peer for peer in self.peers(now) if self._will_take_part(self._rows[peer].signed, round_)]

    def records(self) -> list[Signed[Progress]]:
        """The newest record of every peer, in the order of ids."""
        return [self._rows[peer].signed for peer in sorted(self._rows)]

    def rows(self, now: float) -> Sequence[tuple[Signed[Progress], float, bool]]:
        """For screens: (record, seconds since it was heard, whether the peer can be reached), in the order of ids."""
        return [(row.signed, now - row.heard, not row.lost) for _, row in sorted(self._rows.items())]

    def _is_present(self, row: Row, now: float) -> bool:
        return not row.lost and now - row.heard <= self._patience and row.signed.message.phase is not Phase.LEAVING

    @staticmethod
    def _will_take_part(signed: Signed[Progress], round_: int) -> bool:
        is_ready = signed.message.phase in (Phase.TRAINING, Phase.AVERAGING, Phase.WAITING)
        return is_ready and signed.stamp.round in (round_, round_ - 1)


def _version(signed: Signed[Progress]) -> tuple[int, int]:
    return signed.stamp.round, signed.stamp.seq
