"""Time that jumps: an event loop that never waits, so that hours of a swarm pass in seconds, the same way every time.

    all tasks wait  ──►  the clock jumps to the next timer  ──►  its callbacks run  ──►  all tasks wait  ──►  …

Nothing here opens a socket, starts a thread or reads the real clock. Where every task waits and no timer is set, nothing can
ever happen again: that is a `Deadlock`, raised at once instead of a test that hangs.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context, ContextVar
from heapq import heapify, heappop, heappush
from typing import Any, Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

owner: ContextVar[object] = ContextVar("owner", default=None)
"""Whose the running task is. Tasks and timers that it starts are the same one's; `VirtualLoop.hold` makes them all stand still."""

GRACE = 60.0
"""Virtual seconds that tasks which are still there at the end have for cleaning up after their cancellation."""
SPIN_LIMIT = 100_000
"""Turns of the loop in a single instant, after which it is a livelock."""


class Deadlock(RuntimeError):
    """Every task waits and no timer could wake one; or tasks keep each other busy and time stands still."""


class Window(Protocol):
    """How far a loop may go on its own."""

    until: float
    """What happens at this time or later waits for the next window."""

    def meet(self, upcoming: float) -> None:
        """Move ``until``, and set timers for what others have sent meanwhile; the next one that is set here is for ``upcoming``.

        Raises `Deadlock` where nothing can ever happen any more.
        """


class Alone:
    """The `Window` of a loop that has all peers."""

    until = math.inf

    def meet(self, upcoming: float) -> None:
        """Nobody else could wake our tasks."""
        raise Deadlock("wait, and no timer is set that could wake one")


class SerialTask(asyncio.Task[T]):
    """A task that hashes by its serial number.

    asyncio keeps tasks in sets (`asyncio.wait` returns them, `TaskGroup` cancels in their order). By its address a task would
    stand elsewhere in every process, and no rehearsal could be repeated.
    """

    def __init__(
        self, coro: Coroutine[Any, Any, T], *, serial: int, name: str | None = None, **options: Any
    ) -> None:
        self.serial = serial
        super().__init__(coro, name=name or f"task-{serial}", **options)

    def __hash__(self) -> int:
        return self.serial

    def set_name(self, value: object) -> None:
        """Keep the own name where Python 3.13.0 says None for "no other one"."""
        if value is not None:
            super().set_name(value)


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop on virtual time, which begins at 0. Timers of the same instant ring in the order they were set."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[BaseException] = []
        """What no task or callback could hand to anybody; `simulate` raises it."""
        self._now = 0.0
        self._turns = 0
        self._timers: list[tuple[float, int, asyncio.TimerHandle | asyncio.Future[None]]] = []
        self._cancelled = 0
        self._held: dict[object, list[asyncio.Handle]] = {}
        self._ready: deque[asyncio.Handle]  # the base class fills it
        self._serials = itertools.count()
        self.window: Window = Alone()
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._remember)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call ``callback(*args)`` when the clock shows ``when``: never earlier, not even by a rounding."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heappush(self._timers, (when, next(self._serials), handle))
        return handle

    def reach(self, when: float) -> asyncio.Future[None]:
        """Done when the clock shows ``when``. A lighter `asyncio.sleep`, which wakes its task in the very turn of the jump."""
        arrival = self.create_future()
        heappush(self._timers, (when, next(self._serials), arrival))
        return arrival

    def hold(self, who: object) -> None:
        """Let nothing of ``who`` (see `owner`) happen any more, as SIGSTOP does: its tasks and timers wait for `release`."""
        self._held.setdefault(who, [])

    def release(self, who: object) -> None:
        """Undo `hold`, as SIGCONT does: what should have happened meanwhile happens now, late, in its order."""
        self._ready.extend(self._held.pop(who, ()))

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Most deadlines are cancelled long before they come: do not let them pile up."""
        self._cancelled += 1
        if self._cancelled > 1000 and 2 * self._cancelled > len(self._timers):
            self._timers = [timer for timer in self._timers if not timer[2].cancelled()]
            heapify(self._timers)
            self._cancelled = 0

    def _run_once(self) -> None:
        """One turn: everything that is ready; where nothing is, the clock jumps first."""
        if self._ready:
            self._turns += 1
            if self._turns > SPIN_LIMIT:
                raise Deadlock(
                    f"at t={self._now:.3f} s {self._tasks_in_words()} keep each other busy, and time stands still"
                )
        else:
            self._jump()
        for _ in range(len(self._ready)):  # what these callbacks make ready has its turn next time
            handle = self._ready.popleft()
            if self._held and (waiting := self._held.get(_owner_of(handle))) is not None:
                waiting.append(handle)
            elif not handle.cancelled():
                handle._run()

    def _jump(self) -> None:
        """Move the clock to the next timer, and make ready all that ring then."""
        while (upcoming := self._upcoming()) >= self.window.until:
            try:
                self.window.meet(upcoming)
            except Deadlock as deadlock:
                raise Deadlock(f"at t={self._now:.3f} s {self._tasks_in_words()} {deadlock}") from None
            if self._ready:
                return
        timers = self._timers
        self._turns, self._now = 0, max(self._now, upcoming)
        while timers and timers[0][0] <= self._now:
            timer = heappop(timers)[2]
            if isinstance(timer, asyncio.Handle):
                self._ready.append(timer)
            elif not timer.done():
                timer.set_result(None)

    def _upcoming(self) -> float:
        """When the next timer rings that still may; never, where there is none."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heappop(timers)
        return timers[0][0] if timers else math.inf

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Refused: what a thread does, and when, cannot be repeated."""
        raise RuntimeError(
            f"no threads in a simulation: {func!r} must be reached through a port such as swarm.machine.Arithmetic"
        )

    def wind_up(self) -> list[str]:
        """Cancel the tasks that are left and let them clean up; their names, oldest first."""
        left = self._tasks()
        self._turns = 0
        self.window = Alone()  # the others are done, or have been lost
        for who in list(self._held):
            self.release(who)
        for task in left:
            task.cancel()
        if left:
            _, stubborn = self.run_until_complete(asyncio.wait(left, timeout=GRACE))
            self.failures += [
                RuntimeError(f"{task.get_name()} lives on, {GRACE:g} s after it was cancelled")
                for task in stubborn
            ]
            self.failures += [
                error for task in left if task.done() and not task.cancelled() and (error := task.exception())
            ]
        self.run_until_complete(self.shutdown_asyncgens())
        return [task.get_name() for task in left]

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return sorted(asyncio.all_tasks(self), key=hash)

    def _tasks_in_words(self) -> str:
        names = [task.get_name() for task in self._tasks()]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        return f"all {len(names)} tasks ({', '.join(names[:8])}{more})"

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        return SerialTask(coro, serial=next(self._serials), loop=loop, **options)

    def _remember(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(context.get("exception") or RuntimeError(context["message"]))

    def _write_to_self(self) -> None:
        """Part of the loop's inner contract: there is no other thread that could have to wake this one."""


def _owner_of(handle: asyncio.Handle) -> object:
    """Whose callback it is. asyncio keeps the context to itself until Python 3.12, which has ``Handle.get_context``, too."""
    context: Context = handle._context  # type: ignore[attr-defined]
    return context.get(owner)


def running_loop() -> VirtualLoop:
    """The loop that runs the caller. Raises `RuntimeError` where it is a real one."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise RuntimeError("this lives on virtual time only: run it with swarm.simulation.clock.simulate")
    return loop


def simulate(main: Coroutine[Any, Any, T], *, leftovers: list[str] | None = None) -> T:
    """Run ``main`` on virtual time, from 0, and return its result.

    Tasks that outlive it are cancelled, and their names are added to ``leftovers``. Raises `Deadlock` where a real loop would
    hang, and what no task could hand to anybody (an error in a callback, in a handler of the simulated network, in a task that
    nobody awaited), so that no failure stays unseen.
    """
    loop = VirtualLoop()
    try:
        result = loop.run_until_complete(loop.create_task(main, name="main"))
    except BaseException as error:
        _wind_up(loop, leftovers)
        for failure in loop.failures:
            error.add_note(f"besides: {failure!r}")
        raise
    _wind_up(loop, leftovers)
    if len(loop.failures) == 1:
        raise loop.failures[0]
    if loop.failures:
        raise BaseExceptionGroup("several failures that no task could hand to anybody", loop.failures)
    return result


def _wind_up(loop: VirtualLoop, leftovers: list[str] | None) -> None:
    try:
        left = loop.wind_up()
    finally:
        loop.close()
    if leftovers is not None:
        leftovers += left
