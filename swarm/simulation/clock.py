"""An event loop on virtual time: hours of a swarm pass in seconds, the same way every time.

    all tasks wait ──► the clock jumps to the next timer ──► its callbacks run ──► all tasks wait ──► …

Nothing here opens a socket, starts a thread or reads the real clock. If every task waits and no timer is set,
nothing can happen any more: the loop raises `Deadlock` at once, where a real loop would hang.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context, ContextVar
from heapq import heapify, heappop, heappush
from typing import Any, Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

owner: ContextVar[object] = ContextVar("owner", default=None)
"""The owner of the running task and of all that it starts; `VirtualLoop.hold` suspends them."""

GRACE = 60.0
"""Virtual seconds for tasks that still run at the end to clean up after their cancellation."""
SPIN_LIMIT = 100_000
"""Turns of the loop at one instant after which it counts as a livelock."""


class Deadlock(RuntimeError):
    """Every task waits and no timer could wake one; or tasks keep each other busy and time stands still."""


class Window(Protocol):
    """How far a loop may run before it must hear from other processes."""

    until: float
    """Timers at this time or later wait for the next window."""

    def advance(self, upcoming: float) -> None:
        """Move ``until``, and set timers for what others have sent meanwhile.

        The loop's next timer is at ``upcoming``. Raises `Deadlock` where nothing can happen any more.
        """


class Unbounded:
    """The `Window` of a loop that runs all peers: there is no other process to wait for."""

    until = math.inf

    def advance(self, upcoming: float) -> None:
        """Raise `Deadlock`: no timer is set, and nobody else could wake a task."""
        raise Deadlock("wait, and no timer is set that could wake one")


class SerialTask(asyncio.Task[T]):
    """A task that hashes by its serial number.

    asyncio keeps tasks in sets (`asyncio.wait` returns one, `TaskGroup` cancels in the order of one). A task
    that hashed by its address would have another place there in every process, and no rehearsal could be
    repeated.
    """

    def __init__(
        self, coro: Coroutine[Any, Any, T], *, serial: int, name: str | None = None, **options: Any
    ) -> None:
        self.serial = serial
        self.owner: object = owner.get()
        """The owner of the task that has started this one, see `owner`."""
        super().__init__(coro, name=name or f"task-{serial}", **options)

    def __hash__(self) -> int:
        return self.serial

    def set_name(self, value: object) -> None:
        """As `asyncio.Task.set_name`, but None keeps the name: Python 3.13.0 passes it for "no name"."""
        if value is not None:
            super().set_name(value)


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop on virtual time, which begins at 0.

    Timers of the same instant ring in the order they were set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[BaseException] = []
        """Errors that no task or callback could pass on; `simulate` raises them."""
        self._now = 0.0
        self._turns = 0
        self._timers: list[tuple[float, int, asyncio.TimerHandle | asyncio.Future[None]]] = []
        self._cancelled = 0
        self._held: dict[object, list[asyncio.Handle]] = {}  # by owner: what waits for `release`
        self._ready: deque[asyncio.Handle]  # the base class fills it
        self._serials = itertools.count()
        self.window: Window = Unbounded()
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._remember)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call ``callback(*args)`` when the clock shows ``when``: never earlier by a rounding error."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heappush(self._timers, (when, next(self._serials), handle))
        return handle

    def reach(self, when: float) -> asyncio.Future[None]:
        """Done when the clock shows ``when``.

        Cheaper than `asyncio.sleep`, and wakes its task in the same turn of the loop.
        """
        arrival = self.create_future()
        heappush(self._timers, (when, next(self._serials), arrival))
        return arrival

    def hold(self, who: object) -> None:
        """Suspend the owner ``who`` (see `owner`), as SIGSTOP does: tasks and timers wait for `release`."""
        self._held.setdefault(who, [])

    def release(self, who: object) -> None:
        """Undo `hold`, as SIGCONT does: what should have happened meanwhile happens now, in order."""
        self._ready.extend(self._held.pop(who, ()))

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Remove cancelled timers now and then: most deadlines are cancelled long before they come."""
        self._cancelled += 1
        if self._cancelled > 1000 and 2 * self._cancelled > len(self._timers):
            self._timers = [timer for timer in self._timers if not timer[2].cancelled()]
            heapify(self._timers)
            self._cancelled = 0

    def _run_once(self) -> None:
        """One turn: run everything that is ready; if nothing is, let the clock jump first."""
        if self._ready:
            self._turns += 1
            if self._turns > SPIN_LIMIT:
                tasks = self._tasks_in_words()
                raise Deadlock(f"at t={self._now:.3f} s {tasks} keep each other busy, and time stands still")
        else:
            self._jump()
        for _ in range(len(self._ready)):  # what these callbacks make ready runs in the next turn
            handle = self._ready.popleft()
            if self._held and (waiting := self._held.get(_owner_of(handle))) is not None:
                waiting.append(handle)
            elif not handle.cancelled():
                handle._run()

    def _jump(self) -> None:
        """Move the clock to the next timer, and make ready all timers of that time."""
        while (upcoming := self._upcoming()) >= self.window.until:
            try:
                self.window.advance(upcoming)
            except Deadlock as deadlock:
                raise Deadlock(f"at t={self._now:.3f} s {self._tasks_in_words()} {deadlock}") from None
            if self._ready:
                return
        timers = self._timers
        self._turns = 0
        self._now = max(self._now, upcoming)
        while timers and timers[0][0] <= self._now:
            timer = heappop(timers)[2]
            if isinstance(timer, asyncio.Handle):
                self._ready.append(timer)
            elif not timer.done():
                timer.set_result(None)

    def _upcoming(self) -> float:
        """The time of the next timer that is not cancelled; infinity where there is none."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heappop(timers)
        return timers[0][0] if timers else math.inf

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Raise `RuntimeError`: what a thread does, and when, cannot be repeated."""
        raise RuntimeError(
            f"no threads in a simulation: call {func!r} through a port such as swarm.machine.Arithmetic"
        )

    def wind_up(self) -> list[str]:
        """Cancel the tasks that are left and let them clean up. Returns their names, oldest first."""
        left = self._tasks()
        self._turns = 0
        self.window = Unbounded()  # the other processes are done, or have been lost
        for who in list(self._held):
            self.release(who)
        for task in left:
            task.cancel()
        if left:
            _, running = self.run_until_complete(asyncio.wait(left, timeout=GRACE))
            self.failures += [
                RuntimeError(f"{task.get_name()} still runs {GRACE:g} s after it was cancelled")
                for task in running
            ]
            self.failures += [
                error for task in left if task.done() and not task.cancelled() and (error := task.exception())
            ]
        self.run_until_complete(self.shutdown_asyncgens())
        return [task.get_name() for task in left]

    def tasks_by_owner(self) -> Counter[object]:
        """How many tasks run, by the owner of the task that has started them."""
        return Counter(task.owner for task in self._tasks() if isinstance(task, SerialTask))

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
        """asyncio calls this to wake a loop that waits in a selector; this loop never waits."""


def _owner_of(handle: asyncio.Handle) -> object:
    """The owner of a callback. Python 3.12 has ``Handle.get_context``; 3.11 keeps the context private."""
    context: Context = handle._context  # type: ignore[attr-defined]
    return context.get(owner)


def running_loop() -> VirtualLoop:
    """The loop that runs the caller. Raises `RuntimeError` if that is a real one."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise RuntimeError("this runs on virtual time only: call it within swarm.simulation.clock.simulate")
    return loop


def simulate(main: Coroutine[Any, Any, T], *, leftovers: list[str] | None = None) -> T:
    """Run ``main`` on virtual time, from 0, and return its result.

    Tasks that outlive ``main`` are cancelled, and their names are added to ``leftovers``. Raises `Deadlock`
    where a real loop would hang. Also raises errors that nobody awaited (in a callback, in a handler of the
    simulated network, in a task), so that no failure stays unseen.
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
        raise BaseExceptionGroup("several errors that nobody awaited", loop.failures)
    return result


def _wind_up(loop: VirtualLoop, leftovers: list[str] | None) -> None:
    try:
        left = loop.wind_up()
    finally:
        loop.close()
    if leftovers is not None:
        leftovers += left
