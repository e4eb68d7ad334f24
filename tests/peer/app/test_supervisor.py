"""Which failures are followed by another attempt, after how long, and which are final."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Sequence

import pytest

from peer.app.supervisor import (
    EARLY_BUGS,
    FIRST_PAUSE,
    LONG_ATTEMPT,
    LONGEST_PAUSE,
    Restarts,
    run_with_restarts,
)
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
def test_a_failure_that_may_pass_is_tried_again(error: Exception) -> None:
    assert Restarts().pause(error, lasted=1.0, has_joined=True) == FIRST_PAUSE
    nested = ExceptionGroup("", [ExceptionGroup("", [error])])
    assert Restarts().pause(nested, lasted=1.0, has_joined=True) == FIRST_PAUSE


@pytest.mark.parametrize(
    "error", [TicketError("x"), PortTaken("x"), WrongVersion("x"), HomeInUse("x"), DiskTrouble("x")]
)
def test_a_failure_that_a_person_must_fix_is_not_tried_again(error: SwarmError) -> None:
    assert Restarts().pause(error, lasted=1e6, has_joined=True) is None
    mixed = ExceptionGroup("", [Unreachable("x"), ExceptionGroup("", [BUG, error])])
    assert Restarts().pause(mixed, lasted=1e6, has_joined=True) is None


def test_a_run_that_was_never_reached_is_not_waited_for() -> None:
    assert Restarts().pause(NobodyThere("x"), lasted=60.0, has_joined=False) is None


def test_pauses_grow_up_to_a_minute_and_begin_anew_after_a_long_attempt() -> None:
    restarts = Restarts()
    pauses = [restarts.pause(Unreachable("x"), lasted=1.0, has_joined=True) for _ in range(12)]
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_PAUSE
    assert restarts.pause(Unreachable("x"), lasted=LONG_ATTEMPT, has_joined=True) == FIRST_PAUSE


def test_a_bug_that_ends_every_attempt_early_is_final() -> None:
    restarts = Restarts()
    pauses = [restarts.pause(BUG, lasted=1.0, has_joined=True) for _ in range(EARLY_BUGS + 1)]
    assert pauses[-1] is None
    assert None not in pauses[:-1]
    restarts = Restarts()
    assert all(restarts.pause(BUG, lasted=LONG_ATTEMPT, has_joined=True) == FIRST_PAUSE for _ in range(100))


class ScriptedAttempts:
    """Attempts that end as a list says: by an error, or, where it is None, with the run.

    Notes what it is told.
    """

    def __init__(self, ends: Sequence[Exception | None], *, has_joined: bool = True) -> None:
        self.ends = list(ends)
        self.has_joined = has_joined
        self.reasons: list[str] = []
        self.restarts: list[tuple[str, float]] = []

    def make(self, reason: str) -> ScriptedAttempts:
        """Return the next attempt."""
        self.reasons.append(reason)
        return self

    async def run(self) -> None:
        """Take ten seconds, then end."""
        await asyncio.sleep(10)
        end = self.ends.pop(0)
        if end:
            raise end

    def report_restart(self, error: SwarmError, pause: float) -> None:
        """Note it."""
        self.restarts.append((error.code, pause))

    def play(self) -> None:
        """Run all attempts on virtual time."""
        simulate(run_with_restarts(self.make, self.report_restart))


def test_attempts_follow_each_other_until_the_run_is_over(caplog: pytest.LogCaptureFixture) -> None:
    attempts = ScriptedAttempts([Unreachable("the cable was out"), BUG, None])
    with caplog.at_level(logging.ERROR):
        attempts.play()
    assert attempts.reasons == ["", "the cable was out", "a fault in this program: KeyError: 'a bug'"]
    assert attempts.restarts == [("unreachable", 1.0), ("swarm", 2.0)]
    assert len(caplog.records) == 1, "the bug's traceback is in the log"


class Model:
    """Stands for a peer's large memory."""


class AttemptWithModel:
    """An attempt that holds a model, counts the models of the attempts before it, and ends as a list says."""

    def __init__(
        self, models: list[weakref.ref[Model]], still_there: list[int], ends: list[Exception | None]
    ) -> None:
        self._models = models
        self._still_there = still_there
        self._ends = ends
        self.has_joined = True

    async def run(self) -> None:
        """Raise an error whose frames hold the model."""
        gc.collect()
        self._still_there.append(sum(model() is not None for model in self._models))
        model = Model()
        self._models.append(weakref.ref(model))
        end = self._ends.pop(0)
        if end:
            raise end


def test_an_attempt_has_the_memory_of_the_one_before_it() -> None:
    models: list[weakref.ref[Model]] = []
    still_there: list[int] = []
    ends: list[Exception | None] = [
        Unreachable("x"),
        ExceptionGroup("", [TooLate("x"), Unreachable("x")]),
        Unreachable("x"),
        None,
    ]
    simulate(
        run_with_restarts(
            lambda reason: AttemptWithModel(models, still_there, ends), lambda error, pause: None
        )
    )
    assert still_there == [0, 0, 0, 0]


def test_a_final_error_is_raised_as_it_is() -> None:
    with pytest.raises(PortTaken):
        ScriptedAttempts([Unreachable("x"), PortTaken("7420")]).play()
    attempts = ScriptedAttempts([NobodyThere("x")], has_joined=False)
    with pytest.raises(NobodyThere):
        attempts.play()
    assert attempts.restarts == []


def test_a_stop_ends_an_attempt_and_also_a_pause() -> None:
    async def main(seconds: float) -> float:
        attempts = ScriptedAttempts([Unreachable("x")] * 3)
        task = asyncio.create_task(run_with_restarts(attempts.make, attempts.report_restart))
        await asyncio.sleep(seconds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return asyncio.get_running_loop().time()

    assert simulate(main(5.0)) == 5.0
    assert simulate(main(10.5)) == 10.5
