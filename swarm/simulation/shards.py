"""One rehearsal in several processes: each shard runs some of the peers, and all have one virtual time.

    shard 0  ── a window of virtual time ──►  messages  ──┐ exchange ┌──►  the next window …
    shard 1  ── the same window ───────────►  messages  ──┘          └──►

Rule 1: a message between shards takes at least ``lookahead`` virtual seconds. So nothing that is sent within
        a window of that length arrives in it, and within a window no shard waits for another (conservative
        synchronisation: Chandy and Misra 1979, doi:10.1109/TSE.1979.230182).
Rule 2: messages arrive in the order of (time, shard, number): the same seed makes the same rehearsal, however
        fast each process is.
Rule 3: a shard that ends before all are done closes its pipes, and the others end too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from .clock import Deadlock, running_loop

SILENT_SECONDS = 600.0
"""Real seconds without a report after which a shard is lost. A window of a thousand peers takes one
second, and a process takes a few to start."""


class ShardMessage(NamedTuple):
    """A message to another shard. It sorts by its first three fields, which no two messages share."""

    arrives: float
    shard: int
    number: int
    content: Any


class WindowReport(NamedTuple):
    """What one shard tells another at the end of a window."""

    is_done: bool
    """Whether nothing begins at this shard any more; it may still answer."""
    earliest: float
    """When something happens next: at this shard, or by a message of it."""
    messages: list[ShardMessage]


class Pipe(Protocol):
    """One end of a pipe between two processes, as `multiprocessing.Pipe` makes it."""

    def send(self, obj: Any, /) -> None:
        """Send ``obj`` to the other end. Raises `OSError` where that is closed."""

    def poll(self, timeout: float | None, /) -> bool:
        """Whether something can be received, or the other end is closed, within ``timeout`` real seconds."""

    def recv(self) -> Any:
        """Receive what the other end has sent. Raises `EOFError` where that is closed."""


class ShardLost(RuntimeError):
    """Another shard has ended too early (its own process reports why), or sends nothing any more."""


def heard(pipe: Pipe, shard: int) -> Any:
    """What ``shard`` sends next.

    Raises `ShardLost` where it has ended, or sends nothing for `SILENT_SECONDS`.
    """
    try:
        if pipe.poll(SILENT_SECONDS):
            return pipe.recv()
    except (EOFError, OSError) as error:
        raise ShardLost(f"shard {shard} has ended before its time") from error
    raise ShardLost(f"shard {shard} has sent nothing for {SILENT_SECONDS:g} s")


class Shards:
    """The connection of shard number ``index`` with all others, to which ``pipes`` lead.

    A `swarm.simulation.clock.Window`.
    """

    def __init__(self, index: int, pipes: Mapping[int, Pipe], lookahead: float) -> None:
        if not lookahead > 0:
            raise ValueError("where messages take no time, no process can run ahead of another")
        self.index = index
        self.until = lookahead
        self.lookahead = lookahead
        self.receive: Callable[[Any], object] = bool
        """Called with the content of every message when it arrives."""
        self._pipes = dict(sorted(pipes.items()))
        self._out: dict[int, list[ShardMessage]] = {shard: [] for shard in self._pipes}
        self._number = 0
        self._is_done = False
        self._all_done = running_loop().create_future()

    def post(self, shard: int, arrives: float, content: Any) -> None:
        """Send ``content`` to ``shard``.

        Raises `ValueError` where it would arrive within the current window.
        """
        if math.isinf(self.until):
            return  # all shards are done, and nobody reads any more
        if arrives < self.until:
            raise ValueError(f"a message cannot arrive at {arrives}: the window ends at {self.until}")
        self._number += 1
        self._out[shard].append(ShardMessage(arrives, self.index, self._number, content))

    def post_all(self, arrives: float, content: Any) -> None:
        """Send ``content`` to every other shard."""
        for shard in self._pipes:
            self.post(shard, arrives, content)

    def advance(self, upcoming: float) -> None:
        """At the end of a window, exchange messages with all shards, and begin the next window.

        ``upcoming`` is when something happens here next. Raises `Deadlock` where nothing can happen in any
        shard any more, and `ShardLost`.
        """
        reports = self._exchange(upcoming)
        self._schedule(reports)
        if all(report.is_done for report in reports):
            self.until = math.inf
            self._all_done.set_result(None)
            return

        earliest = min(report.earliest for report in reports)
        if math.isinf(earliest):
            raise Deadlock("wait, as in all other shards, and no timer is set that could wake one")
        self.until = earliest + self.lookahead

    def _exchange(self, upcoming: float) -> list[WindowReport]:
        """Send each shard a report with its messages. Returns all reports, ours (without messages) too."""
        sent = [message.arrives for messages in self._out.values() for message in messages]
        ours = WindowReport(self._is_done, min([upcoming, *sent]), [])
        theirs = [
            self._exchange_with(shard, ours._replace(messages=self._out[shard])) for shard in self._pipes
        ]
        self._out = {shard: [] for shard in self._pipes}
        return [ours, *theirs]

    def _exchange_with(self, shard: int, report: WindowReport) -> WindowReport:
        """The shard of the lower number sends first: else two full pipes could wait for each other."""
        sends_first = self.index < shard
        if sends_first:
            self._send(shard, report)
        answer: WindowReport = heard(self._pipes[shard], shard)
        if not sends_first:
            self._send(shard, report)
        return answer

    def _send(self, shard: int, report: WindowReport) -> None:
        try:
            self._pipes[shard].send(report)
        except OSError as error:
            raise ShardLost(f"shard {shard} has ended before its time") from error

    def _schedule(self, reports: list[WindowReport]) -> None:
        """Set a timer for the arrival of each message, in the order of rule 2."""
        loop = running_loop()
        for message in sorted(message for report in reports for message in report.messages):
            loop.call_at(message.arrives, self.receive, message.content)

    async def all_done(self) -> None:
        """Declare that nothing begins here any more, and go on answering until all shards have."""
        self._is_done = True
        await self._all_done
