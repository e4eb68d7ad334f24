"""The driver of machines, and `play`, the helper that tests machines without a driver."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from swarm.identity import PeerId
from swarm.machine import (
    Command,
    Computed,
    Delivered,
    Event,
    Finish,
    Machine,
    Report,
    Unreached,
    WakeAt,
    Woken,
    drive,
)
from swarm.simulation.clock import Deadlock, simulate
from tests.playbook import play

ANNA = PeerId("a" * 52)


@dataclass
class Patience:
    """A machine that waits for Anna until ``until``; each `Unreached` makes it wait ``longer``."""

    until: float
    longer: float = 0
    seen: list[tuple[float, Event]] = field(default_factory=list)

    def start(self, now: float) -> Iterable[Command]:
        yield Report("waiting", "for Anna")
        yield WakeAt(self.until)

    def handle(self, event: Event, now: float) -> Iterable[Command]:
        self.seen.append((now, event))
        match event:
            case Delivered(sender, item, _) if sender == ANNA:
                yield Finish(item)
                yield Report("never", "commands after the end are not carried out")
            case Unreached():
                self.until += self.longer
                yield WakeAt(self.until)
            case Woken():
                yield Finish("gave up")


def drive_through(
    machine: Machine[str], *mail: tuple[float, Event], act: Callable[[Command], None] | None = None
) -> tuple[str, float]:
    """The outcome of ``machine`` and its time, where the events of ``mail`` come at the times given."""

    async def main() -> tuple[str, float]:
        loop = asyncio.get_running_loop()
        inbox = asyncio.Queue[Event]()
        for when, event in mail:
            loop.call_at(when, inbox.put_nowait, event)
        outcome = await drive(machine, act or (lambda command: None), inbox)
        ended = loop.time()
        await asyncio.sleep(1000)
        assert all(isinstance(event, Delivered | Unreached | Computed) for event in _left(inbox)), (
            "an alarm outlived its machine"
        )
        return outcome, ended

    left: list[str] = []
    result = simulate(main(), leftovers=left)
    assert left == []
    return result


def _left(inbox: asyncio.Queue[Event]) -> list[Event]:
    return [inbox.get_nowait() for _ in range(inbox.qsize())]


def test_the_driver_gives_all_commands_but_wake_at_and_finish_to_act() -> None:
    done: list[Command] = []
    assert drive_through(Patience(10), act=done.append) == ("gave up", 10)
    assert done == [Report("waiting", "for Anna")]


def test_a_machine_gets_events_in_order_with_the_time_they_came() -> None:
    machine = Patience(10)
    mail = [(1.0, Unreached(ANNA, "x")), (2.5, Computed(_Job(), 4)), (3.0, Delivered(ANNA, "letter", b""))]
    assert drive_through(machine, *mail) == ("letter", 3)
    assert machine.seen == mail


def test_commands_after_finish_are_not_carried_out() -> None:
    done: list[Command] = []
    drive_through(Patience(10), (1, Delivered(ANNA, "letter", b"")), act=done.append)
    assert [
        command
        for command in done
        if command == Report("never", "commands after the end are not carried out")
    ] == []


def test_a_later_alarm_replaces_the_earlier_one() -> None:
    machine = Patience(10, longer=15)
    assert drive_through(machine, (4, Unreached(ANNA))) == ("gave up", 25)
    assert [type(event) for _, event in machine.seen] == [Unreached, Woken]


def test_an_alarm_in_the_past_rings_at_once() -> None:
    assert drive_through(Patience(10, longer=-9), (4, Unreached(ANNA))) == ("gave up", 4)


def test_an_event_that_came_before_the_start_is_handled() -> None:
    async def main() -> str:
        inbox: asyncio.Queue[Event] = asyncio.Queue()
        inbox.put_nowait(Delivered(ANNA, "early", b""))
        return await drive(Patience(10), lambda command: None, inbox)

    assert simulate(main()) == "early"


def test_a_machine_that_waits_without_an_alarm_is_a_deadlock_in_a_simulation() -> None:
    class Silent(Patience):
        def start(self, now: float) -> Iterable[Command]:
            return ()

    with pytest.raises(Deadlock, match="main"):
        drive_through(Silent(10))


def test_a_machine_that_is_cancelled_leaves_no_alarm() -> None:
    async def main() -> int:
        inbox: asyncio.Queue[Event] = asyncio.Queue()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(5):
                await drive(Patience(10), lambda command: None, inbox)
        await asyncio.sleep(100)
        return inbox.qsize()

    assert simulate(main()) == 0


@pytest.mark.parametrize("moment", ["start", "handle", "act"])
def test_an_error_of_the_machine_or_of_act_ends_the_drive(moment: str) -> None:
    class Broken(Patience):
        def start(self, now: float) -> Iterable[Command]:
            return [_fail()] if moment == "start" else super().start(now)

        def handle(self, event: Event, now: float) -> Iterable[Command]:
            return [_fail()] if moment == "handle" else super().handle(event, now)

    with pytest.raises(ZeroDivisionError):
        drive_through(Broken(10), act=lambda command: _fail() if moment == "act" else None)


def _fail() -> Command:
    raise ZeroDivisionError


@dataclass(frozen=True)
class _Job:
    def run(self) -> int:
        return 4


# --- the playbook itself --------------------------------------------------------------------------------


def test_a_play_that_is_acted_as_written_returns_its_last_commands() -> None:
    last = play(
        Patience(10, longer=5),
        (0, None, [Report("waiting", "for Anna"), WakeAt(10)]),
        (1, Computed(_Job(), 4), []),
        (2, Unreached(ANNA), [WakeAt]),
        (15, Woken(), [Finish("gave up")]),
    )
    assert last == [Finish("gave up")]


@pytest.mark.parametrize("expected", [[], [WakeAt(9)], [Finish], [WakeAt(10), WakeAt(10)]])
def test_a_play_that_goes_otherwise_says_where_and_how(expected: list[Command]) -> None:
    with pytest.raises(
        AssertionError, match=r"step 1, at 2 s, Unreached(.|\n)*\n- (.|\n)*\+ WakeAt|step 1(.|\n)*- WakeAt"
    ):
        play(Patience(10), (0, None, [Report, WakeAt]), (2, Unreached(ANNA), expected))
