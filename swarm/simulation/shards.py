"""One rehearsal in several processes: each shard has some of the peers and a loop of its own, and all have the same virtual time.

    shard 0  ── a window of virtual time ──►  letters  ──┐ meet ┌──►  the next window …
    shard 1  ── the same window ───────────►  letters  ──┘      └──►

Rule 1: what crosses takes at least ``lookahead`` virtual seconds. So nothing that is sent in a window of that length arrives in it,
        and inside a window no shard waits for another (conservative synchronisation: Chandy and Misra 1979,
        doi:10.1109/TSE.1979.230182).
Rule 2: letters arrive in the order of (time, shard, number): the same seed makes the same rehearsal, however fast each process is.
Rule 3: a shard that ends before all are done breaks its lines, and the others end with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from .clock import Deadlock, running_loop

SILENT_SECONDS = 600.0
"""Real seconds: a window of a thousand peers takes one, and a process a few to start. Longer than that nobody computes."""


class Letter(NamedTuple):
    """What crosses. Sorts by its first three fields, which no two letters share."""

    arrives: float
    shard: int
    number: int
    content: Any


class Pipe(Protocol):
    """One end of a pipe between two processes, as `multiprocessing.Pipe` makes it."""

    def send(self, obj: Any, /) -> None:
        """Hand ``obj`` to the other end. Raises `OSError` where that is gone."""

    def poll(self, timeout: float | None, /) -> bool:
        """Whether the other end says something, or is gone, within ``timeout`` real seconds."""

    def recv(self) -> Any:
        """What the other end has handed over. Raises `EOFError` where it is gone."""


class ShardLost(RuntimeError):
    """Another shard has ended before its time, and will have said why; or it says nothing any more."""


def heard(line: Pipe, shard: int) -> Any:
    """What ``shard`` says next. Raises `ShardLost` where it is gone, or silent for `SILENT_SECONDS`."""
    try:
        if line.poll(SILENT_SECONDS):
            return line.recv()
    except (EOFError, OSError) as error:
        raise ShardLost(f"shard {shard} has ended before its time") from error
    raise ShardLost(f"shard {shard} has said nothing for {SILENT_SECONDS:g} s")


class Shards:
    """The meeting point of one shard, number ``index``; ``lines`` lead to all others. A `swarm.simulation.clock.Window`."""

    def __init__(self, index: int, lines: Mapping[int, Pipe], lookahead: float) -> None:
        if not lookahead > 0:
            raise ValueError("where messages take no time, no process can go ahead of another")
        self.index, self.until, self.lookahead = index, lookahead, lookahead
        self.receive: Callable[[Any], object] = bool
        """Called with the content of every letter when it arrives."""
        self._lines = dict(sorted(lines.items()))
        self._out: dict[int, list[Letter]] = {shard: [] for shard in self._lines}
        self._number = 0
        self._is_done = False
        self._all_done = running_loop().create_future()

    def post(self, shard: int, arrives: float, content: Any) -> None:
        """Send ``content`` to ``shard``. Raises `ValueError` where it would arrive too soon to be told in time."""
        if math.isinf(self.until):
            return  # all are done, and nobody reads any more
        if arrives < self.until:
            raise ValueError(f"a letter for {arrives} cannot be told before the window ends at {self.until}")
        self._number += 1
        self._out[shard].append(Letter(arrives, self.index, self._number, content))

    def post_all(self, arrives: float, content: Any) -> None:
        """Send ``content`` to every other shard."""
        for shard in self._lines:
            self.post(shard, arrives, content)

    def meet(self, upcoming: float) -> None:
        """At the end of a window: exchange letters, and agree on the next. ``upcoming``: when something happens here next.

        Raises `Deadlock` where nothing ever will, anywhere, and `ShardLost`.
        """
        earliest = min([upcoming, *(letter.arrives for letters in self._out.values() for letter in letters)])
        words = [self._exchange(shard, (self._is_done, earliest, self._out[shard])) for shard in self._lines]
        self._out = {shard: [] for shard in self._lines}
        loop = running_loop()
        for letter in sorted(letter for _, _, letters in words for letter in letters):
            loop.call_at(letter.arrives, self.receive, letter.content)
        if self._is_done and all(is_done for is_done, _, _ in words):
            self.until = math.inf
            self._all_done.set_result(None)
            return
        earliest = min(earliest, *(theirs for _, theirs, _ in words))
        if math.isinf(earliest):
            raise Deadlock("wait, as in all other shards, and no timer is set that could wake one")
        self.until = earliest + self.lookahead

    def _exchange(
        self, shard: int, word: tuple[bool, float, list[Letter]]
    ) -> tuple[bool, float, list[Letter]]:
        """One of two speaks first: were both to speak at once, two full pipes would wait for each other."""
        speaks_first = self.index < shard
        if speaks_first:
            self._say(shard, word)
        answer: tuple[bool, float, list[Letter]] = heard(self._lines[shard], shard)
        if not speaks_first:
            self._say(shard, word)
        return answer

    def _say(self, shard: int, word: tuple[bool, float, list[Letter]]) -> None:
        try:
            self._lines[shard].send(word)
        except OSError as error:
            raise ShardLost(f"shard {shard} has ended before its time") from error

    async def all_done(self) -> None:
        """Say that nothing begins here any more, and go on answering the others until all say so."""
        self._is_done = True
        await self._all_done
