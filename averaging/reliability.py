"""Which peers have let us down, and for how many rounds we do not wait for them because of that.

A peer lets us down if we had to wait for it until a deadline: it did not come although it said that it would,
or it was in the group and did not send what was due. Whether it was slow, cut off or lying is no matter.
Nobody is excluded: what such a peer sends in time counts as before. It is only that nobody waits for it.

    let down for the 1st, 2nd, 3rd … time  ──►  not waited for in the next 1, 2, 4 … rounds
    delivered what was due in 8 rounds     ──►  one time is forgiven

So a peer that lets the others down whenever they wait for it costs them one wait in ever more rounds. This is
one peer's own experience; it is told to nobody.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace

from swarm.bounded import LeastRecentlyUsed
from swarm.identity import PeerId

REMEMBERED = 1024
"""Peers that have let us down lately."""
LONGEST = 64
"""Rounds for which a peer is not waited for, at most."""
FEWEST_SECONDS = 2.0
"""For an average, at least, however quick the last ones were."""
FACTOR = 5.0
"""An average may take so many times as long as the last ones, by their median."""
AVERAGES = 8
"""How many of the last averages count."""
FEWEST_AVERAGES = 2
"""Before so many averages we do not know how long one takes."""
FORGIVEN_AFTER = 8
"""Rounds in which a peer delivers what is due, for each time that it has not."""


@dataclass(frozen=True, slots=True)
class _Record:
    """How often a peer has let us down, the rounds in which we do not wait for it because of that (from
    ``not_in`` up to, and not with, ``again_in``), and in how many rounds it has delivered since."""

    times: int
    not_in: int
    again_in: int
    good: int = 0


class Reliability:
    """One peer's experience with the others."""

    def __init__(self) -> None:
        self._records: LeastRecentlyUsed[PeerId, _Record] = LeastRecentlyUsed(REMEMBERED)
        self._round = 0

    def begin(self, round_: int) -> None:
        """We average ``round_`` now."""
        self._round = round_

    @property
    def unawaited(self) -> frozenset[PeerId]:
        """The peers for which we do not wait in this round."""
        return frozenset(
            peer for peer, record in self._records.items() if record.not_in <= self._round < record.again_in
        )

    def let_down(self, peers: Iterable[PeerId]) -> None:
        """``peers`` have kept us waiting until a deadline in this round."""
        for peer in peers:
            known = self._records.get(peer)
            if known and known.again_in > self._round:
                continue  # once a round is enough, and nobody has waited for it
            times = known.times + 1 if known else 1
            pause = min(LONGEST, 1 << (times - 1))
            first = self._round + 1
            self._records[peer] = _Record(times, first, first + pause)

    def delivered(self, peers: Iterable[PeerId]) -> None:
        """``peers`` have sent in this round what was due."""
        for peer in peers:
            known = self._records.get(peer)
            if known is None or known.again_in > self._round:
                continue
            if known.good + 1 < FORGIVEN_AFTER:
                self._records[peer] = replace(known, good=known.good + 1)
            elif known.times > 1:
                self._records[peer] = _Record(known.times - 1, known.not_in, known.again_in)
            else:
                del self._records[peer]


class Pace:
    """How long an average may take: a few times as long as the last ones took.

    The manifest's ``average_seconds`` is for the slowest network that the run allows. A member that keeps the
    others waiting must not cost them that much where an average takes a second. So averages in which somebody
    has done that do not count. After one that has failed the next may take twice as long: perhaps the time
    was too short.
    """

    def __init__(self, most: float) -> None:
        """``most`` seconds are for the first averages."""
        self._most = most
        self._last: list[float] = []
        self._stretch = 1.0

    @property
    def seconds(self) -> float:
        """For the next average."""
        if len(self._last) < FEWEST_AVERAGES:
            return self._most
        usual = max(FEWEST_SECONDS, FACTOR * statistics.median_low(self._last))
        return min(self._most, self._stretch * usual)

    def took(self, seconds: float, *, was_held_up: bool) -> None:
        """An average has come to a decision in so many ``seconds``.

        ``was_held_up``: a member has kept the others waiting.
        """
        self._stretch = 1.0
        if not was_held_up:
            self._last = [*self._last, seconds][-AVERAGES:]

    def failed(self) -> None:
        """An average has come to no decision."""
        self._stretch = min(2 * self._stretch, self._most)
