"""Which ends are followed by another life, after how long, and which are the end."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Sequence

import pytest

from peer.app.supervisor import FIRST_PAUSE, LONG_LIFE, LONGEST_PAUSE, SHORT_LIVES, Restarts, keep_alive
from swarm.errors import (
    DiskTrouble,
    HomeInUse,
    Impostor,
    NobodyThere,
    PortTaken,
    SwarmError,
    TicketError,
    TooLate,
    Unreachable,
    WrongVersion,
)
from swarm.simulation.clock import simulate

BUG = KeyError("a bug")


@pytest.mark.parametrize(
    "error",
    [NobodyThere("x"), Unreachable("x"), TooLate("x"), Impostor("x"), BUG, MemoryError(), OSError(24, "x")],
)
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    assert Restarts().pause(error, lived=1.0, has_begun=True) == FIRST_PAUSE
    assert (
        Restarts().pause(ExceptionGroup("", [ExceptionGroup("", [error])]), lived=1.0, has_begun=True)
        == FIRST_PAUSE
    )


@pytest.mark.parametrize(
    "error", [TicketError("x"), PortTaken("x"), WrongVersion("x"), HomeInUse("x"), DiskTrouble("x")]
)
def test_what_a_person_must_change_is_not_tried_again(error: SwarmError) -> None:
    assert Restarts().pause(error, lived=1e6, has_begun=True) is None
    mixed = ExceptionGroup("", [Unreachable("x"), ExceptionGroup("", [BUG, error])])
    assert Restarts().pause(mixed, lived=1e6, has_begun=True) is None


def test_a_run_that_was_never_reached_is_not_waited_for() -> None:
    assert Restarts().pause(NobodyThere("x"), lived=60.0, has_begun=False) is None


def test_pauses_grow_up_to_a_minute_and_begin_anew_after_a_long_life() -> None:
    restarts = Restarts()
    pauses = [restarts.pause(Unreachable("x"), lived=1.0, has_begun=True) for _ in range(12)]
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_PAUSE
    assert restarts.pause(Unreachable("x"), lived=LONG_LIFE, has_begun=True) == FIRST_PAUSE


def test_a_bug_that_ends_every_life_at_once_is_told_in_the_end() -> None:
    restarts = Restarts()
    pauses = [restarts.pause(BUG, lived=1.0, has_begun=True) for _ in range(SHORT_LIVES + 1)]
    assert pauses[-1] is None
    assert None not in pauses[:-1]
    restarts = Restarts()
    assert all(restarts.pause(BUG, lived=LONG_LIFE, has_begun=True) == FIRST_PAUSE for _ in range(100))


class Drama:
    """Lives that end as they are told: by an error, or, where it is None, with the run."""

    def __init__(self, ends: Sequence[Exception | None], *, begins: bool = True) -> None:
        self.ends = list(ends)
        self.begins = begins
        self.reasons: list[str] = []
        self.told: list[tuple[str, float]] = []

    def birth(self, reason: str) -> Drama:
        """The next one."""
        self.reasons.append(reason)
        return self

    @property
    def has_begun(self) -> bool:
        """As told."""
        return self.begins

    async def live(self) -> None:
        """Ten seconds."""
        await asyncio.sleep(10)
        if end := self.ends.pop(0):
            raise end

    def tell(self, error: SwarmError, pause: float) -> None:
        """Note it."""
        self.told.append((error.code, pause))

    def play(self) -> None:
        """To the end."""
        simulate(keep_alive(self.birth, self.tell))


def test_lives_follow_each_other_until_the_run_is_over(caplog: pytest.LogCaptureFixture) -> None:
    drama = Drama([Unreachable("the cable was out"), BUG, None])
    with caplog.at_level(logging.ERROR):
        drama.play()
    assert drama.reasons == ["", "the cable was out", "a fault in this program: KeyError: 'a bug'"]
    assert drama.told == [("unreachable", 1.0), ("swarm", 2.0)]
    assert len(caplog.records) == 1, "the bug's traceback is not lost"


class Model:
    """What takes a peer's memory."""


class Laden:
    """A life that holds a model, counts those of the lives before it, and ends as it is told."""

    def __init__(
        self, models: list[weakref.ref[Model]], still_there: list[int], ends: list[Exception | None]
    ) -> None:
        self._models, self._still_there, self._ends = models, still_there, ends
        self.has_begun = True

    async def live(self) -> None:
        """An error knows its frames, and this one knows the model."""
        gc.collect()
        self._still_there.append(sum(model() is not None for model in self._models))
        model = Model()
        self._models.append(weakref.ref(model))
        if end := self._ends.pop(0):
            raise end


def test_a_life_has_the_memory_of_the_one_before_it() -> None:
    models: list[weakref.ref[Model]] = []
    still_there: list[int] = []
    ends: list[Exception | None] = [
        Unreachable("x"),
        ExceptionGroup("", [TooLate("x"), Unreachable("x")]),
        Unreachable("x"),
        None,
    ]
    simulate(keep_alive(lambda reason: Laden(models, still_there, ends), lambda error, pause: None))
    assert still_there == [0, 0, 0, 0]


def test_what_cannot_be_helped_is_raised_as_it_is() -> None:
    drama = Drama([Unreachable("x"), PortTaken("7420")])
    with pytest.raises(PortTaken):
        drama.play()
    drama = Drama([NobodyThere("x")], begins=False)
    with pytest.raises(NobodyThere):
        drama.play()
    assert drama.told == []


def test_a_stop_ends_a_life_and_also_a_pause() -> None:
    async def main(seconds: float) -> float:
        drama = Drama([Unreachable("x")] * 3)
        task = asyncio.create_task(keep_alive(drama.birth, drama.tell))
        await asyncio.sleep(seconds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return asyncio.get_running_loop().time()

    assert simulate(main(5.0)) == 5.0
    assert simulate(main(10.5)) == 10.5
